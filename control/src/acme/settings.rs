//! What an operator decides about the public authority: `init --acme` and `config set --acme`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::{Args, ValueEnum};
use ebbgate_model::Host;
use rustls::RootCertStore;
use serde::{Deserialize, Serialize};

use crate::authority::certificates;
use crate::secret::{Sealed, Vault};

/// Key of [`AcmeSettings`].
pub const ACME_KEY: &str = "/system/acme";
/// What the key of the external account is sealed for.
const EAB_CONTEXT: &str = "/system/acme external account";
/// What the key of DNS updates is sealed for.
const TSIG_CONTEXT: &str = "/system/acme dns key";
/// Bytes of a file with a secret or with roots.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Longest wait after a DNS change, in seconds.
const DNS_WAIT_SECS_MAX: u16 = 600;

/// How a name is proved to be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum ChallengeKind {
    /// The edges' port for HTTP in clear answers (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    #[value(name = "http-01")]
    Http01,
    /// The edges' port for TLS answers (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    #[value(name = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record answers (RFC 8555 section 8.4); the only one for wildcards.
    #[serde(rename = "dns-01")]
    #[value(name = "dns-01")]
    Dns01,
}

impl ChallengeKind {
    /// Its word in ACME.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
}

/// Algorithm of a TSIG key (RFC 8945).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TsigAlgorithm {
    /// `hmac-sha256`.
    HmacSha256,
    /// `hmac-sha384`.
    HmacSha384,
    /// `hmac-sha512`.
    HmacSha512,
}

/// Who writes TXT records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum DnsSettings {
    /// A name server that takes updates (RFC 2136), signed by TSIG.
    Update {
        /// The zone's primary.
        server: SocketAddr,
        /// The zone.
        zone: Host,
        /// Name of the TSIG key.
        key_name: String,
        /// Its algorithm.
        algorithm: TsigAlgorithm,
        /// The key in base64, sealed.
        key: Sealed,
    },
    /// A program of the operator's: `PROGRAM add|remove NAME VALUE`.
    Hook {
        /// Its absolute path.
        program: PathBuf,
    },
}

impl DnsSettings {
    /// Where the challenge's name must point to by CNAME; None: the record is written at the name itself.
    pub(super) fn target(&self, host: &Host) -> Option<String> {
        let Self::Update { zone, .. } = self else { return None };
        let bare = host.wildcard_suffix().unwrap_or(host.as_str());
        let is_inside =
            bare == zone.as_str() || bare.strip_suffix(zone.as_str()).is_some_and(|rest| rest.ends_with('.'));
        (!is_inside).then(|| format!("{bare}.{zone}"))
    }
}

/// An account that the operator has with the authority (RFC 8555 section 7.3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccount {
    /// Its key's identifier.
    pub key_id: String,
    /// The key in base64url, sealed.
    pub key: Sealed,
}

/// The public authority of an installation. Stored under [`ACME_KEY`]; without it there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeSettings {
    /// URL of the directory.
    pub directory: String,
    /// Whom the authority writes to; "": nobody.
    #[serde(default)]
    pub email: String,
    /// Certificates that the directory's own is checked against; None: the system's.
    #[serde(default)]
    pub root_pem: Option<String>,
    /// The operator's account with the authority.
    #[serde(default)]
    pub external_account: Option<ExternalAccount>,
    /// What exact names are proved by.
    pub challenge: ChallengeKind,
    /// Who writes TXT records; None: wildcards get no certificate.
    #[serde(default)]
    pub dns: Option<DnsSettings>,
    /// Seconds between a changed TXT record and the authority's look at it.
    #[serde(default)]
    pub dns_wait_secs: u16,
}

/// The same without secrets, for `config show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcmeView {
    directory: String,
    email: String,
    own_root: bool,
    external_account: Option<String>,
    challenge: ChallengeKind,
    dns: Option<String>,
    dns_wait_secs: u16,
}

impl AcmeSettings {
    /// What may be shown.
    pub fn view(&self) -> AcmeView {
        let dns = self.dns.as_ref().map(|dns| match dns {
            DnsSettings::Update { server, zone, key_name, .. } => {
                format!("updates of the zone {zone} at {server} with the key {key_name}")
            }
            DnsSettings::Hook { program } => format!("the program {}", program.display()),
        });
        AcmeView {
            directory: self.directory.clone(),
            email: self.email.clone(),
            own_root: self.root_pem.is_some(),
            external_account: self.external_account.as_ref().map(|account| account.key_id.clone()),
            challenge: self.challenge,
            dns,
            dns_wait_secs: self.dns_wait_secs,
        }
    }

    /// Where the name of a host's challenge must point to by CNAME; None: its record is written at the name itself.
    pub fn cname_target(&self, host: &Host) -> Option<String> {
        self.dns.as_ref()?.target(host)
    }

