//! The allowlist in the kernel, seen from outside: a visitor who is let in, one who is not, and what the edge notices of
//! either. Root only.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::guarded::{Guarded, INTERFACE};
use ebbgate_lab::hosts::{EDGE_FOR_VISITOR, EDGE_FOR_VISITOR_6, Hosts, VISITORS, VISITORS_6};
use ebbgate_lab::lab::{Programs, local};
use ebbgate_lab::process::Spec;
use ebbgate_lab::program::skip;
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait::soon;
use tempfile::TempDir;

use crate::up::lab_program;

/// Exit code of `curl` when nothing answered in time.
const TIMED_OUT: i32 = 28;
/// Seconds after which a connection counts as timed out. A SYN is sent again after one second.
const CONNECT_SECS: &str = "3";

/// Three hosts and a guarded port; gone when dropped.
struct Picture {
    // Dropped first, so that nothing uses the directory any more.
    guarded: Guarded,
    dir: TempDir,
    _turn: Turn,
}

/// The picture, or a visible skip.
fn picture(test: &str, flags: &[&str]) -> Result<Option<Picture>> {
    if let Err(reason) = Hosts::new() {
        skip(test, &format!("{reason:#}"));
        return Ok(None);
    }
    let turn = Turn::shared();
    let dir = tempfile::Builder::new().prefix("ebb-").tempdir()?;
    let guarded = Guarded::start(
        &dir.path().join("lab"),
        Programs::in_dir(&programs()),
        &lab_program()?,
        flags.iter().copied(),
    )?;
    Ok(Some(Picture { guarded, dir, _turn: turn }))
}

impl Picture {
    /// What `curl` gets in a host from one of its addresses: the body, or its exit code.
    fn ask(&self, host: &str, from: &str, edge: &str) -> Result<Result<String, i32>> {
        let edge = if edge.contains(':') { format!("[{edge}]") } else { edge.to_owned() };
        let url = format!("http://{edge}:{}/patients", self.guarded.port);
        let args = ["--silent", "--fail", "--max-time", CONNECT_SECS, "--interface", from, &url];
        let ran = self.guarded.hosts.at(host, "curl", &args)?;
        if ran.status.success() {
            return Ok(Ok(String::from_utf8(ran.stdout)?));
        }
        Ok(Err(ran.status.code().context("curl was killed")?))
    }

    fn visit(&self, from: &str) -> Result<Result<String, i32>> {
        let edge = if from.contains(':') { EDGE_FOR_VISITOR_6 } else { EDGE_FOR_VISITOR };
        self.ask(&self.guarded.hosts.visitor, from, edge)
    }

    /// Waits until the API says that the kernel guards the endpoint on all these interfaces; gives their modes.
    fn guarded_on(&self, interfaces: &[&str]) -> Result<Vec<String>> {
        soon("the kernel to guard the port", || {
            let seen = self.guarded.seen()?;
            let entries = seen["enforcement"]["interfaces"].as_array().cloned().unwrap_or_default();
            let modes = interfaces.iter().map(|name| {
                let entry = entries.iter().find(|entry| entry["name"] == *name)?;
                Some(entry["mode"].as_str()?.to_owned())
            });
            Ok(modes.collect::<Option<Vec<_>>>().filter(|_| seen["enforcement"]["restrict_ips"] == "xdp"))
        })
    }

    /// Packets dropped for a reason, as /metrics says it now.
    fn dropped(&self, reason: &str) -> Result<u64> {
        let label = format!("reason=\"{reason}\"");
        self.metric(|line| line.starts_with("ebbgate_edge_admit_packets_total") && line.contains(&label))
    }

    /// Connections the edge accepted on TCP ports.
    fn accepted(&self) -> Result<u64> {
        self.metric(|line| line.starts_with("ebbgate_edge_connections_total{listener=\"tcp\"}"))
    }

    fn metric(&self, is_wanted: impl Fn(&str) -> bool) -> Result<u64> {
        let url = format!("http://{}/metrics", local(self.guarded.lab.ports().edge_admin()));
        let ran = self.guarded.hosts.at(&self.guarded.hosts.edge, "curl", &["--silent", "--fail", &url])?;
        ensure!(ran.status.success(), "{url} does not answer");
        let text = String::from_utf8(ran.stdout)?;
        let values = text.lines().filter(|line| is_wanted(line));
        values.map(|line| Ok(line.rsplit(' ').next().context("a sample has a value")?.parse::<u64>()?)).sum()
    }

