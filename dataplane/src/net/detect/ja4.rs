//! JA4: a client's TLS stack as a short text, by the published rules for TLS over TCP.

use aws_lc_rs::digest::{SHA256, digest};

use super::detected::ClientHello;

/// Values clients send to keep servers tolerant (RFC 8701): both bytes equal, low nibble 10.
pub(super) fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

impl ClientHello {
    /// JA4 fingerprint over TCP.
    pub fn ja4(&self) -> String {
        fingerprint(self)
    }
}

fn fingerprint(hello: &ClientHello) -> String {
    let mut ciphers: Vec<u16> = hello.ciphers.iter().copied().filter(|c| !is_grease(*c)).collect();
    let mut extensions: Vec<u16> = hello.extensions.iter().copied().filter(|e| !is_grease(*e)).collect();
    let head = format!(
        "t{}{}{:02}{:02}{}",
        version(hello.version),
        if hello.sni_present { 'd' } else { 'i' },
        ciphers.len().min(99),
        extensions.len().min(99),
        alpn(hello.alpn.first().map_or(&[], Vec::as_slice)),
    );
    ciphers.sort_unstable();
    extensions.retain(|e| *e != 0 && *e != 16);
    extensions.sort_unstable();
    let mut tail = list(&extensions);
    if !hello.signature_algorithms.is_empty() {
        tail = format!("{tail}_{}", list(&hello.signature_algorithms));
    }
    format!("{head}_{}_{}", hash(&list(&ciphers)), hash(&tail))
}

fn version(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        _ => "00",
    }
}

/// First and last character of the first protocol; of its hexadecimal form when they are not letters or digits.
fn alpn(protocol: &[u8]) -> String {
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else { return "00".into() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        format!("{}{}", char::from(*first), char::from(*last))
    } else {
        format!("{:x}{:x}", first >> 4, last & 0x0f)
    }
}

fn list(values: &[u16]) -> String {
    values.iter().map(|v| format!("{v:04x}")).collect::<Vec<_>>().join(",")
}

/// The first 12 hexadecimal digits of SHA-256; zeros for nothing.
fn hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().iter().take(6).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example() {
        let hello = ClientHello {
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            sni_present: true,
            version: 0x0304,
            ciphers: vec![
                0x8a8a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013,
                0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x3a3a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023,
                0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
            ],
            signature_algorithms: vec![0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601],
            ..ClientHello::default()
        };
        assert_eq!(fingerprint(&hello), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn an_empty_hello_has_a_fingerprint_too() {
        assert_eq!(fingerprint(&ClientHello::default()), "t00i000000_000000000000_000000000000");
    }
}
