//! HTTP/2 requests that would be ambiguous as HTTP/1.1: the upstream must see a clean request or none.

#![expect(clippy::too_many_lines, reason = "the shapes are one table")]

use ebbgate_edge::http::limits::Limits;

use crate::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, block, frame};
use crate::lab::{Lab, Made, https_conn, local, strict_upstream};

/// Shapes the corpus must at least hold.
const SHAPES_MIN: usize = 110;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

struct Shape {
    what: String,
    fields: Fields,
    /// DATA frames, and whether the last one ends the stream. None: the header block ends it.
    data: Option<(Vec<Vec<u8>>, bool)>,
    trailers: Option<Fields>,
    served: bool,
}

fn base() -> Fields {
    fields(&[(":method", "POST"), (":scheme", "https"), (":authority", "a.example.com"), (":path", "/case")])
}

fn fields(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn with(more: &[(&str, &str)]) -> Fields {
    let mut all = base();
    all.extend(fields(more));
    all
}

fn replaced(name: &str, value: &[u8]) -> Fields {
    let change = |(n, v): (Vec<u8>, Vec<u8>)| if n == name.as_bytes() { (n, value.to_vec()) } else { (n, v) };
    base().into_iter().map(change).collect()
}

fn refused(shapes: &mut Vec<Shape>, what: impl Into<String>, fields: Fields) {
    shapes.push(Shape { what: what.into(), fields, data: None, trailers: None, served: false });
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for name in
        ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"]
    {
        for value in ["close", "chunked", "h2c", ""] {
            refused(&mut shapes, format!("{name}: {value}"), with(&[(name, value)]));
        }
    }
    for value in ["gzip", "trailers, deflate", "chunked", "", "Trailers "] {
        refused(&mut shapes, format!("te: {value}"), with(&[("te", value)]));
    }
    for name in [
        "Content-Length",
        "X-Upper",
        "x y",
        "x:y",
        "x\ty",
        "",
        " x",
        "x ",
        "x\r\ny",
        "x\0",
        "(x)",
        "x\u{e9}",
        ":x",
        ":Path",
        "content_length",
        "transfer_encoding",
    ] {
        refused(&mut shapes, format!("name {name:?}"), with(&[(name, "5")]));
    }
    for value in [
        "a\r\nb: c",
        "a\nb",
        "a\rb",
        "a\0b",
        " a",
        "a ",
        "\ta",
        "a\t",
        "a\u{1}",
        "a\u{7f}",
        "\r\n",
        "a\r\n\r\nGET /smuggled HTTP/1.1\r\n",
    ] {
        refused(&mut shapes, format!("value {value:?}"), with(&[("x-any", value)]));
    }
    for path in [
        "",
        "case",
        "*",
        "/a b",
        "/a\r\nb",
        "/a\0",
        "/ HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled",
        "/a\tb",
        "/\u{e9}",
        "http://b.example.com/",
        "/a\\b",
        "/<>",
        "/a\"b",
    ] {
        refused(&mut shapes, format!(":path {path:?}"), replaced(":path", path.as_bytes()));
    }
    for method in [
        "",
        "G T",
        "GET /smuggled HTTP/1.1\r\n",
        "G\r\nT",
        "G\0T",
        "CONNECT",
        "G(T",
        "G\tT",
        &"G".repeat(100),
    ] {
        refused(&mut shapes, format!(":method {method:?}"), replaced(":method", method.as_bytes()));
    }
    for scheme in ["", "ftp", "https://a.example.com/x?", "ht tp", "http\r\nx", "http\0"] {
        refused(&mut shapes, format!(":scheme {scheme:?}"), replaced(":scheme", scheme.as_bytes()));
    }
    for authority in [
        "",
        "a.example.com b",
        "a.example.com\r\nx: y",
        "u@a.example.com",
        "a.example.com/",
        "a.example.com\0",
        "a.example.com,b",
        "*.example.com",
        "a.example.com:x",
        "[::1",
    ] {
        refused(
            &mut shapes,
            format!(":authority {authority:?}"),
            replaced(":authority", authority.as_bytes()),
        );
    }
    for host in [
        "b.example.com",
        "a.example.com:8443",
        "",
        "a.example.com, b.example.com",
        "a.example.com\r\nx: y",
        " a.example.com",
    ] {
        refused(&mut shapes, format!("host {host:?}"), with(&[("host", host)]));
    }
    refused(&mut shapes, "two hosts", with(&[("host", "a.example.com"), ("host", "a.example.com")]));
    for pseudo in [":method", ":scheme", ":authority", ":path"] {
        let without: Fields = base().into_iter().filter(|(name, _)| name != pseudo.as_bytes()).collect();
        refused(&mut shapes, format!("no {pseudo}"), without);
        let mut twice = base();
        let again = twice.iter().find(|(name, _)| name == pseudo.as_bytes()).cloned().unwrap();
        twice.push(again);
        refused(&mut shapes, format!("{pseudo} twice"), twice);
        let mut late = fields(&[("x-first", "y")]);
        late.extend(base());
        refused(&mut shapes, format!("{pseudo} after a field"), late);
    }
    for pseudo in [":status", ":protocol", ":unknown", ":host"] {
        refused(&mut shapes, pseudo, with(&[(pseudo, "200")]));
    }
    lengths(&mut shapes);
    trailers(&mut shapes);
    clean(&mut shapes);
    shapes
}

fn lengths(shapes: &mut Vec<Shape>) {
    let hello = || Some((vec![b"hello".to_vec()], true));
    for value in [
        "+5",
        "-5",
        "5,5",
        "5 ",
        " 5",
        "0x5",
        "",
        "05",
        "five",
        "18446744073709551616",
        "5.0",
        "4",
        "6",
        "0",
        "500",
    ] {
        let fields = with(&[("content-length", value)]);
        shapes.push(Shape {
            what: format!("content-length {value:?} with 5 bytes"),
            fields,
            data: hello(),
            trailers: None,
            served: false,
        });
    }
    for (a, b) in [("5", "5"), ("5", "6"), ("0", "5")] {
        let fields = with(&[("content-length", a), ("content-length", b)]);
        shapes.push(Shape {
            what: format!("content-length {a} and {b}"),
            fields,
            data: hello(),
            trailers: None,
            served: false,
        });
    }
    refused(shapes, "content-length without body", with(&[("content-length", "5")]));
    let fields = with(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
    shapes.push(Shape { what: "both framings".into(), fields, data: hello(), trailers: None, served: false });
}

fn trailers(shapes: &mut Vec<Shape>) {
    for bad in [":path", "X-Upper", "connection", "transfer-encoding", "x\r\ny"] {
        shapes.push(Shape {
            what: format!("trailer {bad:?}"),
            fields: base(),
            data: Some((vec![b"hello".to_vec()], false)),
            trailers: Some(fields(&[(bad, "x")])),
            served: false,
        });
    }
}

fn clean(shapes: &mut Vec<Shape>) {
    let mut served = |what: &str, fields: Fields, data: Option<Vec<&[u8]>>| {
        let data = data.map(|data| (data.into_iter().map(<[u8]>::to_vec).collect(), true));
        shapes.push(Shape { what: what.into(), fields, data, trailers: None, served: true });
    };
    served("plain", base(), None);
    served("body", base(), Some(vec![b"hello"]));
    served("body with length", with(&[("content-length", "5")]), Some(vec![b"he", b"llo"]));
    served(
        "body that looks like a request",
        base(),
        Some(vec![b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"]),
    );
    served("empty body", with(&[("content-length", "0")]), Some(vec![b""]));
    served("host that agrees", with(&[("host", "a.example.com")]), None);
    served("te: trailers", with(&[("te", "trailers")]), None);
    served("cookie crumbs", with(&[("cookie", "a=1"), ("cookie", "b=2")]), None);
    served("forwarded headers", with(&[("x-forwarded-for", "9.9.9.9")]), None);
    let host_only =
        fields(&[(":method", "GET"), (":scheme", "https"), (":path", "/case"), ("host", "a.example.com")]);
    served("host without :authority", host_only, None);
}

async fn judge(shape: &Shape) -> Result<(), String> {
    let lab = Lab::default();
    let (seen, upstream) = strict_upstream();
    let first = lab.agent("https://a.example.com", Made::default(), upstream);
    let (io, serving) = lab.visit(https_conn(&first, true), Limits::default());
    let mut visitor = Frames::open(io).await;
    let pairs = |fields: &Fields| {
        block(&fields.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect::<Vec<_>>())
    };
    let over = if shape.data.is_none() { END_STREAM } else { 0 };
    visitor.send(&frame(HEADERS, END_HEADERS | over, 1, &pairs(&shape.fields))).await;
    if let Some((data, ends)) = &shape.data {
        for (n, part) in data.iter().enumerate() {
            let over = if *ends && n + 1 == data.len() { END_STREAM } else { 0 };
            visitor.send(&frame(DATA, over, 1, part)).await;
        }
    }
    if let Some(trailers) = &shape.trailers {
        visitor.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &pairs(trailers))).await;
    }
    visitor.verdict(1).await.ok_or("no verdict")?;
    drop(visitor);
    serving.await.map_err(|e| e.to_string())?;
    tokio::task::yield_now().await;
    let seen = seen.borrow();
    if !seen.dirty.is_empty() {
        return Err(format!("dirty {:?}", seen.dirty));
    }
    let lines: Vec<_> = seen.requests.iter().map(|request| request.line.as_str()).collect();
    if lines.len() != usize::from(shape.served) {
        return Err(format!("served {lines:?}"));
    }
    if let (Some(request), Some((data, _))) = (seen.requests.first(), &shape.data)
        && request.body != data.concat()
    {
        return Err(format!("the body changed: {:?}", request.body));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_shape_is_dirty_as_http1() {
    let shapes = shapes();
    assert!(shapes.len() >= SHAPES_MIN, "{} shapes", shapes.len());
    local(async {
        let mut wrong = Vec::new();
        for shape in &shapes {
            if let Err(why) = judge(shape).await {
                wrong.push(format!("{}: {why}", shape.what));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), shapes.len(), wrong.join("\n"));
    })
    .await;
}