    fn edge_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.guarded.lab.log_dir().join("edge.log"))?)
    }

    /// Listed visitors are served. The kernel drops packets of the others; user space would close their connections.
    fn holds(&self) -> Result<()> {
        for (listed, other) in [(VISITORS[0], VISITORS[1]), (VISITORS_6[0], VISITORS_6[1])] {
            let answer = self.visit(listed)?;
            ensure!(answer.is_ok(), "{listed}: {answer:?}");
            let answer = self.visit(other)?;
            ensure!(answer == Err(TIMED_OUT), "{other}: {answer:?}");
        }
        Ok(())
    }

    /// Visits from all addresses: who is listed is served, who is not gets no answer and is counted, and the edge's
    /// process sees nothing of it.
    fn check(&self) -> Result<()> {
        for from in [VISITORS[0], VISITORS_6[0]] {
            let answer = soon("an answer", || Ok(self.visit(from)?.ok()))?;
            assert!(answer.contains("Ada Tidewater"), "{from}: {answer}");
        }
        let (accepted, dropped) = (self.accepted()?, self.dropped("unlisted")?);
        for from in [VISITORS[1], VISITORS_6[1]] {
            assert_eq!(self.visit(from)?, Err(TIMED_OUT), "{from}");
        }
        // One SYN each and at least one sent again each.
        assert!(self.dropped("unlisted")? >= dropped + 4, "{}", self.dropped("unlisted")?);
        assert_eq!(self.accepted()?, accepted, "the edge accepted a refused visitor");
        let log = self.edge_log()?;
        for refused in [VISITORS[1], VISITORS_6[1]] {
            assert!(!log.contains(refused), "the edge wrote of {refused}:\n{log}");
        }
        Ok(())
    }
}

fn modes(test: &str, mode: &str) -> Result<()> {
    let flags = ["--xdp", INTERFACE, "--xdp-mode", mode];
    let Some(picture) = picture(test, &flags)? else { return Ok(()) };
    assert_eq!(picture.guarded_on(&[INTERFACE])?, [mode]);
    picture.check()
}

#[test]
fn a_refused_source_meets_the_native_program_and_no_socket() -> Result<()> {
    modes("xdp: native", "native")
}

#[test]
fn a_refused_source_meets_the_generic_program_and_no_socket() -> Result<()> {
    modes("xdp: generic", "generic")
}

#[test]
fn loopback_is_guarded_like_any_interface() -> Result<()> {
    let flags = ["--xdp", INTERFACE, "--xdp", "lo"];
    let Some(picture) = picture("xdp: loopback", &flags)? else { return Ok(()) };
    assert_eq!(picture.guarded_on(&[INTERFACE, "lo"])?, ["native", "generic"]);
    picture.guarded.allow(&["127.0.0.1/32"])?;
    let edge = &picture.guarded.hosts.edge;
    soon("the new list to let loopback in", || Ok(picture.ask(edge, "127.0.0.1", "127.0.0.1")?.ok()))?;
    let accepted = picture.accepted()?;
    assert_eq!(picture.ask(edge, "127.0.0.2", "127.0.0.1")?, Err(TIMED_OUT));
    assert_eq!(picture.accepted()?, accepted);
    Ok(())
}

