//! An ACME authority and a name service for one lab: Debian's `pebble` and `named`, on free ports of loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::http;
use ebbgate_lab::lab::{Lab, local};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program::{run, skip};
use ebbgate_lab::wait::soon;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use serde_json::json;

/// The key that the zone takes updates with.
const TSIG: &str =
    "key \"acme\" { algorithm hmac-sha256; secret \"c2VjcmV0IG9mIHRoZSB0ZXN0cyBvbmx5ISE=\"; };\n";
/// Every name below has this machine's address.
pub(super) const ZONE: &str = "example.com";
/// What stands in the zone at a wildcard's challenge and is nobody's business.
pub(super) const OTHER_TXT: &str = "somebody-else";

/// Both, running.
pub(super) struct Authority {
    pub(super) pebble: Daemon,
    _named: Daemon,
    /// Certificate that control checks the directory's own against.
    root: PathBuf,
    tsig: PathBuf,
    directory: String,
    management: u16,
    name_service: u16,
}

/// Whether the programs are there; says so where they are not.
pub(super) fn is_installed(test: &str) -> bool {
    let missing = [("pebble", "-h"), ("named", "-v"), ("nsupdate", "-V"), ("dig", "-v")]
        .into_iter()
        .find(|(program, flag)| run(Command::new(program).arg(flag)).is_err());
    if let Some((program, _)) = missing {
        skip(test, &format!("{program} is not installed"));
    }
    missing.is_none()
}

/// How pebble is to be.
#[derive(Default)]
pub(super) struct Wishes {
    /// Life of certificates in seconds; 0: pebble's own, which is years.
    pub(super) life_secs: u64,
}

impl Authority {
    /// Starts both for a lab. One of five good nonces is refused.
    pub(super) fn start(lab: &Lab, dir: &Path, wishes: &Wishes) -> Result<Self> {
        let ports = lab.ports();
        let (acme, management, dns) = (ports.spare(0), ports.spare(1), ports.spare(2));
        let named = start_named(lab, dir, dns)?;
        let (root, certificate, key) = (dir.join("ca-root.pem"), dir.join("ca.pem"), dir.join("ca.key"));
        let tsig = dir.join("tsig.key");
        fs::write(&tsig, TSIG)?;
        write_certificate(&root, &certificate, &key)?;
        let config = json!({ "pebble": {
            "listenAddress": local(acme).to_string(),
            "managementListenAddress": local(management).to_string(),
            "certificate": certificate, "privateKey": key,
            "httpPort": ports.http(), "tlsPort": ports.https(),
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": if wishes.life_secs == 0 { 90 * 86_400 } else { wishes.life_secs },
        }});
        let path = dir.join("pebble.json");
        fs::write(&path, config.to_string())?;
        let spec = Spec::new("pebble", "pebble").arg("-config").arg(&path);
        let spec = spec.args(["-dnsserver", &local(dns).to_string()]);
        let spec = spec.env("PEBBLE_WFE_NONCEREJECT", "20").env("PEBBLE_VA_NOSLEEP", "1");
        let pebble = spec.env("PEBBLE_AUTHZREUSE", "0").start(&lab.log_dir())?;
        let directory = format!("https://127.0.0.1:{acme}/dir");
        let started = Self { pebble, _named: named, root, tsig, directory, management, name_service: dns };
        soon("pebble's root", || Ok(started.root_pem().ok().map(drop)))?;
        Ok(started)
    }

    /// Flags that tell control of it, without a challenge.
    pub(super) fn flags(&self) -> Vec<String> {
        let root = self.root.display().to_string();
        vec!["--acme".into(), self.directory.clone(), "--acme-root".into(), root]
    }

    /// Flags for updates of the zone.
    pub(super) fn dns_flags(&self) -> Vec<String> {
        let server = local(self.name_service).to_string();
        vec!["--acme-dns".into(), server, ZONE.into(), self.tsig.display().to_string()]
    }

