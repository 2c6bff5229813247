//! Bad networks between an agent and its edge, and visitors that vanish without a word.

use std::io::Read;
use std::time::Duration;

use anyhow::{Result, ensure};
use ebbgate_lab::guide;
use ebbgate_lab::hosts::{EDGE_FOR_VISITOR, VISITORS};
use ebbgate_lab::lab::local;
use ebbgate_lab::process::Spec;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;

use super::path::{Path, Weather};
use super::{CARRIERS, Chain, ECHO};
use crate::site::{Picture, picture};

/// 200 ms to and fro, in pieces as small as a modem's.
const FAR_AWAY: Weather = Weather { delay: Duration::from_millis(100), piece_bytes: 700, stall_every: 40 };
/// Bytes there and back on such a path.
const WORD_BYTES: usize = 96 << 10;
/// Connections at a time.
const VISITORS_AT_ONCE: usize = 6;
/// Percent of packets lost, each way.
const LOSSES: [u32; 3] = [1, 5, 20];
/// Bytes posted where packets are lost.
const POST_BYTES: usize = 48 << 10;

#[test]
fn an_agent_far_away_is_reached_and_back_after_a_cut() -> Result<()> {
    // Datagrams have a path of their own: `datagrams`.
    for carrier in CARRIERS.into_iter().filter(|carrier| *carrier != "quic") {
        let lab = TestLab::running()?;
        let path = Path::open(local(lab.ports().connect()), FAR_AWAY)?;
        let mut chain = Chain::with_lab(lab, carrier, path.address, |_, mut stream| {
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        })?;
        for round in 0..2 {
            std::thread::scope(|scope| {
                let chain = &chain;
                let echo = |n: usize| {
                    scope.spawn(move || {
                        let word: Vec<u8> =
                            (0..WORD_BYTES + n).zip((0..251).cycle()).map(|(_, byte)| byte).collect();
                        chain.echo(&word)
                    })
                };
                let echoes: Vec<_> = (0..VISITORS_AT_ONCE).map(echo).collect();
                echoes.into_iter().try_for_each(|echo| echo.join().expect("no panic"))
            })?;
            if round == 0 {
                let mut cut = chain.visit(ECHO)?;
                super::ping(&mut cut)?;
                path.cut();
                // What was under way is lost with its agent, and its visitor hears of it.
                ensure!(!matches!(cut.read(&mut [0]), Ok(1..)), "bytes from nowhere");
                soon("the agent to be back", || Ok(chain.echo(b"again").ok()))?;
            }
        }
        chain.check_alive()?;
    }
    Ok(())
}

/// Drops packets at random on the site's link, both ways.
fn lose(picture: &Picture, percent: u32) -> Result<()> {
    let rules = format!(
        "table inet lossy {{}}; delete table inet lossy; table inet lossy {{
           chain in {{ type filter hook input priority 0; iifname \"uplink\" numgen random mod 100 < {percent} drop; }}
           chain out {{ type filter hook output priority 0; oifname \"uplink\" numgen random mod 100 < {percent} drop; }}
         }}"
    );
    let ran = picture.hosts.at(&picture.hosts.site, "nft", &[&rules])?;
    ensure!(ran.status.success(), "nft: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

#[test]
fn packets_lost_on_the_way_lose_no_bytes() -> Result<()> {
    let Some(picture) = picture("faults: packet loss")? else { return Ok(()) };
    let api = picture.lab.api()?;
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::operations_policy(&["0.0.0.0/0"]))?;
    let url = format!("http://{EDGE_FOR_VISITOR}:{}/echo", guide::port_of(&addr)?);
    soon("the address to be served", || Ok(picture.curl(VISITORS[0], &[], &url)))?;
    let body: String =
        (0..POST_BYTES).map(|n| char::from(b'a' + u8::try_from(n % 23).unwrap_or(0))).collect();
    let file = picture.lab.write("body", &body)?;
    let post = format!("@{}", file.display());
    for percent in LOSSES {
        lose(&picture, percent)?;
        for _ in 0..3 {
            let more = ["--max-time", "60", "--header", "expect:", "--data-binary", &post];
            // The connection may be lost with its session, which a bad network can end; bytes may not.
            let answer = soon("an answer", || Ok(picture.curl(VISITORS[0], &more, &url)))?;
            ensure!(answer.contains(&body), "{percent} %: {} bytes came back of {POST_BYTES}", answer.len());
        }
    }
    Ok(())
}

#[test]
fn a_visitor_that_vanishes_is_forgotten() -> Result<()> {
    let Some(mut picture) = picture("faults: vanished visitor")? else { return Ok(()) };
    let api = picture.lab.api()?;
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::operations_policy(&["0.0.0.0/0"]))?;
    let port = guide::port_of(&addr)?;
    // Short waits, or this test would take an hour.
    picture.lab.edge_args(["--relay-idle-secs", "2", "--half-closed-secs", "2"]);
    picture.lab.stop_edge()?;
    picture.lab.start_edge()?;
    let url = format!("http://{EDGE_FOR_VISITOR}:{port}/patients");
    soon("the address to be served", || Ok(picture.curl(VISITORS[0], &[], &url)))?;
    let open = |picture: &Picture| -> Result<u64> {
        let admin = picture.hosts.at(
            &picture.hosts.edge,
            "curl",
            &["--silent", "--fail", &format!("http://{}/metrics", local(picture.lab.ports().edge_admin()))],
        )?;
        let text = String::from_utf8_lossy(&admin.stdout).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix("ebbgate_edge_connections_open "));
        Ok(value.unwrap_or("0").trim().parse()?)
    };
    soon("the edge to be at rest", || Ok((open(&picture)? == 0).then_some(())))?;
    let silent = Spec::new("silent", "curl")
        .args(["--silent", "--no-buffer", &format!("telnet://{EDGE_FOR_VISITOR}:{port}")])
        .netns(Some(&picture.hosts.visitor));
    let mut silent = silent.start(&picture.lab.log_dir())?;
    soon("the visitor to be there", || Ok((open(&picture)? == 1).then_some(())))?;
    picture.hosts.visitor_link(false)?;
    silent.kill();
    soon("the vanished visitor to be forgotten", || Ok((open(&picture)? == 0).then_some(())))?;
    picture.hosts.visitor_link(true)?;
    soon("others to be served", || Ok(picture.curl(VISITORS[0], &[], &url))).map(drop)
}