#[test]
fn an_edge_without_the_program_refuses_in_user_space() -> Result<()> {
    let Some(picture) = picture("xdp: off", &["--xdp", "off"])? else { return Ok(()) };
    soon("an answer", || Ok(picture.visit(VISITORS[0])?.ok()))?;
    let seen = picture.guarded.seen()?;
    assert_eq!(seen["enforcement"]["restrict_ips"], "userspace", "{seen}");
    assert!(seen["enforcement"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{seen}");
    let accepted = picture.accepted()?;
    for from in [VISITORS[1], VISITORS_6[1]] {
        let refused = picture.visit(from)?;
        assert!(refused.is_err_and(|code| code != TIMED_OUT), "{from} is closed on, not ignored");
    }
    assert_eq!(picture.accepted()?, accepted + 2);
    Ok(())
}

/// How often the list changes in the system's test; the guard's own test has ten thousand.
const CHANGES: usize = 300;

#[test]
fn a_list_that_changes_through_the_api_lets_nobody_in_and_keeps_nobody_out() -> Result<()> {
    let flags = ["--xdp", INTERFACE, "--xdp-mode", "generic"];
    let Some(picture) = picture("xdp: changes", &flags)? else { return Ok(()) };
    picture.guarded_on(&[INTERFACE])?;
    soon("an answer", || Ok(picture.visit(VISITORS[0])?.ok()))?;
    let lists = [
        vec!["10.77.2.2/32"],
        vec!["10.77.2.2/32", "10.77.2.4/30", "fd77:2::2/128"],
        vec!["10.77.2.0/31", "10.77.2.2/32", "10.0.0.0/16"],
    ];
    let over = AtomicBool::new(false);
    let visits = |from: &'static str, expect_answer: bool| {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let answer = picture.visit(from)?;
            ensure!(answer.is_ok() == expect_answer, "{from} got {answer:?} after {count} visits");
            count += 1;
        }
        Ok(count)
    };
    let (changed, visited) = std::thread::scope(|scope| {
        let visitors = [(VISITORS[0], true), (VISITORS[1], false)];
        let visitors = visitors.map(|(from, expect)| scope.spawn(move || visits(from, expect)));
        let changed = (0..CHANGES).try_for_each(|n| picture.guarded.allow(&lists[n % lists.len()]));
        over.store(true, Ordering::Relaxed);
        (changed, visitors.map(|visitor| visitor.join().expect("a visitor does not panic")))
    });
    changed?;
    for count in visited {
        assert!(count? > 0, "both visitors came all the time");
    }
    assert_eq!(picture.guarded_on(&[INTERFACE])?, ["generic"]);
    Ok(())
}

