//! The desync corpus: raw requests that two parsers could read differently, family by family from RFC 9112 and
//! RFC 9110, each between a good request and a smuggled one.
//!
//! What must hold for every one: the upstream's own strict parser finds nothing dirty, the smuggled request is never
//! served unless the corpus says the request before it is whole, and what is served arrives byte for byte.

#![expect(clippy::too_many_lines, reason = "a family is one table")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Lab, Made, local, strict_upstream};

/// Raw requests the corpus must at least hold.
const CASES_MIN: usize = 1_000;

const HOST: &str = "Host: a.example.com\r\n";
const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example.com\r\n\r\n";

/// One raw request and what must come of it.
struct Case {
    family: &'static str,
    raw: Vec<u8>,
    /// The body that arrives, if it is served; otherwise it is refused.
    served: Option<Vec<u8>>,
}

#[derive(Default)]
struct Corpus(Vec<Case>);

impl Corpus {
    fn refused(&mut self, family: &'static str, raw: impl AsRef<[u8]>) {
        self.0.push(Case { family, raw: raw.as_ref().to_vec(), served: None });
    }

    fn served(&mut self, family: &'static str, raw: impl AsRef<[u8]>, body: &[u8]) {
        self.0.push(Case { family, raw: raw.as_ref().to_vec(), served: Some(body.to_vec()) });
    }
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /case HTTP/1.1\r\n{HOST}{fields}\r\n{body}")
}

/// RFC 9110 section 8.6, RFC 9112 section 6.
fn lengths(corpus: &mut Corpus) {
    let odd = [
        "",
        " ",
        "+5",
        "-5",
        "5,5",
        "5, 5",
        "5,6",
        "5;5",
        "5 5",
        "05",
        "00",
        "005",
        "0x5",
        "5.0",
        "5e0",
        "five",
        "5\t5",
        "\"5\"",
        "5,",
        ",5",
        "18446744073709551616",
        "99999999999999999999999",
        "5\u{b}",
        "5\0",
        "٥",
        "5_0",
        "0b1",
        "5a",
        "a5",
        "5/1",
        "(5)",
        "5%00",
        "4294967296x",
        "1 ",
        "NaN",
        "inf",
        "-0",
        "+0",
        "0,0",
        "0 0",
    ];
    let names = ["Content-Length", "content-length", "CONTENT-LENGTH", "CoNtEnT-LeNgTh"];
    for name in names {
        for value in odd {
            let plain = value.trim_matches([' ', '\t']);
            if plain == "1" {
                continue;
            }
            corpus.refused("odd length", post(&format!("{name}: {value}\r\n"), "hello"));
        }
        for (a, b) in [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0"), ("5", ""), ("", "5")] {
            let two = format!("{name}: {a}\r\nContent-Length: {b}\r\n");
            corpus.refused("two lengths", post(&two, "hello"));
            let apart = format!("{name}: {a}\r\nX-Between: y\r\ncontent-length: {b}\r\n");
            corpus.refused("two lengths", post(&apart, "hello"));
        }
        for (value, body) in [("5", "hello"), (" 5 ", "hello"), ("\t5\t", "hello"), ("0", "")] {
            corpus.served("length", post(&format!("{name}:{value}\r\n"), body), body.as_bytes());
        }
    }
    for name in
        ["Content_Length", "content_length", "CONTENT_LENGTH", "Transfer_Encoding", "transfer_encoding"]
    {
        corpus.refused("imitated name", post(&format!("{name}: 5\r\n"), "hello"));
    }
}

