//! The edge is upgraded under load: nothing is refused, fails or is cut, and a program that does not come up changes nothing.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::{list, text};
use ebbgate_lab::guide::{self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Signal};
use ebbgate_lab::program::skip;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::{self, soon};

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::sdk::{self, Family};
use crate::service;
use crate::visitor::{Tls, Visitor};

/// How an agent's streams travel.
const CARRIERS: [&str; 3] = ["mux", "link", "quic"];
/// Visitors with a connection of HTTP each, who ask again and again.
const HTTP_CLIENTS: usize = 100;
/// Streams of TCP for each way.
const TCP_STREAMS: usize = 7;
/// Connections that have left HTTP for each way.
const WEBSOCKETS: usize = 2;
/// Time between a visitor's words.
const PACE: Duration = Duration::from_millis(120);
/// Upgrades in a row.
const UPGRADES: usize = 4;

/// Reads a head; None: the peer has left.
fn head(stream: &mut impl Read) -> std::io::Result<Option<String>> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        seen.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&seen).to_ascii_lowercase()))
}

/// Answers requests, and echoes on connections that leave HTTP.
pub(crate) fn web() -> Result<SocketAddr> {
    service::tcp(|mut stream| {
        stream.set_nodelay(true)?;
        while let Some(head) = head(&mut stream)? {
            if !head.contains("upgrade: websocket") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
                continue;
            }
            let key =
                head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {key}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes())?;
            let mut chunk = [0; 1024];
            loop {
                let n = stream.read(&mut chunk)?;
                if n == 0 {
                    return Ok(());
                }
                stream.write_all(&chunk[..n])?;
            }
        }
        Ok(())
    })
}

pub(crate) fn say(stream: &mut (impl Read + Write), word: &[u8]) -> Result<()> {
    stream.write_all(word)?;
    stream.flush()?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == word, "{back:?}");
    Ok(())
}

/// One visitor's connection of HTTP, opened anew when the edge ends it after an answer.
pub(crate) struct HttpClient {
    pub(crate) visitor: Visitor,
    pub(crate) host: String,
    pub(crate) stream: Option<Tls>,
}

impl HttpClient {
    pub(crate) fn ask(&mut self) -> Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.visitor.tls(&self.host).context("connect")?,
        };
        write!(stream, "GET / HTTP/1.1\r\nhost: {}\r\n\r\n", self.host)?;
        stream.flush()?;
        let answer = http::answer(&mut stream)?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        if answer.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(())
    }
}

/// Visitors that go on until they are told to stop, and what went wrong.
#[derive(Default)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    words: Arc<AtomicUsize>,
    faults: Arc<Mutex<Vec<String>>>,
    visitors: Vec<JoinHandle<()>>,
}

