//! The TLS `ClientHello`: found in its records, then read for what routing and policies need.
//!
//! Reads only; the handshake itself is rustls's, which parses the same bytes again and more strictly.

use ebbgate_model::Host;

use super::detected::{ClientHello, Detected, HELLO_BYTES_MAX};
use super::ja4;

/// Record type of handshake messages (RFC 8446 section 5.1).
pub(super) const RECORD_HANDSHAKE: u8 = 22;
/// Longest record body in clear (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Most records one hello may be cut into; real clients use one or two.
const RECORDS_MAX: usize = 64;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 13;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;

/// Joins the records' bodies until the first message is whole.
pub(super) fn detect(bytes: &[u8]) -> Detected {
    let mut reader = Reader(bytes);
    let mut message = Vec::new();
    for _ in 0..RECORDS_MAX {
        let Some(header) = reader.take(5) else { return Detected::NeedMore };
        let [RECORD_HANDSHAKE, 3, _, high, low] = *header else { return Detected::BadTls };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Detected::BadTls;
        }
        let partial = reader.0.len() < length;
        message.extend_from_slice(reader.take(length.min(reader.0.len())).unwrap_or_default());
        match whole_message(&message) {
            Whole::Body(body) => {
                return parse(body).map_or(Detected::BadTls, |hello| Detected::Tls(Box::new(hello)));
            }
            Whole::Never => return Detected::BadTls,
            Whole::NotYet if partial => return Detected::NeedMore,
            Whole::NotYet => {}
        }
    }
    Detected::BadTls
}

enum Whole<'a> {
    Body(&'a [u8]),
    NotYet,
    Never,
}

fn whole_message(message: &[u8]) -> Whole<'_> {
    let mut reader = Reader(message);
    match reader.u8() {
        Some(MESSAGE_CLIENT_HELLO) => {}
        Some(_) => return Whole::Never,
        None => return Whole::NotYet,
    }
    match reader.u24() {
        Some(length) if length > HELLO_BYTES_MAX => Whole::Never,
        Some(length) => reader.take(length).map_or(Whole::NotYet, Whole::Body),
        None => Whole::NotYet,
    }
}

/// RFC 8446 section 4.1.2. None: damaged.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    let mut hello = ClientHello { version: reader.u16()?, ..ClientHello::default() };
    reader.take(32)?;
    reader.vec8()?;
    hello.ciphers = u16s(reader.vec16()?)?;
    reader.vec8()?;
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vec16()?);
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.vec16()?);
        if hello.extensions.contains(&kind) {
            return None;
        }
        hello.extensions.push(kind);
        hello.read_extension(kind, Reader(data))?;
    }
    reader.0.is_empty().then_some(hello)
}

impl ClientHello {
    fn read_extension(&mut self, kind: u16, mut data: Reader<'_>) -> Option<()> {
        match kind {
            EXTENSION_SERVER_NAME => {
                self.sni_present = true;
                self.sni = servable(server_name(&mut data)?);
            }
            EXTENSION_ALPN => {
                let mut list = Reader(data.vec16()?);
                while !list.0.is_empty() {
                    self.alpn.push(list.vec8()?.to_vec());
                }
            }
            EXTENSION_SIGNATURE_ALGORITHMS => self.signature_algorithms = u16s(data.vec16()?)?,
            EXTENSION_SUPPORTED_VERSIONS => {
                let versions = u16s(data.vec8()?)?;
                self.version = versions.into_iter().filter(|v| !ja4::is_grease(*v)).max()?;
            }
            _ => {}
        }
        Some(())
    }
}

/// RFC 6066 section 3: exactly one name, of type `host_name`. None: damaged.
fn server_name<'a>(data: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut list = Reader(data.vec16()?);
    let (kind, name) = (list.u8()?, list.vec16()?);
    (kind == 0 && list.0.is_empty() && data.0.is_empty()).then_some(name)
}

/// A name that an endpoint could have: no address, no wildcard.
fn servable(name: &[u8]) -> Option<Host> {
    let host = Host::requested(std::str::from_utf8(name).ok()?).ok()?;
    (!host.is_wildcard() && host.ip().is_none()).then_some(host)
}