/// RFC 9112 sections 6.1 and 6.3.
fn codings(corpus: &mut Corpus) {
    let odd = [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "chunked identity",
        "chunked\u{b}",
        "chunked\0",
        "'chunked'",
        "x chunked",
        "chunked x",
        "chun ked",
        "compress",
        "deflate, chunked",
        "chunked, identity",
        "identity, chunked",
        "\u{b}chunked",
        "chunke",
        "hunked",
        "chunked.",
        "chunked\u{a0}",
        "\u{130}chunked",
        "cow",
        "trailers",
    ];
    let names = ["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING", "TrAnSfEr-EnCoDiNg"];
    let body = "5\r\nhello\r\n0\r\n\r\n";
    for name in names {
        for value in odd {
            corpus.refused("odd coding", post(&format!("{name}: {value}\r\n"), body));
            let with = format!("{name}: {value}\r\nContent-Length: 5\r\n");
            corpus.refused("odd coding and length", post(&with, body));
        }
        for second in ["chunked", "identity", "gzip", ""] {
            let two = format!("{name}: chunked\r\nTransfer-Encoding: {second}\r\n");
            corpus.refused("two codings", post(&two, body));
        }
        for length in ["0", "5", "15", "3", "100"] {
            let te_cl = format!("{name}: chunked\r\nContent-Length: {length}\r\n");
            let cl_te = format!("Content-Length: {length}\r\n{name}: chunked\r\n");
            corpus.refused("both framings", post(&te_cl, body));
            corpus.refused("both framings", post(&cl_te, body));
        }
        for value in ["chunked", "Chunked", "CHUNKED", " chunked ", "\tchunked\t"] {
            corpus.served("coding", post(&format!("{name}:{value}\r\n"), body), b"hello");
        }
    }
}

/// RFC 9112 sections 2.2 and 5.2: every line end and the fold, at every line.
fn line_ends(corpus: &mut Corpus) {
    let lines = ["POST /case HTTP/1.1", "Host: a.example.com", "Content-Length: 5", "X-Last: y", ""];
    for at in 0..lines.len() {
        for end in
            ["\n", "\r", "\r\r\n", "\n\r", "\u{b}\r\n", "\u{c}\r\n", "\0\r\n", "\r\n\n", "\r \n", "\u{85}\n"]
        {
            let mut raw = String::new();
            for (n, line) in lines.iter().enumerate() {
                raw.push_str(line);
                raw.push_str(if n == at { end } else { "\r\n" });
            }
            // After the last line an extra byte is body, and only that.
            if at + 1 < lines.len() || !end.starts_with("\r\n") {
                corpus.refused("line end", format!("{raw}hello"));
            }
        }
    }
    for (name, value) in
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("X-Any", "y"), ("Host", "b")]
    {
        for fold in ["\r\n ", "\r\n\t", "\r\n  ", "\r\n \t", "\n ", "\r\n \r\n "] {
            corpus.refused("fold", post(&format!("{name}:{fold}{value}\r\n"), "hello"));
            corpus.refused("fold", post(&format!("X-First: a{fold}{name}: {value}\r\n"), "hello"));
        }
    }
    for fold in [" ", "\t", " X-A: b", "\tContent-Length: 5"] {
        corpus.refused("fold", format!("POST /case HTTP/1.1\r\n{fold}\r\n{HOST}\r\nhello"));
    }
}