fn lock(faults: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// A visitor that says a word again and again.
    pub(crate) fn add(&mut self, name: String, mut word: impl FnMut() -> Result<()> + Send + 'static) {
        let (stop, words, faults) =
            (Arc::clone(&self.stop), Arc::clone(&self.words), Arc::clone(&self.faults));
        self.visitors.push(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match word() {
                    Ok(()) => words.fetch_add(1, Ordering::SeqCst),
                    Err(error) => return lock(&faults).push(format!("{name}: {error:#}")),
                };
                thread::sleep(PACE);
            }
        }));
    }

    /// Waits until every visitor can have said something since now.
    pub(crate) fn goes_on(&self) -> Result<()> {
        let target = self.words.load(Ordering::SeqCst) + 3 * self.visitors.len();
        soon("visitors to go on", || {
            let faults = lock(&self.faults);
            ensure!(faults.is_empty(), "{faults:?}");
            Ok((self.words.load(Ordering::SeqCst) >= target).then_some(()))
        })
    }

    pub(crate) fn end(&mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        for visitor in self.visitors.drain(..) {
            visitor.join().expect("a visitor tells of a fault and does not panic");
        }
        std::mem::take(&mut *lock(&self.faults))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// An agent on each carrier with an HTTP endpoint and a TCP address.
struct Site {
    visitor: Visitor,
    tcp: Vec<SocketAddr>,
    _agents: Vec<Daemon>,
}

fn host(carrier: &str) -> String {
    format!("{carrier}.clinic-network.com")
}

impl Site {
    fn new(lab: &TestLab) -> Result<Self> {
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let (web, echo) = (web()?.port(), service::tcp_echo()?.port());
        let (mut tcp, mut agents) = (Vec::new(), Vec::new());
        for carrier in CARRIERS {
            let (https, ops) = (
                format!("https://{carrier}.clinic1.internal"),
                format!("tcp://{carrier}.clinic1.internal:433"),
            );
            let endpoint = |name: &str, url: &str, port: u16| {
                format!("  - name: {name}\n    url: {url}\n    upstream:\n      url: {port}\n")
            };
            let endpoints = endpoint("web", &https, web) + &endpoint("ops", &ops, echo);
            let connect = local(lab.ports().connect()).to_string();
            agents.push(lab.agent_carrying(carrier, carrier, &token, &endpoints, &connect)?);
            guide::cloud(&api, &format!("https://{}", host(carrier)), &guide::forward(&https))?;
            let addr = guide::address(&api)?;
            guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(&ops))?;
            tcp.push(local(guide::port_of(&addr)?));
            lab.wait_online(&[&https, &ops], 1)?;
        }
        let visitor = Visitor::of(lab)?;
        let site = Self { visitor, tcp, _agents: agents };
        for (carrier, tcp) in CARRIERS.iter().zip(&site.tcp) {
            site.visitor.wait_https(&host(carrier))?;
            soon("the TCP address", || {
                Ok(site.visitor.tcp(*tcp).ok().filter(|stream| say(&mut &*stream, b"x").is_ok()).map(drop))
            })?;
        }
        Ok(site)
    }

    fn websocket(&self, carrier: &str) -> Result<Tls> {
        let host = host(carrier);
        let mut stream = self.visitor.tls(&host)?;
        write!(
            stream,
            "GET /ws HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        stream.flush()?;
        let answer = head(&mut stream)?.context("an answer")?;
        ensure!(answer.starts_with("http/1.1 101"), "{answer}");
        Ok(stream)
    }

    /// Long streams, and visitors who ask and who connect again and again.
    fn load(&self) -> Result<Load> {
        let mut load = Load::default();
        for n in 0..HTTP_CLIENTS {
            let carrier = CARRIERS[n % CARRIERS.len()];
            let mut client = HttpClient { visitor: self.visitor.clone(), host: host(carrier), stream: None };
            load.add(format!("a request over {carrier}"), move || client.ask());
        }
        for (carrier, addr) in CARRIERS.into_iter().zip(&self.tcp) {
            for n in 0..TCP_STREAMS {
                let mut stream: TcpStream = self.visitor.tcp(*addr)?;
                load.add(format!("stream {n} over {carrier}"), move || {
                    say(&mut stream, b"still the same stream")
                });
            }
            for n in 0..WEBSOCKETS {
                let mut stream = self.websocket(carrier)?;
                load.add(format!("WebSocket {n} over {carrier}"), move || say(&mut stream, b"a frame"));
            }
            let (visitor, addr) = (self.visitor.clone(), *addr);
            load.add(format!("a new connection over {carrier}"), move || {
                say(&mut visitor.tcp(addr)?, b"new")
            });
        }
        Ok(load)
    }
}

/// A program that does this when it is to take over.
pub(crate) fn program(lab: &TestLab, name: &str, script: &str) -> Result<PathBuf> {
    let path = lab.write(name, script)?;
    fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    Ok(path)
}

pub(crate) fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

pub(crate) fn served_by(lab: &TestLab) -> Result<u32> {
    let text = fs::read_to_string(lab.dir().join("run/edge.json"))?;
    let about: serde_json::Value = serde_json::from_str(&text)?;
    Ok(u32::try_from(about["pid"].as_u64().context("a pid")?)?)
}

#[test]
fn upgraded_again_and_again_under_load_the_edge_drops_nothing() -> Result<()> {
    let mut lab = TestLab::running()?;
    let site = Site::new(&lab)?;
    let mut load = site.load()?;
    let upgraded = (|| {
        load.goes_on()?;
        for n in 0..UPGRADES {
            // A copy, as a package manager replaces the file of a program that runs.
            let copy = lab.file(&format!("edge-{n}"));
            fs::copy(lab.programs().edge(), &copy)?;
            let pid = lab.upgrade_edge(&copy)?;
            soon("the new process to say so", || Ok((served_by(&lab)? == pid).then_some(())))?;
            load.goes_on()?;
        }
        ensure!(lab.edge()?.exited()?.is_none(), "the first process ended before its streams");
        Ok(())
    })();
    let faults = load.end();
    if upgraded.is_err() || !faults.is_empty() {
        lab.show_logs();
    }
    upgraded?;
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    // Without streams the processes before end by themselves.
    soon("the first process to end", || lab.edge()?.exited())?;
    let (last, before) = lab.successors().split_last().context("upgraded")?;
    soon("the ones after it to end", || Ok(before.iter().all(|successor| !successor.runs()).then_some(())))?;
    assert!(last.runs());
    let pid = u32::try_from(last.pid())?;
    last.signal(Signal::TERM);
    soon("the last one to stop as ever", || Ok(is_gone(pid).then_some(())))?;
    Ok(())
}

/// Visitors of an SDK's agent: long streams, requests, and new connections.
fn load_of_sdk(visitor: &Visitor, tcp: SocketAddr) -> Result<Load> {
    let mut load = Load::default();
    for n in 0..TCP_STREAMS {
        let mut stream = visitor.tcp(tcp)?;
        load.add(format!("stream {n} to the SDK"), move || say(&mut stream, b"still the same stream"));
    }
    let mut tls = visitor.tls(PATIENTS_HOST)?;
    load.add("a TLS stream to the SDK".into(), move || say(&mut tls, b"still the same stream"));
    for n in 0..TCP_STREAMS {
        let mut client = HttpClient { visitor: visitor.clone(), host: API_HOST.into(), stream: None };
        load.add(format!("a request of client {n} to the SDK"), move || client.ask());
    }
    let others = visitor.clone();
    load.add("a new connection to the SDK".into(), move || say(&mut others.tcp(tcp)?, b"new"));
    let others = visitor.clone();
    load.add("a new TLS connection to the SDK".into(), move || say(&mut others.tls(PATIENTS_HOST)?, b"new"));
    Ok(load)
}

#[test]
fn a_session_of_an_sdk_stays_with_its_process_over_two_upgrades_and_ends_with_its_credential() -> Result<()> {
    let family = Family::Python;
    if let Err(reason) = sdk::program(family) {
        skip("an SDK's session over upgrades", &format!("{reason:#}"));
        return Ok(());
    }
    let (mut lab, token, tcp) = sdk::clinic()?;
    let api = lab.api()?;
    let mut agent = sdk::agent(&lab, family, &token, web()?.port(), service::tcp_echo()?.port())?;
    sdk::line(&mut agent)?;
    let sessions = || list(&api, "/tunnel_sessions", "tunnel_sessions");
    let (visitor, tcp) = (Visitor::of(&lab)?, local(tcp));
    visitor.wait_https(API_HOST)?;
    soon("the TCP address", || {
        Ok(visitor.tcp(tcp).ok().filter(|stream| say(&mut &*stream, b"x").is_ok()).map(drop))
    })?;
    let before = sessions()?;
    ensure!(before.len() == 1, "{before:?}");
    let mut load = load_of_sdk(&visitor, tcp)?;
    let upgraded = (|| {
        load.goes_on()?;
        for n in 0..2 {
            let copy = lab.file(&format!("edge-{n}"));
            fs::copy(lab.programs().edge(), &copy)?;
            let pid = lab.upgrade_edge(&copy)?;
            soon("the new process to say so", || Ok((served_by(&lab)? == pid).then_some(())))?;
            load.goes_on()?;
            let now = sessions()?;
            ensure!(now.len() == 1 && now[0]["id"] == before[0]["id"], "{now:?}");
            lab.wait_online(&[REST_INTERNAL, OPERATIONS_INTERNAL], 1)?;
        }
        Ok(())
    })();
    let faults = load.end();
    if upgraded.is_err() || !faults.is_empty() {
        lab.show_logs();
    }
    upgraded?;
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    let (second, _) = lab.successors().split_first().context("upgraded")?;
    soon("the process between to end: it has no streams", || Ok((!second.runs()).then_some(())))?;
    // The first process hears that the credential is gone.
    let mut stream = visitor.tcp(tcp)?;
    say(&mut stream, b"x")?;
    let credential = list(&api, "/credentials", "credentials")?;
    let credential = text(credential.first().context("a credential")?, "id")?;
    let (status, answer) = api.call("DELETE", &format!("/credentials/{credential}"), None)?;
    ensure!(status == 204, "{status} {answer}");
    soon("the session to end", || Ok(sessions()?.is_empty().then_some(())))?;
    ensure!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "the stream has ended");
    soon("the first process to end", || lab.edge()?.exited())?;
    Ok(())
}