fn u16s(bytes: &[u8]) -> Option<Vec<u16>> {
    let pairs = bytes.as_chunks::<2>();
    pairs.1.is_empty().then(|| pairs.0.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

/// Takes bytes from the front, or nothing.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u24(&mut self) -> Option<usize> {
        let [a, b, c] = *self.take(3)? else { return None };
        usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(usize::from(n))
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::net::detect::detect;

    fn vec16(data: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(data.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(data);
        out
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut out = kind.to_be_bytes().to_vec();
        out.extend(vec16(data));
        out
    }

    fn name(name: &[u8]) -> Vec<u8> {
        let mut entry = vec![0];
        entry.extend(vec16(name));
        extension(0, &vec16(&entry))
    }

    /// A hello message with these extensions, not yet in records.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend(vec16(&[0x13, 0x01, 0x13, 0x02]));
        body.extend([1, 0]);
        body.extend(vec16(extensions));
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut out = vec![1, length[1], length[2], length[3]];
        out.extend(body);
        out
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |chunk: &[u8]| {
            let mut out = vec![22, 3, 1];
            out.extend(vec16(chunk));
            out
        };
        message.chunks(size).flat_map(record).collect()
    }

    fn hello(bytes: &[u8]) -> ClientHello {
        match detect(bytes) {
            Detected::Tls(hello) => *hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_name_and_protocols_however_it_is_cut() {
        let mut extensions = name(b"DB.Clinic1.Example.com");
        extensions.extend(extension(16, &vec16(b"\x02h2\x08http/1.1")));
        let message = message(&extensions);
        for size in [1 << 14, 50, 5, 2] {
            let bytes = records(&message, size);
            let hello = hello(&bytes);
            assert_eq!(hello.sni.unwrap().as_str(), "db.clinic1.example.com");
            assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
            for cut in 0..bytes.len() {
                assert_eq!(detect(&bytes[..cut]), Detected::NeedMore, "{cut} of {size}");
            }
        }
    }

    #[test]
    fn a_name_that_is_none_is_absent() {
        let sni = |n: &[u8]| hello(&records(&message(&name(n)), 1 << 14)).sni;
        assert_eq!(sni(b"127.0.0.1"), None);
        assert_eq!(sni(b"*.example.com"), None);
        assert_eq!(sni(b"a\0b"), None);
        assert_eq!(sni(b"Review_12.example.com").unwrap().as_str(), "review_12.example.com");
        assert_eq!(sni(b"qa--shop.example.com").unwrap().as_str(), "qa--shop.example.com");
        assert_eq!(hello(&records(&message(&[]), 1 << 14)).sni, None);
    }

    #[test]
    fn refuses_two_names_duplicates_and_bad_lengths() {
        let check = |extensions: &[u8]| {
            assert_eq!(detect(&records(&message(extensions), 1 << 14)), Detected::BadTls, "{extensions:?}");
        };
        let mut twice = name(b"a.example.com");
        twice.extend(name(b"b.example.com"));
        check(&twice);
        let mut entry = vec![0];
        entry.extend(vec16(b"a.example.com"));
        let two = [entry.clone(), entry].concat();
        check(&extension(0, &vec16(&two)));
        check(&extension(0, &[0, 9, 0]));
        check(&[0, 16, 0]);
    }

    #[test]
    fn early_data_is_seen_among_other_extensions() {
        let offers = |extensions: &[u8]| hello(&records(&message(extensions), 1 << 14)).offers_early_data();
        assert!(!offers(&name(b"a.example.com")));
        assert!(offers(&[name(b"a.example.com"), extension(42, &[]), extension(43, &[2, 3, 4])].concat()));
    }

    #[test]
    fn a_hello_has_a_longest_size() {
        let bytes = [22, 3, 1, 0, 4, 1, 1, 0, 1];
        assert_eq!(detect(&bytes), Detected::BadTls);
        let dribble = records(&message(&name(b"a-name-long-enough.example.com")), 1);
        assert_eq!(detect(&dribble), Detected::BadTls, "more records than any client sends");
        assert_eq!(detect(&[22, 3, 1, 0, 1, 2]), Detected::BadTls, "a server's hello");
        assert_eq!(detect(&[22, 3, 1, 0x40, 1]), Detected::BadTls, "an oversize record");
    }
}