/// RFC 9112 section 5.1: no white space around names.
fn names(corpus: &mut Corpus) {
    let fields = [
        ("Content-Length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("X-Any", "y"),
        ("Expect", "100-continue"),
    ];
    for (name, value) in fields {
        for space in [" ", "\t", "\u{b}", "\u{c}", "\u{a0}", "  ", " \t", "\0", "\u{1f}", "\u{200b}"] {
            corpus.refused("space around a name", post(&format!("{name}{space}: {value}\r\n"), "hello"));
            corpus.refused("space around a name", post(&format!("{space}{name}: {value}\r\n"), "hello"));
            let middle = name.len() / 2;
            let (front, back) = name.split_at(middle);
            corpus.refused("space in a name", post(&format!("{front}{space}{back}: {value}\r\n"), "hello"));
        }
        corpus.refused("no colon", post(&format!("{name} {value}\r\n"), "hello"));
        corpus.refused("no name", post(&format!(": {value}\r\n"), "hello"));
        corpus.refused("no name", post(&format!("{name}\r\n"), "hello"));
    }
    for separator in "(),/;<=>?@[]{}\"\\".chars() {
        corpus.refused("name", post(&format!("X{separator}Y: z\r\n"), ""));
        corpus.refused("name", post(&format!("{separator}X: z\r\n"), ""));
        corpus.refused("method", format!("G{separator}T /case HTTP/1.1\r\n{HOST}\r\n"));
    }
    for good in "!#$%&'*+-.^_`|~".chars() {
        corpus.served("name", post(&format!("X{good}Y: z\r\n"), ""), b"");
    }
    corpus.refused("name", post(&format!("{}: z\r\n", "X".repeat(300)), ""));
}

/// Control bytes at every place of a head (RFC 9110 section 5.5, RFC 9112 section 2.2).
fn control_bytes(corpus: &mut Corpus) {
    for byte in (0..0x20).chain([0x7f]).filter(|b| *b != b'\r' && *b != b'\n') {
        let place = |format: &str| {
            let (front, back) = format.split_once('@').unwrap();
            [front.as_bytes(), &[byte], back.as_bytes()].concat()
        };
        corpus.refused("control in method", place(&format!("GE@T /case HTTP/1.1\r\n{HOST}\r\n")));
        corpus.refused("control in target", place(&format!("GET /ca@se HTTP/1.1\r\n{HOST}\r\n")));
        corpus.refused("control in version", place(&format!("GET /case HTTP/1.@1\r\n{HOST}\r\n")));
        corpus.refused("control in name", place(&format!("GET /case HTTP/1.1\r\n{HOST}X@Y: z\r\n\r\n")));
        corpus.refused("control in host", place("GET /case HTTP/1.1\r\nHost: a.example@.com\r\n\r\n"));
        if byte != b'\t' {
            corpus.refused("control in value", place(&format!("GET /case HTTP/1.1\r\n{HOST}X: y@z\r\n\r\n")));
            corpus
                .refused("control before value", place(&format!("GET /case HTTP/1.1\r\n{HOST}X:@z\r\n\r\n")));
            corpus
                .refused("control after value", place(&format!("GET /case HTTP/1.1\r\n{HOST}X: z@\r\n\r\n")));
        }
    }
    for byte in 0x80..=0xff {
        let front = format!("GET /case HTTP/1.1\r\n{HOST}X: y");
        corpus.served("obs-text in value", [front.as_bytes(), &[byte], b"z\r\n\r\n"].concat(), b"");
        corpus.refused(
            "non-ASCII in target",
            [&b"GET /"[..], &[byte], b" HTTP/1.1\r\nHost: a.example.com\r\n\r\n"].concat(),
        );
    }
}

/// RFC 9112 section 3.2, RFC 9110 section 7.2.
fn hosts(corpus: &mut Corpus) {
    let request = |fields: &str| format!("GET /case HTTP/1.1\r\n{fields}X-Last: y\r\n\r\n");
    corpus.refused("no host", request(""));
    for odd in [
        "",
        " ",
        "a.example.com, a.example.com",
        "a.example.com b.example.com",
        "a.example.com/",
        "a.example.com/x",
        "http://a.example.com",
        "u@a.example.com",
        "u:p@a.example.com",
        "a.example.com:x",
        "a.example.com:0",
        "a.example.com:65536",
        "a.example.com:80:80",
        "a.example.com?x",
        "a.example.com#x",
        ":80",
        "*.example.com",
        "a..example.com",
        ".a.example.com",
        "a.example.com:+80",
        "[::1",
        "::1]",
        "a.example.com\\",
        "a%2eexample.com",
        "a.example.com;x",
        "a.example.com:80 ",
        "-a.example.com",
        "(a)",
        "a.example.com:-1",
        "\u{e4}.example.com",
        "a.example.com:00000080",
        "[a.example.com]",
        "a.example.com,",
        "\"a.example.com\"",
        "a'b",
    ] {
        if odd.trim() != "a.example.com:80" {
            corpus.refused("odd host", request(&format!("Host: {odd}\r\n")));
            corpus.refused("odd host", request(&format!("hOST:\t{odd}\r\n")));
        }
    }
    for second in ["a.example.com", "b.example.com", "", " "] {
        corpus.refused("two hosts", request(&format!("{HOST}Host: {second}\r\n")));
        corpus.refused("two hosts", request(&format!("Host: {second}\r\nX: y\r\n{HOST}")));
        corpus.refused("two hosts", request(&format!("{HOST}hOsT: {second}\r\n")));
    }
    for good in ["a.example.com", "A.EXAMPLE.COM", "a.example.com:80", "a.example.com:", "a.example.com."] {
        corpus.served("host", request(&format!("Host: {good}\r\n")), b"");
    }
}

/// RFC 9112 sections 2.3 and 3.
fn request_lines(corpus: &mut Corpus) {
    let mut line = |family, line: &str| corpus.refused(family, format!("{line}\r\n{HOST}\r\n"));
    for spaced in [
        "GET  /case HTTP/1.1",
        "GET /case  HTTP/1.1",
        " GET /case HTTP/1.1",
        "GET /case HTTP/1.1 ",
        "GET\t/case HTTP/1.1",
        "GET /case\tHTTP/1.1",
        "GET /ca se HTTP/1.1",
        "GET/case HTTP/1.1",
        "GET /caseHTTP/1.1",
        "GET /case",
        "GET",
        "",
        "GET /case HTTP/1.1 x",
        "GET\u{a0}/case HTTP/1.1",
        "GET\u{b}/case HTTP/1.1",
        "\tGET /case HTTP/1.1",
    ] {
        if !spaced.is_empty() {
            line("request line spacing", spaced);
        }
    }
    for version in [
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/2",
        "HTTP/2.0",
        "HTTP/3.0",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/11",
        "HTTP/1.11",
        "HTTP/01.1",
        "HTTP/1.01",
        "http/1.1",
        "Http/1.1",
        "HTTP /1.1",
        "HTTP/ 1.1",
        "HTTP/1 .1",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTP/1.1",
        "/1.1",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "HTTP/1.1.1",
        "HTTP/a.b",
        "ICY/1.1",
        "HTTP/9.9",
    ] {
        line("version", &format!("GET /case {version}"));
    }
    for target in [
        "case",
        "*",
        "a.example.com:80",
        "?x",
        "#x",
        "/case#x",
        "/ca<se",
        "/ca>se",
        "/ca\"se",
        "/ca\\se",
        "/ca`se",
        "//\\",
        "ftp://a.example.com/",
        "http:/a.example.com/",
        "http:a.example.com",
        "http://",
        "http:///case",
        "://a.example.com/",
        "http://u@a.example.com/case",
        "http://b.example.com/case",
        "http://a.example.com:81/case",
        "http://a.example.com#x",
        "http://a.example.com\\case",
        "https://b.example.com/",
        "javascript:x",
        "file:///etc/passwd",
        "http://a.example.com,b.example.com/",
        "http://[::1/case",
        "http://*.example.com/",
        "hxxp://a.example.com/",
        "./case",
    ] {
        line("target", &format!("GET {target} HTTP/1.1"));
    }
    line("target", &format!("GET /{} HTTP/1.1", "a".repeat(70_000)));
    for method in ["CONNECT", "connect", "Connect"] {
        line("connect", &format!("{method} a.example.com:443 HTTP/1.1"));
    }
    line("connect", "CONNECT / HTTP/1.1");
    line("connect", "CONNECT * HTTP/1.1");
    line("connect", "CONNECT http://a.example.com/ HTTP/1.1");
    line("method", &format!("{} /case HTTP/1.1", "G".repeat(100)));
    line("method", "G\u{e9}T /case HTTP/1.1");
    line("preface", "PRI * HTTP/2.0");
    for raw in [
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
        "SSH-2.0-x\r\n",
        "\0\0\0\0",
        "GET /case\r\n",
        "{}\r\n\r\n",
        "\r\n\r\n\r\n",
    ] {
        corpus.refused("not HTTP", raw);
    }
    let absolute = format!("GET http://a.example.com/case HTTP/1.1\r\n{HOST}\r\n");
    corpus.served("target", absolute, b"");
    for target in ["http://a.example.com:/case", "/case?\\", "/case?`", "/case?\"<>\"", "/case?{|}^[]"] {
        corpus.served("target", format!("GET {target} HTTP/1.1\r\n{HOST}\r\n"), b"");
    }
    for framing in ["Transfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"] {
        corpus.refused("version", format!("POST /case HTTP/1.0\r\n{HOST}{framing}\r\n0\r\n\r\n"));
    }
    corpus.refused("version", "GET /case HTTP/1.0\r\n\r\n");
    corpus.served("empty line", format!("\r\nGET /case HTTP/1.1\r\n{HOST}\r\n"), b"");
    corpus.refused("empty lines", format!("\r\n\r\nGET /case HTTP/1.1\r\n{HOST}\r\n"));
    corpus.refused("expectation", post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello"));
    corpus.refused("expectation", post("Expect: 100-continue, x\r\nContent-Length: 5\r\n", "hello"));
}

/// RFC 9112 section 7.1.
fn chunks(corpus: &mut Corpus) {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for size in [
        "",
        " 5",
        "5 ",
        "\t5",
        "5\t",
        "0x5",
        "0X5",
        "+5",
        "-5",
        "5.",
        "5,",
        "5 5",
        "g",
        "5g",
        "h5",
        "_5",
        "5_",
        "5h",
        "00000000000000005",
        "10000000000000005",
        "ffffffffffffffff",
        "fffffffffffffffff",
        "5;",
        "5;;",
        "5; a",
        "5 ;a",
        "5;a=",
        "5;a==b",
        "5;=b",
        "5;a b",
        "5;a=b c",
        "5;a=\"b",
        "5;a=\"b\\",
        "5;a=b\"",
        "5;\"a\"",
        "5;a\u{b}",
        "5;a\0",
        "5\u{b}",
        "5\u{c}",
        "5\0",
        "5\u{a0}",
        "٥",
        "5:a",
        "5&a",
        "5;a;",
        "5;a, b",
        "5;(a)",
        "5;a={b}",
        "0005 ",
    ] {
        corpus.refused("chunk size", chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")));
        corpus.refused("later chunk size", chunked(&format!("1\r\nx\r\n{size}\r\nhello\r\n0\r\n\r\n")));
    }
    for end in ["\n", "\r", "", " \r\n", "\r\r\n", "\n\r", "x\r\n", "\0\r\n", "\r \n"] {
        corpus.refused("chunk size end", chunked(&format!("5{end}hello\r\n0\r\n\r\n")));
        corpus.refused("chunk end", chunked(&format!("5\r\nhello{end}0\r\n\r\n")));
        corpus.refused("last chunk end", chunked(&format!("5\r\nhello\r\n0{end}\r\n")));
        if end != "\r" && !end.is_empty() {
            corpus.refused("body end", chunked(&format!("5\r\nhello\r\n0\r\n{end}")));
        }
    }
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Trailer",
        "Connection",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "TE",
        "Upgrade",
        "Expect",
        "X-Forwarded-For",
        "X-Real-IP",
        "Forwarded",
    ] {
        corpus.refused("trailer", chunked(&format!("0\r\n{name}: x\r\n\r\n")));
        corpus.refused("trailer", chunked(&format!("0\r\nX-A: b\r\n{}: 5\r\n\r\n", name.to_lowercase())));
    }
    for bad in ["X : y", " X: y", "X", ": y", "X\tY: z", "X: y\0", "X: y\r\n z", "X: y\nZ: a", "X(: y"] {
        corpus.refused("trailer", chunked(&format!("0\r\n{bad}\r\n\r\n")));
    }
    corpus.refused("extensions", chunked(&format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(300))));
    corpus.refused(
        "extensions",
        chunked(&format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "a".repeat(200)).repeat(100))),
    );
    for (body, expect) in [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("05\r\nhello\r\n00\r\n\r\n", "hello"),
        ("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", "helloworld"),
        ("5;a\r\nhello\r\n0;b=c\r\n\r\n", "hello"),
        ("5;a=\"b;\\\"c\"\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0\r\nX-Checksum: 1\r\n\r\n", "hello"),
        ("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", "0\r\n\r\nGE"),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
    ] {
        corpus.served("chunks", chunked(body), expect.as_bytes());
    }
}

