//! What a client speaks, from its first bytes: a TLS hello, HTTP in clear, PostgreSQL asking for encryption, or anything
//! else. A pure function over the bytes received so far.
//!
//! Knows no routes and no sockets, and consumes nothing: the caller reads the bytes again.

mod detected;
mod hello;
mod ja4;

pub use detected::{ClientHello, Detected, HELLO_BYTES_MAX};

/// Longest HTTP method, in bytes, that is distinguished from opaque bytes.
const METHOD_BYTES_MAX: usize = 16;
/// libpq's request for TLS: length 8, code 80877103 (PostgreSQL protocol, section 54.7 `SSLRequest`).
pub const POSTGRES_SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// libpq's request for GSSAPI encryption: length 8, code 80877104 (`GSSENCRequest`).
pub const POSTGRES_GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Looks at everything a client has sent so far. Never asks for more than [`HELLO_BYTES_MAX`] and record headers.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes {
        [] => Detected::NeedMore,
        [hello::RECORD_HANDSHAKE, ..] => hello::detect(bytes),
        [0, ..] => detect_postgres(bytes),
        [b'A'..=b'Z', ..] => detect_http(bytes),
        _ => Detected::Opaque,
    }
}

fn detect_postgres(bytes: &[u8]) -> Detected {
    for (request, found) in
        [(POSTGRES_SSL_REQUEST, Detected::PostgresSsl), (POSTGRES_GSS_REQUEST, Detected::PostgresGss)]
    {
        if bytes.starts_with(&request) {
            return found;
        }
        if request.starts_with(bytes) {
            return Detected::NeedMore;
        }
    }
    Detected::Opaque
}

/// An upper-case method and a space. Enough to answer HTTP on a TLS port.
fn detect_http(bytes: &[u8]) -> Detected {
    let method = bytes.iter().take(METHOD_BYTES_MAX).take_while(|b| b.is_ascii_uppercase()).count();
    match bytes.get(method) {
        Some(b' ') if method < METHOD_BYTES_MAX => Detected::Http,
        None if method < METHOD_BYTES_MAX => Detected::NeedMore,
        _ => Detected::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_protocols_apart() {
        let check = |bytes: &[u8], expect: Detected| assert_eq!(detect(bytes), expect, "{bytes:?}");
        check(b"", Detected::NeedMore);
        check(b"GET", Detected::NeedMore);
        check(b"GET / HTTP/1.1\r\n", Detected::Http);
        check(b"PRI * HTTP/2.0\r\n", Detected::Http);
        check(b"GETGETGETGETGETGETGET", Detected::Opaque);
        check(b"get / HTTP/1.1", Detected::Opaque);
        check(b"SSH-2.0-x", Detected::Opaque);
        check(&POSTGRES_SSL_REQUEST, Detected::PostgresSsl);
        check(&POSTGRES_SSL_REQUEST[..5], Detected::NeedMore);
        check(&POSTGRES_GSS_REQUEST, Detected::PostgresGss);
        check(&[0, 0, 0, 9], Detected::Opaque);
        check(&[22], Detected::NeedMore);
        check(&[22, 2, 0, 0, 1], Detected::BadTls);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = detect(&bytes);
        }

        #[test]
        fn never_panics_inside_a_record(mut body in prop::collection::vec(any::<u8>(), 4..600)) {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            let inner = u32::try_from(body.len() - 4).unwrap().to_be_bytes();
            body.splice(..4, [1, inner[1], inner[2], inner[3]]);
            let mut bytes = vec![22, 3, 1, length[0], length[1]];
            bytes.extend(body);
            prop_assert_ne!(detect(&bytes), Detected::NeedMore);
        }
    }
}
