//! Case files: connections and requests that are written down, and what a policy is expected to do with them.
//!
//! ```yaml
//! policy: clinic.yml              # beside this file
//! url: https://api.example.com
//! cases:
//!   - name: a stranger is refused
//!     given: {client_ip: 203.0.113.9, path: /v1}
//!     expect: {outcome: close, code: ERR_NGROK_3203}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ebbgate_model::{AuthorityId, EndpointUrl, IpPolicyId, IpPolicyRule};
use ebbgate_policy::References;
use ebbgate_policy::explain::{CaseText, Decision, Explanation, Texts, explain};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::env::Failure;
use super::document::{EndpointArguments, OwnerChoice, compile};

/// Longest case file in bytes, and longest file that one names.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFileText {
    policy: PathBuf,
    url: EndpointUrl,
    #[serde(default)]
    owner: OwnerChoice,
    #[serde(default)]
    ip_policies: BTreeMap<IpPolicyId, Vec<IpPolicyRule>>,
    /// PEM, or a file.
    #[serde(default)]
    certificate_authorities: BTreeMap<AuthorityId, String>,
    cases: Vec<NamedCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedCase {
    name: String,
    #[serde(default)]
    given: CaseText,
    expect: Expected,
}

/// What must come out; each field that is there is compared.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expected {
    /// `upstream`, `forward`, `respond`, `close` or `fail`.
    outcome: Option<String>,
    /// Of the response that the client gets.
    status: Option<u16>,
    /// The internal endpoint of a forward.
    to: Option<EndpointUrl>,
    /// Such as `ERR_NGROK_3203`.
    code: Option<String>,
    /// The place that decides, or what it begins with: `on_http_request[0]`.
    decided_by: Option<String>,
    /// The text of a reply's body.
    body: Option<String>,
    /// Headers that an upstream gets; null: not there.
    request_headers: BTreeMap<String, Option<String>>,
    /// Headers that the client gets; null: not there.
    response_headers: BTreeMap<String, Option<String>>,
}

/// A case file with all that it names.
pub(super) struct CaseFile {
    path: PathBuf,
    text: CaseFileText,
}

/// How a case came out.
pub(super) struct CaseResult {
    pub(super) name: String,
    /// What differs, then the whole explanation.
    pub(super) failure: Option<String>,
}

impl CaseFile {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let mut text: CaseFileText = parse(path)?;
        let outcomes = ["upstream", "forward", "respond", "close", "fail"];
        for (index, case) in text.cases.iter_mut().enumerate() {
            let refuse = |message: &str| {
                Failure::new(format!("{}: cases[{index}] \"{}\": {message}", path.display(), case.name))
            };
            if case.expect == Expected::default() {
                return Err(refuse("`expect` is empty: say what must come out, such as `outcome: close`"));
            }
            if case.expect.outcome.as_deref().is_some_and(|outcome| !outcomes.contains(&outcome)) {
                return Err(refuse(&format!("`outcome` is one of {}", outcomes.join(", "))));
            }
            load_files(path, &mut case.given)?;
        }
        for pem in text.certificate_authorities.values_mut() {
            load_pem(path, pem)?;
        }
        Ok(Self { path: path.to_owned(), text })
    }

    /// Runs the cases whose name contains `filter`.
    pub(super) fn run(&self, filter: Option<&str>) -> Result<Vec<CaseResult>, Failure> {
        let references = References {
            authorities: self.text.certificate_authorities.clone(),
            ip_policies: self.text.ip_policies.clone(),
        };
        let endpoint = EndpointArguments { url: self.text.url.clone(), owner: self.text.owner };
        let (policy, engine) = compile(&beside(&self.path, &self.text.policy), &endpoint, &references)?;
        let chosen = self.text.cases.iter().filter(|case| filter.is_none_or(|text| case.name.contains(text)));
        let run = |case: &NamedCase| {
            let ready = case.given.read(&self.text.url).map_err(|error| {
                Failure::new(format!("{}: \"{}\": given.{error}", self.path.display(), case.name))
            })?;
            let explanation = explain(&engine, &ready);
            let differences = case.expect.differences(&explanation);
            let failure = (!differences.is_empty())
                .then(|| format!("{}\n{}", differences.join("\n"), explanation.text(&policy)));
            Ok(CaseResult { name: case.name.clone(), failure })
        };
        chosen.map(run).collect()
    }
}

