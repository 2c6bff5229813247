//! OpenSSH's remote forwarding: an sshd of our own on a loopback port, with throw-away keys; no file of the system is touched
//! but for its directory below /run, which is removed again if we made it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ebbgate_lab::process::Spec;
use ebbgate_lab::program::run_visibly;
use ebbgate_lab::wait;

use crate::chain::load::Table;
use crate::chain::rig::Rig;

/// sshd wants this for its unprivileged half.
const RUN_DIR: &str = "/run/sshd";
/// Silent connections it is asked to hold: each is a channel that every turn of its one thread looks at.
const IDLE_MAX: u32 = 1_000;
const READY_SECS_MAX: u64 = 10;

/// Removes the directory that we made.
pub(in crate::chain) struct RunDir(bool);

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.0 {
            // Somebody else's sshd may use it by now.
            let _ = fs::remove_dir(RUN_DIR);
        }
    }
}

/// `ssh -R` into our sshd.
pub(in crate::chain) fn tunnel(rig: &mut Rig) -> Result<RunDir> {
    let made = RunDir(!Path::new(RUN_DIR).exists() && fs::create_dir(RUN_DIR).is_ok());
    let (port, front, sink) = (rig.port()?, rig.port()?, rig.sink);
    let (host_key, user_key) = (key(rig, "ssh-host")?, key(rig, "ssh-user")?);
    let authorized = rig.dir().join("authorized_keys");
    fs::copy(user_key.with_extension("pub"), &authorized)?;
    let config = format!(
        "ListenAddress {port}
HostKey {host}
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
PidFile none
",
        host = host_key.display(),
        authorized = authorized.display(),
    );
    let config = rig.file("sshd.conf", &config)?;
    let server = rig.start(Spec::new("sshd", "/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(config))?;
    wait::until(std::time::Duration::from_secs(READY_SECS_MAX), "sshd to listen", || {
        Ok(std::net::TcpStream::connect(port).ok())
    })?;
    let user = Command::new("id").arg("-un").output().context("run id")?;
    let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
    let client = Spec::new("ssh", "ssh")
        .args(["-F", "none", "-N", "-T", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ])
        .args(["-c", "aes128-gcm@openssh.com", "-R", &format!("{front}:{sink}"), "-i"])
        .arg(user_key)
        .args(["-p", &port.port().to_string(), &format!("{user}@{}", port.ip())]);
    let parts = [("sshd", server), ("ssh", rig.start(client)?)];
    let note = "OpenSSH, one connection for all, aes128-gcm, one thread at each end by its nature";
    rig.tcp(Table::Tunnel, "ssh -R", (front, front), &parts, note).idle_max = IDLE_MAX;
    Ok(made)
}

fn key(rig: &Rig, name: &str) -> Result<PathBuf> {
    let path = rig.dir().join(name);
    run_visibly(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}
