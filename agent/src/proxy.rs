//! `ProxyUrl`: an HTTP CONNECT or SOCKS5 proxy between the agent and the edge, and the two short dialogues that open a
//! tunnel through it (RFC 9110 section 9.3.6, RFC 1928, RFC 1929). Knows nothing of TLS or sessions.

use std::fmt;

use base64::Engine as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest answer of an HTTP proxy before its empty line, in bytes.
const CONNECT_REPLY_BYTES_MAX: usize = 8 * 1024;
/// Longest host, user or password SOCKS5 can carry, in bytes.
const SOCKS_FIELD_BYTES_MAX: usize = 255;

/// A proxy and, where it wants one, a login.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    kind: ProxyKind,
    host: String,
    port: u16,
    login: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProxyKind {
    Connect,
    Socks5,
}

/// Why there is no way through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Not a proxy URL.
    #[error(
        "the proxy URL is not `http://[user:password@]host:port` or `socks5://[user:password@]host:port`"
    )]
    Url,
    /// The login is not percent-encoded text (RFC 3986 section 3.2.1).
    #[error("the login in the proxy URL {0}; write `%` as `%25`, `@` as `%40`, `:` as `%3A`, `/` as `%2F`")]
    Login(&'static str),
    /// The connection to the proxy failed midway.
    #[error("talking to the proxy failed: {0}")]
    Io(#[from] std::io::Error),
    /// The proxy refused the tunnel.
    #[error("the proxy refused to connect to the edge: {0}")]
    Refused(String),
    /// The proxy does not speak the protocol its URL says.
    #[error("the proxy answered with something that is not {0}")]
    Protocol(&'static str),
}

impl ProxyUrl {
    /// Parses `http://` and `socks5://` URLs; user and password are percent-decoded (RFC 3986 section 3.2.1).
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").ok_or(ProxyError::Url)?;
        let (kind, default_port) = match scheme {
            "http" => (ProxyKind::Connect, 80),
            "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
            _ => return Err(ProxyError::Url),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let user = percent_decoded(user)?;
                if kind == ProxyKind::Connect && user.contains(':') {
                    // RFC 7617 section 2: the first colon ends the user.
                    return Err(ProxyError::Login("has a colon in its user"));
                }
                (Some((user, percent_decoded(password)?)), address)
            }
            None => (None, rest),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| ProxyError::Url)?),
            _ => (address, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let long = |text: &str| text.len() > SOCKS_FIELD_BYTES_MAX;
        if host.is_empty() || port == 0 || login.as_ref().is_some_and(|(user, word)| long(user) || long(word))
        {
            return Err(ProxyError::Url);
        }
        Ok(Self { kind, host: host.to_owned(), port, login })
    }

    /// Name or address of the proxy.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port of the proxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its protocol's name, as reported to the edge.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            ProxyKind::Connect => "http",
            ProxyKind::Socks5 => "socks5",
        }
    }

    /// Asks the proxy at the other end of `io` for a tunnel; afterwards `io` reaches `host:port`.
    pub async fn open<T>(&self, io: &mut T, host: &str, port: u16) -> Result<(), ProxyError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        match self.kind {
            ProxyKind::Connect => self.open_connect(io, host, port).await,
            ProxyKind::Socks5 => self.open_socks(io, host, port).await,
        }
    }

    async fn open_connect<T>(&self, io: &mut T, host: &str, port: u16) -> Result<(), ProxyError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some((user, password)) = &self.login {
            let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&login);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        io.write_all(request.as_bytes()).await?;
        // Byte by byte: what follows the empty line belongs to the tunnel.
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            if reply.len() >= CONNECT_REPLY_BYTES_MAX {
                return Err(ProxyError::Protocol("HTTP"));
            }
            reply.push(io.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&reply);
        let status_line = head.lines().next().unwrap_or_default();
        match status_line.split(' ').nth(1) {
            Some(code) if status_line.starts_with("HTTP/1.") && code.starts_with('2') => Ok(()),
            Some(_) if status_line.starts_with("HTTP/1.") => Err(ProxyError::Refused(status_line.to_owned())),
            _ => Err(ProxyError::Protocol("HTTP")),
        }
    }

    async fn open_socks<T>(&self, io: &mut T, host: &str, port: u16) -> Result<(), ProxyError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let method = if self.login.is_some() { 2 } else { 0 };
        io.write_all(&[5, 1, method]).await?;
        let mut chosen = [0; 2];
        io.read_exact(&mut chosen).await?;
        if chosen[0] != 5 {
            return Err(ProxyError::Protocol("SOCKS5"));
        }
        if chosen[1] != method {
            return Err(ProxyError::Refused("it wants another way to log in".into()));
        }
        if let Some((user, password)) = &self.login {
            let mut login = vec![1];
            push_field(&mut login, user)?;
            push_field(&mut login, password)?;
            io.write_all(&login).await?;
            let mut verdict = [0; 2];
            io.read_exact(&mut verdict).await?;
            if verdict[1] != 0 {
                return Err(ProxyError::Refused("wrong user or password".into()));
            }
        }
        let mut request = vec![5, 1, 0, 3];
        push_field(&mut request, host)?;
        request.extend_from_slice(&port.to_be_bytes());
        io.write_all(&request).await?;
        read_socks_reply(io).await
    }
}

/// Replaces `%XX` by the byte it stands for.
fn percent_decoded(text: &str) -> Result<String, ProxyError> {
    let broken = || ProxyError::Login("has a `%` that is not followed by two hexadecimal digits");
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(broken)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(broken());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| broken())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| ProxyError::Login("is not UTF-8 once decoded"))
}