    /// Where the name service is.
    pub(super) fn name_service(&self) -> u16 {
        self.name_service
    }

    /// The file with the zone's key.
    pub(super) fn tsig(&self) -> &Path {
        &self.tsig
    }

    /// The root that signs, made anew at every start of pebble.
    pub(super) fn root_pem(&self) -> Result<Vec<u8>> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let ran = Command::new("curl").args(["-sf", "--cacert"]).arg(&self.root).arg(url).output()?;
        ensure!(ran.status.success(), "{ran:?}");
        Ok(ran.stdout)
    }

    /// Orders that it was sent so far.
    pub(super) fn orders(&self) -> Result<usize> {
        Ok(self.pebble.log()?.matches("Added order ").count())
    }

    /// Values of a TXT record, as the name service has them.
    pub(super) fn txt(&self, name: &str) -> Result<Vec<String>> {
        let port = self.name_service.to_string();
        let ran = run(Command::new("dig").args(["@127.0.0.1", "-p", &port, "+short", "TXT", name]))?;
        ensure!(ran.ok, "{}", ran.text);
        Ok(ran.text.lines().map(|line| line.trim_matches('"').to_owned()).collect())
    }
}

/// Gives control what it is to know, while it does not run.
pub(super) fn configure(lab: &Lab, flags: &[String]) -> Result<()> {
    let mut command = Command::new(lab.programs().control());
    let ran = run(command.args(["config", "set", "--dir"]).arg(lab.dir()).args(flags))?;
    ensure!(ran.ok, "{}", ran.text);
    Ok(())
}

/// Control's operator port.
pub(super) fn operator(lab: &Lab, path: &str) -> Result<String> {
    let at = local(lab.ports().control_admin());
    Ok(http::request(http::connect(at)?, "GET", &at.to_string(), path, &[], b"")?.text())
}

fn start_named(lab: &Lab, dir: &Path, port: u16) -> Result<Daemon> {
    let home = dir.join("named");
    fs::create_dir_all(&home)?;
    let zone = format!(
        "$TTL 1\n@ IN SOA ns.{ZONE}. root.{ZONE}. 1 60 60 60 1\n@ IN NS ns.{ZONE}.\n@ IN A 127.0.0.1\n\
         ns IN A 127.0.0.1\n* IN A 127.0.0.1\n_acme-challenge.wild IN TXT \"{OTHER_TXT}\"\n"
    );
    fs::write(home.join("zone"), zone)?;
    let home_shown = home.display();
    let config = format!(
        "options {{ directory \"{home_shown}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no; }};\n\
         controls {{ }};\n{TSIG}\
         zone \"{ZONE}\" {{ type master; file \"{home_shown}/zone\"; allow-update {{ key \"acme\"; }}; }};\n"
    );
    let path = home.join("named.conf");
    fs::write(&path, config)?;
    let named = Spec::new("named", "named").args(["-g", "-c"]).arg(&path).start(&lab.log_dir())?;
    let mut named = named;
    soon("named", || {
        named.check_alive()?;
        let query = ["@127.0.0.1", "-p", &port.to_string(), "+short", "+time=1", "+tries=1", "A"];
        let ran = run(Command::new("dig").args(query).arg(format!("a.{ZONE}")))?;
        Ok((ran.text.trim() == "127.0.0.1").then_some(()))
    })
    .with_context(|| named.log().unwrap_or_default())?;
    Ok(named)
}

/// The certificate of pebble's own port, and the authority that signed it.
fn write_certificate(root: &Path, certificate: &Path, key: &Path) -> Result<()> {
    let issuer_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the ACME directory's authority");
    fs::write(root, params.self_signed(&issuer_key)?.pem())?;
    let issuer = rcgen::Issuer::new(params, issuer_key);
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    fs::write(certificate, params.signed_by(&pair, &issuer)?.pem())?;
    fs::write(key, pair.serialize_pem())?;
    Ok(())
}
