//! The Core Rule Set's own regression tests: reads their files, and writes requests as the tool that they are for does (`ftw` 1.3).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// One test.
pub(crate) struct Test {
    /// Such as `942100-1`.
    pub(crate) title: String,
    pub(crate) stages: Vec<Stage>,
}

/// A request, and what is expected of it.
pub(crate) struct Stage {
    pub(crate) request: Vec<u8>,
    /// Rules that match.
    pub(crate) matches: Vec<u32>,
    /// Rules that do not.
    pub(crate) spares: Vec<u32>,
    /// Status codes of which the answer has one; none: any.
    pub(crate) status: Vec<u64>,
    /// The request may be refused without an answer.
    pub(crate) error: bool,
}

#[derive(Deserialize)]
struct File {
    meta: Meta,
    tests: Vec<TestOf>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct TestOf {
    test_title: Scalar,
    stages: Vec<StageOf>,
}

#[derive(Deserialize)]
struct StageOf {
    stage: Inner,
}

#[derive(Deserialize)]
struct Inner {
    input: Input,
    output: Output,
}

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    uri: Option<Scalar>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Scalar>,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    stop_magic: bool,
    #[serde(default)]
    encoded_request: Option<String>,
    #[serde(default)]
    raw_request: Option<String>,
}

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    log_contains: Option<Scalar>,
    #[serde(default)]
    no_log_contains: Option<Scalar>,
    #[serde(default)]
    status: Option<Status>,
    #[serde(default)]
    expect_error: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Status {
    One(u64),
    Some(Vec<u64>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Lines(Vec<Scalar>),
    Text(Scalar),
}

/// A text, which may look like a number.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Scalar {
    Number(i64),
    Real(f64),
    Bool(bool),
    Text(String),
    Null(()),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Bool(bool) => bool.to_string(),
            Self::Text(text) => text.clone(),
            Self::Null(()) => String::new(),
        }
    }
}

/// The tests of a folder and those below it, by title; and how many there are that their authors have switched off.
pub(crate) fn read(dir: &Path) -> (Vec<Test>, usize) {
    let mut files = Vec::new();
    find(dir, &mut files);
    files.sort();
    let (mut tests, mut off) = (Vec::new(), 0);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let read: File =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if read.meta.enabled {
            tests.extend(read.tests.iter().map(test));
        } else {
            off += read.tests.len();
        }
    }
    (tests, off)
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            files.push(path);
        }
    }
}

fn test(read: &TestOf) -> Test {
    let stages = read.stages.iter().map(|stage| {
        let Inner { input, output } = &stage.stage;
        let rules = |text: &Option<Scalar>| text.as_ref().map_or_else(Vec::new, |text| numbers(&text.text()));
        Stage {
            request: request(input),
            matches: rules(&output.log_contains),
            spares: rules(&output.no_log_contains),
            status: match &output.status {
                None => Vec::new(),
                Some(Status::One(one)) => vec![*one],
                Some(Status::Some(some)) => some.clone(),
            },
            error: output.expect_error,
        }
    });
    Test { title: read.test_title.text(), stages: stages.collect() }
}

/// The numbers of rules in a text.
fn numbers(text: &str) -> Vec<u32> {
    let words = text.split(|char: char| !char.is_ascii_digit());
    words.filter(|word| word.len() == 6).filter_map(|word| word.parse().ok()).collect()
}

const FORM: &str = "application/x-www-form-urlencoded";

fn request(input: &Input) -> Vec<u8> {
    if let Some(encoded) = &input.encoded_request {
        let packed: String = encoded.split_whitespace().collect();
        return STANDARD.decode(packed).unwrap();
    }
    if let Some(raw) = &input.raw_request {
        return raw.clone().into_bytes();
    }
    let mut headers: Vec<(String, String)> =
        input.headers.iter().map(|(name, value)| (name.clone(), value.text())).collect();
    let mut data = match &input.data {
        None => String::new(),
        Some(Data::Text(text)) => text.text(),
        Some(Data::Lines(lines)) => lines.iter().map(Scalar::text).collect::<Vec<_>>().join("\r\n"),
    };
    if !data.is_empty() && !input.stop_magic {
        let has = |headers: &[(String, String)], name: &str| headers.iter().any(|(one, _)| one == name);
        if !has(&headers, "Content-Type") {
            headers.push(("Content-Type".into(), FORM.into()));
        }
        if headers.iter().any(|(name, value)| name == "Content-Type" && value == FORM)
            && unquoted(data.as_bytes(), false) == data.as_bytes()
        {
            let form = encoded(&data);
            if !form.is_empty() {
                data = form;
            }
        }
        if !has(&headers, "Content-Length") {
            headers.push(("Content-Length".into(), data.len().to_string()));
        }
    }
    let method = input.method.as_deref().unwrap_or("GET");
    let uri = input.uri.as_ref().map_or_else(|| "/".to_owned(), Scalar::text);
    let version = input.version.as_deref().unwrap_or("HTTP/1.1");
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {uri} {version}\r\n{headers}\r\n{data}").into_bytes()
}

fn unquoted(text: &[u8], plus: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = after;
        match (first, byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &after[2..];
            }
            (b'+', _) if plus => out.push(b' '),
            (first, _) => out.push(*first),
        }
    }
    out
}

/// A form anew, without members that have no value.
fn encoded(form: &str) -> String {
    let quoted = |text: &str| -> String {
        let byte = |byte: u8| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'.' | b'-' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            byte => format!("%{byte:02X}"),
        };
        unquoted(text.as_bytes(), true).into_iter().map(byte).collect()
    };
    let members = form.split('&').filter_map(|member| member.split_once('='));
    let members = members.filter(|(_, value)| !value.is_empty());
    members.map(|(name, value)| quoted(name) + "=" + &quoted(value)).collect::<Vec<_>>().join("&")
}