fn push_field(to: &mut Vec<u8>, text: &str) -> Result<(), ProxyError> {
    to.push(u8::try_from(text.len()).map_err(|_| ProxyError::Url)?);
    to.extend_from_slice(text.as_bytes());
    Ok(())
}

/// RFC 1928 section 6: version, reply, reserved, bound address in one of three forms, port.
async fn read_socks_reply<T: AsyncRead + Unpin>(io: &mut T) -> Result<(), ProxyError> {
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let [version, reply, _, form] = head;
    if version != 5 {
        return Err(ProxyError::Protocol("SOCKS5"));
    }
    if reply != 0 {
        let reasons =
            ["", "failure", "not allowed", "network unreachable", "host unreachable", "refused", "timeout"];
        let reason = reasons.get(usize::from(reply)).copied().unwrap_or("unsupported request");
        return Err(ProxyError::Refused(reason.to_owned()));
    }
    let address = match form {
        1 => 4,
        3 => usize::from(io.read_u8().await?),
        4 => 16,
        _ => return Err(ProxyError::Protocol("SOCKS5")),
    };
    let mut rest = vec![0; address + 2];
    io.read_exact(&mut rest).await?;
    Ok(())
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}:{}", self.kind, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let proxy = ProxyUrl::parse("http://user:pa:ss@proxy.example:3128/").unwrap();
        assert_eq!((proxy.host(), proxy.port()), ("proxy.example", 3128));
        assert_eq!(proxy.login, Some(("user".into(), "pa:ss".into())));
        assert!(!format!("{proxy:?}").contains("pa:ss"));
        assert_eq!(ProxyUrl::parse("socks5://[::1]").unwrap().port(), 1080);
        for bad in ["proxy:80", "https://proxy", "http://", "http://:80", "socks5://a:0", "ftp://a"] {
            assert!(ProxyUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_percent_encoded_login_is_decoded_before_it_is_sent() {
        let login =
            |text: &str| ProxyUrl::parse(&format!("http://{text}@p:1")).map(|proxy| proxy.login.unwrap());
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(login("clinic:p%40ss%3Aw%2Frd%231").unwrap(), pair("clinic", "p@ss:w/rd#1"));
        assert_eq!(login("clinic:100%25sure").unwrap(), pair("clinic", "100%sure"));
        assert_eq!(login("DOMAIN%5Cu:pa%20ss").unwrap(), pair("DOMAIN\\u", "pa ss"));
        assert_eq!(login("%C3%BC:x").unwrap(), pair("ü", "x"));
        for bad in ["u:100%sure", "u:1%", "u:%4", "u:%+1", "u:%é", "u:%ff", "a%3Ab:c"] {
            let error = login(bad).unwrap_err();
            assert!(matches!(error, ProxyError::Login(_)), "{bad}: {error}");
            assert!(!error.to_string().contains("sure"), "the login stays secret: {error}");
        }
        assert!(ProxyUrl::parse("socks5://a%3Ab:c@p").is_ok(), "SOCKS5 keeps user and password apart");
    }

    /// Runs one dialogue against a scripted proxy: what it reads, then what it answers, in turn.
    async fn dialogue(url: &str, script: &[(&[u8], &[u8])]) -> Result<(), ProxyError> {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let proxy = ProxyUrl::parse(url).unwrap();
        let serve = async {
            for (expect, answer) in script {
                let mut got = vec![0; expect.len()];
                theirs.read_exact(&mut got).await.unwrap();
                assert_eq!(got, *expect);
                theirs.write_all(answer).await.unwrap();
            }
        };
        let (outcome, ()) = tokio::join!(proxy.open(&mut ours, "edge.example", 443), serve);
        outcome
    }

    #[tokio::test]
    async fn connect_with_and_without_login() {
        let request = b"CONNECT edge.example:443 HTTP/1.1\r\nHost: edge.example:443\r\n\r\n";
        dialogue("http://p:1", &[(request, b"HTTP/1.1 200 fine\r\nX: y\r\n\r\n")]).await.unwrap();
        let login = b"CONNECT edge.example:443 HTTP/1.1\r\nHost: edge.example:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n";
        dialogue("http://u:p@p:1", &[(login, b"HTTP/1.0 200 OK\r\n\r\n")]).await.unwrap();
        let refused = dialogue("http://p:1", &[(request, b"HTTP/1.1 403 Forbidden\r\n\r\n")]).await;
        assert!(refused.unwrap_err().to_string().contains("403 Forbidden"));
        let garbage = dialogue("http://p:1", &[(request, b"SSH-2.0\r\n\r\n")]).await;
        assert!(matches!(garbage, Err(ProxyError::Protocol(_))));
    }

    #[tokio::test]
    async fn socks_with_and_without_login() {
        let request = b"\x05\x01\x00\x03\x0cedge.example\x01\xbb";
        let done = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        dialogue("socks5://p", &[(b"\x05\x01\x00", b"\x05\x00"), (request, done)]).await.unwrap();
        let login: &[(&[u8], &[u8])] =
            &[(b"\x05\x01\x02", b"\x05\x02"), (b"\x01\x01u\x01p", b"\x01\x00"), (request, done)];
        dialogue("socks5://u:p@p", login).await.unwrap();
        let refused =
            dialogue("socks5://p", &[(b"\x05\x01\x00", b"\x05\x00"), (request, b"\x05\x05\x00\x01")]).await;
        assert!(refused.unwrap_err().to_string().contains("refused"));
        let wants_login = dialogue("socks5://p", &[(b"\x05\x01\x00", b"\x05\xff")]).await;
        assert!(matches!(wants_login, Err(ProxyError::Refused(_))));
    }
}
