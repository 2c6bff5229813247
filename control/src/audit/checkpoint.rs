//! Signed heads in the form of C2SP signed-note and tlog-checkpoint: origin, count, hash, and an Ed25519 signature over
//! them. The hash is that of the chain's last entry, not the root of a tree. What is signed can be kept anywhere.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chain::Tip;
use crate::api::timestamp;
use crate::clock::UnixSecs;

/// Type of an Ed25519 signature in a note.
const ED25519_TYPE: u8 = 1;
/// Bytes of the key's hash before a signature.
const KEY_HASH_BYTES: usize = 4;
/// Begins a line with a signature.
const SIGNATURE: &str = "\u{2014} ";
/// Longest text of remembered heads in bytes.
const NOTES_BYTES_MAX: usize = 64 << 20;

/// A head that was signed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// How far the chain went.
    pub(super) tip: Tip,
}

/// Why a text is no signed head of this log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the form of a checkpoint.
    #[error(
        "the checkpoint that ends at line {0} is none: origin, count, hash, an empty line and a signature make one"
    )]
    Form(usize),
    /// Another key or origin, or the text was changed.
    #[error("the checkpoint that ends at line {0} was not signed by this log's key")]
    Signature(usize),
    /// More than is read.
    #[error("the file has more than 64 MiB; give its last checkpoints only")]
    TooLong,
}

/// Whose signatures count: the public half of a signing key with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verifier {
    /// The log's origin, which is also the key's name: no space and no `+`.
    pub(super) name: String,
    /// Ed25519.
    pub(super) public: Vec<u8>,
}

impl Verifier {
    fn hash(&self) -> [u8; KEY_HASH_BYTES] {
        let key = [self.name.as_bytes(), b"\n", &[ED25519_TYPE], &self.public].concat();
        let hash = digest(&SHA256, &key);
        hash.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The key as a line: `<name>+<hash>+<key>` (C2SP signed-note).
    pub(super) fn text(&self) -> String {
        let hash = self.hash().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let key = STANDARD.encode([&[ED25519_TYPE], self.public.as_slice()].concat());
        format!("{}+{hash}+{key}", self.name)
    }

    /// Signs a head with `sign`, which makes an Ed25519 signature.
    pub(super) fn note(&self, tip: Tip, at: UnixSecs, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let hash = STANDARD.encode(tip.hash);
        let text = format!("{}\n{}\n{hash}\ntime {}\n", self.name, tip.count, timestamp(at));
        let signature = STANDARD.encode([&self.hash()[..], &sign(text.as_bytes())].concat());
        format!("{text}\n{SIGNATURE}{} {signature}\n", self.name)
    }

    /// Reads signed heads that follow each other, and refuses all when one is not ours.
    pub(super) fn read(&self, text: &str) -> Result<Vec<Checkpoint>, CheckpointError> {
        if text.len() > NOTES_BYTES_MAX {
            return Err(CheckpointError::TooLong);
        }
        let (mut found, mut body, mut is_closed) = (Vec::new(), String::new(), false);
        let mut last = 0;
        for (at, line) in text.lines().enumerate() {
            last = at + 1;
            match line.strip_prefix(SIGNATURE) {
                Some(signature) if is_closed => {
                    found.push(self.open(&body, signature, last)?);
                    (body, is_closed) = (String::new(), false);
                }
                _ if line.is_empty() => is_closed = !body.is_empty(),
                _ if is_closed => return Err(CheckpointError::Form(last)),
                _ => body.extend([line, "\n"]),
            }
        }
        if body.is_empty() { Ok(found) } else { Err(CheckpointError::Form(last)) }
    }

    fn open(&self, body: &str, signature: &str, line: usize) -> Result<Checkpoint, CheckpointError> {
        let form = || CheckpointError::Form(line);
        let mut lines = body.lines();
        let (origin, count, hash) = (lines.next(), lines.next(), lines.next());
        let count = count.and_then(|count| count.parse().ok()).ok_or_else(form)?;
        let hash = hash.and_then(|hash| STANDARD.decode(hash).ok()?.try_into().ok()).ok_or_else(form)?;
        let (name, signature) = signature.rsplit_once(' ').ok_or_else(form)?;
        let signature = STANDARD.decode(signature).map_err(|_| form())?;
        let foreign = || CheckpointError::Signature(line);
        let signature = signature.strip_prefix(&self.hash()[..]).ok_or_else(foreign)?;
        if name != self.name || origin != Some(&self.name) {
            return Err(foreign());
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        key.verify(body.as_bytes(), signature).map_err(|_| foreign())?;
        Ok(Checkpoint { tip: Tip { count, hash } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    #[test]
    fn heads_round_trip_and_nothing_else_is_taken() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let verifier =
            Verifier { name: "ebbgate.audit/x".into(), public: pair.public_key().as_ref().to_vec() };
        let note = |count| {
            let tip = Tip { count, hash: [7; 32] };
            verifier.note(tip, 1_767_225_600, |text| pair.sign(text).as_ref().to_vec())
        };
        let both = format!("{}\n{}", note(3), note(4));
        let counts: Vec<_> = verifier.read(&both).unwrap().iter().map(|c| c.tip.count).collect();
        assert_eq!(counts, [3, 4]);
        assert_eq!(verifier.read(&note(3).replace("\n3\n", "\n2\n")), Err(CheckpointError::Signature(6)));
        assert_eq!(verifier.read("x\n"), Err(CheckpointError::Form(1)));
        assert_eq!(verifier.read("x\n\nno signature\n"), Err(CheckpointError::Form(3)));
        let other = Verifier { name: "other".into(), ..verifier.clone() };
        assert_eq!(other.read(&note(3)), Err(CheckpointError::Signature(6)));
        assert!(verifier.text().starts_with("ebbgate.audit/x+"), "{}", verifier.text());
    }
}
