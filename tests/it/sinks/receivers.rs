//! Receivers of events that others wrote, on loopback: moto's S3, syslog-ng, and a collector with OpenTelemetry's types.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program::{run, skip};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use serde_json::Value;

use crate::api_clients::installed;

/// The bucket that moto has.
pub(super) const BUCKET: &str = "audit";
/// Calls that moto answers without asking who calls: those of `bucket.py prepare`.
const UNCHECKED_CALLS: &str = "4";
/// Longest message that syslog-ng takes; its own default is 64 KiB.
const SYSLOG_BYTES_MAX: usize = 256 << 10;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/sinks").join(name)
}

/// A certificate for 127.0.0.1 and the authority that signed it.
pub(super) struct Certificate {
    pub(super) ca: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    pub(super) fn new(lab: &TestLab, name: &str) -> Result<Self> {
        let file = |kind: &str| lab.file(&format!("{name}-{kind}.pem"));
        let made = Self { ca: file("ca"), chain: file("certificate"), key: file("key") };
        let issuer_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        fs::write(&made.ca, params.self_signed(&issuer_key)?.pem())?;
        let issuer = rcgen::Issuer::new(params, issuer_key);
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        fs::write(&made.chain, params.signed_by(&pair, &issuer)?.pem())?;
        fs::write(&made.key, pair.serialize_pem())?;
        Ok(made)
    }

    /// The authority's certificate.
    pub(super) fn ca_pem(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.ca)?)
    }
}

/// moto's server with S3 and IAM. It compares signatures with those that botocore computes.
pub(super) struct Moto {
    daemon: Daemon,
    python: PathBuf,
    port: u16,
    ca: PathBuf,
    /// Id and secret of the key that may write.
    pub(super) key: (String, String),
}

impl Moto {
    /// None, visibly, where it is not installed.
    pub(super) fn start(lab: &TestLab, port: u16, tls: &Certificate) -> Result<Option<Self>> {
        let Some(program) = installed("S3 of moto", "py-moto/bin/moto_server") else { return Ok(None) };
        let python = program.with_file_name("python");
        let spec = Spec::new("moto", &program).args(["-H", "127.0.0.1", "-p", &port.to_string(), "-c"]);
        let spec = spec.arg(&tls.chain).arg("-k").arg(&tls.key);
        let mut daemon = spec.env("INITIAL_NO_AUTH_ACTION_COUNT", UNCHECKED_CALLS).start(&lab.log_dir())?;
        soon("moto listens", || {
            daemon.check_alive()?;
            Ok(http::connect(local(port)).ok().map(drop))
        })?;
        let mut moto = Self { daemon, python, port, ca: tls.ca.clone(), key: <_>::default() };
        let made = moto.bucket("prepare", &[])?;
        let field = |name: &str| Ok::<_, anyhow::Error>(made[name].as_str().context("a key")?.to_owned());
        moto.key = (field("id")?, field("secret")?);
        Ok(Some(moto))
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", local(self.port))
    }

    fn bucket(&self, verb: &str, more: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.python);
        command.arg(script("bucket.py")).args([verb, &self.url()]).arg(&self.ca).arg(BUCKET).args(more);
        let ran = run(command.env("PYTHONDONTWRITEBYTECODE", "1"))?;
        ensure!(ran.ok, "{}", ran.text);
        let line = ran.text.lines().last().context("an answer")?;
        Ok(serde_json::from_str(line)?)
    }

    /// All objects: name and content.
    pub(super) fn objects(&self) -> Result<Vec<(String, String)>> {
        let all = self.bucket("read", &[&self.key.0, &self.key.1])?;
        let all = all.as_object().context("objects by name")?;
        Ok(all
            .iter()
            .map(|(name, text)| (name.clone(), text.as_str().unwrap_or_default().to_owned()))
            .collect())
    }

    pub(super) fn kill(mut self) {
        self.daemon.kill();
    }
}

/// syslog-ng with a port in clear and one with TLS; it writes what it understood as lines of JSON.
pub(super) struct SyslogNg {
    daemon: Daemon,
    got: PathBuf,
}