/// How a client's next connection begins.
fn handshake(visitor: &Visitor) -> Result<Option<HandshakeKind>> {
    let mut stream = visitor.tls(API_HOST)?;
    let kind = stream.conn.handshake_kind();
    write!(stream, "GET / HTTP/1.1\r\nhost: {API_HOST}\r\nconnection: close\r\n\r\n")?;
    stream.flush()?;
    // Tickets of TLS 1.3 come with the answer.
    let answer = http::answer(&mut stream)?;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(kind)
}

#[test]
fn a_client_of_https_resumes_at_the_processes_after_two_upgrades() -> Result<()> {
    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let answer = json!({ "on_http_request": [{ "actions": [
        { "type": "custom-response", "config": { "status_code": 200, "body": "ok" } },
    ] }] });
    guide::cloud(&api, &format!("https://{API_HOST}"), &answer)?;
    let visitors = [Visitor::only(&lab, &TLS12)?, Visitor::only(&lab, &TLS13)?];
    visitors[0].wait_https(API_HOST)?;
    visitors[1].wait_https(API_HOST)?;
    for n in 0..2 {
        let copy = lab.file(&format!("edge-{n}"));
        fs::copy(lab.programs().edge(), &copy)?;
        let pid = lab.upgrade_edge(&copy)?;
        soon("the new process to say so", || Ok((served_by(&lab)? == pid).then_some(())))?;
        for visitor in &visitors {
            assert_eq!(handshake(visitor)?, Some(HandshakeKind::Resumed), "after upgrade {n}");
        }
    }
    Ok(())
}

