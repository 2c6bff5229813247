use ebbgate_waf::{Engine, protocol::*};
use std::time::Instant;
fn main() {
    let t = Instant::now();
    let path = std::env::args().nth(1).unwrap();
    let engine = match Engine::load(path.as_ref()) {
        Ok(e) => e,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    println!("load {:?} {:?}", t.elapsed(), engine.loaded());
    let a = "192.0.2.1:80".parse().unwrap();
    let q = |target: &str, ct: &str| Question {
        method: if ct.is_empty() { "GET" } else { "POST" }.into(),
        target: target.into(),
        version: "HTTP/1.1".into(),
        headers: vec![
            ("host".into(), "a.example".into()),
            ("user-agent".into(), "Mozilla/5.0".into()),
            ("accept".into(), "*/*".into()),
            ("content-type".into(), ct.into()),
        ]
        .into_iter()
        .filter(|(_, v): &(String, String)| !v.is_empty())
        .collect(),
        client: a,
        server: a,
        exclude: vec![],
        response: None,
    };
    for (q, b) in [
        (q("/", ""), ""),
        (q("/?id=1' OR '1'='1", ""), ""),
        (q("/?q=<script>alert(1)</script>", ""), ""),
        (q("/?f=../../../../etc/passwd", ""), ""),
        (q("/", "application/json"), "{\"q\": \"<script>alert(1)</script>\"}"),
        (q("/", "application/x-www-form-urlencoded"), "a=1&b=hello+world"),
        (Question { exclude: vec![942100], ..q("/?id=1' OR '1'='1", "") }, ""),
    ] {
        let t = Instant::now();
        let j = engine.judge(&q, b.as_bytes()).unwrap();
        let first = t.elapsed();
        let mut all = vec![];
        for _ in 0..50 {
            let t = Instant::now();
            engine.judge(&q, b.as_bytes()).unwrap();
            all.push(t.elapsed());
        }
        all.sort();
        println!(
            "{} {} -> {}/{} first {first:?} p50 {:?} max {:?}",
            q.target, b, j.score, j.threshold, all[25], all[49]
        );
        for m in j.matched_rules {
            println!("   {m:?}");
        }
    }
    let r = Question {
        response: Some(ResponseHead {
            status: 200,
            headers: vec![("content-type".into(), "text/html".into())],
        }),
        ..q("/", "")
    };
    let j = engine.judge(&r, b"You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version").unwrap();
    println!("{j:?}");
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("Vm"))
            .collect::<Vec<_>>()
            .join(" ")
    );
}