impl SyslogNg {
    /// None, visibly, where it is not installed.
    pub(super) fn start(lab: &TestLab, clear: u16, tls: (u16, &Certificate)) -> Result<Option<Self>> {
        if run(Command::new("syslog-ng").arg("--version")).is_err() {
            skip("syslog", "syslog-ng is not installed");
            return Ok(None);
        }
        let (home, got) = (lab.file("syslog"), lab.file("syslog/got.jsonl"));
        fs::create_dir_all(&home)?;
        let version = run(Command::new("syslog-ng").arg("--version"))?.text;
        let version = version.split("Config version: ").nth(1).and_then(|rest| rest.lines().next());
        let config = format!(
            "@version: {version}\n\
             options {{ keep-hostname(yes); time-zone(\"UTC\"); log-msg-size({SYSLOG_BYTES_MAX}); stats-freq(0); }};\n\
             source clear {{ syslog(ip(\"127.0.0.1\") port({clear}) transport(\"tcp\") tags(\"clear\")); }};\n\
             source tls {{ syslog(ip(\"127.0.0.1\") port({tls_port}) transport(\"tls\") tags(\"tls\")\n\
               tls(cert-file(\"{certificate}\") key-file(\"{key}\") peer-verify(optional-untrusted))); }};\n\
             destination got {{ file(\"{got}\" flush-lines(1) template(\"$(format-json --key MSGID --key PROGRAM \
             --key HOST --key FACILITY --key LEVEL --key MESSAGE at=$S_ISODATE tags=$TAGS)\\n\")); }};\n\
             log {{ source(clear); source(tls); destination(got); }};\n",
            version = version.context("syslog-ng says its version")?.trim(),
            tls_port = tls.0,
            certificate = tls.1.chain.display(),
            key = tls.1.key.display(),
            got = got.display(),
        );
        let path = home.join("syslog-ng.conf");
        fs::write(&path, config)?;
        let mut spec = Spec::new("syslog-ng", "syslog-ng").args(["-F", "--no-caps", "--stderr"]);
        let files = [("-f", "syslog-ng.conf"), ("-R", "persist"), ("-c", "control"), ("-p", "pid")];
        for (flag, name) in files {
            spec = spec.arg(flag).arg(home.join(name));
        }
        let mut daemon = spec.start(&lab.log_dir())?;
        for port in [clear, tls.0] {
            soon("syslog-ng listens", || {
                daemon.check_alive()?;
                Ok(http::connect(local(port)).ok().map(drop))
            })?;
        }
        Ok(Some(Self { daemon, got }))
    }

    /// Messages that it understood, those of one port.
    pub(super) fn messages(&self, tag: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.got).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let all = whole.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let has_tag =
            |message: &Value| message["tags"].as_str().is_some_and(|t| t.split(',').any(|t| t == tag));
        Ok(all.into_iter().filter(has_tag).collect())
    }

    /// Whether it stopped by itself.
    pub(super) fn stop(mut self) -> Result<bool> {
        self.daemon.stop()
    }
}

/// A collector with OpenTelemetry's types for Python.
pub(super) struct Collector {
    daemon: Daemon,
    port: u64,
}

impl Collector {
    /// None, visibly, where the types are not installed. It reports `rejected` records of each request as refused.
    pub(super) fn start(lab: &TestLab, name: &str, tls: &Certificate, rejected: u64) -> Result<Option<Self>> {
        let Some(python) = installed("OTLP", "py-otlp/bin/python") else { return Ok(None) };
        let spec = Spec::new(name, python).arg(script("collector.py")).arg(&tls.chain).arg(&tls.key);
        let spec = spec.arg(rejected.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut daemon = spec.start(&lab.log_dir())?;
        let port = soon("the collector listens", || {
            daemon.check_alive()?;
            Ok(lines(&daemon)?.first().and_then(|first| first["port"].as_u64()))
        })?;
        Ok(Some(Self { daemon, port }))
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}/v1/logs", self.port)
    }

    /// What it decoded, one for each request.
    pub(super) fn requests(&self) -> Result<Vec<Value>> {
        Ok(lines(&self.daemon)?.into_iter().skip(1).collect())
    }
}

fn lines(daemon: &Daemon) -> Result<Vec<Value>> {
    let text = daemon.log()?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| text.clone())).collect()
}
