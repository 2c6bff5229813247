//! `DataDir`: where everything of an installation lies, and the secrets read from there.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::authority::{Authority, AuthorityError, Issuer, Pair, Purpose};
use crate::file::{self, FileError};
use crate::secret::{OpenError, SEAL_KEY_BYTES, Sealed, Vault};

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The sealing key is not one.
    #[error("{} is damaged: it must hold 32 bytes in base64. Put back the copy from your backup", path.display())]
    SecretKey {
        /// Where.
        path: PathBuf,
    },
    /// A sealed key does not open.
    #[error(transparent)]
    Sealed(#[from] OpenError),
    /// An authority is damaged.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// A file of a data directory that a backup carries besides the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Name below the directory.
    pub name: String,
    /// Mode it has there.
    pub mode: u32,
    /// Whether control does not start without it.
    pub required: bool,
}

impl DataDir {
    /// The files that a backup carries besides the database.
    pub fn kept() -> Vec<Kept> {
        let kept = |name: &str, mode, required| Kept { name: name.to_owned(), mode, required };
        let mut all = vec![
            kept("secret.key", 0o600, true),
            kept("operator.token", 0o600, true),
            kept("api-key", 0o600, false),
        ];
        for purpose in Purpose::ALL {
            all.push(kept(&format!("ca/{}.key.sealed", purpose.name()), 0o600, true));
            all.push(kept(&format!("ca/{}.pem", purpose.name()), 0o644, true));
        }
        all
    }

    /// The directory at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.0.join("control.db")
    }

    /// Which etcd holds the records. Without it they are in the database.
    pub fn store(&self) -> PathBuf {
        self.0.join("store.json")
    }

    /// The database while `init` makes it.
    pub fn unfinished_database(&self) -> PathBuf {
        self.0.join("control.db.new")
    }

    /// The first API key.
    pub fn api_key(&self) -> PathBuf {
        self.0.join("api-key")
    }

    /// What the admin port asks of an operator.
    pub fn operator_token(&self) -> PathBuf {
        self.0.join("operator.token")
    }

    /// Sockets and notes of running programs.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Events that wait for their destinations.
    pub fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// Where edges of this machine connect.
    pub fn edge_socket(&self) -> PathBuf {
        self.run().join("edge.sock")
    }

    /// Addresses of the running control.
    pub fn note(&self) -> PathBuf {
        self.run().join("control.json")
    }

    /// An authority's certificate; while it is rotated, the next one's too: all that clients are to trust.
    pub fn authority(&self, purpose: Purpose) -> PathBuf {
        self.0.join("ca").join(format!("{}.pem", purpose.name()))
    }

    fn authority_key(&self, purpose: Purpose) -> PathBuf {
        self.0.join("ca").join(format!("{}.key.sealed", purpose.name()))
    }

    /// The sealed key of the authority that is trusted already and will sign next, while one is rotated.
    pub fn next_authority_key(&self, purpose: Purpose) -> PathBuf {
        self.0.join("ca").join(format!("{}.next.key.sealed", purpose.name()))
    }

    /// Lets the next authority sign from now on: one rename, before and after which there is exactly one signer.
    pub fn switch_authority(&self, purpose: Purpose) -> Result<(), DirError> {
        Ok(file::rename(&self.next_authority_key(purpose), &self.authority_key(purpose))?)
    }

    /// The PEM key of an authority that signs, or will.
    pub fn authority_key_pem(&self, purpose: Purpose, next: bool, vault: &Vault) -> Result<String, DirError> {
        let path = if next { self.next_authority_key(purpose) } else { self.authority_key(purpose) };
        Ok(vault.open(&context(purpose), &Sealed::from_text(file::read(&path)?.trim()))?)
    }

    /// Writes the key of the next authority, sealed.
    pub fn save_next_authority_key(
        &self,
        purpose: Purpose,
        key_pem: &str,
        vault: &Vault,
    ) -> Result<(), DirError> {
        let sealed = vault.seal(&context(purpose), key_pem);
        Ok(file::replace(&self.next_authority_key(purpose), &format!("{}\n", sealed.text()), 0o600)?)
    }

    /// Replaces the certificates that clients are to trust.
    pub fn save_trusted(&self, purpose: Purpose, pem: &str) -> Result<(), DirError> {
        Ok(file::replace(&self.authority(purpose), pem, 0o644)?)
    }

    fn secret_key(&self) -> PathBuf {
        self.0.join("secret.key")
    }

    /// Whether a sealing key is there.
    pub fn has_secret_key(&self) -> bool {
        self.secret_key().exists()
    }

    /// Whether an authority is there; its certificate is written last.
    pub fn has_authority(&self, purpose: Purpose) -> bool {
        self.authority(purpose).exists() && self.authority_key(purpose).exists()
    }

    /// Writes the sealing key.
    pub fn save_secret_key(&self, key: &[u8; SEAL_KEY_BYTES]) -> Result<Vault, DirError> {
        file::replace(&self.secret_key(), &format!("{}\n", STANDARD.encode(key)), 0o600)?;
        Ok(Vault::new(key))
    }

    /// Reads the sealing key.
    pub fn vault(&self) -> Result<Vault, DirError> {
        let path = self.secret_key();
        let text = file::read(&path)?;
        let key = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        key.map(|key| Vault::new(&key)).ok_or(DirError::SecretKey { path })
    }

    /// Writes an authority, its key sealed.
    pub fn save_authority(&self, purpose: Purpose, pair: &Pair, vault: &Vault) -> Result<(), DirError> {
        let sealed = vault.seal(&context(purpose), &pair.key_pem);
        file::make_dir(&self.0.join("ca"))?;
        file::replace(&self.authority_key(purpose), &format!("{}\n", sealed.text()), 0o600)?;
        file::replace(&self.authority(purpose), &pair.certificate_pem, 0o644)?;
        Ok(())
    }

    /// Reads the three authorities.
    pub fn issuer(&self, vault: &Vault) -> Result<Issuer, DirError> {
        let load = |purpose| {
            let certificate = file::read(&self.authority(purpose))?;
            let key = self.authority_key_pem(purpose, false, vault)?;
            Ok::<_, DirError>(Authority::load(purpose, &certificate, &key)?)
        };
        Ok(Issuer {
            ingress: load(Purpose::Ingress)?,
            connect: load(Purpose::Connect)?,
            edge: load(Purpose::Edge)?,
        })
    }
}

/// What an authority's key is sealed for.
fn context(purpose: Purpose) -> String {
    format!("the {} authority", purpose.name())
}
