//! `ebbgate-control authority`: replaces one of the installation's authorities without a moment in which a client trusts
//! nobody who signs.
//!
//! Three steps, each of which waits for people: `begin` adds the next authority to what is to be trusted, `switch` lets it
//! sign, `retire` takes the old one out. Which authority signs is told by one key file; its certificate is found by that key.

use std::fmt::Write as _;

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{AuthorityError, Purpose, certificates, is_of, new_authority};
use crate::dir::{DataDir, DirError};
use crate::file::{self, FileError};
use crate::record::UnixSecs;
use crate::secret::{self, Entropy, Vault};

/// A certificate that clients are to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trusted {
    /// SHA-256 of the certificate in hexadecimal.
    pub sha256: String,
    /// Its subject.
    pub subject: String,
    /// Unix seconds.
    pub not_after: UnixSecs,
    /// What it does: `signs`, `signs next` or `signed before`.
    pub role: &'static str,
}

/// Why a step was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// There is a next one already.
    #[error(
        "the next {0} authority is trusted already: when every client has DIR/ca/{0}.pem, run `authority switch {0}`"
    )]
    Begun(&'static str),
    /// The one before is still trusted.
    #[error("the {0} authority before this one is still trusted: run `authority retire {0}` first")]
    NotRetired(&'static str),
    /// There is no next one.
    #[error("there is no next {0} authority: run `authority begin {0}` first")]
    NotBegun(&'static str),
    /// The next one does not sign yet.
    #[error("the next {0} authority does not sign yet: run `authority switch {0}` first")]
    NotSwitched(&'static str),
    /// A file or secret.
    #[error(transparent)]
    Dir(#[from] DirError),
}

impl From<FileError> for RotateError {
    fn from(error: FileError) -> Self {
        Self::Dir(error.into())
    }
}

impl From<AuthorityError> for RotateError {
    fn from(error: AuthorityError) -> Self {
        Self::Dir(error.into())
    }
}

/// One authority as the directory has it.
struct State {
    trusted: Vec<CertificateDer<'static>>,
    pem: String,
    signer: KeyPair,
    next: Option<KeyPair>,
}

impl State {
    fn read(dir: &DataDir, purpose: Purpose, vault: &Vault) -> Result<Self, RotateError> {
        let key = |next| -> Result<KeyPair, RotateError> {
            let pem = dir.authority_key_pem(purpose, next, vault)?;
            let damaged = |source| AuthorityError::Damaged { authority: purpose.name(), source };
            Ok(KeyPair::from_pem(&pem).map_err(damaged)?)
        };
        let pem = file::read(&dir.authority(purpose))?;
        let trusted = certificates(&pem);
        let signer = key(false)?;
        let next = if dir.next_authority_key(purpose).exists() { Some(key(true)?) } else { None };
        // A `begin` that was killed left a key that nobody is told to trust: there is no next authority yet.
        let next = next.filter(|next| trusted.iter().any(|certificate| is_of(certificate, next)));
        Ok(Self { trusted, pem, signer, next })
    }

    fn listed(&self) -> Vec<Trusted> {
        let role = |certificate: &CertificateDer<'_>| match &self.next {
            _ if is_of(certificate, &self.signer) => "signs",
            Some(next) if is_of(certificate, next) => "signs next",
            _ => "signed before",
        };
        let listed = self.trusted.iter().filter_map(|certificate| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            Some(Trusted {
                sha256: secret::hash_hex(certificate),
                subject: parsed.subject().to_string(),
                not_after: parsed.validity().not_after.timestamp(),
                role: role(certificate),
            })
        });
        listed.collect()
    }
}

/// What clients are to trust for a purpose, and which of it signs.
pub fn trusted(dir: &DataDir, purpose: Purpose) -> Result<Vec<Trusted>, RotateError> {
    Ok(State::read(dir, purpose, &dir.vault()?)?.listed())
}

/// Adds the next authority to what clients are to trust. Nothing is signed with it yet.
pub fn begin(
    dir: &DataDir,
    purpose: Purpose,
    now: UnixSecs,
    entropy: &dyn Entropy,
) -> Result<Vec<Trusted>, RotateError> {
    let vault = dir.vault()?;
    let state = State::read(dir, purpose, &vault)?;
    if state.next.is_some() {
        return Err(RotateError::Begun(purpose.name()));
    }
    if state.trusted.len() > 1 {
        return Err(RotateError::NotRetired(purpose.name()));
    }
    let pair = new_authority(purpose, &secret::base62(entropy, 8), now)?;
    dir.save_next_authority_key(purpose, &pair.key_pem, &vault)?;
    let mut pem = state.pem.trim_end().to_owned();
    write!(pem, "\n{}", pair.certificate_pem).expect("writing to a string succeeds");
    dir.save_trusted(purpose, &pem)?;
    trusted(dir, purpose)
}

/// Lets the next authority sign. A running control does so when it is started again; all leaves are then made anew.
pub fn switch(dir: &DataDir, purpose: Purpose) -> Result<Vec<Trusted>, RotateError> {
    if State::read(dir, purpose, &dir.vault()?)?.next.is_none() {
        return Err(RotateError::NotBegun(purpose.name()));
    }
    dir.switch_authority(purpose)?;
    trusted(dir, purpose)
}

/// Takes authorities that signed before out of what clients are to trust.
pub fn retire(dir: &DataDir, purpose: Purpose) -> Result<Vec<Trusted>, RotateError> {
    let state = State::read(dir, purpose, &dir.vault()?)?;
    if state.next.is_some() {
        return Err(RotateError::NotSwitched(purpose.name()));
    }
    let blocks = state.pem.split_inclusive("-----END CERTIFICATE-----");
    let signs = |block: &&str| certificates(block).iter().any(|found| is_of(found, &state.signer));
    let kept = blocks.filter(signs).map(str::trim).collect::<Vec<_>>().join("\n");
    dir.save_trusted(purpose, &format!("{kept}\n"))?;
    trusted(dir, purpose)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{SEAL_KEY_BYTES, SystemEntropy};
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::sync::Arc;
    use std::time::Duration;

    const NOW: UnixSecs = 1_767_225_600;

    fn place() -> (DataDir, tempfile::TempDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path());
        let vault = dir.save_secret_key(&[7; SEAL_KEY_BYTES]).unwrap();
        for purpose in Purpose::ALL {
            dir.save_authority(purpose, &new_authority(purpose, "test", NOW).unwrap(), &vault).unwrap();
        }
        (dir, temporary)
    }

    /// Whether a client that trusts this file accepts what is signed now.
    fn accepts(trusted_pem: &str, dir: &DataDir) -> bool {
        let host = "a.example.com".parse().unwrap();
        let leaf = dir.issuer(&dir.vault().unwrap()).unwrap().server(Purpose::Ingress, &host, NOW).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(trusted_pem));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from("a.example.com").unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(NOW).unwrap()));
        let leaf = certificates(&leaf.certificate_pem);
        verifier.verify_server_cert(&leaf[0], &[], &name, &[], at).is_ok()
    }

    #[test]
    fn a_rotation_overlaps_and_a_client_that_follows_it_is_never_refused() {
        let (dir, _temporary) = place();
        let file = || std::fs::read_to_string(dir.authority(Purpose::Ingress)).unwrap();
        let roles = |list: Vec<Trusted>| list.into_iter().map(|trusted| trusted.role).collect::<Vec<_>>();
        let old = file();
        let other = std::fs::read_to_string(dir.authority(Purpose::Connect)).unwrap();
        assert!(matches!(switch(&dir, Purpose::Ingress), Err(RotateError::NotBegun("ingress"))));
        assert_eq!(
            roles(begin(&dir, Purpose::Ingress, NOW, &SystemEntropy).unwrap()),
            ["signs", "signs next"]
        );
        let both = file();
        assert!(accepts(&old, &dir) && accepts(&both, &dir), "the old one signs still");
        let again = begin(&dir, Purpose::Ingress, NOW, &SystemEntropy);
        assert!(matches!(again, Err(RotateError::Begun(_))) && file() == both);
        assert!(matches!(retire(&dir, Purpose::Ingress), Err(RotateError::NotSwitched(_))));
        assert_eq!(roles(switch(&dir, Purpose::Ingress).unwrap()), ["signed before", "signs"]);
        assert!(accepts(&both, &dir), "a client with the new file accepts the new signer");
        assert!(!accepts(&old, &dir), "the test can tell");
        assert!(matches!(
            begin(&dir, Purpose::Ingress, NOW, &SystemEntropy),
            Err(RotateError::NotRetired(_))
        ));
        assert_eq!(roles(retire(&dir, Purpose::Ingress).unwrap()), ["signs"]);
        assert!(accepts(&file(), &dir) && accepts(&both, &dir));
        assert_eq!(certificates(&file()).len(), 1);
        assert_eq!(other, std::fs::read_to_string(dir.authority(Purpose::Connect)).unwrap());
        begin(&dir, Purpose::Ingress, NOW, &SystemEntropy).expect("and once more");
    }

    #[test]
    fn a_begin_that_was_killed_can_be_run_again() {
        let (dir, _temporary) = place();
        let vault = dir.vault().unwrap();
        let orphan = new_authority(Purpose::Connect, "orphan", NOW).unwrap();
        dir.save_next_authority_key(Purpose::Connect, &orphan.key_pem, &vault).unwrap();
        assert!(matches!(switch(&dir, Purpose::Connect), Err(RotateError::NotBegun(_))));
        begin(&dir, Purpose::Connect, NOW, &SystemEntropy).unwrap();
        switch(&dir, Purpose::Connect).unwrap();
    }
}