/// The page shows a command and its answer so.
fn is_on_the_page(command: &str, answer: &str) {
    let page = include_str!("../../docs/upgrades.md");
    assert!(page.contains(&format!("{command}\n{answer}\n")), "{command}\n{answer}");
}

/// Runs `ebbgate-edge upgrade` as the page shows it; what it prints, with its own directory and number as on the page.
fn upgrade(lab: &TestLab, program: Option<&str>) -> Result<(bool, String)> {
    let mut command = Command::new(lab.programs().edge());
    command.args(["upgrade".as_ref(), "--dir".as_ref(), lab.dir().as_os_str()]);
    let shown = program.map(|program| format!(" --program {program}")).unwrap_or_default();
    command.args(program.into_iter().flat_map(|program| ["--program", program]));
    let output = command.output()?;
    let said = if output.status.success() { output.stdout } else { output.stderr };
    let said = String::from_utf8(said)?.trim_end().to_owned();
    let page = if output.status.success() { "{\"pid\":4712}" } else { &said };
    is_on_the_page(&format!("ebbgate-edge upgrade --dir DIR{shown}"), page);
    Ok((output.status.success(), said))
}

#[test]
fn the_service_manager_hears_which_process_the_edge_is() -> Result<()> {
    let unit = include_str!("../../dist/systemd/ebbgate-edge.service");
    for line in [
        "ExecReload=/usr/bin/ebbgate-edge upgrade --dir /var/lib/ebbgate-edge",
        "NotifyAccess=main",
        "Type=notify",
    ] {
        assert!(unit.lines().any(|of| of == line), "{line}");
    }
    let mut lab = TestLab::stopped()?;
    let manager = lab.file("notify");
    let socket = UnixDatagram::bind(&manager)?;
    socket.set_read_timeout(Some(wait::SOON))?;
    lab.edge_env("NOTIFY_SOCKET", &manager);
    lab.start()?;
    let hear = || -> Result<String> {
        let mut said = [0; 512];
        let n = socket.recv(&mut said)?;
        Ok(String::from_utf8_lossy(&said[..n]).into_owned())
    };
    assert_eq!(hear()?, "READY=1\n");
    let (came, said) = upgrade(&lab, Some("/usr/bin/false"))?;
    assert!(!came, "{said}");
    assert!(hear()?.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hear()?, "READY=1\n", "it goes on");
    let (came, said) = upgrade(&lab, None)?;
    assert!(came, "{said}");
    let about: serde_json::Value = serde_json::from_str(&said)?;
    let successor = lab.succeeded_by(about["pid"].as_u64().context("a pid")?)?;
    assert!(hear()?.starts_with("RELOADING=1\n"));
    assert_eq!(hear()?, format!("MAINPID={successor}\n"));
    assert_eq!(hear()?, "READY=1\n");
    soon("the process before to end, as nobody is there", || lab.edge()?.exited())?;
    Ok(())
}

