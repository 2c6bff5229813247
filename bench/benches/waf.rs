//! One message through the Core Rule Set of Debian's package at paranoia level 1: the edge's question over a socket, the rules, the answer.
//!
//! Rules run on one thread, as in `ebbgate-waf`. Without Debian's package nothing is measured.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

use criterion::{Criterion, criterion_group, criterion_main};
use ebbgate_waf::protocol::{self, Answer, Greeting, Question};
use ebbgate_waf::worker;

const RULES: &str = "/usr/share/modsecurity-crs/owasp-crs.load";
fn waf(criterion: &mut Criterion) {
    if !Path::new(RULES).exists() {
        eprintln!("no rules at {RULES}: apt-get install modsecurity-crs");
        return;
    }
    // Read when they are first asked: a list of the benches needs none.
    let mut rules = None;
    let form = "name=Ada+Lovelace&visits=3&note=the+tide+comes+in+at+noon";
    let attack = "q=<script>alert(1)</script>";
    let members: Vec<String> =
        (0..90).map(|n| format!("\"field{n}\": \"the tide comes in at noon {n}\"")).collect();
    let json = format!("{{{}}}", members.join(", "));
    let mut group = criterion.benchmark_group("waf");
    for (name, target, kind, body) in [
        ("get", "/patients?page=1&sort=name&q=tide+tables", "", ""),
        ("form", "/visits", "application/x-www-form-urlencoded", form),
        ("form-with-attack", "/visits", "application/x-www-form-urlencoded", attack),
        ("json-4k", "/visits", "application/json", json.as_str()),
    ] {
        let question = question(target, kind, body);
        group.bench_function(name, |bencher| {
            let (socket, _) = rules.get_or_insert_with(start);
            bencher.iter(|| judged(socket, &question, body.as_bytes()));
        });
    }
    group.finish();
    if let Some((socket, thread)) = rules {
        drop(socket);
        thread.join().expect("the thread of the rules ends");
    }
}

/// Reads the rules, and answers questions from then on.
fn start() -> (UnixStream, JoinHandle<()>) {
    let (mut socket, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let thread = std::thread::spawn(move || {
        let engine = worker::greet(&mut theirs, Path::new(RULES), || Ok(())).expect("the greeting is read");
        if let Some(engine) = engine {
            worker::answer(&mut theirs, &engine).expect("questions come");
        }
    });
    match protocol::read(&mut socket).expect("a greeting").expect("a greeting").0 {
        Greeting::Ready(_) => (socket, thread),
        Greeting::Refused(why) => panic!("{why}"),
    }
}

/// What a browser sends.
fn question(target: &str, kind: &str, body: &str) -> Question {
    let address = SocketAddr::from(([192, 0, 2, 7], 40_000));
    let mut headers = vec![
        ("host", "clinic.example".to_owned()),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".to_owned()),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8".to_owned()),
        ("accept-language", "en-US,en;q=0.5".to_owned()),
        ("accept-encoding", "gzip, deflate, br, zstd".to_owned()),
        ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark".to_owned()),
    ];
    if !body.is_empty() {
        headers.extend([("content-type", kind.to_owned()), ("content-length", body.len().to_string())]);
    }
    Question {
        method: if body.is_empty() { "GET" } else { "POST" }.into(),
        target: target.into(),
        version: "HTTP/1.1".into(),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        client: address,
        server: address,
        exclude: Vec::new(),
        response: None,
    }
}

fn judged(socket: &mut UnixStream, question: &Question, body: &[u8]) {
    protocol::write(socket, question, body).expect("the question goes out");
    let answer = protocol::read(socket).expect("an answer").expect("an answer").0;
    assert!(matches!(answer, Answer::Judged(_)), "{answer:?}");
}

criterion_group!(benches, waf);
criterion_main!(benches);
