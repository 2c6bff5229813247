//! `Guesses`: wrong passwords of `basic-auth`, by endpoint and client address, for all shards of this edge.
//!
//! An address that has guessed wrong a few times waits before its next guess is judged, each time twice as long. Other
//! addresses are not concerned. Knows no policy and no clock.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ebbgate_model::AccountId;
use tokio::time::Instant;

use super::bounded_table::{BoundedTable, Entry};
use super::endpoint::Endpoint;

/// Addresses that have guessed wrong, at all endpoints at once; one takes about 80 bytes.
pub const GUESSERS_MAX: usize = 1 << 20;
/// The same at the endpoints of one account. Guesses from further addresses are judged and not counted.
pub const GUESSERS_OF_ACCOUNT_MAX: usize = 1 << 18;
/// Wrong guesses before the first wait.
pub const FREE_GUESSES: u32 = 5;
/// The first wait, in seconds. Each further wrong guess doubles it.
pub const WAIT_SECS_MIN: u64 = 5;
/// The longest wait, in seconds.
pub const WAIT_SECS_MAX: u64 = 900;
/// Seconds after its last wrong guess and wait at which an address begins anew.
pub const FORGET_SECS: u64 = 1_800;

/// See the module.
pub struct Guesses(BoundedTable<Guesser>);

#[derive(Debug, Clone, Copy)]
struct Guesser {
    account: AccountId,
    wrong: u32,
    /// No guess is judged before this.
    until_ms: u64,
}

impl Default for Guesses {
    fn default() -> Self {
        Self(BoundedTable::new(GUESSERS_MAX, GUESSERS_OF_ACCOUNT_MAX))
    }
}

impl Guesses {
    /// Judges a password from a client at an endpoint: none, or how long the client has to wait before one is judged,
    /// right or wrong.
    pub fn judge(
        &self,
        endpoint: &Endpoint,
        client: IpAddr,
        is_right: bool,
        now: Instant,
    ) -> Option<Duration> {
        let now_ms = self.0.ms(now);
        let (account, url) = (endpoint.account.ksuid().bytes(), endpoint.url.to_string());
        let source = source(client).octets();
        let key = self.0.key([&account[..], url.as_bytes(), &source[..]]);
        if is_right {
            return self.0.existing(key, |guesser| guesser.judge(true, now_ms)).flatten();
        }
        let make = || Guesser { account: endpoint.account, wrong: 0, until_ms: now_ms };
        self.0.entry(key, now_ms, make, |guesser| guesser.judge(false, now_ms)).flatten()
    }
}

/// What stands for one client: an IPv4 address, or the network that a site has in IPv6 (RFC 6177).
fn source(client: IpAddr) -> Ipv6Addr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)
        }
    }
}

impl Entry for Guesser {
    fn account(&self) -> AccountId {
        self.account
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms.saturating_add(FORGET_SECS * 1_000)
    }
}

impl Guesser {
    fn judge(&mut self, is_right: bool, now_ms: u64) -> Option<Duration> {
        if now_ms < self.until_ms {
            return Some(Duration::from_millis(self.until_ms - now_ms));
        }
        if is_right || self.is_over(now_ms) {
            self.wrong = 0;
        }
        if !is_right {
            self.wrong = self.wrong.saturating_add(1);
            let doubled = self.wrong.checked_sub(FREE_GUESSES);
            let wait_secs = doubled.map_or(0, |times| {
                2_u64.saturating_pow(times).saturating_mul(WAIT_SECS_MIN).min(WAIT_SECS_MAX)
            });
            self.until_ms = now_ms.saturating_add(wait_secs * 1_000);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::bounded_table::STRIPES;
    use crate::state::endpoint::fixture;

    struct One {
        guesses: Guesses,
        endpoint: std::sync::Arc<Endpoint>,
    }

    impl One {
        fn new() -> Self {
            Self { guesses: Guesses::default(), endpoint: fixture::cloud(1, "https://a.example.com") }
        }

        fn judge(&self, client: &str, is_right: bool, secs: u64) -> Option<u64> {
            let now = self.guesses.0.at(secs * 1_000);
            let wait = self.guesses.judge(&self.endpoint, client.parse().unwrap(), is_right, now);
            wait.map(|wait| wait.as_secs())
        }
    }

    const CLIENT: &str = "192.0.2.7";

    #[test]
    fn waits_double_and_are_the_same_for_right_and_wrong() {
        let one = One::new();
        let free: Vec<_> = (0..5).map(|_| one.judge(CLIENT, false, 0)).collect();
        assert_eq!(free, [None; 5]);
        assert_eq!((one.judge(CLIENT, false, 0), one.judge(CLIENT, true, 0)), (Some(5), Some(5)));
        let (mut now, mut waits) = (5, Vec::new());
        for _ in 0..10 {
            assert_eq!(one.judge(CLIENT, false, now), None, "judged once the wait is over");
            let wait = one.judge(CLIENT, true, now).unwrap();
            waits.push(wait);
            now += wait;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]);
        assert_eq!(one.judge(CLIENT, true, now), None);
        let again: Vec<_> = (0..5).map(|_| one.judge(CLIENT, false, now)).collect();
        assert_eq!(again, [None; 5], "a right one begins anew");
    }

    #[test]
    fn an_address_begins_anew_after_a_while() {
        let one = One::new();
        for _ in 0..5 {
            one.judge(CLIENT, false, 0);
        }
        assert_eq!(one.judge(CLIENT, false, 5 + FORGET_SECS), None);
        assert_eq!(one.judge(CLIENT, false, 5 + FORGET_SECS), None, "it was the first");
    }

    #[test]
    fn other_addresses_and_endpoints_are_not_concerned() {
        let one = One::new();
        for client in [CLIENT, "2001:db8::1"] {
            for _ in 0..5 {
                one.judge(client, false, 0);
            }
        }
        for client in ["192.0.2.8", "2001:db8:0:1::1", "::1"] {
            assert_eq!(one.judge(client, false, 0), None, "{client}");
            assert_eq!(one.judge(client, true, 0), None, "{client}");
        }
        assert_eq!(one.judge("::ffff:192.0.2.7", true, 0), Some(5), "the same address");
        assert_eq!(one.judge("2001:db8::ffff:1", true, 0), Some(5), "the same network");
        let other = fixture::cloud(2, "https://b.example.com");
        assert_eq!(one.guesses.judge(&other, CLIENT.parse().unwrap(), false, one.guesses.0.at(0)), None);
    }

    #[test]
    fn right_passwords_take_no_room_and_a_full_table_lets_others_in() {
        let guesses = Guesses(BoundedTable::new(STRIPES, STRIPES));
        let one = One { guesses, ..One::new() };
        let client = |n: usize| format!("10.0.{}.{}", n / 256, n % 256);
        for n in 0..2_000 {
            assert_eq!(one.judge(&client(n), true, 0), None);
            assert_eq!(one.judge(&client(n), false, 0), None);
        }
        let waits = |n: usize| {
            for _ in 0..5 {
                one.judge(&client(n), false, 1);
            }
            one.judge(&client(n), true, 1).is_some()
        };
        let counted = (0..2_000).filter(|n| waits(*n)).count();
        assert!((1..=STRIPES).contains(&counted), "{counted}");
    }
}