/// Sends frames from the visitor's link, tagged as `argv[3]` says: MACs are of no matter, the program looks behind them.
/// Arguments: source, destination port, tags as in `8100 88a8`.
const SEND_TAGGED: &str = r"
import ipaddress, socket, struct, sys
source, port, tags = ipaddress.ip_address(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split()
edge = ipaddress.ip_address(sys.argv[4])
tcp = struct.pack('!HHIIBBHHH', 40000, port, 1, 0, 0x50, 2, 65535, 0, 0)
if source.version == 4:
    ip = struct.pack('!BBHHHBBH', 0x45, 0, 40, 1, 0, 64, 6, 0) + source.packed + edge.packed
    kind = 0x0800
else:
    ip = struct.pack('!IHBB', 0x60000000, 20, 6, 64) + source.packed + edge.packed
    kind = 0x86dd
frame = b'\xff' * 6 + b'\x02' * 6
for tag in tags:
    frame += struct.pack('!HH', int(tag, 16), 7)
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(('uplink', 0))
link.send(frame + struct.pack('!H', kind) + ip + tcp)
";

#[test]
fn tagged_frames_are_judged_by_what_they_carry() -> Result<()> {
    for mode in ["native", "generic"] {
        let flags = ["--xdp", INTERFACE, "--xdp-mode", mode];
        let Some(picture) = picture("xdp: tagged frames", &flags)? else { return Ok(()) };
        picture.guarded_on(&[INTERFACE])?;
        let hosts = &picture.guarded.hosts;
        let port = picture.guarded.port.to_string();
        for tags in ["8100", "88a8 8100"] {
            for (sources, edge) in [(VISITORS, EDGE_FOR_VISITOR), (VISITORS_6, EDGE_FOR_VISITOR_6)] {
                for (source, reason) in sources.into_iter().zip(["allowed", "unlisted"]) {
                    let before = picture.dropped(reason)?;
                    let args = ["-c", SEND_TAGGED, source, &port, tags, edge];
                    let ran = hosts.at(&hosts.visitor, "python3", &args)?;
                    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
                    assert_eq!(picture.dropped(reason)?, before + 1, "{mode} {tags} {source}");
                }
            }
        }
    }
    Ok(())
}

/// Counts what comes past the XDP program on the edge's link, until the file `argv[2]` is there; then writes to `argv[1]` how
/// many packets were the flood's and how many the visitor's.
const COUNT_PASSED: &str = r"
import os, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind(('visitor', 0))
link.settimeout(0.1)
open(sys.argv[1] + '.ready', 'w').close()
flood = visitor = 0
while not os.path.exists(sys.argv[2]):
    try:
        frame, address = link.recvfrom(65536)
    except TimeoutError:
        continue
    if address[2] != socket.PACKET_OUTGOING and frame[12:14] == b'\x08\x00':
        flood += frame[26] == 198 and frame[27] in (18, 19)
        visitor += frame[26:30] == bytes([10, 77, 2, 2])
open(sys.argv[1] + '.new', 'w').write(f'{flood} {visitor}')
os.rename(sys.argv[1] + '.new', sys.argv[1])
";

#[test]
fn a_kill_of_the_edge_lets_no_refused_packet_through() -> Result<()> {
    for mode in ["native", "generic"] {
        let flags = ["--xdp", INTERFACE, "--xdp-mode", mode];
        let Some(mut picture) = picture("xdp: kill", &flags)? else { return Ok(()) };
        picture.guarded_on(&[INTERFACE])?;
        soon("an answer", || Ok(picture.visit(VISITORS[0])?.ok()))?;
        let (logs, file) = (picture.guarded.lab.log_dir(), |name: &str| picture.dir.path().join(name));
        let (passed, end) = (file("passed"), file("end"));
        let _counter = Spec::new("counter", "python3")
            .args(["-c", COUNT_PASSED])
            .args([&passed, &end])
            .netns(Some(&picture.guarded.hosts.edge))
            .start(&logs)?;
        soon("the counter to count", || Ok(file("passed.ready").exists().then_some(())))?;
        let mut flood = Spec::new("flood", lab_program()?)
            .args(["flood-send", "--secs", "60", "--rate", "2000", "--to"])
            .arg(format!("{EDGE_FOR_VISITOR}:{}", picture.guarded.port))
            .netns(Some(&picture.guarded.hosts.visitor))
            .start(&logs)?;
        let flooding = |picture: &Picture, since: u64| {
            soon(
                "the flood to be dropped",
                || Ok((picture.dropped("unlisted")? > since + 1000).then_some(())),
            )
        };
        flooding(&picture, 0)?;
        picture.guarded.lab.kill_edge();
        picture.guarded.lab.start_edge()?;
        flooding(&picture, picture.dropped("unlisted")?)?;
        soon("an answer", || Ok(picture.visit(VISITORS[0])?.ok()))?;
        flooding(&picture, picture.dropped("unlisted")?)?;
        flood.stop()?;
        fs::write(&end, "")?;
        let passed = soon("the count", || Ok(fs::read_to_string(&passed).ok()))?;
        let (flood, visitor) = passed.split_once(' ').context("two counts")?;
        assert_eq!(flood, "0", "{mode}: packets of the flood that came past the program");
        assert_ne!(visitor, "0", "{mode}: the counter sees what comes past");
    }
    Ok(())
}

/// Connects to `argv[1]`, port `argv[2]`, and makes the file `argv[3]`; asks once the file `argv[4]` is there, and then makes the
/// first one the answer.
const LONG_STREAM: &str = r"
import os, socket, sys, time
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), source_address=('10.77.2.2', 0))
open(sys.argv[3] + '.ready', 'w').close()
while not os.path.exists(sys.argv[4]):
    time.sleep(0.05)
stream.sendall(b'GET /patients HTTP/1.0\r\nhost: rooms\r\n\r\n')
said = b''
while b'Ada Tidewater' not in said and (piece := stream.recv(65536)):
    said += piece
with open(sys.argv[3] + '.new', 'wb') as answer:
    answer.write(said)
os.rename(sys.argv[3] + '.new', sys.argv[3])
";

