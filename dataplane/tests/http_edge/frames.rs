//! HTTP/2 by hand: frames and header blocks exactly as a test writes them, well-formed or not.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// The client preface.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals that nobody indexes (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x00);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(*text);
        }
    }
    block
}

fn integer(block: &mut Vec<u8>, n: usize) {
    if n < 127 {
        block.push(u8::try_from(n).unwrap());
        return;
    }
    block.push(127);
    let mut rest = n - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The pseudo-headers of a plain request and more fields after them.
pub(crate) fn request_block(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all: Vec<(&[u8], &[u8])> = vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", b"a.example.com"),
        (b":path", path.as_bytes()),
    ];
    all.extend(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
    block(&all)
}

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A visitor that speaks frames.
pub(crate) struct Frames {
    pub(crate) io: DuplexStream,
}

impl Frames {
    /// After the preface and empty SETTINGS.
    pub(crate) async fn open(mut io: DuplexStream) -> Self {
        io.write_all(PREFACE).await.unwrap();
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { io }
    }

    /// Sends; false once the edge has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok()
    }

    /// The next frame; none at the end.
    pub(crate) async fn read(&mut self) -> Option<Read> {
        let mut header = [0; 9];
        self.io.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        Some(Read { kind: header[3], flags: header[4], stream, payload })
    }

    /// The first frame about this stream, or the GOAWAY before it; none when the connection ends without.
    pub(crate) async fn verdict(&mut self, stream: u32) -> Option<Read> {
        while let Some(read) = self.read().await {
            if read.kind == GOAWAY || (read.stream == stream && matches!(read.kind, HEADERS | RST_STREAM)) {
                return Some(read);
            }
        }
        None
    }
}
