//! Bad networks for QUIC: datagrams that are late or lost, that are swallowed from one moment to the next or from the
//! start, and a NAT that gives its client another port. TCP's are in `network`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::{soon, until};
use ebbgate_shaper::{Shaper, Weather};
use tokio::runtime::{Builder, Runtime};

use super::path::{self, Path};
use super::{Chain, ECHO, Way, ping};

/// Bytes there and back on a bad path.
const WORD_BYTES: usize = 48 << 10;
/// Connections at a time.
const VISITORS_AT_ONCE: usize = 4;
/// Percent of datagrams lost, each way.
const LOSSES: [u32; 3] = [1, 5, 20];
/// One way of 200 ms to and fro.
const FAR: Duration = Duration::from_millis(100);
/// TCP beside the datagrams: nothing is wrong with it.
const TCP_FAIR: path::Weather =
    path::Weather { delay: Duration::ZERO, piece_bytes: 64 << 10, stall_every: usize::MAX };
/// How long bytes may take where a fifth of the datagrams is lost, on a machine that does much else.
const LOSSY_MAX: Duration = Duration::from_mins(3);
/// Ports tried for one that is free for TCP and for UDP.
const PORTS_TRIED_MAX: usize = 100;

/// The road between an agent and its edge: one address for both kinds of packets.
struct Road {
    address: SocketAddr,
    udp: Shaper,
    tcp: Path,
    // Dropped last: the datagrams' path lives in it.
    _runtime: Runtime,
}

impl Road {
    fn open(lab: &TestLab) -> Result<Self> {
        let to = local(lab.ports().connect());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for _ in 0..PORTS_TRIED_MAX {
            let tcp = Path::open(to, TCP_FAIR)?;
            // Somebody else's datagrams may be on this port.
            if let Ok(udp) = runtime.block_on(Shaper::start_at(tcp.address, to, 1)) {
                return Ok(Self { address: tcp.address, udp, tcp, _runtime: runtime });
            }
        }
        anyhow::bail!("no port is free for both TCP and UDP")
    }
}

/// A chain whose agent is on such a road; what is `choice` in its file is carried by `carrier`.
fn chain(carrier: &str, choice: &str, prepare: impl FnOnce(&Road)) -> Result<(Chain, Road)> {
    let lab = TestLab::running()?;
    let road = Road::open(&lab)?;
    prepare(&road);
    let way = Way { carrier, choice, connect: road.address, more: "" };
    let sink = |_, mut stream: TcpStream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
    Ok((Chain::unready(lab, way, sink)?, road))
}

/// Some visitors at once, each with bytes of his own there and back.
fn echoes(chain: &Chain) -> Result<()> {
    std::thread::scope(|scope| {
        let echo = |n: usize| {
            let word: Vec<u8> = (0..WORD_BYTES + n).zip((0..251).cycle()).map(|(_, byte)| byte).collect();
            // A bad network may end the session, and connections with it; bytes may not be others.
            let echo = move || match chain.echo(&word) {
                Err(error) if !error.is::<std::io::Error>() => Err(error),
                outcome => Ok(outcome.ok()),
            };
            scope.spawn(move || until(LOSSY_MAX, "bytes to be there and back", &echo))
        };
        let echoes: Vec<_> = (0..VISITORS_AT_ONCE).map(echo).collect();
        echoes.into_iter().try_for_each(|echo| echo.join().expect("no panic"))
    })
}

/// The visitor hears that his connection is over: not by an orderly end, and not by waiting for ever.
fn cut(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Ok(count) => anyhow::bail!("an orderly end, or a byte from nowhere: {count}"),
        Err(error) => {
            let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            ensure!(!waited, "a visitor was left waiting: {error}");
            Ok(())
        }
    }
}

fn swallow(road: &Road) {
    road.udp.set(Weather::black_hole());
}

