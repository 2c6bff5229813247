//! The real program with few descriptors: it turns connections away without spinning, and serves again once there are
//! some.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ebbgate_model::Program;

/// Descriptors the program gets.
const DESCRIPTORS: usize = 120;
/// Clock ticks a second in /proc (`getconf CLK_TCK` on every Linux this runs on).
const TICKS_PER_SEC: f64 = 100.0;

struct Running {
    child: Child,
    https: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: &Path) -> Running {
    std::fs::create_dir_all(dir.join("edge")).unwrap();
    let program = Program { generation: 1, ..Program::default() };
    std::fs::write(dir.join("edge/program.json"), serde_json::to_vec(&program).unwrap()).unwrap();
    let script = format!("ulimit -n {DESCRIPTORS}; exec \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_ebbgate-edge"), "--dir"])
        .arg(dir)
        .args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--connect", "127.0.0.1:0"])
        .args(["--admin", "127.0.0.1:0", "--shards", "2", "--connections-max", "100000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"ready\"") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the edge ended before it was ready");
    }
    // The pipe must stay drained, or logging would stop the program.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let about: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("run/edge.json")).unwrap()).unwrap();
    Running { child, https: about["https"].as_str().unwrap().to_owned() }
}

/// Processor seconds the program has used.
fn cpu_secs(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS_PER_SEC
}

/// Whether the program answers a new connection: HTTP in clear is turned away in words.
fn is_served(address: &str) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 400"))
}

#[test]
fn descriptors_run_out_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    assert!(is_served(&running.https));
    // Without the caps' help: more connections than descriptors, all silent.
    let held: Vec<TcpStream> =
        (0..DESCRIPTORS * 3).filter_map(|_| TcpStream::connect(&running.https).ok()).collect();
    let (began, before) = (Instant::now(), cpu_secs(running.child.id()));
    std::thread::sleep(Duration::from_secs(2));
    let share = (cpu_secs(running.child.id()) - before) / began.elapsed().as_secs_f64();
    assert!(share <= 0.10, "{:.0} % of a core while out of descriptors", share * 100.0);
    drop(held);
    let freed = Instant::now();
    while !is_served(&running.https) {
        assert!(freed.elapsed() < Duration::from_secs(1), "not served within a second");
    }
}
