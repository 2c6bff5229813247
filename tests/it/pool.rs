//! Several agents on one URL: traffic is spread, and an agent that dies costs no new connection.

mod alone {
    //! Heavy load: runs with nothing beside it.

    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use anyhow::{Context, Result};
    use ebbgate_lab::lab::local;

    use crate::service;
    use crate::visitor::Visitor;
    use ebbgate_lab::guide::{self, API_HOST};
    use ebbgate_lab::test_lab::TestLab;
    use ebbgate_lab::turn::Turn;
    use ebbgate_lab::wait::soon;

    /// Visitors that work at the same time.
    const VISITORS: usize = 6;
    /// What each of them does.
    const ROUNDS: usize = 150;
    const HTTP_URL: &str = "https://service.clinic1.internal";
    const TCP_URL: &str = "tcp://service.clinic1.internal:7000";

    fn pooled(http: u16, tcp: u16) -> String {
        format!(
            "  - name: service\n    url: {HTTP_URL}\n    pooling_enabled: true\n    upstream:\n      url: {http}\n  \
             - name: raw\n    url: {TCP_URL}\n    pooling_enabled: true\n    upstream:\n      url: {tcp}\n"
        )
    }

    #[test]
    fn one_of_two_agents_killed_under_load_costs_no_request() -> Result<()> {
        let _turn = Turn::alone();
        let lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(HTTP_URL))?;
        let addr = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(TCP_URL))?;
        let tcp = service::tcp_echo()?.port();
        let _a = lab.agent("a", &token, &pooled(service::http_echo("a")?.port(), tcp))?;
        let mut b = lab.agent("b", &token, &pooled(service::http_echo("b")?.port(), tcp))?;
        lab.wait_online(&[HTTP_URL, TCP_URL], 2)?;
        let visitor = Visitor::of(&lab)?;
        soon("the first answer", || {
            Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200).map(drop))
        })?;

        let done = Arc::new(AtomicUsize::new(0));
        let dead = Arc::new(AtomicBool::new(false));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::new(Mutex::new(BTreeMap::<(bool, String), usize>::new()));
        let tcp_addr = local(guide::port_of(&addr)?);
        let workers: Vec<_> = (0..VISITORS)
            .map(|_| {
                let (visitor, done, dead) = (visitor.clone(), Arc::clone(&done), Arc::clone(&dead));
                let (failures, served) = (Arc::clone(&failures), Arc::clone(&served));
                thread::spawn(move || {
                    for _ in 0..ROUNDS {
                        let was_dead = dead.load(Ordering::SeqCst);
                        match request(&visitor) {
                            Ok(name) => *served.lock().unwrap().entry((was_dead, name)).or_default() += 1,
                            Err(error) => failures.lock().unwrap().push(format!("request: {error:#}")),
                        }
                        let was_dead = dead.load(Ordering::SeqCst);
                        if let Err(error) = echo(&visitor, tcp_addr)
                            // A connection that was open when its agent died is lost with it; a new one is not.
                            && was_dead
                        {
                            failures.lock().unwrap().push(format!("connection: {error:#}"));
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        soon("a third of the load", || {
            Ok((done.load(Ordering::SeqCst) > VISITORS * ROUNDS / 3).then_some(()))
        })?;
        b.kill();
        dead.store(true, Ordering::SeqCst);
        for worker in workers {
            worker.join().ok().context("a visitor panicked")?;
        }
        let failures = failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
        let served = served.lock().unwrap();
        let count = |dead: bool, name: &str| served.get(&(dead, name.to_owned())).copied().unwrap_or(0);
        let (a, b) = (count(false, "a"), count(false, "b"));
        assert!(a * 4 > a + b && b * 4 > a + b, "spread evenly while both lived: a {a}, b {b}");
        assert_eq!(count(true, "b"), 0, "nothing from the dead");
        lab.wait_online(&[HTTP_URL, TCP_URL], 1)
    }

    fn request(visitor: &Visitor) -> Result<String> {
        let answer = visitor.get(API_HOST, "/", &[])?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let value: serde_json::Value = serde_json::from_slice(&answer.body)?;
        Ok(value["service"].as_str().context("no service")?.to_owned())
    }

    fn echo(visitor: &Visitor, addr: std::net::SocketAddr) -> Result<()> {
        let mut stream = visitor.tcp(addr)?;
        stream.write_all(b"ebb")?;
        let mut back = [0; 3];
        stream.read_exact(&mut back)?;
        Ok(())
    }
}
