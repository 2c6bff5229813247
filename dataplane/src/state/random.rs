//! Random numbers and fresh identifiers.

use std::cell::RefCell;

use aws_lc_rs::rand;
use ebbgate_model::Ksuid;

use super::clock;

/// Random bytes a thread draws at once.
const DRAWN_BYTES: usize = 512;

/// A fresh random number. Each thread draws many at once: every request's policies want one, and asking costs more than the
/// number.
pub fn number() -> u64 {
    thread_local! {
        static DRAWN: RefCell<Vec<[u8; size_of::<u64>()]>> = const { RefCell::new(Vec::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        let number = drawn.pop().unwrap_or_else(|| {
            drawn.extend_from_slice(bytes::<DRAWN_BYTES>().as_chunks().0);
            bytes()
        });
        u64::from_ne_bytes(number)
    })
}

/// Fresh random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random source works once the process runs");
    bytes
}

/// A fresh identifier.
pub fn ksuid() -> Ksuid {
    Ksuid::new(u64::try_from(clock::unix_ms() / 1000).unwrap_or(0), bytes())
}
