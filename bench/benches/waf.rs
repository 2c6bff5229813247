//! One message through the Core Rule Set of Debian's package at paranoia level 1: the edge's question over a socket, the rules, the answer.
//!
//! Prints the median, the 99th percentile and the CPU time of a message of each kind. Rules run on one thread, as in `ebbgate-waf`.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ebbgate_waf::protocol::{self, Answer, Greeting, Question};
use ebbgate_waf::worker;

const RULES: &str = "/usr/share/modsecurity-crs/owasp-crs.load";
/// Messages of a kind.
const MESSAGES: usize = 5_000;

fn main() {
    let (mut socket, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let begun = Instant::now();
    let rules = std::thread::spawn(move || {
        let engine = worker::greet(&mut theirs, Path::new(RULES), || Ok(())).expect("the greeting is read");
        if let Some(engine) = engine {
            worker::answer(&mut theirs, &engine).expect("questions come");
        }
    });
    match protocol::read(&mut socket).expect("a greeting").expect("a greeting").0 {
        Greeting::Ready(loaded) => println!("{} rules, read in {:.2?}", loaded.rules, begun.elapsed()),
        Greeting::Refused(why) => panic!("{why}; apt-get install modsecurity-crs"),
    }
    let form = "name=Ada+Lovelace&visits=3&note=the+tide+comes+in+at+noon";
    let attack = "q=<script>alert(1)</script>";
    let members: Vec<String> =
        (0..90).map(|n| format!("\"field{n}\": \"the tide comes in at noon {n}\"")).collect();
    let json = format!("{{{}}}", members.join(", "));
    println!("| message | p50 | p99 | CPU |\n|---|---:|---:|---:|");
    for (name, target, kind, body) in [
        ("GET, three arguments", "/patients?page=1&sort=name&q=tide+tables", "", ""),
        ("form of 57 bytes", "/visits", "application/x-www-form-urlencoded", form),
        ("form with an attack", "/visits", "application/x-www-form-urlencoded", attack),
        ("JSON of 4 KB", "/visits", "application/json", json.as_str()),
    ] {
        measure(&mut socket, name, &question(target, kind, body), body.as_bytes());
    }
    drop(socket);
    rules.join().expect("the thread of the rules ends");
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

fn measure(socket: &mut UnixStream, name: &str, question: &Question, body: &[u8]) {
    let mut times = Vec::with_capacity(MESSAGES);
    let before = cpu();
    for _ in 0..MESSAGES {
        let begun = Instant::now();
        protocol::write(socket, question, body).expect("the question goes out");
        let answer = protocol::read(socket).expect("an answer").expect("an answer").0;
        assert!(matches!(answer, Answer::Judged(_)), "{answer:?}");
        times.push(begun.elapsed());
    }
    let each = (cpu() - before) / u32::try_from(MESSAGES).unwrap_or(u32::MAX);
    times.sort_unstable();
    let (p50, p99) = (times[MESSAGES / 2], times[MESSAGES * 99 / 100]);
    println!("| {name} | {p50:.0?} | {p99:.0?} | {each:.0?} |");
}

/// CPU time of this process, its rules and its questions.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