/// Bodies that look like requests must arrive as bodies, in either framing.
fn look_alikes(corpus: &mut Corpus) {
    for inner in [
        SMUGGLED,
        "0\r\n\r\n",
        "\r\n\r\n",
        "GET / HTTP/1.1\n\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "\0\u{1}\u{2}\u{7f}",
        "5\r\nhello\r\n",
    ] {
        for times in [1, 2, 50] {
            let body = inner.repeat(times);
            let length = format!("Content-Length: {}\r\n", body.len());
            corpus.served("look-alike", post(&length, &body), body.as_bytes());
            let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            corpus.served("look-alike", post("Transfer-Encoding: chunked\r\n", &chunked), body.as_bytes());
        }
    }
    for method in ["GET", "DELETE", "OPTIONS", "PATCH", "QUERY"] {
        let raw = format!("{method} /case HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello");
        corpus.served("body with any method", raw, b"hello");
    }
    for nominated in [
        "content-length",
        "host",
        "transfer-encoding",
        "close, content-length",
        "te",
        "x-forwarded-for",
        "\"",
        "",
    ] {
        let raw = post(&format!("Connection: {nominated}\r\nContent-Length: 5\r\n"), "hello");
        if !nominated.starts_with("close") {
            corpus.served("nominated", raw, b"hello");
        }
    }
}

