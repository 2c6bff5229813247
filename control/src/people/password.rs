//! Passwords: which are taken, and their hashes. Argon2id, because a stolen database must cost its thief memory for each guess.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Semaphore;

use crate::record::people::PasswordHash;
use crate::secret::{self, Entropy};

/// Shortest password in characters (NIST SP 800-63B section 3.1.1.2 for a password that stands alone).
pub const PASSWORD_CHARS_MIN: usize = 15;
/// Longest password in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// KiB of memory, passes and lanes of one hash: the first choice of OWASP's password storage list for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Passwords hashed at the same time; others wait. Each takes [`MEMORY_KIB`] and a processor.
const HASHING_MAX: usize = 2;

/// Room for hashing.
#[derive(Debug, Clone)]
pub struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(HASHING_MAX)))
    }
}

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("a password needs at least {PASSWORD_CHARS_MIN} characters; a few words do")]
    Short,
    /// Too long.
    #[error("a password may have at most {PASSWORD_BYTES_MAX} bytes")]
    Long,
    /// One character, or the address itself.
    #[error("choose a password that is neither the address nor one character over and over")]
    Plain,
}

/// Judges a new password.
pub fn check(password: &str, email: &super::Email) -> Result<(), PasswordError> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswordError::Long);
    }
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(PasswordError::Short);
    }
    let first = password.chars().next();
    let one_character = password.chars().all(|c| Some(c) == first);
    if one_character || password.eq_ignore_ascii_case(email.as_str()) {
        return Err(PasswordError::Plain);
    }
    Ok(())
}

impl Hashing {
    /// The hash to store of a new password.
    pub async fn hash(&self, password: &str, entropy: &dyn Entropy) -> PasswordHash {
        let mut salt = [0; SALT_BYTES];
        entropy.fill(&mut salt);
        let hash = self.derive(password, salt.to_vec()).await;
        let text = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
        PasswordHash(format!(
            "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${}${}",
            text(&salt),
            text(&hash)
        ))
    }

    /// Whether it is the password of this hash. Without one the same work is done, and the answer is no.
    pub async fn matches(&self, password: &str, stored: Option<&PasswordHash>) -> bool {
        let parsed = stored.and_then(|stored| parse(&stored.0));
        let is_known = parsed.is_some();
        let (salt, expected) = parsed.unwrap_or_else(|| (vec![0; SALT_BYTES], vec![0; HASH_BYTES]));
        // Nobody has set a password that long.
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        let hash = self.derive(if fits { password } else { "" }, salt).await;
        secret::same(&hash, &expected) && is_known && fits
    }

    async fn derive(&self, password: &str, salt: Vec<u8>) -> Vec<u8> {
        let _room = self.0.acquire().await.expect("the semaphore is never closed");
        let password = password.to_owned();
        let work = move || {
            let params =
                Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).expect("constant parameters");
            let mut hash = vec![0; HASH_BYTES];
            let mut memory = vec![Block::default(); params.block_count()];
            let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let done =
                argon.hash_password_into_with_memory(password.as_bytes(), &salt, &mut hash, &mut memory);
            done.expect("salt and output have lengths that Argon2 takes");
            hash
        };
        tokio::task::spawn_blocking(work).await.expect("hashing does not panic")
    }
}

/// Salt and hash of a stored password. None: made with other parameters than ours, or damaged.
fn parse(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let rest = text.strip_prefix(&format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$"))?;
    let (salt, hash) = rest.split_once('$')?;
    let bytes = |text: &str| STANDARD_NO_PAD.decode(text).ok();
    let (salt, hash) = (bytes(salt)?, bytes(hash)?);
    (salt.len() == SALT_BYTES && hash.len() == HASH_BYTES).then_some((salt, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SystemEntropy;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only() {
        let hashing = Hashing::default();
        let stored = hashing.hash("correct horse battery", &SystemEntropy).await;
        assert!(stored.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", stored.0);
        assert!(hashing.matches("correct horse battery", Some(&stored)).await);
        assert!(!hashing.matches("correct horse batterz", Some(&stored)).await);
        assert!(!hashing.matches("", Some(&stored)).await);
        assert!(!hashing.matches("correct horse battery", None).await, "nobody's password");
        let damaged = PasswordHash(stored.0.replace("t=2", "t=1"));
        assert!(!hashing.matches("correct horse battery", Some(&damaged)).await);
        assert_ne!(hashing.hash("correct horse battery", &SystemEntropy).await, stored, "salts are fresh");
        assert!(!format!("{stored:?}").contains(&stored.0));
    }

    #[test]
    fn weak_passwords_are_refused() {
        let email = "ann@example-clinic.org".parse().unwrap();
        assert_eq!(check("correct horse battery", &email), Ok(()));
        assert_eq!(check("short", &email), Err(PasswordError::Short));
        assert_eq!(check(&"x".repeat(PASSWORD_BYTES_MAX + 1), &email), Err(PasswordError::Long));
        assert_eq!(check(&"x".repeat(20), &email), Err(PasswordError::Plain));
        assert_eq!(check("Ann@Example-Clinic.org", &email), Err(PasswordError::Plain));
    }
}
