//! npm `oidc-provider`, a provider that others wrote and had certified, as a process; and a browser's way through its pages.
//!
//! It checks PKCE, codes, redirect URI and client by its own rules, and leaves addresses to its user info, as providers do for
//! `response_type=code`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::process::{Daemon, Signal, Spec};
use crate::program::{skip, tools};
use crate::wait::soon;

/// Redirects and pages of one sign-in at the provider.
const STEPS_MAX: usize = 12;

/// The provider.
pub struct Provider {
    daemon: Daemon,
    /// Its issuer, a URL of loopback.
    pub issuer: String,
    _dir: TempDir,
}

impl Provider {
    /// Starts it for a client; see `tests/conformance/oidc_provider.mjs` for what may be said of one. None, visibly, where it is
    /// not installed.
    pub fn start(client: &Value) -> Result<Option<Self>> {
        let home = tools().map(|tools| tools.join("node"));
        let home = home.filter(|home| home.join("node_modules/oidc-provider").exists());
        let Some(home) = home else {
            skip("oidc-provider", "it is not in target/tools/node: `cargo xtask test` installs it");
            return Ok(None);
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/oidc_provider.mjs");
        let dir = tempfile::tempdir()?;
        let spec = Spec::new("oidc-provider", "node").arg(script).arg(client.to_string()).current_dir(home);
        let mut daemon = spec.start(dir.path())?;
        let issuer = said(&mut daemon, "issuer")?;
        Ok(Some(Self { daemon, issuer, _dir: dir }))
    }

    /// Has it sign with other keys from now on.
    pub fn rotate(&mut self) -> Result<()> {
        self.daemon.signal(Signal::HUP);
        ensure!(said(&mut self.daemon, "keys")? == "ES256");
        Ok(())
    }

    /// The values it has said of a field, in order.
    pub fn said(&self, field: &str) -> Result<Vec<String>> {
        let log = self.daemon.log()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter_map(|line| Some(line.get(field)?.as_str()?.to_owned())).collect())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }
}

/// Waits for a line of JSON with a field.
fn said(daemon: &mut Daemon, field: &str) -> Result<String> {
    soon(field, || {
        daemon.check_alive()?;
        let log = daemon.log()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut found = lines.filter_map(|line| Some(line.get(field)?.as_str()?.to_owned()));
        Ok(found.next())
    })
}

/// What a site's answers set, by name.
pub type Cookies = BTreeMap<String, String>;

/// Keeps the cookies that an answer sets.
pub fn keep(cookies: &mut Cookies, answer: &Answer) {
    for (_, line) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
        let Some((name, value)) = line.split(';').next().and_then(|pair| pair.split_once('=')) else {
            continue;
        };
        if value.is_empty() {
            cookies.remove(name);
        } else {
            cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// A value of `Cookie`.
pub fn line(cookies: &Cookies) -> String {
    cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
}

/// A browser at the provider. It keeps the provider's session.
#[derive(Debug, Default)]
pub struct Browser(Cookies);

impl Browser {
    fn ask(&mut self, method: &str, url: &str, form: &str) -> Result<Answer> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not in clear"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let cookies = line(&self.0);
        let headers = [("cookie", cookies.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let stream = http::connect(host.parse()?)?;
        let answer = http::request(stream, method, host, &format!("/{path}"), &headers, form.as_bytes())?;
        keep(&mut self.0, &answer);
        Ok(answer)
    }

    /// Goes where it was sent, signs in as `login`, allows it, and gives the URL below `callback` that it is sent back to.
    pub fn authorize(&mut self, issuer: &str, url: &str, callback: &str, login: &str) -> Result<String> {
        let (mut method, mut url, mut form) = ("GET", url.to_owned(), String::new());
        for _ in 0..STEPS_MAX {
            let answer = self.ask(method, &url, &form)?;
            let text = answer.text();
            if let Some(to) = answer.header("location") {
                if to.starts_with(callback) {
                    return Ok(to.to_owned());
                }
                url = if to.starts_with('/') { format!("{issuer}{to}") } else { to.to_owned() };
                (method, form) = ("GET", String::new());
                continue;
            }
            ensure!(answer.status == 200, "{} {text}", answer.status);
            let between = |before: &str| {
                let rest = text.split_once(before).map(|(_, rest)| rest);
                rest.and_then(|rest| rest.split('"').next()).map(str::to_owned).with_context(|| text.clone())
            };
            url = between("action=\"")?;
            let prompt = between("name=\"prompt\" value=\"")?;
            (method, form) = ("POST", format!("prompt={prompt}&login={login}&password=x"));
        }
        bail!("the provider never sends the browser back")
    }
}