    /// The external account's key, opened.
    pub(super) fn external_key(&self, vault: &Vault) -> Result<Option<(String, Vec<u8>)>, AcmeError> {
        let Some(account) = &self.external_account else { return Ok(None) };
        let text = vault.open(EAB_CONTEXT, &account.key).map_err(|error| AcmeError(error.to_string()))?;
        Ok(Some((account.key_id.clone(), decode_eab(&text)?)))
    }

    /// Whether its sealed keys open.
    pub fn check_secrets(&self, vault: &Vault) -> Result<(), AcmeError> {
        self.external_key(vault)?;
        match &self.dns {
            Some(DnsSettings::Update { key, .. }) => Self::tsig_key(vault, key).map(drop),
            _ => Ok(()),
        }
    }

    /// A sealed key of DNS updates, opened.
    pub(super) fn tsig_key(vault: &Vault, key: &Sealed) -> Result<Vec<u8>, AcmeError> {
        let text = vault.open(TSIG_CONTEXT, key).map_err(|error| AcmeError(error.to_string()))?;
        STANDARD.decode(text).map_err(|_| AcmeError("the stored DNS key is no base64".into()))
    }
}

/// Flags of `init` and `config set`. What is not given stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct AcmeChanges {
    /// Get certificates from this ACME directory for names that ask for one; `off`: from nobody
    #[arg(long, value_name = "URL")]
    pub acme: Option<String>,
    /// Address that the ACME authority may write to
    #[arg(long, value_name = "ADDRESS")]
    pub acme_email: Option<String>,
    /// PEM file of the authorities that the ACME directory's own certificate is checked against; the system's if left out
    #[arg(long, value_name = "FILE")]
    pub acme_root: Option<PathBuf>,
    /// Key identifier of an account with the ACME authority, and a file with its key in base64url
    #[arg(long, num_args = 2, value_names = ["KEY-ID", "FILE"])]
    pub acme_eab: Vec<String>,
    /// What exact names are proved by; wildcards are always proved by dns-01
    #[arg(long, value_name = "http-01|tls-alpn-01|dns-01")]
    pub acme_challenge: Option<ChallengeKind>,
    /// Name server that takes signed updates (RFC 2136), its zone, and a file with the TSIG key as in BIND's named.conf
    #[arg(long, num_args = 3, value_names = ["ADDR:PORT", "ZONE", "FILE"], conflicts_with = "acme_dns_hook")]
    pub acme_dns: Vec<String>,
    /// Program that changes TXT records: it is run as `PROGRAM add|remove NAME VALUE`
    #[arg(long, value_name = "PROGRAM")]
    pub acme_dns_hook: Option<PathBuf>,
    /// Seconds from a changed TXT record until the ACME authority may look at it
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(0..=i64::from(DNS_WAIT_SECS_MAX)))]
    pub acme_dns_wait: Option<u16>,
}

/// Why the settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AcmeError(pub String);

impl AcmeChanges {
    /// Whether no flag was given.
    pub fn is_empty(&self) -> bool {
        self.acme.is_none()
            && self.acme_email.is_none()
            && self.acme_root.is_none()
            && self.acme_eab.is_empty()
            && self.acme_challenge.is_none()
            && self.acme_dns.is_empty()
            && self.acme_dns_hook.is_none()
            && self.acme_dns_wait.is_none()
    }

    /// What holds after these changes. Reads the files that flags name.
    ///
    /// # Errors
    ///
    /// The flag, what is wrong with its value, and the way out.
    pub fn apply(
        &self,
        old: Option<&AcmeSettings>,
        vault: &Vault,
    ) -> Result<Option<AcmeSettings>, AcmeError> {
        if self.acme.as_deref() == Some("off") {
            return Ok(None);
        }
        let mut new = match (old, &self.acme) {
            (Some(old), directory) => {
                let mut new = old.clone();
                if let Some(directory) = directory {
                    new.directory = check_directory(directory)?;
                }
                new
            }
            (None, Some(directory)) => AcmeSettings {
                directory: check_directory(directory)?,
                email: String::new(),
                root_pem: None,
                external_account: None,
                challenge: ChallengeKind::Http01,
                dns: None,
                dns_wait_secs: 0,
            },
            (None, None) if self.is_empty() => return Ok(None),
            (None, None) => {
                return Err(AcmeError("give --acme DIRECTORY-URL too: there is no directory yet".into()));
            }
        };
        if let Some(email) = &self.acme_email {
            new.email = check_email(email)?;
        }
        if let Some(path) = &self.acme_root {
            new.root_pem = Some(read_roots(path)?);
        }
        if let [key_id, path] = self.acme_eab.as_slice() {
            let text = read("--acme-eab", Path::new(path))?;
            decode_eab(text.trim())?;
            let key = vault.seal(EAB_CONTEXT, text.trim());
            new.external_account = Some(ExternalAccount { key_id: key_id.clone(), key });
        }
        if let Some(challenge) = self.acme_challenge {
            new.challenge = challenge;
        }
        if let [server, zone, path] = self.acme_dns.as_slice() {
            new.dns = Some(read_update(server, zone, Path::new(path), vault)?);
        }
        if let Some(program) = &self.acme_dns_hook {
            new.dns = Some(DnsSettings::Hook { program: check_hook(program)? });
        }
        if let Some(secs) = self.acme_dns_wait {
            new.dns_wait_secs = secs;
        }
        if new.challenge == ChallengeKind::Dns01 && new.dns.is_none() {
            let message = "--acme-challenge dns-01 needs somebody who writes TXT records: give --acme-dns or --acme-dns-hook";
            return Err(AcmeError(message.into()));
        }
        Ok(Some(new))
    }
}

