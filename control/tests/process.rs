//! The program as a process: what a kill, a second start, a full disk or a careless flag does to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ebbgate_control::secret::{Entropy, SystemEntropy};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for a start or stop: far beyond what either takes.
const PATIENCE: Duration = Duration::from_mins(1);
/// Kills of `init` and of `serve`.
const KILLS: usize = 12;

/// Where a control lives, and how programs are run there.
struct Place {
    dir: PathBuf,
    /// Put in front of every command, such as `nsenter ...`.
    prefix: Vec<String>,
}

impl Place {
    fn command(&self, args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_ebbgate-control").to_owned();
        let mut words = self.prefix.iter().cloned().chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(args).arg("--dir").arg(&self.dir);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn init(&self) {
        let output = self.run(&["init"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// Starts control and waits until it says that it is ready.
    fn serve(&self) -> Control {
        let mut command =
            self.command(&["serve", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--rate-limit", "0"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut control = Control {
            child,
            api: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            key: String::new(),
        };
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "control becomes ready");
            assert!(control.child.try_wait().unwrap().is_none(), "control runs");
            if let Some(note) = self.note(control.child.id()) {
                let at = |name: &str| note.get(name).and_then(Value::as_str).unwrap().parse().unwrap();
                (control.api, control.admin) = (at("api"), at("admin"));
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        control.key = self.read("api-key");
        control
    }

    /// Starts control where it cannot leave a note, and waits until it answers.
    fn serve_without_note(&self) -> Control {
        let [api, admin] = [(); 2].map(|()| {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap()
        });
        let (at, admin_at) = (api.to_string(), admin.to_string());
        let mut command = self.command(&["serve", "--api", &at, "--admin", &admin_at, "--rate-limit", "0"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut control = Control { child, api, admin, key: self.read("api-key") };
        let start = Instant::now();
        while plain(admin, "/healthz").is_none() {
            assert!(start.elapsed() < PATIENCE, "control answers");
            if control.child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                control.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("control ended: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        control
    }

    fn note(&self, pid: u32) -> Option<Value> {
        let text = String::from_utf8(self.sh(&["cat", "run/control.json"]).stdout).ok()?;
        let note: Value = serde_json::from_str(&text).ok()?;
        (note.get("pid").and_then(Value::as_u64) == Some(pid.into())).then_some(note)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8(self.sh(&["cat", name]).stdout).unwrap().trim().to_owned()
    }

    /// Runs a tool in the directory, seen as control sees it.
    fn sh(&self, words: &[&str]) -> Output {
        let script = format!("cd '{}' 2>/dev/null && exec \"$@\"", self.dir.display());
        let mut all = self
            .prefix
            .iter()
            .map(String::as_str)
            .chain(["sh", "-c", &script, "sh"])
            .chain(words.iter().copied());
        Command::new(all.next().unwrap()).args(all).output().unwrap()
    }
}

fn place() -> (Place, TempDir) {
    let temporary = tempfile::tempdir().unwrap();
    (Place { dir: temporary.path().join("data"), prefix: Vec::new() }, temporary)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running control, killed when dropped.
struct Control {
    child: Child,
    api: SocketAddr,
    admin: SocketAddr,
    key: String,
}

impl Control {
    /// One call; None when control died before it answered.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        call(self.api, method, path, &self.key, body)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, as the service manager does.
    fn terminate(&mut self) -> Option<i32> {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "control stops");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn call(at: SocketAddr, method: &str, path: &str, key: &str, body: Option<&Value>) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let body = body.map(Value::to_string);
    let entity = body
        .as_ref()
        .map(|body| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {key}\r\nNgrok-Version: 2\r\nConnection: close\r\n{}\r\n",
        entity.unwrap_or_default(),
    );
    stream.write_all(format!("{head}{}", body.unwrap_or_default()).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

/// What the admin port answers, as text.
fn plain(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A moment up to so many milliseconds away.
fn random_millis(below: u64) -> Duration {
    let mut bytes = [0; 2];
    SystemEntropy.fill(&mut bytes);
    Duration::from_millis(u64::from(u16::from_be_bytes(bytes)) % below)
}

/// Longest time until control says that it is ready again.
const READY_MAX: Duration = Duration::from_secs(30);

#[test]
fn init_killed_anywhere_can_be_run_again() {
    for _ in 0..KILLS {
        let (place, _temporary) = place();
        let mut child = place.command(&["init"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(random_millis(40));
        let _ = child.kill();
        child.wait().unwrap();
        // Either it was finished, or it can be done again; there is nothing between.
        if !place.dir.join("control.db").exists() {
            place.init();
        }
        let control = place.serve();
        let (status, _) = control.call("GET", "/api_keys", None).unwrap();
        assert_eq!(status, 200, "the first key works");
    }
}

#[test]
fn a_killed_control_keeps_every_write_it_answered() {
    let (place, _temporary) = place();
    place.init();
    let mut made = Vec::new();
    let mut deleted = Vec::new();
    for _ in 0..KILLS {
        let mut control = place.serve();
        for id in &made {
            let (status, _) = control.call("GET", &format!("/credentials/{id}"), None).unwrap();
            assert_eq!(status, 200, "{id} was acknowledged");
        }
        for id in &deleted {
            let (status, _) = control.call("GET", &format!("/credentials/{id}"), None).unwrap();
            assert_eq!(status, 404, "the deletion of {id} was acknowledged");
        }
        std::thread::scope(|scope| {
            let control_ref = &control;
            let writers: Vec<_> =
                (0..3).map(|_| scope.spawn(move || write_until_dead(control_ref))).collect();
            std::thread::sleep(Duration::from_millis(20) + random_millis(200));
            let pid = control.child.id().to_string();
            assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            for writer in writers {
                let (kept, gone) = writer.join().unwrap();
                made.extend(kept);
                deleted.extend(gone);
            }
        });
        control.kill();
    }
    assert!(!made.is_empty());
    assert!(place.run(&["check"]).status.success());
}

/// Creates credentials and deletes every fourth, until control is gone. Gives what was acknowledged.
fn write_until_dead(control: &Control) -> (Vec<String>, Vec<String>) {
    let (mut made, mut deleted) = (Vec::new(), Vec::new());
    for n in 0.. {
        let body = json!({ "description": "x", "acl": ["bind:*.clinic1.internal"] });
        let Some((201, credential)) = control.call("POST", "/credentials", Some(&body)) else { break };
        let id = text(&credential, "id");
        if n % 4 != 3 {
            made.push(id);
            continue;
        }
        // Whether the last deletion happened is unknown when control dies in it.
        let Some((204, _)) = control.call("DELETE", &format!("/credentials/{id}"), None) else { break };
        deleted.push(id);
    }
    (made, deleted)
}

#[test]
fn a_stop_is_clean_and_a_second_start_refused() {
    let (place, _temporary) = place();
    let output = place.run(&["serve"]);
    assert!(
        !output.status.success() && stderr(&output).contains("ebbgate-control init"),
        "{}",
        stderr(&output)
    );
    place.init();
    let output = place.run(&["init"]);
    assert!(
        !output.status.success() && stderr(&output).contains("initialised already"),
        "{}",
        stderr(&output)
    );
    let mut control = place.serve();
    let output = place.run(&["serve", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let expect = format!("(pid {})", control.child.id());
    assert!(!output.status.success() && stderr(&output).contains(&expect), "{}", stderr(&output));
    let (status, _) = control.call("GET", "/api_keys", None).unwrap();
    assert_eq!(status, 200, "the first is not disturbed");
    assert_eq!(control.terminate(), Some(0));
    assert!(!place.dir.join("run/control.json").exists());
    assert!(!place.dir.join("control.db-wal").exists(), "everything is in the one file");
    let output = place.run(&["account", "create", "second"]);
    assert!(stderr(&output).contains("ebbgate-control serve"), "{}", stderr(&output));
}

#[test]
fn secrets_are_for_their_owner_only_and_nowhere_in_the_log() {
    let (place, _temporary) = place();
    let output = place.run(&["init"]);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = text(&made, "api_key");
    assert_eq!(key, place.read("api-key"));
    for name in ["api-key", "secret.key", "operator.token", "control.db", "ca/ingress.key.sealed"] {
        let bits = std::fs::metadata(place.dir.join(name)).unwrap().permissions().mode();
        assert_eq!(bits & 0o777, 0o600, "{name}");
    }
    assert!(!contains(&place.dir.join("control.db"), key.as_bytes()), "the key itself is not stored");
    let mut command =
        place.command(&["serve", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "trace"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("ready") {
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let note = place.note(child.id()).unwrap();
    let api = text(&note, "api").parse().unwrap();
    let (status, made) = call(api, "POST", "/credentials", &key, Some(&json!({}))).unwrap();
    assert_eq!(status, 201);
    child.kill().unwrap();
    log.read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    let token = text(&made, "token");
    for secret in [&key, &token, &place.read("operator.token"), &place.read("secret.key")] {
        let (_, secret_half) = secret.split_once('_').unwrap_or(("", secret));
        assert!(!said.contains(secret_half), "a secret is in the log");
    }
}

fn contains(path: &Path, needle: &[u8]) -> bool {
    std::fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle)
}

#[test]
fn addresses_that_would_carry_secrets_in_clear_are_refused() {
    let (place, _temporary) = place();
    place.init();
    for (flags, expect) in [(["--api", "0.0.0.0:0"], "--api-tls"), (["--admin", "0.0.0.0:0"], "loopback")] {
        let output = place.run(&[&["serve"], &flags[..]].concat());
        assert!(!output.status.success() && stderr(&output).contains(expect), "{}", stderr(&output));
    }
}

#[test]
fn operators_add_accounts_and_take_backups_of_a_running_control() {
    let (place, temporary) = place();
    place.init();
    let mut control = place.serve();
    let output = place.run(&["account", "create", "second"]);
    let made: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let (status, _) = call(control.api, "GET", "/credentials", &text(&made, "api_key"), None).unwrap();
    assert_eq!(status, 200);
    let output = place.run(&["api-key", "create", "--account", &text(&made, "id")]);
    let more: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let backup = temporary.path().join("backup.db");
    assert!(place.run(&["backup", &backup.display().to_string()]).status.success());
    assert!(place.run(&["check"]).status.success());
    let output = place.run(&["restore", &backup.display().to_string()]);
    assert!(stderr(&output).contains("in use"), "not under a running control: {}", stderr(&output));
    let (status, _) = call(control.admin, "POST", "/accounts", "guess", Some(&json!({"name": "x"}))).unwrap();
    assert_eq!(status, 401);
    assert_eq!(control.terminate(), Some(0));
    let output = place.run(&["restore", &backup.display().to_string()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let control = place.serve();
    let (status, _) = call(control.api, "GET", "/credentials", &text(&more, "api_key"), None).unwrap();
    assert_eq!(status, 200);
}

#[test]
fn a_damaged_database_is_refused_and_left_alone() {
    let (place, _temporary) = place();
    place.init();
    let path = place.dir.join("control.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().skip(4096).for_each(|b| *b = !*b);
    std::fs::write(&path, &bytes).unwrap();
    let output = place.run(&["serve", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(!output.status.success() && stderr(&output).contains("backup"), "{}", stderr(&output));
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// A directory on a small disk of its own, in a mount namespace of its own. Needs root.
struct SmallDisk {
    place: Place,
    holder: Child,
    _temporary: TempDir,
}

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().display().to_string();
        let script =
            format!("mount -t tmpfs -o size={size} tmpfs '{path}' && echo mounted && exec sleep 600");
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.trim() != "mounted" {
            let _ = holder.wait();
            eprintln!("skipped: a disk of its own needs root and mount namespaces");
            return None;
        }
        let pid = holder.id().to_string();
        let prefix = ["nsenter", "--mount", "--target", &pid, "--"].map(str::to_owned).into();
        Some(Self {
            place: Place { dir: temporary.path().join("data"), prefix },
            holder,
            _temporary: temporary,
        })
    }
}

impl SmallDisk {
    /// Changes how the disk is mounted.
    fn remount(&self, options: &str) {
        let root = self.place.dir.parent().unwrap().display().to_string();
        let mut words = self.place.prefix.clone();
        words.extend(["mount", "-o", &format!("remount,{options}"), &root].map(str::to_owned));
        let (program, args) = words.split_first().unwrap();
        assert!(Command::new(program).args(args).status().unwrap().success(), "remount,{options}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_loses_nothing() {
    let Some(disk) = SmallDisk::new("3m") else { return };
    let place = &disk.place;
    place.init();
    let mut control = place.serve();
    let mut made = Vec::new();
    // The log's own file may have room that a full disk does not take away.
    let fill = |control: &Control, made: &mut Vec<String>| loop {
        let body = json!({ "metadata": "x".repeat(4000) });
        match control.call("POST", "/credentials", Some(&body)).expect("control lives") {
            (201, credential) => made.push(text(&credential, "id")),
            refusal => break refusal,
        }
    };
    let (status, refusal) = fill(&control, &mut made);
    assert!(status >= 500, "{status} {refusal}");
    assert!(made.len() > 10, "{}", made.len());
    let check = |control: &Control, made: &[String]| {
        for id in made {
            let (status, _) = control.call("GET", &format!("/credentials/{id}"), None).unwrap();
            assert_eq!(status, 200, "{id}");
        }
    };
    check(&control, &made);
    control.kill();
    // Not one block more: it starts, serves what it has, and says what is wrong.
    disk.place.sh(&["sh", "-c", "cat /dev/zero > ../filler; true"]);
    let control = place.serve_without_note();
    check(&control, &made);
    let (status, refusal) = fill(&control, &mut made);
    assert_eq!(status, 503, "{refusal}");
    let (status, said) = plain(control.admin, "/readyz").unwrap();
    assert!(status == 503 && said.contains("full"), "{status} {said}");
    let (_, metrics) = plain(control.admin, "/metrics").unwrap();
    assert!(metrics.contains("ebbgate_control_disk_unwritable{reason=\"full\"} 1\n"), "{metrics}");
    // Room again: everything acknowledged is there and writing goes on, with no new start.
    disk.remount("size=16m");
    check(&control, &made);
    let (status, refusal) = control.call("POST", "/credentials", Some(&json!({}))).unwrap();
    assert_eq!(status, 201, "{refusal}");
    // The audit log takes up its work at its next turn.
    let ready = (200, "ready\n".to_owned());
    let end = Instant::now() + READY_MAX;
    while plain(control.admin, "/readyz").unwrap() != ready {
        assert!(Instant::now() < end, "{:?}", plain(control.admin, "/readyz"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn control_starts_and_serves_on_a_disk_that_is_read_only() {
    let Some(disk) = SmallDisk::new("16m") else { return };
    let place = &disk.place;
    place.init();
    let mut control = place.serve();
    let (status, made) = control.call("POST", "/credentials", Some(&json!({}))).unwrap();
    assert_eq!(status, 201);
    let path = format!("/credentials/{}", text(&made, "id"));
    // Stopped in order it leaves one file; killed it leaves a log beside it.
    for is_killed in [false, true] {
        if is_killed {
            control.kill();
        } else {
            assert_eq!(control.terminate(), Some(0));
        }
        disk.remount("ro");
        let mut frozen = place.serve_without_note();
        assert_eq!(frozen.call("GET", &path, None).unwrap().0, 200, "killed: {is_killed}");
        assert_eq!(frozen.call("POST", "/credentials", Some(&json!({}))).unwrap().0, 503);
        let (status, said) = plain(frozen.admin, "/readyz").unwrap();
        assert!(status == 503 && said.contains("read-only"), "{status} {said}");
        let (_, metrics) = plain(frozen.admin, "/metrics").unwrap();
        assert!(metrics.contains("ebbgate_control_disk_unwritable{reason=\"read_only\"} 1\n"), "{metrics}");
        assert!(place.run(&["check"]).status.success(), "also beside it");
        // Writable again, it goes on without a new start.
        disk.remount("rw");
        assert_eq!(
            frozen.call("POST", "/credentials", Some(&json!({}))).unwrap().0,
            201,
            "killed: {is_killed}"
        );
        assert_eq!(plain(frozen.admin, "/readyz").unwrap().0, 200);
        frozen.kill();
        control = place.serve();
        assert_eq!(control.call("GET", &path, None).unwrap().0, 200);
    }
}