#[test]
fn a_program_that_does_not_come_up_changes_nothing() -> Result<()> {
    let mut lab = TestLab::running()?;
    let site = Site::new(&lab)?;
    let mut load = site.load()?;
    let first = served_by(&lab)?;
    let edge = lab.programs().edge();
    let starts = format!("exec {} \"$@\"\n", edge.display());
    let bad = [
        ("ends", "#!/bin/sh\nexit 1\n".to_owned(), "ended (exit status: 1)"),
        // It takes the channel and says nothing.
        (
            "hangs",
            "#!/bin/sh\nwhile read -r line || exit 3; do :; done\n".to_owned(),
            "it was to say which format it speaks in time",
        ),
        // The edge itself, with flags that it does not start with.
        (
            "refuses",
            format!("#!/bin/sh\nset -- \"$@\" --blocklist /nowhere/at/all\n{starts}"),
            "/nowhere/at/all",
        ),
    ];
    let tried = (|| {
        load.goes_on()?;
        for (name, script, reason) in bad {
            let path = program(&lab, name, &script)?;
            let error = lab.upgrade_edge(&path).err().context(name)?.to_string();
            ensure!(
                error.contains(reason) && error.contains("the edge that runs goes on"),
                "{name}: {error}"
            );
            load.goes_on()?;
            ensure!(served_by(&lab)? == first);
        }
        let missing = lab.upgrade_edge(Path::new("/nowhere/edge")).err().context("missing")?.to_string();
        ensure!(missing.contains("cannot start /nowhere/edge"), "{missing}");
        // And the next one that does come up is served by.
        lab.upgrade_edge(&edge)?;
        load.goes_on()
    })();
    let faults = load.end();
    if tried.is_err() || !faults.is_empty() {
        lab.show_logs();
    }
    tried?;
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    Ok(())
}
