//! Child processes that never outlive us: each in its own process group, ended by its id, its output in a log file.
//!
//! The kernel's parent-death signal (set by util-linux's `setpriv`, so that no unsafe code is needed here) ends a child
//! when the thread that started it is gone, even after SIGKILL. Start daemons from a thread that stays.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::machine::Machine;
use crate::wait;

/// Seconds a process gets to stop by itself before it is killed.
pub const STOP_SECS_MAX: u64 = 10;
/// Bytes of a log's end that an error message carries.
const LOG_TAIL_BYTES: u64 = 4096;

/// What to start and how to end it.
pub struct Spec {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    user: Option<String>,
    dir: Option<PathBuf>,
    netns: Option<String>,
    machine: Vec<String>,
    polite: Signal,
    on_parent_death: &'static str,
}

impl Spec {
    /// A program whose log is `NAME.log`; stops on SIGTERM and dies with us on SIGKILL.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            user: None,
            dir: None,
            netns: None,
            machine: Vec::new(),
            polite: Signal::TERM,
            on_parent_death: "KILL",
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets several variables.
    #[must_use]
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, OsString)>) -> Self {
        self.env.extend(variables.into_iter().map(|(name, value)| (name.into(), value)));
        self
    }

    /// Runs as another user and its group (root only).
    #[must_use]
    pub fn user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    /// Runs in another directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs in a network namespace that `ip netns add` made (root only).
    #[must_use]
    pub fn netns(mut self, name: Option<&str>) -> Self {
        self.netns = name.map(str::to_owned);
        self
    }

    /// Runs on a machine of a mesh.
    #[must_use]
    pub fn on(mut self, machine: &Machine) -> Self {
        self.machine = machine.prefix();
        self
    }

    /// Stops on SIGINT, also when we die: PostgreSQL's fast shutdown.
    #[must_use]
    pub fn stop_by_interrupt(mut self) -> Self {
        self.polite = Signal::INT;
        self.on_parent_death = "INT";
        self
    }

    /// Starts it, with output appended to `LOG_DIR/NAME.log`.
    pub fn start(self, log_dir: &Path) -> Result<Daemon> {
        fs::create_dir_all(log_dir)?;
        let log = log_dir.join(format!("{}.log", self.name));
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        let log_start = file.metadata()?.len();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", self.on_parent_death]);
        if let Some(user) = &self.user {
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        }
        command.arg("--");
        if let Some(name) = &self.netns {
            // Replaces itself by the program, so that the process id stays.
            command.args(["ip", "netns", "exec", name]);
        }
        command.args(&self.machine);
        command.arg(&self.program).args(&self.args).envs(self.env);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child =
            command.spawn().context("setpriv is missing; it comes with Debian's package util-linux")?;
        Ok(Daemon { name: self.name, child, log, log_start, polite: self.polite, status: None })
    }
}

/// A running child; dropping it kills it and its group.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: u64,
    polite: Signal,
    status: Option<ExitStatus>,
}

impl Daemon {
    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is its group's id too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has one.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Fails, with the end of the log, when the process is gone.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("{} ended ({status}); the end of {}:\n{}", self.name, self.log.display(), self.log_tail());
        }
        Ok(())
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // An error means that it is gone already, which the next look at it reports.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Asks it to stop, and kills it when it has not in [`STOP_SECS_MAX`]; says whether it stopped by itself.
    pub fn stop(&mut self) -> Result<bool> {
        self.signal(self.polite);
        let limit = Duration::from_secs(STOP_SECS_MAX);
        let waited = wait::until(limit, "a child to stop", || self.exited());
        self.kill();
        Ok(waited.is_ok())
    }

    /// SIGKILL to the process and whatever is left in its group; returns when the process is reaped.
    pub fn kill(&mut self) {
        // The group's id cannot be reused while we have not reaped its leader, hence the order.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }

    /// Everything written to the log since this start.
    pub fn log(&self) -> Result<String> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_tail(&self) -> String {
        let Ok(mut file) = File::open(&self.log) else { return String::new() };
        let length = file.metadata().map_or(0, |meta| meta.len());
        let start = length.saturating_sub(LOG_TAIL_BYTES).max(self.log_start);
        let mut bytes = Vec::new();
        let _ = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
        }
    }
}