impl Expected {
    /// One sentence for each field that did not come out.
    fn differences(&self, got: &Explanation) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |field: &str, wanted: Option<String>, got: Option<String>| {
            if wanted.is_some() && wanted != got {
                let show = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
                all.push(format!("{field} is {}, not {}", show(got), show(wanted)));
            }
        };
        compare("outcome", self.outcome.clone(), Some(got.decision.word().to_owned()));
        let status = got.response.as_ref().map(|response| response.status.as_u16().to_string());
        compare("status", self.status.map(|status| status.to_string()), status);
        let to = match &got.decision {
            Decision::Forward(url) => Some(url.to_string()),
            _ => None,
        };
        compare("to", self.to.as_ref().map(ToString::to_string), to);
        compare("code", self.code.clone(), got.decision.code().map(|code| code.to_string()));
        if self.decided_by.as_deref().is_some_and(|place| !is_at(&got.decided_by, place)) {
            compare("decided_by", self.decided_by.clone(), Some(got.decided_by.clone()));
        }
        let body = match &got.decision {
            Decision::Respond(reply) => Some(String::from_utf8_lossy(&reply.body).into_owned()),
            _ => None,
        };
        compare("body", self.body.clone(), body);
        let headers = [
            ("request_headers", &self.request_headers, got.request.as_ref().map(|r| &r.headers)),
            ("response_headers", &self.response_headers, got.response.as_ref().map(|r| &r.headers)),
        ];
        for (field, wanted, got) in headers {
            for (name, wanted) in wanted {
                let value = got.and_then(|headers| headers.get(name));
                let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                if *wanted != value {
                    let show =
                        |text: Option<&String>| text.map_or("absent".to_owned(), |text| format!("`{text}`"));
                    all.push(format!(
                        "{field}.{name} is {}, not {}",
                        show(value.as_ref()),
                        show(wanted.as_ref())
                    ));
                }
            }
        }
        all
    }
}

/// Whether a place is another or inside it.
fn is_at(place: &str, wanted: &str) -> bool {
    place.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A case from a file of its own.
pub(super) fn read_case(path: &Path) -> Result<CaseText, Failure> {
    let mut text: CaseText = parse(path)?;
    load_files(path, &mut text)?;
    Ok(text)
}

/// `GET /` from an address for documentation.
pub(super) fn default_case() -> CaseText {
    CaseText::default()
}

/// Adds headers of the form `name: value`.
pub(super) fn add_headers(text: &mut CaseText, headers: &[String]) -> Result<(), Failure> {
    for header in headers {
        let Some((name, value)) = header.split_once(':') else {
            return Err(Failure::new(format!("--header: `{header}` is not of the form `name: value`")));
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        let mut values: Vec<String> = text
            .headers
            .get(&name)
            .map(|texts| texts.iter().map(str::to_owned).collect())
            .unwrap_or_default();
        values.push(value);
        text.headers.insert(name, Texts::Many(values));
    }
    Ok(())
}

/// Puts the contents of files in the place of their paths.
fn load_files(beside_file: &Path, text: &mut CaseText) -> Result<(), Failure> {
    if let Some(tls) = &mut text.tls {
        load_pem(beside_file, &mut tls.client_certificates)?;
    }
    for set in text.keys.values_mut() {
        if let Value::String(path) = set {
            let path = beside(beside_file, Path::new(path.as_str()));
            *set = serde_json::from_str(&bounded(&path)?)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(())
}

fn load_pem(beside_file: &Path, pem: &mut String) -> Result<(), Failure> {
    if !pem.is_empty() && !pem.contains("-----BEGIN") {
        *pem = bounded(&beside(beside_file, Path::new(pem.as_str())))?;
    }
    Ok(())
}

fn beside(file: &Path, named: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(named)
}

fn bounded(path: &Path) -> Result<String, Failure> {
    let refuse =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot read {}: {error}", path.display()));
    let bytes = std::fs::metadata(path).map_err(|e| refuse(&e))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(refuse(&format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| refuse(&e))
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(&bounded(path)?, options)
        .map_err(|error| Failure::new(format!("{}: {}", path.display(), error.without_snippet())))
}