fn check_directory(url: &str) -> Result<String, AcmeError> {
    let parsed: Option<http::Uri> = url.parse().ok();
    let is_https = parsed.is_some_and(|url| url.scheme_str() == Some("https") && url.host().is_some());
    if is_https {
        Ok(url.to_owned())
    } else {
        Err(AcmeError(format!("--acme `{url}` is no https URL of an ACME directory")))
    }
}

fn check_email(email: &str) -> Result<String, AcmeError> {
    let is_good = email.is_empty()
        || email.split_once('@').is_some_and(|(who, at)| {
            !who.is_empty()
                && at.parse::<Host>().is_ok()
                && email.bytes().all(|b| b.is_ascii_graphic() && b != b',')
        });
    if is_good {
        Ok(email.to_owned())
    } else {
        Err(AcmeError(format!("--acme-email `{email}` is no address")))
    }
}

fn read(flag: &str, path: &Path) -> Result<String, AcmeError> {
    let failed = |why: String| AcmeError(format!("{flag} {}: {why}", path.display()));
    let bytes = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(failed(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

fn read_roots(path: &Path) -> Result<String, AcmeError> {
    let text = read("--acme-root", path)?;
    let mut roots = RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(certificates(&text));
    if good == 0 || bad > 0 {
        let message =
            format!("--acme-root {}: it must hold certificates in PEM and nothing else", path.display());
        return Err(AcmeError(message));
    }
    Ok(text)
}

fn decode_eab(text: &str) -> Result<Vec<u8>, AcmeError> {
    let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok().filter(|key| !key.is_empty());
    decoded.ok_or_else(|| {
        AcmeError("--acme-eab: the file must hold the key in base64url and nothing else".into())
    })
}

fn check_hook(program: &Path) -> Result<PathBuf, AcmeError> {
    if program.is_absolute() && program.is_file() {
        return Ok(program.to_owned());
    }
    Err(AcmeError(format!(
        "--acme-dns-hook `{}`: give the absolute path of a program that exists",
        program.display()
    )))
}

fn read_update(server: &str, zone: &str, path: &Path, vault: &Vault) -> Result<DnsSettings, AcmeError> {
    let bad_server =
        || AcmeError(format!("--acme-dns `{server}` is no address with a port, such as 192.0.2.53:53"));
    let server = server.parse().map_err(|_| bad_server())?;
    let zone: Host =
        zone.parse().map_err(|error| AcmeError(format!("--acme-dns: the zone `{zone}`: {error}")))?;
    let tsig = Tsig::parse(&read("--acme-dns", path)?)
        .ok_or_else(|| AcmeError(format!("--acme-dns {}: {TSIG_FORM}", path.display())))?;
    let key = vault.seal(TSIG_CONTEXT, &tsig.secret);
    Ok(DnsSettings::Update { server, zone, key_name: tsig.name, algorithm: tsig.algorithm, key })
}

const TSIG_FORM: &str = "it must hold one key as `tsig-keygen` writes it: key \"NAME\" { algorithm hmac-sha256; secret \"BASE64\"; };";

/// A key as `tsig-keygen` writes it.
struct Tsig {
    name: String,
    algorithm: TsigAlgorithm,
    secret: String,
}

impl Tsig {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix("key")?.trim_start();
        let (name, rest) = text.split_once('{')?;
        let (body, after) = rest.split_once('}')?;
        if !matches!(after.trim(), "" | ";") {
            return None;
        }
        let (mut algorithm, mut secret) = (None, None);
        for statement in body.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            let (word, value) = statement.split_once(char::is_whitespace)?;
            let value = value.trim().trim_matches('"');
            match (word, value) {
                ("algorithm", "hmac-sha256") => algorithm = Some(TsigAlgorithm::HmacSha256),
                ("algorithm", "hmac-sha384") => algorithm = Some(TsigAlgorithm::HmacSha384),
                ("algorithm", "hmac-sha512") => algorithm = Some(TsigAlgorithm::HmacSha512),
                ("secret", value) if STANDARD.decode(value).is_ok_and(|key| !key.is_empty()) => {
                    secret = Some(value.to_owned());
                }
                _ => return None,
            }
        }
        let name = name.trim().trim_matches('"').to_owned();
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        is_name.then_some(())?;
        Some(Self { name, algorithm: algorithm?, secret: secret? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SEAL_KEY_BYTES;
    use std::io::Write;

    fn vault() -> Vault {
        Vault::new(&[7; SEAL_KEY_BYTES])
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn url(url: &str) -> AcmeChanges {
        AcmeChanges { acme: Some(url.into()), ..AcmeChanges::default() }
    }

    #[test]
    fn what_is_not_given_stays_and_off_takes_all_away() {
        let vault = vault();
        let first = url("https://ca.test/dir").apply(None, &vault).unwrap().unwrap();
        let email = AcmeChanges { acme_email: Some("ops@clinic.org".into()), ..AcmeChanges::default() };
        let second = email.apply(Some(&first), &vault).unwrap().unwrap();
        assert_eq!(
            (second.directory.as_str(), second.email.as_str()),
            ("https://ca.test/dir", "ops@clinic.org")
        );
        assert_eq!(url("off").apply(Some(&second), &vault).unwrap(), None);
        assert_eq!(AcmeChanges::default().apply(None, &vault).unwrap(), None);
        assert!(email.apply(None, &vault).unwrap_err().0.contains("--acme DIRECTORY-URL"));
    }

    #[test]
    fn bad_values_are_named_with_their_flag() {
        let vault = vault();
        for bad in ["http://ca.test/dir", "ca.test", "https://", "OFF"] {
            assert!(url(bad).apply(None, &vault).unwrap_err().0.contains("--acme `"), "{bad}");
        }
        let with = |change: fn(&mut AcmeChanges)| {
            let mut changes = url("https://ca.test/dir");
            change(&mut changes);
            changes.apply(None, &vault).unwrap_err().0
        };
        assert!(with(|c| c.acme_email = Some("nobody".into())).contains("--acme-email"));
        assert!(with(|c| c.acme_root = Some("/nowhere".into())).contains("--acme-root /nowhere"));
        assert!(with(|c| c.acme_dns_hook = Some("relative".into())).contains("--acme-dns-hook"));
        assert!(
            with(|c| c.acme_dns = vec!["x".into(), "z".into(), "/f".into()]).contains("`x` is no address")
        );
        assert!(
            with(|c| c.acme_challenge = Some(ChallengeKind::Dns01)).contains("--acme-dns or --acme-dns-hook")
        );
        let roots = file("no certificate");
        let mut changes = url("https://ca.test/dir");
        changes.acme_root = Some(roots.path().to_owned());
        assert!(changes.apply(None, &vault).unwrap_err().0.contains("certificates in PEM"));
    }

    #[test]
    fn secrets_are_sealed_and_not_shown() {
        let vault = vault();
        let eab = file("c2VjcmV0\n");
        let tsig = file("key \"acme.\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};\n");
        let mut changes = url("https://ca.test/dir");
        changes.acme_eab = vec!["kid-1".into(), eab.path().display().to_string()];
        changes.acme_dns =
            vec!["127.0.0.1:53".into(), "clinic.org".into(), tsig.path().display().to_string()];
        let settings = changes.apply(None, &vault).unwrap().unwrap();
        assert_eq!(settings.external_key(&vault).unwrap(), Some(("kid-1".into(), b"secret".to_vec())));
        let Some(DnsSettings::Update { key, key_name, .. }) = &settings.dns else { panic!("{settings:?}") };
        assert_eq!(key_name, "acme.");
        assert_eq!(AcmeSettings::tsig_key(&vault, key).unwrap(), b"secret");
        for text in [serde_json::to_string(&settings.view()).unwrap(), format!("{settings:?}")] {
            assert!(!text.contains("c2VjcmV0") && text.contains("kid-1"), "{text}");
        }
    }

    #[test]
    fn tsig_keys_have_one_form() {
        for bad in [
            "",
            "c2VjcmV0",
            "key x { algorithm hmac-md5; secret \"c2VjcmV0\"; };",
            "key x { secret \"c2VjcmV0\"; };",
            "key x { algorithm hmac-sha256; secret \"!\"; };",
            "key \"\" { algorithm hmac-sha256; secret \"c2VjcmV0\"; };",
            "key x { algorithm hmac-sha256; secret \"c2VjcmV0\"; }; key y {",
        ] {
            assert!(Tsig::parse(bad).is_none(), "{bad}");
        }
    }
}
