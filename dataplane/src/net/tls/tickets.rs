//! Keys of session tickets: made by this process, for this process alone, replaced by the hour.
//!
//! `tls` decides which clients get tickets: HTTPS clients of endpoints that ask for no client certificate.

use std::sync::{Arc, OnceLock};

use rustls::crypto::GetRandomFailed;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use rustls::ticketer::TicketRotator;

/// Seconds for which a key seals new tickets. It opens them for as long again, then it is gone.
pub const TICKET_KEY_SECS_MAX: u32 = 3_600;
/// Tickets that follow a TLS 1.3 handshake. Each is for one connection (RFC 8446 appendix C.4).
pub(super) const TICKETS: usize = 2;

/// Seals and opens the tickets of all shards. None: the system gave no random bytes, so that nothing is resumed.
pub(super) fn ticketer() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETER: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    let make = || -> Option<Arc<dyn ProducesTickets>> {
        Some(Arc::new(TicketRotator::new(TICKET_KEY_SECS_MAX, fresh).ok()?))
    };
    TICKETER.get_or_init(make).clone()
}

/// A fresh key.
fn fresh() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
    Ok(Box::new(Key(Ticketer::new().map_err(|_| GetRandomFailed)?)))
}

/// rustls' ticketer with its own rotation, which is slower than ours and so never happens.
#[derive(Debug)]
struct Key(Arc<dyn ProducesTickets>);

impl ProducesTickets for Key {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        TICKET_KEY_SECS_MAX
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_open_with_their_own_key_only_and_say_how_long_they_live() {
        let (one, other) = (fresh().unwrap(), fresh().unwrap());
        let ticket = one.encrypt(b"session").unwrap();
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(other.decrypt(&ticket), None);
        assert_eq!(ticketer().unwrap().lifetime(), 2 * TICKET_KEY_SECS_MAX);
    }
}
