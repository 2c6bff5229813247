//! Takes the PROXY protocol header that the edge puts in front of a stream, whole and unread further, so that it can go
//! to the upstream before TLS does. Both versions, told apart by their first bytes (PROXY protocol sections 2.1 and 2.2).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest version 1 header with its line end, in bytes (section 2.1).
pub const PROXY_V1_BYTES_MAX: usize = 107;
/// Longest version 2 header accepted, in bytes; extensions beyond it are no header of our edge.
pub const PROXY_V2_BYTES_MAX: usize = 1_024;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// Reads exactly one header, byte-precise: not one byte of what follows is taken.
pub(super) async fn read<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut head = vec![0; 6];
    io.read_exact(&mut head).await?;
    if head == b"PROXY " {
        while !head.ends_with(b"\r\n") {
            if head.len() >= PROXY_V1_BYTES_MAX {
                return Err(bad("version 1 header without an end"));
            }
            head.push(io.read_u8().await?);
        }
        return Ok(head);
    }
    if !V2_SIGNATURE.starts_with(&head) {
        return Err(bad("neither version of the header"));
    }
    head.resize(V2_FIXED_BYTES, 0);
    io.read_exact(head.get_mut(6..).unwrap_or_default()).await?;
    let (Some(length), true) = (head.last_chunk::<2>(), head.starts_with(V2_SIGNATURE)) else {
        return Err(bad("neither version of the header"));
    };
    let total = V2_FIXED_BYTES + usize::from(u16::from_be_bytes(*length));
    if total > PROXY_V2_BYTES_MAX {
        return Err(bad("version 2 header that is too long"));
    }
    head.resize(total, 0);
    io.read_exact(head.get_mut(V2_FIXED_BYTES..).unwrap_or_default()).await?;
    Ok(head)
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn takes_the_header_and_nothing_more() {
        let v2 = [V2_SIGNATURE.as_slice(), &[0x21, 0x11, 0, 12], &[7; 12]].concat();
        let local = [V2_SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat();
        for head in [b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".as_slice(), b"PROXY UNKNOWN\r\n", &v2, &local] {
            let bytes = [head, b"rest"].concat();
            let mut io = bytes.as_slice();
            assert_eq!(read(&mut io).await.unwrap(), head);
            assert_eq!(io, b"rest");
        }
    }

    #[tokio::test]
    async fn refuses_everything_else() {
        let endless = [b"PROXY ".as_slice(), &[b'x'; 200]].concat();
        let long = [V2_SIGNATURE.as_slice(), &[0x21, 0x11, 0xff, 0xff], &vec![0; 70_000]].concat();
        let cases: [&[u8]; 6] =
            [b"GET / HTTP/1.1\r\n", b"PROX", b"\r\n\r\n\0\r\nQUIT!????", b"", &endless, &long];
        for bytes in cases {
            assert!(read(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
    }
}
