//! Keys of session tickets: in memory alone, replaced by the hour. A process that takes over is given them, so that clients resume
//! there; they are on no disk, and a restart forgets them.
//!
//! A ticket is the key's name, a nonce, and the session sealed with AES-256-GCM (RFC 5077 section 4 recommends such a form).
//!
//! `tls` decides which clients get tickets: HTTPS clients of endpoints that ask for no client certificate.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

/// Seconds for which a key seals new tickets. It opens them for as long again, then it is gone.
pub const TICKET_KEY_SECS_MAX: u32 = 3_600;
/// Tickets that follow a TLS 1.3 handshake. Each is for one connection (RFC 8446 appendix C.4).
pub(super) const TICKETS: usize = 2;
/// Bytes of a key's name, by which a ticket says which key opens it.
const NAME_BYTES: usize = 16;
/// Bytes of an AES-256 key.
const SECRET_BYTES: usize = 32;
/// Seconds of age, name and secret of a key, as they are handed over.
const GIVEN_BYTES: usize = 4 + NAME_BYTES + SECRET_BYTES;
/// Keys at a time: the one that seals, and the one before.
const KEYS_MAX: usize = 2;
/// Seconds the keys may take to arrive.
const GIVE_SECS_MAX: u64 = 5;

/// Seals and opens the tickets of all shards. None: the system gave no random bytes, so that nothing is resumed.
pub(super) fn ticketer() -> Option<Arc<dyn ProducesTickets>> {
    Some(Arc::new(Tickets(keys()?)))
}

/// The keys of this process, in a socket, to be read once: for a process that takes over.
///
/// # Errors
/// There are no keys, or no descriptors.
pub fn give_ticket_keys() -> io::Result<UnixStream> {
    give(keys().ok_or_else(|| io::Error::other("there are no keys of session tickets"))?)
}

fn give(keys: &Keys) -> io::Result<UnixStream> {
    let (mut own, other) = UnixStream::pair()?;
    own.write_all(&keys.locked(Instant::now()).to_bytes(Instant::now()))?;
    Ok(other)
}

/// Goes on with the keys of the process before.
///
/// # Errors
/// They do not come.
pub fn take_ticket_keys(from: UnixStream) -> io::Result<()> {
    keys().map_or(Ok(()), |keys| take(keys, from))
}

fn take(keys: &Keys, from: UnixStream) -> io::Result<()> {
    from.set_read_timeout(Some(Duration::from_secs(GIVE_SECS_MAX)))?;
    let mut bytes = Zeroizing::new([0; KEYS_MAX * GIVEN_BYTES + 1]);
    let length = fill(from, bytes.as_mut_slice())?;
    let bytes = bytes.get(..length).unwrap_or_default();
    let ring = Ring::from_bytes(bytes, Instant::now()).ok_or_else(|| io::Error::other("they are no keys"))?;
    *keys.0.lock().unwrap_or_else(PoisonError::into_inner) = ring;
    Ok(())
}

/// Reads to the end or until the buffer is full; how much there was.
fn fill(mut from: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    loop {
        match from.read(buffer.get_mut(length..).unwrap_or_default())? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

fn keys() -> Option<&'static Keys> {
    static KEYS: OnceLock<Option<Keys>> = OnceLock::new();
    let make = || Some(Keys(Mutex::new(Ring { sealing: Key::fresh(Instant::now())?, before: None })));
    KEYS.get_or_init(make).as_ref()
}

struct Keys(Mutex<Ring>);

impl Keys {
    /// The keys as they are to be at `now`.
    fn locked(&self, now: Instant) -> MutexGuard<'_, Ring> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.turn(now);
        ring
    }
}

/// The keys of one time.
struct Ring {
    sealing: Key,
    before: Option<Key>,
}

/// One key. Never shown.
struct Key {
    name: [u8; NAME_BYTES],
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    made: Instant,
}

impl Ring {
    /// Replaces what is too old. Without random bytes the key that is there goes on.
    fn turn(&mut self, now: Instant) {
        let lifetime = Duration::from_secs(TICKET_KEY_SECS_MAX.into());
        if now.saturating_duration_since(self.sealing.made) >= lifetime
            && let Some(fresh) = Key::fresh(now)
        {
            self.before = Some(std::mem::replace(&mut self.sealing, fresh));
        }
        self.before.take_if(|before| now.saturating_duration_since(before.made) >= 2 * lifetime);
    }

    fn key_of(&self, name: &[u8]) -> Option<&Key> {
        [Some(&self.sealing), self.before.as_ref()].into_iter().flatten().find(|key| key.name == name)
    }

    fn to_bytes(&self, now: Instant) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEYS_MAX * GIVEN_BYTES));
        for key in [Some(&self.sealing), self.before.as_ref()].into_iter().flatten() {
            let age = now.saturating_duration_since(key.made).as_secs();
            bytes.extend_from_slice(&u32::try_from(age).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(&key.name);
            bytes.extend_from_slice(key.secret.as_slice());
        }
        bytes
    }

    /// None: these are not one key or two.
    fn from_bytes(bytes: &[u8], now: Instant) -> Option<Self> {
        let (keys, rest) = bytes.as_chunks::<GIVEN_BYTES>();
        let mut keys = keys.iter().map(|key| Key::from_bytes(key, now));
        let (sealing, before, more) = (keys.next()??, keys.next(), keys.next());
        (rest.is_empty() && more.is_none()).then_some(Self { sealing, before: before.flatten() })
    }
}

