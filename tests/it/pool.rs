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

/// Three agents, and policies that say which of them gets what.
mod balanced {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use anyhow::{Context, Result};
    use ebbgate_lab::guide::{self, API_HOST};
    use ebbgate_lab::http::Answer;
    use ebbgate_lab::lab::local;
    use ebbgate_lab::test_lab::TestLab;
    use ebbgate_lab::wait::soon;
    use serde_json::{Value, json};

    use crate::service;
    use crate::visitor::Visitor;

    const HTTP_URL: &str = "https://app.clinic1.internal";
    const TCP_URL: &str = "tcp://app.clinic1.internal:7000";
    const NAMES: [&str; 3] = ["a", "b", "c"];

    /// Endpoints of the agent `name`; the upstreams say which one they are.
    fn endpoints(name: &str) -> Result<String> {
        let http = service::http_echo(name)?.port();
        let who = name.to_owned();
        let tcp = service::tcp(move |mut stream| {
            stream.write_all(who.as_bytes())?;
            let _ = stream.read(&mut [0])?;
            Ok(())
        })?;
        let zone = if name == "b" { "zone=blue" } else { "zone=green" };
        Ok(format!(
            "  - name: app-{name}\n    url: {HTTP_URL}\n    pooling_enabled: true\n    metadata: {zone}\n    \
             upstream:\n      url: {http}\n  - name: raw-{name}\n    url: {TCP_URL}\n    pooling_enabled: true\n    \
             upstream:\n      url: {}\n",
            tcp.port()
        ))
    }

    fn rule(path: &str, config: Value) -> Value {
        let mut config = config;
        config["url"] = json!(HTTP_URL);
        json!({ "expressions": [format!("req.url.path == '{path}'")],
            "actions": [{ "type": "forward-internal", "config": config }] })
    }

    fn served_by(answer: &Answer) -> Result<String> {
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let value: Value = serde_json::from_slice(&answer.body)?;
        Ok(value["service"].as_str().context("no service")?.to_owned())
    }

    fn held(visitor: &Visitor, addr: std::net::SocketAddr) -> Result<(String, TcpStream)> {
        let mut stream = visitor.tcp(addr)?;
        let mut name = [0];
        stream.read_exact(&mut name)?;
        Ok((String::from_utf8_lossy(&name).into_owned(), stream))
    }

    #[test]
    fn weights_selectors_and_sticky_visitors_with_three_agents() -> Result<()> {
        let lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let weight = |name: &str, weight: u32| json!({ "selector": format!("endpoint.name == 'app-{name}'"), "weight": weight });
        let policy = json!({ "on_http_request": [
            rule("/weighted", json!({ "endpoint_weights": [weight("a", 3), weight("c", 0)] })),
            rule("/blue", json!({ "endpoint_selectors": ["endpoint.metadata.contains('blue')"] })),
            rule("/nobody", json!({ "endpoint_selectors": ["endpoint.metadata.contains('red')"] })),
            rule("/address", json!({ "strategy": "sticky_client_address" })),
            rule("/cookie", json!({ "strategy": "sticky_cookie", "sticky_cookie": { "name": "member" } })),
            { "actions": [{ "type": "deny" }] },
        ] });
        guide::cloud(&api, &format!("https://{API_HOST}"), &policy)?;
        let addr = guide::address(&api)?;
        guide::cloud(
            &api,
            &format!("tcp://{addr}"),
            &json!({ "on_tcp_connect": [{ "actions": [
            { "type": "forward-internal", "config": { "url": TCP_URL, "strategy": "least_connections" } }] }] }),
        )?;
        let mut agents = BTreeMap::new();
        for name in NAMES {
            agents.insert(name, lab.agent(name, &token, &endpoints(name)?)?);
        }
        lab.wait_online(&[HTTP_URL, TCP_URL], 3)?;
        let visitor = Visitor::of(&lab)?;
        soon("the policy is in force", || {
            Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 403).map(drop))
        })?;
        let get = |path: &str, cookie: &str| visitor.get(API_HOST, path, &[("cookie", cookie)]);

        let mut counts = BTreeMap::<String, usize>::new();
        for _ in 0..16 {
            *counts.entry(served_by(&get("/weighted", "")?)?).or_default() += 1;
        }
        assert_eq!(counts, BTreeMap::from([("a".into(), 12), ("b".into(), 4)]), "3 to 1, and 0 is nothing");
        for _ in 0..4 {
            assert_eq!(served_by(&get("/blue", "")?)?, "b");
        }
        let nobody = get("/nobody", "")?;
        assert_eq!((nobody.status, nobody.header("ngrok-error-code")), (404, Some("ERR_NGROK_3200")));

        for source in ["127.0.0.21", "127.0.0.22", "127.0.0.23", "127.0.0.24"] {
            let visitor = visitor.from(source)?;
            let by = || served_by(&visitor.get(API_HOST, "/address", &[])?);
            let first = by()?;
            assert!(by()? == first && by()? == first, "{source} stays with {first}");
        }

        // Six connections that stay: two for each. One that is closed makes room for the next.
        let tcp = local(guide::port_of(&addr)?);
        let mut all = Vec::new();
        for _ in 0..6 {
            all.push(held(&visitor, tcp)?);
        }
        for name in NAMES {
            assert_eq!(all.iter().filter(|(by, _)| by == name).count(), 2, "{all:?}");
        }
        all.retain(|(by, _)| by != "b");
        soon("the next connection goes where none is", || {
            let (by, _) = held(&visitor, tcp)?;
            Ok((by == "b").then_some(()))
        })?;
        drop(all);

        sticky(&lab, &token, &mut agents, &get)
    }

    /// A cookie outlives its agent.
    fn sticky(
        lab: &TestLab,
        token: &str,
        agents: &mut BTreeMap<&str, ebbgate_lab::process::Daemon>,
        get: &impl Fn(&str, &str) -> Result<Answer>,
    ) -> Result<()> {
        let answer = get("/cookie", "")?;
        let first = served_by(&answer)?;
        let set = answer.header("set-cookie").context("no cookie")?.to_owned();
        assert!(
            set.starts_with("member=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"),
            "{set}"
        );
        let cookie = set.split(';').next().unwrap_or_default().to_owned();
        for _ in 0..6 {
            let answer = get("/cookie", &cookie)?;
            assert_eq!((served_by(&answer)?, answer.header("set-cookie")), (first.clone(), None));
        }
        agents.get_mut(first.as_str()).context("no such agent")?.kill();
        lab.wait_online(&[HTTP_URL], 2)?;
        let answer = get("/cookie", &cookie)?;
        assert_ne!(served_by(&answer)?, first);
        let other = answer.header("set-cookie").context("no other cookie")?;
        assert!(other.starts_with("member=") && !other.starts_with(&cookie), "{other}");
        // Another process of the same name takes the visitor back.
        let again = lab.agent(&format!("{first}2"), token, &endpoints(&first)?)?;
        lab.wait_online(&[HTTP_URL], 3)?;
        soon("the visitor is back", || Ok((served_by(&get("/cookie", &cookie)?)? == first).then_some(())))?;
        drop(again);
        Ok(())
    }
}
