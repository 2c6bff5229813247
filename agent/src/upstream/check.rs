//! One check of an upstream, on a connection of its own that is closed afterwards. A check says nothing of any visitor: where
//! the upstream wants a PROXY header, the header says that the connection is the agent's own.
//!
//! An upstream is believed as far as its first bytes; all reads are bounded.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{Duplex, Upstream, dial};
use crate::config::{CheckKind, HealthCheck, HttpCheck};

/// Most bytes of an HTTP status line.
const STATUS_LINE_BYTES_MAX: usize = 1_024;
/// Most bytes of a PostgreSQL error.
const ERROR_BYTES_MAX: u32 = 8_192;
/// libpq's request for TLS (PostgreSQL protocol, section 54.7 `SSLRequest`).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// `StartupMessage` of protocol 3.0 for a user that need not exist, as `pg_isready` sends it.
const STARTUP: &[u8] = b"\0\0\0\x35\0\x03\0\0user\0ebbgate_health_check\0database\0postgres\0\0";
/// SQLSTATE `cannot_connect_now`: the server starts, stops or recovers.
const CANNOT_CONNECT_NOW: &[u8] = b"C57P03";
/// PROXY headers of a connection that is nobody's: version 1 `UNKNOWN`, version 2 `LOCAL`.
const OWN_V1: &[u8] = b"PROXY UNKNOWN\r\n";
const OWN_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

impl Upstream {
    /// How the upstream is to be checked, if at all.
    pub fn health_check(&self) -> Option<&HealthCheck> {
        self.config.health_check.as_ref()
    }

    /// Checks the upstream once. An error is a sentence for people; without a check in the file there is none.
    pub async fn check(&self) -> Result<(), String> {
        let Some(check) = self.health_check() else { return Ok(()) };
        match tokio::time::timeout(check.timeout, self.try_check(&check.kind)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(format!("{} did not answer within {} ms", self.config.address, check.timeout.as_millis()))
            }
        }
    }

    async fn try_check(&self, kind: &CheckKind) -> Result<(), String> {
        let address = &self.config.address;
        let failed = |error: io::Error| format!("cannot connect to {address}: {error}");
        let mut tcp = dial::dial(address.host(), address.port()).await.map_err(failed)?;
        let own = match self.config.proxy_protocol {
            None => &[][..],
            Some(1) => OWN_V1,
            Some(_) => OWN_V2,
        };
        tcp.write_all(own).await.map_err(failed)?;
        match kind {
            CheckKind::Tcp => Ok(()),
            CheckKind::Tls => self.check_tls(tcp).await.map(drop),
            CheckKind::Http(http) => {
                let authority =
                    http.host.clone().unwrap_or_else(|| authority(address.host(), address.port()));
                let is_tls = http.tls.unwrap_or(self.tls.is_some());
                let mut stream: Box<dyn Duplex> =
                    if is_tls { Box::new(self.check_tls(tcp).await?) } else { Box::new(tcp) };
                let found = ask(&mut stream, http, &authority).await;
                let status = found.map_err(|error| format!("no HTTP answer from {address}: {error}"))?;
                if http.status.contains(&status) {
                    return Ok(());
                }
                let (first, last) = (http.status.start(), http.status.end());
                Err(format!("{address} answered {status} to {}; {first}-{last} is expected", http.path))
            }
            CheckKind::Postgres => {
                let failed = |error: io::Error| format!("no PostgreSQL answer from {address}: {error}");
                tcp.write_all(&SSL_REQUEST).await.map_err(failed)?;
                match tcp.read_u8().await.map_err(failed)? {
                    b'S' => begin(&mut self.check_tls(tcp).await?).await,
                    b'N' => begin(&mut tcp).await,
                    _ => {
                        Err(io::Error::new(io::ErrorKind::InvalidData, "the server speaks another protocol"))
                    }
                }
                .map_err(failed)
            }
        }
    }

    /// TLS as visitors' connections have it; without a demand for a verified certificate where they have none.
    async fn check_tls(&self, tcp: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let address = &self.config.address;
        let tls = self.tls.as_ref().or(self.check_tls.as_ref());
        let tls = tls.ok_or_else(|| format!("no TLS is set up for {address}"))?;
        tls.connect(tcp).await.map_err(|error| format!("TLS with {address} failed: {error}"))
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Asks over HTTP/1.1, and gives the status.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    http: &HttpCheck,
    authority: &str,
) -> io::Result<u16> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: ebbgate-health-check/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        http.path,
        env!("CARGO_PKG_VERSION"),
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the first line is no HTTP/1 status");
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < STATUS_LINE_BYTES_MAX => line.push(byte),
            _ => return Err(bad()),
        }
    }
    let line = std::str::from_utf8(&line).map_err(|_| bad())?;
    let mut words = line.strip_prefix("HTTP/1.").ok_or_else(bad)?.split([' ', '\r']);
    let status =
        words.nth(1).filter(|word| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()));
    status.and_then(|status| status.parse().ok()).ok_or_else(bad)
}

/// Begins a session. Any answer but "cannot connect now" comes from a server that serves: whether it would let this user in is
/// no matter.
async fn begin(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(STARTUP).await?;
    stream.flush().await?;
    match stream.read_u8().await? {
        b'R' | b'v' => Ok(()),
        b'E' => {
            let length = stream.read_u32().await?.saturating_sub(4).min(ERROR_BYTES_MAX);
            let mut fields = Vec::new();
            stream.take(length.into()).read_to_end(&mut fields).await?;
            let mut fields = fields.split(|byte| *byte == 0);
            if fields.any(|field| field == CANNOT_CONNECT_NOW) {
                return Err(io::Error::other("the server starts, stops or recovers (57P03)"));
            }
            Ok(())
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the server speaks another protocol")),
    }
}

#[cfg(test)]
mod tests;
