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
use ebbgate_policy::explain::expect::NamedCase;
use ebbgate_policy::explain::{CaseText, Texts, explain};
use ebbgate_policy::{References, SecretName, SecretValue};
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
    /// Values that stand for secrets: vault -> name -> value.
    #[serde(default)]
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    cases: Vec<NamedCase>,
}

impl CaseFileText {
    fn secrets(&self) -> BTreeMap<SecretName, SecretValue> {
        let named = self.secrets.iter().flat_map(|(vault, secrets)| {
            secrets.iter().map(|(name, value)| {
                (SecretName { vault: vault.clone(), name: name.clone() }, SecretValue::new(value))
            })
        });
        named.collect()
    }
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
        for (index, case) in text.cases.iter_mut().enumerate() {
            let refuse = |message: &str| {
                Failure::new(format!("{}: cases[{index}] \"{}\": {message}", path.display(), case.name))
            };
            case.expect.check().map_err(|message| refuse(&message))?;
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
            secrets: self.text.secrets(),
        };
        let endpoint = EndpointArguments { url: Some(self.text.url.clone()), owner: self.text.owner };
        let (policy, engine) = compile(&beside(&self.path, &self.text.policy), &endpoint, |_| references)?;
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
