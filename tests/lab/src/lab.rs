//! A lab: control and edge with all their state in one directory, on free ports that a restart finds again.
//!
//! Knows the programs by their documented flags and files only. What runs *in* the lab is its user's business.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Api;
use crate::machine::Machine;
use crate::ports::{Claim, Ports};
use crate::process::{Daemon, Spec};
use crate::successor::Successor;
use crate::wait;

/// Seconds control or edge may take until they say that they are ready.
const READY_SECS_MAX: u64 = 180;
/// Host part of reserved TCP addresses in a lab.
pub const TCP_HOST: &str = "127.0.0.1";

/// Where the three programs are.
#[derive(Clone)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Programs that a build left in `dir`.
    pub fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Path of `ebbgate-control`.
    pub fn control(&self) -> PathBuf {
        self.dir.join("ebbgate-control")
    }

    /// Path of `ebbgate-edge`.
    pub fn edge(&self) -> PathBuf {
        self.dir.join("ebbgate-edge")
    }

    /// Path of `ebbgate-admit`.
    pub fn admit(&self) -> PathBuf {
        self.dir.join("ebbgate-admit")
    }

    /// Path of `ebbgate`.
    pub fn agent(&self) -> PathBuf {
        self.dir.join("ebbgate")
    }
}

/// What `DIR/lab.json` keeps.
#[derive(Serialize, Deserialize)]
struct Kept {
    ports: Ports,
}

/// One control and one edge.
pub struct Lab {
    dir: PathBuf,
    programs: Programs,
    ports: Ports,
    listen: String,
    tcp_bind: String,
    edge_netns: Option<String>,
    edge_args: Vec<OsString>,
    edge_env: Vec<(String, OsString)>,
    control_args: Vec<OsString>,
    control_env: Vec<(String, OsString)>,
    machine: Machine,
    control: Option<Daemon>,
    edge: Option<Daemon>,
    successors: Vec<Successor>,
    _lock: File,
    _claim: Option<Claim>,
}

impl Lab {
    /// Takes a directory, making it and running `ebbgate-control init` when it is new. Starts nothing.
    pub fn open(dir: &Path, programs: Programs) -> Result<Self> {
        Self::open_with::<&str>(dir, programs, &[])
    }