impl Key {
    fn fresh(now: Instant) -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME_BYTES], Zeroizing::new([0; SECRET_BYTES]));
        rand::fill(&mut name).ok()?;
        rand::fill(secret.as_mut_slice()).ok()?;
        Some(Self { name, secret, made: now })
    }

    /// None: it was made before this machine was started.
    fn from_bytes(bytes: &[u8; GIVEN_BYTES], now: Instant) -> Option<Self> {
        let (age, rest) = bytes.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
        let secret = Zeroizing::new(*rest.first_chunk::<SECRET_BYTES>()?);
        let made = now.checked_sub(Duration::from_secs(u32::from_be_bytes(*age).into()))?;
        Some(Self { name: *name, secret, made })
    }

    fn aead(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, self.secret.as_slice()).ok().map(LessSafeKey::new)
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        self.aead()?.seal_in_place_append_tag(nonce_used, Aad::from(self.name), &mut sealed).ok()?;
        Some([self.name.as_slice(), &nonce, &sealed].concat())
    }

    fn open(&self, nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self.aead()?.open_in_place(nonce, Aad::from(self.name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

struct Tickets(&'static Keys);

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets(..)")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        2 * TICKET_KEY_SECS_MAX
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.locked(Instant::now()).sealing.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.0.locked(Instant::now()).key_of(name)?.open(*nonce, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(now: Instant) -> Ring {
        Ring { sealing: Key::fresh(now).unwrap(), before: None }
    }

    fn open(ring: &Ring, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        ring.key_of(name)?.open(*nonce, sealed)
    }

    #[test]
    fn tickets_open_with_their_own_key_only_and_say_how_long_they_live() {
        let now = Instant::now();
        let (one, other) = (ring(now), ring(now));
        let ticket = one.sealing.seal(b"session").unwrap();
        assert_eq!(open(&one, &ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(open(&other, &ticket), None);
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(open(&one, &forged), None, "byte {at}");
            assert_eq!(open(&one, &ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(ticketer().unwrap().lifetime(), 2 * TICKET_KEY_SECS_MAX);
    }

    #[test]
    fn a_key_seals_for_an_hour_and_opens_for_two() {
        let (start, hour) = (Instant::now(), Duration::from_secs(TICKET_KEY_SECS_MAX.into()));
        let mut ring = ring(start);
        let ticket = ring.sealing.seal(b"session").unwrap();
        let (almost, second) = (hour.mul_f32(0.99), 2 * hour);
        ring.turn(start + almost);
        assert!(ring.before.is_none());
        ring.turn(start + hour);
        assert!(ring.before.is_some() && ring.sealing.name != ticket[..NAME_BYTES]);
        assert!(open(&ring, &ticket).is_some());
        ring.turn(start + hour + almost);
        assert!(open(&ring, &ticket).is_some());
        ring.turn(start + second);
        assert_eq!(open(&ring, &ticket), None);
    }

    #[test]
    fn keys_are_handed_over_with_their_ages() {
        // Ages are subtracted: a clock that begins at the machine's start may not reach back so far.
        let start = Instant::now();
        let now = start + Duration::from_secs(90);
        let mut older = ring(start);
        let first = older.sealing.seal(b"first").unwrap();
        older.before = Some(std::mem::replace(&mut older.sealing, Key::fresh(now).unwrap()));
        let second = older.sealing.seal(b"second").unwrap();
        let newer = Ring::from_bytes(&older.to_bytes(now), now).unwrap();
        assert_eq!(open(&newer, &first).as_deref(), Some(&b"first"[..]));
        assert_eq!(open(&newer, &second).as_deref(), Some(&b"second"[..]));
        assert_eq!((newer.sealing.made, newer.before.as_ref().unwrap().made), (now, start));
        let bytes = older.to_bytes(now);
        for bad in [
            &bytes[..0],
            &bytes[..GIVEN_BYTES - 1],
            &bytes[..=GIVEN_BYTES],
            &[bytes.as_slice(), &bytes].concat(),
        ] {
            assert!(Ring::from_bytes(bad, now).is_none(), "{} bytes", bad.len());
        }
    }

    #[test]
    fn a_process_that_takes_over_opens_what_was_sealed_before() {
        let [older, newer] = [(), ()].map(|()| Keys(Mutex::new(ring(Instant::now()))));
        let ticket = older.locked(Instant::now()).sealing.seal(b"session").unwrap();
        assert_eq!(open(&newer.locked(Instant::now()), &ticket), None);
        take(&newer, give(&older).unwrap()).unwrap();
        assert_eq!(open(&newer.locked(Instant::now()), &ticket).as_deref(), Some(&b"session"[..]));
        let (none, end) = UnixStream::pair().unwrap();
        drop(end);
        assert!(take(&newer, none).is_err(), "a process that ended gave none");
        assert!(open(&newer.locked(Instant::now()), &ticket).is_some(), "and nothing has changed");
    }
}
