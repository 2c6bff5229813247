//! Two that want one address: the real program, started twice, and one listener beside another.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ebbgate_edge::net::listen;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

use crate::lab::{Lab, SHARDS, free_port, handshake};

/// Seconds until an edge listens, or has refused to.
const SOON_SECS: u64 = 60;

/// An edge without control: it listens, and waits for a Program. Stops when dropped.
struct Edge(Child);

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Edge {
    fn start(directory: &Path, flags: &[(&str, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebbgate-edge"));
        command.arg("--dir").arg(directory).args(["--shards", "2", "--tcp-bind", "127.0.0.1"]);
        for (flag, value) in flags {
            command.args([flag, value.as_str()]);
        }
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// What it says as it refuses to start.
    async fn refusal(mut self) -> String {
        let started = Instant::now();
        let status = loop {
            match self.0.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(started.elapsed() < Duration::from_secs(SOON_SECS), "it starts all the same"),
            }
            sleep(Duration::from_millis(10)).await;
        };
        assert!(!status.success());
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn listens(address: &str) {
    let started = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(SOON_SECS), "nobody listens on {address}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_second_edge_on_the_same_ports_is_refused_and_told_who_has_them() {
    let [http, https, connect, other] = [free_port(), free_port(), free_port(), free_port()];
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let flags = |https, admin| {
        [
            ("--http", local(http)),
            ("--https", local(https)),
            ("--connect", local(connect)),
            ("--quic", "off".to_owned()),
            ("--admin", local(admin)),
        ]
    };
    let first = Edge::start(directories[0].path(), &flags(https, free_port()));
    listens(&local(connect)).await;
    let said = Edge::start(directories[1].path(), &flags(other, free_port())).refusal().await;
    let holder = format!("another edge, process {} (ebbgate-edge)", first.0.id());
    assert!(said.contains(&local(http)) && said.contains("--http") && said.contains(&holder), "{said}");
}

#[tokio::test]
async fn two_listeners_of_one_edge_on_one_address_are_refused_by_name() {
    let [http, connect, udp] = [free_port(), free_port(), free_port()];
    let directory = tempfile::tempdir().unwrap();
    let said = Edge::start(
        directory.path(),
        &[
            ("--http", local(http)),
            ("--https", local(http)),
            ("--connect", local(connect)),
            ("--admin", local(free_port())),
        ],
    );
    let said = said.refusal().await;
    assert!(said.contains("for --https: --http of this edge already listens there"), "{said}");
    // UDP: a port that was asked for and is another process's.
    let _taken = UdpSocket::bind(local(udp)).unwrap();
    let said = Edge::start(
        directory.path(),
        &[
            ("--http", local(http)),
            ("--https", local(free_port())),
            ("--connect", local(connect)),
            ("--quic", local(udp)),
            ("--admin", local(free_port())),
        ],
    );
    let said = said.refusal().await;
    let holder = format!("process {} (", std::process::id());
    assert!(said.contains(&local(udp)) && said.contains(&holder), "{said}");
}

#[tokio::test]
async fn an_address_that_a_listener_has_is_refused_before_a_connection_is_lost() {
    let lab = Lab::start();
    let taken = listen::bind("--connect", lab.tls, SHARDS).unwrap_err().to_string();
    assert!(taken.contains(&lab.tls.to_string()) && taken.contains("tls of this edge"), "{taken}");
    for _ in 0..8 {
        let stream = TcpStream::connect(lab.tls).await.unwrap();
        let refused = handshake(stream, "nobody.test", lab.authority.client(None, false)).await;
        assert!(refused.unwrap_err().to_string().contains("UnrecognisedName"), "it is the first one's");
    }
    let free: SocketAddr = local(free_port()).parse().unwrap();
    let foreign = TcpListener::bind(free).unwrap();
    let taken = listen::bind("--connect", free, SHARDS).unwrap_err().named().to_string();
    assert!(taken.contains(&format!("process {} (", std::process::id())), "{taken}");
    drop(foreign);
}