    /// The same, with further flags for `init`.
    pub fn open_with<A: AsRef<OsStr>>(dir: &Path, programs: Programs, init: &[A]) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let lock = File::create(dir.join("lab.lock"))?;
        if lock.try_lock().is_err() {
            bail!("another `cargo xtask up` uses {}; stop it or choose another --dir", dir.display());
        }
        let (ports, claim) = kept_ports(&dir)?;
        let lab = Self {
            dir,
            programs,
            ports,
            listen: Ipv4Addr::LOCALHOST.to_string(),
            tcp_bind: Ipv4Addr::LOCALHOST.to_string(),
            edge_netns: None,
            edge_args: Vec::new(),
            edge_env: Vec::new(),
            control_args: Vec::new(),
            control_env: Vec::new(),
            machine: Machine::here(Ipv4Addr::LOCALHOST),
            control: None,
            edge: None,
            successors: Vec::new(),
            _lock: lock,
            _claim: claim,
        };
        if !["control.db", "store.json"].iter().any(|name| lab.dir.join(name).exists()) {
            lab.init(init)?;
        }
        Ok(lab)
    }

    /// Further flags for the edge's next start.
    pub fn edge_args<A: Into<OsString>>(&mut self, args: impl IntoIterator<Item = A>) {
        self.edge_args.extend(args.into_iter().map(Into::into));
    }

    /// A variable of the environment of the edge's next start.
    pub fn edge_env(&mut self, name: &str, value: impl Into<OsString>) {
        self.edge_env.push((name.to_owned(), value.into()));
    }

    /// Further flags for control's next start.
    pub fn control_args<A: Into<OsString>>(&mut self, args: impl IntoIterator<Item = A>) {
        self.control_args.extend(args.into_iter().map(Into::into));
    }

    /// The environment of control's next starts, beside ours.
    pub fn control_env(&mut self, env: Vec<(String, OsString)>) {
        self.control_env = env;
    }

    /// Lets visitors and agents come by IPv6 too; the default is 127.0.0.1 only.
    pub fn listen_on_both_families(&mut self) {
        "[::]".clone_into(&mut self.listen);
        "::".clone_into(&mut self.tcp_bind);
    }

    /// Runs the edge in a network namespace.
    pub fn edge_netns(&mut self, name: &str) {
        self.edge_netns = Some(name.to_owned());
    }

    /// Runs control on a machine of a mesh from its next start on. Its API is served there alone.
    pub fn control_on(&mut self, machine: &Machine) {
        self.machine = *machine;
    }

    /// `ebbgate-control`, to be run where control runs.
    pub fn control_program(&self) -> Command {
        self.machine.command(self.programs.control())
    }

    /// The lab's directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Where the programs are.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Directory of the log files.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Certificate file that visitors' clients trust.
    pub fn ingress_ca(&self) -> PathBuf {
        self.dir.join("ca/ingress.pem")
    }

    /// Certificate file that agents trust.
    pub fn connect_ca(&self) -> PathBuf {
        self.dir.join("ca/connect.pem")
    }

    /// The first API key of the lab.
    pub fn api_key(&self) -> Result<String> {
        let path = self.dir.join("api-key");
        Ok(fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.trim().to_owned())
    }

    /// The API with the lab's first key.
    pub fn api(&self) -> Result<Api> {
        Ok(Api::new(local(self.ports.api()), &self.api_key()?))
    }

    fn init<A: AsRef<OsStr>>(&self, flags: &[A]) -> Result<()> {
        let (first, last) = self.ports.tcp_range();
        let output = Command::new(self.programs.control())
            .args(["init", "--tcp-host", TCP_HOST, "--tcp-ports", &format!("{first}-{last}")])
            .arg("--dir")
            .arg(&self.dir)
            .args(flags)
            .output()
            .with_context(|| format!("run {}", self.programs.control().display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("ebbgate-control init failed ({}): {said}", output.status);
        }
        Ok(())
    }

    /// Starts control, unless it runs, and waits until it is ready.
    pub fn start_control(&mut self) -> Result<()> {
        let spec = Spec::new("control", self.programs.control())
            .args(["serve", "--dir"])
            .arg(&self.dir)
            .args(["--api".into(), local(self.ports.api()).to_string()])
            .args(["--admin".into(), local(self.ports.control_admin()).to_string()])
            // Tests and scripts call faster than a tenant may.
            .args(["--rate-limit", "0"])
            .args(&self.control_args)
            .envs(self.control_env.clone())
            .on(&self.machine);
        let mut daemon = spec.start(&self.log_dir())?;
        wait_ready(&self.dir, "control", &mut daemon)?;
        self.control = Some(daemon);
        Ok(())
    }

    /// Starts the edge and waits until its listeners are open.
    pub fn start_edge(&mut self) -> Result<()> {
        let at = |port: u16| format!("{}:{port}", self.listen);
        let spec = Spec::new("edge", self.programs.edge())
            .arg("--dir")
            .arg(&self.dir)
            .args(["--control".into(), format!("unix:{}", self.dir.join("run/edge.sock").display())])
            .args(["--http".into(), at(self.ports.http())])
            .args(["--https".into(), at(self.ports.https())])
            .args(["--connect".into(), at(self.ports.connect())])
            .args(["--tcp-bind", &self.tcp_bind])
            // Everybody here comes from a handful of addresses; the edge takes it as "all".
            .args(["--source-connections-max", "10000000"])
            .args(["--admin".into(), local(self.ports.edge_admin()).to_string()])
            .args(&self.edge_args)
            .netns(self.edge_netns.as_deref());
        let spec = self.edge_env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let mut daemon = spec.start(&self.log_dir())?;
        wait_ready(&self.dir, "edge", &mut daemon)?;
        self.edge = Some(daemon);
        Ok(())
    }

    /// Starts both.
    pub fn start(&mut self) -> Result<()> {
        self.start_control()?;
        self.start_edge()
    }

    /// Has the edge hand over to a program; the answer's error is the verb's own words. The new process ends with the lab.
    pub fn upgrade_edge(&mut self, program: &Path) -> Result<u32> {
        let upgrade = Command::new(self.programs.edge())
            .args(["upgrade".as_ref(), "--dir".as_ref(), self.dir.as_os_str(), "--program".as_ref()])
            .arg(program)
            .output()?;
        if !upgrade.status.success() {
            bail!("{}", String::from_utf8_lossy(&upgrade.stderr));
        }
        let about: Value = serde_json::from_slice(&upgrade.stdout)?;
        self.succeeded_by(about.get("pid").and_then(Value::as_u64).context("a pid")?)
    }

    /// A process of this number has taken over from the edge; it ends with the lab.
    pub fn succeeded_by(&mut self, pid: u64) -> Result<u32> {
        self.successors.push(Successor::new(pid, &self.dir)?);
        Ok(u32::try_from(pid)?)
    }

    /// The processes that have taken over from the edge that was started, oldest first.
    pub fn successors(&self) -> &[Successor] {
        &self.successors
    }

    /// The running control.
    pub fn control(&mut self) -> Result<&mut Daemon> {
        self.control.as_mut().context("control does not run")
    }

    /// The running edge.
    pub fn edge(&mut self) -> Result<&mut Daemon> {
        self.edge.as_mut().context("the edge does not run")
    }

    /// All processes of the lab that run.
    pub fn daemons(&mut self) -> impl Iterator<Item = &mut Daemon> {
        self.control.iter_mut().chain(self.edge.iter_mut())
    }

    /// The running edge, for a test that starts another one beside it.
    pub fn take_edge(&mut self) -> Result<Daemon> {
        self.edge.take().context("the edge does not run")
    }

    /// SIGKILL to control.
    pub fn kill_control(&mut self) {
        self.control = None;
    }

    /// SIGKILL to the edge.
    pub fn kill_edge(&mut self) {
        self.edge = None;
    }

    /// Asks control to stop; true if it did so by itself.
    pub fn stop_control(&mut self) -> Result<bool> {
        self.control.take().map_or(Ok(true), |mut daemon| daemon.stop())
    }

    /// Asks the edge to stop; true if it did so by itself.
    pub fn stop_edge(&mut self) -> Result<bool> {
        self.edge.take().map_or(Ok(true), |mut daemon| daemon.stop())
    }

    /// The line that `cargo xtask up --bare --json` prints.
    pub fn describe(&self) -> Result<Value> {
        let pid = |daemon: &Option<Daemon>| daemon.as_ref().map(Daemon::pid);
        Ok(json!({
            "api": format!("http://{}", local(self.ports.api())),
            "api_key": self.api_key()?,
            "connect": local(self.ports.connect()).to_string(),
            "connect_ca": self.connect_ca(),
            "http": local(self.ports.http()).to_string(),
            "https": local(self.ports.https()).to_string(),
            "ingress_ca": self.ingress_ca(),
            "tcp_host": TCP_HOST,
            "edge_admin": local(self.ports.edge_admin()).to_string(),
            "control_admin": local(self.ports.control_admin()).to_string(),
            "pids": { "control": pid(&self.control), "edge": pid(&self.edge) },
        }))
    }
}

