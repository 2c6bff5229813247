//! `Message`: a request, or a response and its request, taken apart into what rules ask for. Pure, over bytes.

use crate::body;
use crate::decode;
use crate::found::{Found, Pairs, arguments};
use crate::protocol::{Question, bytes};

/// See the module.
#[derive(Default)]
pub(crate) struct Message {
    pub(crate) method: Vec<u8>,
    /// The target as it came.
    pub(crate) target: Vec<u8>,
    pub(crate) version: Vec<u8>,
    /// The target's path and query.
    pub(crate) uri: Vec<u8>,
    /// Without its percent encoding.
    pub(crate) path: Vec<u8>,
    pub(crate) query: Vec<u8>,
    pub(crate) headers: Pairs,
    pub(crate) cookies: Pairs,
    pub(crate) args_get: Pairs,
    pub(crate) client: (String, u16),
    pub(crate) server: (String, u16),
    /// How the body is taken apart: `URLENCODED`, `MULTIPART`, `XML`, `JSON`, or nothing.
    pub(crate) processor: &'static str,
    /// The start of the request's body.
    pub(crate) body: Vec<u8>,
    /// What is in it.
    pub(crate) found: Found,
    pub(crate) response: Option<Response>,
}

/// A response.
#[derive(Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Pairs,
    /// The start of its body.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Takes a head apart; [`Message::read_body`] does the rest of a request.
    pub(crate) fn new(question: &Question) -> Self {
        let pairs = |headers: &[(String, String)]| -> Pairs {
            headers.iter().map(|(name, value)| (bytes(name), bytes(value))).collect()
        };
        let target = bytes(&question.target);
        let uri = origin_form(&target).to_vec();
        let mut halves = uri.splitn(2, |byte| *byte == b'?');
        let mut half = || halves.next().unwrap_or_default().to_vec();
        let (path, query) = (decode::percent(&half()), half());
        let headers = pairs(&question.headers);
        let mut message = Self {
            method: bytes(&question.method),
            version: bytes(&question.version),
            args_get: arguments(&query),
            client: (question.client.ip().to_string(), question.client.port()),
            server: (question.server.ip().to_string(), question.server.port()),
            response: question.response.as_ref().map(|response| Response {
                status: response.status,
                headers: pairs(&response.headers),
                body: Vec::new(),
            }),
            target,
            uri,
            path,
            query,
            headers,
            ..Self::default()
        };
        let cookies = message.headers_named("cookie").flat_map(cookies_of).collect();
        message.cookies = cookies;
        message.processor = message.header("content-type").map_or("", body::processor_of);
        message
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers_named(name).next()
    }

    fn headers_named(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers
            .iter()
            .filter(move |(one, _)| one.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_slice())
    }

    /// Takes the start of the request's body apart, by its processor.
    pub(crate) fn read_body(&mut self, start: &[u8]) {
        self.body = start.to_vec();
        let kind = self.header("content-type").unwrap_or_default();
        self.found = body::read(self.processor, kind, start);
    }

    /// The body as one text: not where its parts are seen each by itself.
    pub(crate) fn whole_body(&self) -> Option<&[u8]> {
        let is_apart = matches!(self.processor, "XML" | "MULTIPART") && self.found.error.is_none();
        Some(self.body.as_slice()).filter(|body| !is_apart && !body.is_empty())
    }

    /// The request line.
    pub(crate) fn line(&self) -> Vec<u8> {
        [self.method.as_slice(), &self.target, &self.version].join(&b' ')
    }

    /// The last part of the path.
    pub(crate) fn basename(&self) -> &[u8] {
        self.path.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or_default()
    }
}

/// A target without scheme and authority.
fn origin_form(target: &[u8]) -> &[u8] {
    let Some(at) = crate::transform::find(target, b"://").filter(|_| !target.starts_with(b"/")) else {
        return target;
    };
    let rest = target.get(at + 3..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b'/').and_then(|slash| rest.get(slash..)).unwrap_or(b"/")
}

fn cookies_of(header: &[u8]) -> Pairs {
    let parts = header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let mut halves = part.splitn(2, |byte| *byte == b'=');
            let mut half = || halves.next().unwrap_or_default().to_vec();
            (half(), half())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::texts;

    #[test]
    fn a_head_is_taken_apart() {
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
        let message = Message::new(&Question {
            method: "GET".into(),
            target: "http://a.example/x/y.php?a=1+2&b&%3c=%zz&".into(),
            version: "HTTP/1.1".into(),
            headers: vec![
                ("host".into(), "a.example".into()),
                ("cookie".into(), "s=1; t=a=b;u".into()),
                ("content-type".into(), "Application/JSON; charset=utf-8".into()),
            ],
            client: address,
            server: address,
            exclude: Vec::new(),
            response: None,
        });
        assert_eq!((message.path.as_slice(), message.basename()), (&b"/x/y.php"[..], &b"y.php"[..]));
        assert_eq!(texts(&message.args_get), ["a=1 2", "b=", "<=%zz"]);
        assert_eq!(texts(&message.cookies), ["s=1", "t=a=b", "u="]);
        assert_eq!(message.processor, "JSON");
        assert_eq!(message.line(), b"GET http://a.example/x/y.php?a=1+2&b&%3c=%zz& HTTP/1.1");
    }
}
