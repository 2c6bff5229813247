//! The agent as a systemd service: the unit's text, its place, and the calls to `systemctl`.
//!
//! The unit runs as root without a single capability: it reads the 0600 file it is given and can do nothing else root can.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the unit.
pub const UNIT: &str = "ebbgate.service";
/// Where units of the local administrator live.
const UNIT_DIRECTORY: &str = "etc/systemd/system";

/// Why the service could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A file could not be written or removed.
    #[error("cannot change {}: {source}; installing a service takes root", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path systemd cannot be told.
    #[error("{} cannot stand in a unit; use a path of plain UTF-8 without line breaks", .0.display())]
    Path(PathBuf),
    /// There is no systemctl.
    #[error("cannot run systemctl: {0}; this command needs systemd")]
    NoSystemctl(#[source] io::Error),
    /// systemctl failed.
    #[error("`systemctl {command}` failed: {message}")]
    Systemctl {
        /// Its arguments.
        command: String,
        /// Its words.
        message: String,
    },
    /// The service is not installed.
    #[error("{} does not exist; run `ebbgate service install --config FILE` first", .0.display())]
    NotInstalled(PathBuf),
}

/// Where a unit goes: the running system, or a directory that stands in for its root.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    live: bool,
}

impl Host {
    /// The running system.
    pub fn live() -> Self {
        Self { root: "/".into(), live: true }
    }

    /// A directory that will be, or stands in for, a system's root: files are written, systemctl is not called.
    pub fn staged(root: &Path) -> Self {
        Self { root: root.to_owned(), live: false }
    }

    /// The unit's path.
    pub fn unit_path(&self) -> PathBuf {
        self.root.join(UNIT_DIRECTORY).join(UNIT)
    }

    /// Writes the unit for `program start --all` with these absolute configuration paths, and enables it.
    pub fn install(&self, program: &Path, configs: &[PathBuf]) -> Result<(), ServiceError> {
        let path = self.unit_path();
        let text = unit_text(program, configs)?;
        let failed = |source| ServiceError::File { path: path.clone(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        // Written beside and moved over, so that systemd never reads half a unit.
        let draft = path.with_extension("service.new");
        std::fs::write(&draft, text).map_err(failed)?;
        std::fs::rename(&draft, &path).map_err(failed)?;
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", UNIT])
    }

    /// Stops the service and removes its unit.
    pub fn uninstall(&self) -> Result<(), ServiceError> {
        let path = self.installed()?;
        self.systemctl(&["disable", "--now", UNIT])?;
        std::fs::remove_file(&path).map_err(|source| ServiceError::File { path, source })?;
        self.systemctl(&["daemon-reload"])
    }

    /// `start`, `stop` or `restart`.
    pub fn control(&self, verb: &str) -> Result<(), ServiceError> {
        self.installed()?;
        self.systemctl(&[verb, UNIT])
    }

    fn installed(&self) -> Result<PathBuf, ServiceError> {
        let path = self.unit_path();
        if path.exists() { Ok(path) } else { Err(ServiceError::NotInstalled(path)) }
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<(), ServiceError> {
        if !self.live {
            return Ok(());
        }
        let ran = Command::new("systemctl").args(arguments).output().map_err(ServiceError::NoSystemctl)?;
        if ran.status.success() {
            return Ok(());
        }
        Err(ServiceError::Systemctl {
            command: arguments.join(" "),
            message: String::from_utf8_lossy(&ran.stderr).trim().to_owned(),
        })
    }
}

/// The unit's text.
pub fn unit_text(program: &Path, configs: &[PathBuf]) -> Result<String, ServiceError> {
    let mut start = format!("{} start --all --service", argument(program)?);
    for config in configs {
        write!(start, " --config {}", argument(config)?).expect("writing to a string cannot fail");
    }
    Ok(UNIT_TEXT.replace("@START@", &start))
}

/// One word of `ExecStart`: quoted, specifiers and variables switched off (systemd.service(5), "Command lines").
fn argument(path: &Path) -> Result<String, ServiceError> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    let text = text.ok_or_else(|| ServiceError::Path(path.to_owned()))?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(format!("\"{escaped}\""))
}

const UNIT_TEXT: &str = r"# Written by `ebbgate service install`; local changes belong into a drop-in (systemctl edit ebbgate).
[Unit]
Description=Ebbgate agent
Wants=network-online.target
After=network-online.target
# Never give up: a site without its agent cannot be reached to be repaired.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=@START@
Restart=always
RestartSec=5
TimeoutStopSec=15

# Root only to read a 0600 configuration; no capability is left, and nothing can be written.
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
# The authtoken is in its memory: no core dumps. Every visitor takes a descriptor.
LimitCORE=0
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_systemds_own_quoting() {
        let check = |path: &str, expect: &str| assert_eq!(argument(Path::new(path)).unwrap(), expect);
        check("/etc/ebbgate.yml", "\"/etc/ebbgate.yml\"");
        check("/a b/c\"d\\e", "\"/a b/c\\\"d\\\\e\"");
        check("/50%/$HOME", "\"/50%%/$$HOME\"");
        assert!(argument(Path::new("/a\nExecStart=/bin/sh")).is_err(), "a path cannot add a line");
    }

    #[test]
    fn a_staged_service_is_installed_and_removed_without_systemctl() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::staged(root.path());
        assert!(matches!(host.control("start"), Err(ServiceError::NotInstalled(_))));
        host.install(Path::new("/usr/bin/ebbgate"), &["/etc/ebbgate.yml".into()]).unwrap();
        let text = std::fs::read_to_string(root.path().join("etc/systemd/system/ebbgate.service")).unwrap();
        assert!(
            text.contains(
                "ExecStart=\"/usr/bin/ebbgate\" start --all --service --config \"/etc/ebbgate.yml\"\n"
            ),
            "{text}"
        );
        host.install(Path::new("/usr/bin/ebbgate"), &["/etc/other.yml".into()]).unwrap();
        assert!(std::fs::read_to_string(host.unit_path()).unwrap().contains("/etc/other.yml"));
        host.control("start").unwrap();
        host.uninstall().unwrap();
        assert!(!host.unit_path().exists());
        assert!(matches!(host.uninstall(), Err(ServiceError::NotInstalled(_))));
    }
}