/// Waits for `DIR/run/NAME.json` to carry the pid of the process just started.
pub(crate) fn wait_ready(dir: &Path, name: &str, daemon: &mut Daemon) -> Result<()> {
    let path = dir.join("run").join(format!("{name}.json"));
    let pid = u64::from(daemon.pid());
    wait::until(Duration::from_secs(READY_SECS_MAX), &format!("{name} to be ready"), || {
        daemon.check_alive()?;
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok((value.get("pid").and_then(Value::as_u64) == Some(pid)).then_some(()))
    })
}

/// 127.0.0.1 with a port.
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The ports of an earlier run of this directory, or new ones, kept from now on.
fn kept_ports(dir: &Path) -> Result<(Ports, Option<Claim>)> {
    let path = dir.join("lab.json");
    if let Ok(text) = fs::read_to_string(&path) {
        let kept: Kept = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; remove {} to begin anew", path.display(), dir.display())
        })?;
        // Somebody else may have the block by now; whatever port is taken then will be named by who cannot bind it.
        return Ok((kept.ports, kept.ports.claim().ok()));
    }
    let (ports, claim) = Ports::free()?;
    fs::write(&path, serde_json::to_string_pretty(&Kept { ports })? + "\n")?;
    Ok((ports, Some(claim)))
}