fn corpus() -> Vec<Case> {
    let mut corpus = Corpus::default();
    lengths(&mut corpus);
    codings(&mut corpus);
    line_ends(&mut corpus);
    names(&mut corpus);
    control_bytes(&mut corpus);
    hosts(&mut corpus);
    request_lines(&mut corpus);
    chunks(&mut corpus);
    look_alikes(&mut corpus);
    corpus.0
}

/// Sends one case between a good request and the smuggled one, in pieces, and judges what came of it.
async fn judge(case: &Case, piece: usize) -> Result<(), String> {
    let lab = Lab::default();
    let (seen, upstream) = strict_upstream();
    lab.agent("http://a.example.com", Made::default(), upstream);
    let raw = [GOOD.as_bytes(), &case.raw, SMUGGLED.as_bytes()].concat();
    let (io, serving) = lab.visit_http();
    let (mut read, mut write) = tokio::io::split(io);
    let mut answers = Vec::new();
    let sent = async {
        for piece in raw.chunks(piece) {
            if write.write_all(piece).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
    };
    let ((), _) = tokio::join!(sent, read.read_to_end(&mut answers));
    serving.await.map_err(|e| e.to_string())?;
    tokio::task::yield_now().await;
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let seen = seen.borrow();
    if !seen.dirty.is_empty() {
        return Err(format!("dirty {:?}", seen.dirty));
    }
    let lines: Vec<&str> = seen.requests.iter().map(|request| request.line.as_str()).collect();
    if lines.first() != Some(&"GET /good HTTP/1.1") || !answers.starts_with("HTTP/1.1 200 OK\r\n") {
        return Err(format!("the good request before it was not served: {lines:?}"));
    }
    match &case.served {
        None => {
            let last =
                answers.rsplit("HTTP/1.1 ").find(|answer| answer.starts_with(|c: char| c.is_ascii_digit()));
            let last = last.unwrap_or_default();
            if lines.len() != 1 || answers.matches("HTTP/1.1 200 OK").count() != 1 {
                return Err(format!("something of it was served: {lines:?}"));
            }
            if !last.starts_with('4') && !last.starts_with("50") {
                return Err(format!("not refused: {last:?}"));
            }
            let begins = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_digit());
            if answers.split("HTTP/1.1 ").filter(begins).count() != 2 {
                return Err(format!("two answers for one request: {answers:?}"));
            }
        }
        Some(body) => {
            if lines.len() != 3 || lines[2] != "GET /smuggled HTTP/1.1" {
                return Err(format!("not served whole: {lines:?} {answers:?}"));
            }
            if &seen.requests[1].body != body {
                return Err(format!("the body changed: {:?}", seen.requests[1].body));
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nothing_ambiguous_gets_through() {
    let cases = corpus();
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    local(async {
        let mut wrong = Vec::new();
        for (n, case) in cases.iter().enumerate() {
            let piece = [usize::MAX, 1, 7][n % 3];
            if let Err(why) = judge(case, piece).await {
                let raw = String::from_utf8_lossy(&case.raw).chars().take(200).collect::<String>();
                wrong.push(format!("{} {raw:?}: {why}", case.family));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    })
    .await;
}
