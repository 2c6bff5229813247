//! Processes that end and come back: connections that must stay, agents that must return, writes that must last.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::list;
use ebbgate_lab::api::text;
use ebbgate_lab::guide::{
    self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL,
};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait::soon;
use serde_json::json;

use crate::online::Online;
use crate::service;
use crate::visitor::Visitor;

/// Times control is killed while it is written to.
const KILLS: usize = 12;

fn say(stream: &mut (impl Read + Write), word: &[u8]) -> Result<()> {
    stream.write_all(word)?;
    stream.flush()?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == word, "{back:?}");
    Ok(())
}

#[test]
fn control_killed_while_traffic_flows_is_not_noticed() -> Result<()> {
    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    let (online, tcp_addr) = Online::all(&lab)?;
    let (visitor, token) = (&online.visitor, &online.token);
    let echo = service::tcp_echo()?.port();
    let mut tls = soon("the patient database", || Ok(visitor.tls(PATIENTS_HOST).ok()))?;
    say(&mut tls, b"before")?;
    let mut tcp = visitor.tcp(tcp_addr)?;
    say(&mut tcp, b"before")?;

    lab.kill_control();
    say(&mut tls, b"while control is gone")?;
    say(&mut tcp, b"while control is gone")?;
    say(&mut visitor.tls(PATIENTS_HOST)?, b"a new connection")?;
    say(&mut visitor.tcp(tcp_addr)?, b"a new connection")?;
    assert_eq!(visitor.get(API_HOST, "/", &[])?.status, 200);
    // An agent that comes while control is gone binds all the same.
    let pool = "  - name: late\n    url: tls://late.clinic1.internal\n    upstream:\n      url: ".to_owned()
        + &echo.to_string();
    let _late = lab.agent("late", token, &(pool + "\n"))?;

    lab.start_control()?;
    lab.wait_online(
        &[REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL, "tls://late.clinic1.internal"],
        1,
    )?;
    say(&mut tls, b"after")?;
    say(&mut tcp, b"after")?;
    guide::cloud(&api, "https://new.clinic-network.com", &guide::forward(REST_INTERNAL))?;
    visitor.wait_https("new.clinic-network.com")
}

#[test]
fn the_edge_serves_its_last_program_without_control() -> Result<()> {
    let mut lab = TestLab::running()?;
    let online = Online::rest(&lab)?;
    let visitor = &online.visitor;
    lab.kill_control();
    lab.kill_edge();
    lab.start_edge()?;
    soon("the agent to be back without control", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200).map(drop))
    })
}

#[test]
fn killed_at_any_moment_control_loses_no_acknowledged_write() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let acknowledged = Arc::new(Mutex::new(Vec::<String>::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (api, acknowledged, stop) = (lab.api()?, Arc::clone(&acknowledged), Arc::clone(&stop));
            Ok(thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let body = json!({ "description": format!("writer {writer} write {n}") });
                    match api.create("/ip_policies", &body) {
                        Ok(value) => {
                            acknowledged.lock().unwrap().push(text(&value, "id").unwrap().to_owned());
                        }
                        // Control is gone for the moment; not a write that counts.
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            }))
        })
        .collect::<Result<_>>()?;
    for round in 0..KILLS {
        // Kill after a number of further writes that differs from round to round: moments of every kind.
        let target = acknowledged.lock().unwrap().len() + 1 + round * 7 % 23;
        soon("writes", || Ok((acknowledged.lock().unwrap().len() >= target).then_some(())))?;
        lab.kill_control();
        lab.start_control()?;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().ok().context("a writer panicked")?;
    }
    let kept: Vec<String> = list(&lab.api()?, "/ip_policies", "ip_policies")?
        .iter()
        .map(|policy| Ok(text(policy, "id")?.to_owned()))
        .collect::<Result<_>>()?;
    let acknowledged = acknowledged.lock().unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !kept.contains(id)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged writes are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    Ok(())
}

#[test]
fn killed_at_any_moment_the_edge_starts_again_with_a_whole_program() -> Result<()> {
    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let policy = json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
        "config": { "status_code": 200, "body": "${endpoint.url}" } }] }] });
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(Mutex::new(0_usize));
    let host = |n: usize| format!("e{n}.clinic-network.com");
    let writer = {
        let (api, policy, stop, made) = (api, policy, Arc::clone(&stop), Arc::clone(&made));
        // Every write makes a Program, which the edge writes to its disk.
        thread::spawn(move || -> Result<()> {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                guide::cloud(&api, &format!("https://{}", host(n)), &policy)?;
                *made.lock().unwrap() += 1;
            }
            Ok(())
        })
    };
    for round in 0..KILLS {
        let target = *made.lock().unwrap() + 1 + round * 5 % 7;
        soon("endpoints", || Ok((*made.lock().unwrap() >= target).then_some(())))?;
        lab.kill_edge();
        lab.start_edge()?;
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().ok().context("the writer panicked")??;
    let visitor = Visitor::of(&lab)?;
    let last = *made.lock().unwrap() - 1;
    for n in [0, last / 2, last] {
        soon(&format!("endpoint {n} of {last}"), || {
            let answer = visitor.get(&host(n), "/", &[]).ok();
            Ok(answer.filter(|answer| answer.text() == format!("https://{}", host(n))))
        })?;
    }
    Ok(())
}

#[test]
fn processes_stop_on_sigterm_by_themselves() -> Result<()> {
    let mut lab = TestLab::running()?;
    let mut online = Online::rest(&lab)?;
    assert!(online.agent.stop()?, "the agent had to be killed");
    assert!(lab.stop_edge()?, "the edge had to be killed");
    assert!(lab.stop_control()?, "control had to be killed");
    Ok(())
}

mod alone {
    //! Asserts a time: runs with nothing beside it.

    use super::*;

    /// Within this time after the edge's restart every endpoint is bound again.
    const BACK_SECS_MAX: u64 = 3;

    #[test]
    fn our_agents_are_back_soon_after_the_edge() -> Result<()> {
        let _turn = Turn::alone();
        let mut lab = TestLab::running()?;
        let online = Online::rest(&lab)?;
        let visitor = &online.visitor;
        for kill in [false, true] {
            let start = Instant::now();
            if kill {
                lab.kill_edge();
            } else {
                assert!(lab.stop_edge()?, "the edge had to be killed");
            }
            lab.start_edge()?;
            soon("the first answer", || {
                Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200).map(drop))
            })?;
            let took = start.elapsed();
            assert!(took < Duration::from_secs(BACK_SECS_MAX), "killed: {kill}; back after {took:?}");
            lab.wait_online(&[REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL], 1)?;
        }
        Ok(())
    }
}