#[test]
fn datagrams_late_and_lost_lose_no_bytes() -> Result<()> {
    let (mut chain, road) = chain("quic", "quic", |_| {})?;
    chain.wait_carried()?;
    for percent in LOSSES {
        road.udp.set(Weather { delay: FAR, ..Weather::loss(percent) });
        echoes(&chain).with_context(|| format!("{percent} %"))?;
    }
    ensure!(road.udp.lost() > 0, "nothing was lost");
    let (quic, all) = chain.carried()?;
    ensure!(quic == all, "{quic} of {all} streams came by QUIC");
    chain.check_alive()
}

#[test]
fn a_nat_that_forgets_drops_no_stream() -> Result<()> {
    let (mut chain, road) = chain("quic", "quic", |_| {})?;
    chain.wait_carried()?;
    let mut open = (0..VISITORS_AT_ONCE).map(|_| chain.visit(ECHO)).collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        open.iter_mut().try_for_each(ping)?;
        road.udp.rename();
        open.iter_mut().try_for_each(ping).context("after another port")?;
        echoes(&chain)?;
    }
    soon("the edge to know of another port", || {
        let page = chain.metrics()?;
        let count =
            page.lines().find_map(|line| line.strip_prefix("ebbgate_edge_agent_quic_migrations_total "));
        Ok(count.is_some_and(|count| count.trim() != "0").then_some(()))
    })?;
    let (quic, all) = chain.carried()?;
    ensure!(quic == all, "{quic} of {all} streams came by QUIC");
    chain.check_alive()
}

/// `carrier: quic` has no other way: streams in flight end, the session comes back with the datagrams.
#[test]
fn udp_dropped_in_mid_session_ends_its_streams_and_is_back_with_it() -> Result<()> {
    let (mut chain, road) = chain("quic", "quic", |_| {})?;
    chain.wait_carried()?;
    let mut open = chain.visit(ECHO)?;
    ping(&mut open)?;
    swallow(&road);
    // Under way when nothing is heard any more.
    open.write_all(b"x")?;
    cut(&mut open)?;
    road.udp.set(Weather::default());
    soon("the session to be back", || Ok(chain.echo(b"again").ok()))?;
    chain.check_alive()
}

/// `carrier: auto` took QUIC since TCP was silent; now TCP is there and UDP is not.
#[test]
fn udp_dropped_in_mid_session_comes_back_over_tcp() -> Result<()> {
    let (mut chain, road) = chain("quic", "auto", |road| road.tcp.set_silent(true))?;
    chain.wait_carried()?;
    let mut open = chain.visit(ECHO)?;
    ping(&mut open)?;
    road.tcp.set_silent(false);
    ping(&mut open)?;
    swallow(&road);
    open.write_all(b"x")?;
    cut(&mut open)?;
    let (quic, _) = chain.carried()?;
    soon("the session to be back", || Ok(chain.echo(b"again").ok()))
        .inspect_err(|_| chain.lab.show_logs())?;
    echoes(&chain)?;
    let (now, all) = chain.carried()?;
    ensure!(
        all > now && now <= quic + 1,
        "{now} of {all} streams came by QUIC, {quic} before it fell silent"
    );
    chain.check_alive()
}

#[test]
fn udp_blocked_from_the_start_makes_a_session_all_the_same() -> Result<()> {
    let (mut chain, _road) = chain("link", "auto", swallow)?;
    chain.wait_carried()?;
    let mut open = chain.visit(ECHO)?;
    ping(&mut open)?;
    echoes(&chain)?;
    ping(&mut open)?;
    ensure!(!chain.streams()?.contains_key("quic"), "{:?}", chain.streams()?);
    chain.check_alive()
}

/// Who asks for QUIC and nothing else waits for it, and has it once it is there.
#[test]
fn quic_alone_waits_for_udp() -> Result<()> {
    let (mut chain, road) = chain("quic", "quic", swallow)?;
    soon("the agent to have tried", || Ok((road.udp.lost() > 0).then_some(())))?;
    ensure!(chain.echo(b"nobody").is_err(), "there is no way to the agent");
    road.udp.set(Weather::default());
    chain.wait_carried()?;
    chain.check_alive()
}
