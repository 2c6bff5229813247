//! A PostgreSQL cluster of our own, in a directory, on a loopback port, as a service behind the clinic's agent.
//!
//! PostgreSQL refuses to run as root, so root starts it as the user `postgres` (or `nobody`).

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Daemon, Spec};
use crate::program::is_root;
use crate::wait;

/// The role that the clinic's doctors use.
pub const ROLE: &str = "doctor";
/// The role's password; the cluster listens on loopback only and holds invented data.
pub const PASSWORD: &str = "ebb-and-flow";
/// Seconds a cluster may take to accept connections.
const READY_SECS_MAX: u64 = 60;

/// The folder with `initdb` and `postgres`: Debian's newest, or wherever the search path has them.
pub fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    versions.sort();
    versions.retain(|bin| bin.join("initdb").exists());
    versions.pop().or_else(|| {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        let bin = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        bin.join("initdb").exists().then_some(bin)
    })
}

/// The same, with an error that says what brings them.
pub fn installed() -> Result<PathBuf> {
    programs().context(
        "PostgreSQL is not installed; it comes with Debian's packages postgresql and postgresql-client",
    )
}

/// A running cluster.
pub struct Cluster {
    daemon: Daemon,
    port: u16,
}

impl Cluster {
    /// Makes the cluster if `dir` is new, with one database, runs `schema` in it once, and starts it on `port`.
    pub fn start(
        name: &str,
        dir: &Path,
        log_dir: &Path,
        port: u16,
        database: &str,
        schema: &str,
    ) -> Result<Self> {
        let bin = installed()?;
        let user = unprivileged()?;
        let data = dir.join("data");
        if !data.join("ready").exists() {
            make(&bin, dir, &data, user)?;
        }
        let daemon = Spec::new(name, bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-c", "unix_socket_directories="])
            .user(user)
            .stop_by_interrupt()
            .start(log_dir)?;
        let mut cluster = Self { daemon, port };
        cluster.wait_ready()?;
        if !data.join("ready").exists() {
            cluster.sql("postgres", &format!("CREATE DATABASE {database}"))?;
            cluster.sql(database, schema)?;
            fs::write(data.join("ready"), database)?;
        }
        Ok(cluster)
    }

    /// The process, for a supervisor.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Runs statements as the cluster's superuser.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .arg(format!("host=127.0.0.1 port={} user={ROLE} dbname={database} sslmode=disable", self.port))
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .output()
            .context("psql is missing; it comes with Debian's package postgresql-client")?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn wait_ready(&mut self) -> Result<()> {
        wait::until(Duration::from_secs(READY_SECS_MAX), "PostgreSQL to accept connections", || {
            self.daemon.check_alive()?;
            Ok(self.sql("postgres", "SELECT 1").ok())
        })?;
        Ok(())
    }
}

/// The user a cluster runs as; none when we are not root.
fn unprivileged() -> Result<Option<&'static str>> {
    if !is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find(|user| ids(user).is_ok())
        .map(Some)
        .context("neither user `postgres` nor `nobody` exists, and PostgreSQL refuses to run as root")
}

/// User and group id of a user.
fn ids(user: &str) -> Result<(u32, u32)> {
    let id = |flag: &str| -> Result<u32> {
        let output = Command::new("id").args([flag, user]).stderr(Stdio::null()).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    };
    Ok((id("-u")?, id("-g")?))
}

/// `initdb` into a fresh directory that the user owns.
fn make(bin: &Path, dir: &Path, data: &Path, user: Option<&str>) -> Result<()> {
    if data.exists() {
        fs::remove_dir_all(data)?;
    }
    fs::create_dir_all(data)?;
    let password = dir.join("password");
    fs::write(&password, PASSWORD)?;
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        let (uid, gid) = ids(user)?;
        for path in [dir, data, &password] {
            chown(path, Some(uid), Some(gid))?;
        }
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.arg("--").arg(bin.join("initdb")).arg("-D").arg(data).arg("--pwfile").arg(&password);
    command
        .args(["-U", ROLE, "-A", "scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
        .current_dir(dir);
    let output = command.output().context("run setpriv")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("make a cluster in {}; its user must be able to reach that directory: {said}", data.display());
    }
    Ok(())
}