#[test]
fn an_upgrade_hands_the_filter_over_while_a_stream_keeps_the_process_before() -> Result<()> {
    let flags = ["--xdp", INTERFACE, "--xdp-mode", "generic"];
    let Some(mut picture) = picture("xdp: upgrade", &flags)? else { return Ok(()) };
    picture.guarded_on(&[INTERFACE])?;
    soon("an answer", || Ok(picture.visit(VISITORS[0])?.ok()))?;
    let (logs, file) = (picture.guarded.lab.log_dir(), |name: &str| picture.dir.path().join(name));
    let (answer, ask) = (file("answer"), file("ask"));
    let _stream = Spec::new("stream", "python3")
        .args(["-c", LONG_STREAM, EDGE_FOR_VISITOR, &picture.guarded.port.to_string()])
        .args([&answer, &ask])
        .netns(Some(&picture.guarded.hosts.visitor))
        .start(&logs)?;
    soon("the stream", || Ok(file("answer.ready").exists().then_some(())))?;
    for n in 0..2 {
        let copy = file(&format!("edge-{n}"));
        fs::copy(picture.guarded.lab.programs().edge(), &copy)?;
        picture.guarded.lab.upgrade_edge(&copy)?;
        // Metrics are of the process that serves now.
        let attached = |line: &str| line.starts_with("ebbgate_edge_admit_attached{");
        soon("the new process to have the filter", || Ok((picture.metric(attached)? == 1).then_some(())))?;
        assert_eq!(picture.guarded_on(&[INTERFACE])?, ["generic"]);
        picture.holds()?;
        let all = [VISITORS[0], VISITORS[1]].map(|visitor| format!("{visitor}/32"));
        picture.guarded.allow(&all.each_ref().map(String::as_str))?;
        soon("an answer to whom the list lets in now", || Ok(picture.visit(VISITORS[1])?.ok()))?;
        picture.guarded.allow(&[&format!("{}/32", VISITORS[0]), &format!("{}/128", VISITORS_6[0])])?;
        picture.holds().with_context(|| format!("after upgrade {n}"))?;
        assert!(picture.guarded.lab.edge()?.exited()?.is_none(), "the stream keeps the first process");
    }
    fs::write(&ask, "")?;
    let answer = soon("the stream's answer", || Ok(fs::read_to_string(&answer).ok()))?;
    assert!(answer.contains("Ada Tidewater"), "{answer}");
    soon("the first process to end", || picture.guarded.lab.edge()?.exited())?;
    assert_eq!(picture.guarded_on(&[INTERFACE])?, ["generic"]);
    picture.holds()
}

#[test]
fn behind_a_balancer_the_kernel_judges_nobody_and_says_why() -> Result<()> {
    let balancers = format!("tcp={},{}", VISITORS[0], VISITORS[1]);
    let flags = ["--xdp", INTERFACE, "--proxy-protocol-from", &balancers];
    let Some(picture) = picture("xdp: behind a balancer", &flags)? else { return Ok(()) };
    let seen = soon("the edge's report", || {
        Ok(Some(picture.guarded.seen()?).filter(|seen| seen["enforcement"]["restrict_ips"] == "userspace"))
    })?;
    let reason = seen["enforcement"]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("is behind load balancers (--proxy-protocol-from)"), "{seen}");
    // curl introduces itself as a balancer would, by its own address.
    let url = format!("http://{EDGE_FOR_VISITOR}:{}/patients", picture.guarded.port);
    let introduced = |from: &str, flag: &str| {
        let args = ["--silent", "--fail", "--max-time", CONNECT_SECS, "--interface", from, flag, &url];
        let ran = picture.guarded.hosts.at(&picture.guarded.hosts.visitor, "curl", &args)?;
        Ok(if ran.status.success() { Ok(String::from_utf8(ran.stdout)?) } else { Err(ran.status.code()) })
    };
    let answer: String = soon("an answer", || Ok(introduced(VISITORS[0], "--haproxy-protocol")?.ok()))?;
    assert!(answer.contains("Ada Tidewater"), "{answer}");
    let accepted = picture.accepted()?;
    for (from, flag) in [(VISITORS[1], "--haproxy-protocol"), (VISITORS[0], "--http1.1")] {
        let refused: Result<Result<String, Option<i32>>> = introduced(from, flag);
        let code = refused?.err().flatten();
        ensure!(code.is_some_and(|code| code != TIMED_OUT), "{from} {flag}: {code:?}, and not dropped");
    }
    assert_eq!(picture.accepted()?, accepted + 2, "user space refused them");
    assert_eq!(picture.dropped("unlisted")?, 0);
    Ok(())
}
