//! Circuits over time: what trips them, what passes while they are open, and which results count.

use super::*;
use crate::state::bounded_table::STRIPES;
use crate::state::endpoint::fixture;
use proptest::prelude::*;
use std::collections::VecDeque;

const WINDOW_MS: u64 = 10_000;
const TRIPPED_MS: u64 = 5_000;

fn breaker(error_ppm: u32, volume: u32) -> Breaker {
    Breaker {
        place: "on_http_request[0].actions[0]".into(),
        error_ppm,
        volume,
        window: Duration::from_millis(WINDOW_MS),
        tripped: Duration::from_millis(TRIPPED_MS),
    }
}

/// The circuit of one endpoint.
struct One {
    breakers: Breakers,
    endpoint: Arc<Endpoint>,
    breaker: Breaker,
}

impl One {
    fn new(error_ppm: u32, volume: u32) -> Self {
        Self {
            breakers: Breakers::new(&Counter::default()),
            endpoint: fixture::cloud(1, "http://a.example.com"),
            breaker: breaker(error_ppm, volume),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.breakers.table.at(ms)
    }

    fn ask(&self, ms: u64) -> Result<Permit, u128> {
        self.breakers.ask(&self.endpoint, &self.breaker, self.at(ms)).map_err(|wait| wait.as_millis())
    }

    /// A request that comes and is done at once. Err: how long to wait.
    fn done(&self, ms: u64, upshot: Upshot) -> Result<(), u128> {
        self.ask(ms).map(|permit| permit.settle(upshot, self.at(ms)))
    }
}

use Upshot::{Error, Success};

#[test]
fn opens_at_the_share_of_errors_once_there_are_enough_requests() {
    let one = One::new(500_000, 4);
    for (ms, upshot) in [(0, Error), (100, Error), (200, Success)] {
        assert_eq!(one.done(ms, upshot), Ok(()), "three are not enough");
    }
    assert_eq!(one.done(300, Success), Ok(()), "half of four are errors");
    assert_eq!(one.done(300, Success), Err(5_000));
    assert_eq!(one.done(5_299, Success), Err(1));
    assert_eq!(one.breakers.opened.get(), 1);

    let below = One::new(500_001, 4);
    for upshot in [Error, Error, Success, Success] {
        assert_eq!(below.done(0, upshot), Ok(()));
    }
    assert_eq!(below.done(0, Success), Ok(()), "less than the threshold");
}

#[test]
fn a_threshold_of_zero_means_the_volume_alone_and_one_means_all() {
    // The published example: one request passes, whatever its answer.
    let zero = One::new(0, 1);
    assert_eq!((zero.done(0, Success), zero.done(1, Success)), (Ok(()), Err(4_999)));
    let first = One::new(1, 1);
    assert_eq!((first.done(0, Success), first.done(1, Success)), (Ok(()), Ok(())));
    assert_eq!((first.done(2, Error), first.done(3, Success)), (Ok(()), Err(4_999)));
    let all = One::new(1_000_000, 2);
    assert_eq!((all.done(0, Success), all.done(0, Error), all.done(0, Error)), (Ok(()), Ok(()), Ok(())));
    assert!(all.ask(0).is_ok());
    let only = One::new(1_000_000, 2);
    assert_eq!((only.done(0, Error), only.done(0, Error)), (Ok(()), Ok(())));
    assert!(only.ask(0).is_err());
}

#[test]
fn what_is_older_than_the_window_counts_no_more() {
    let one = One::new(1, 2);
    assert_eq!(one.done(0, Error), Ok(()));
    assert_eq!(one.done(WINDOW_MS, Error), Ok(()), "the one before has left");
    assert!(one.ask(WINDOW_MS).is_ok());
    assert_eq!(one.done(2 * WINDOW_MS - 1, Error), Ok(()), "the one before is still there");
    assert!(one.ask(2 * WINDOW_MS).is_err());
}

#[test]
fn one_request_tries_and_decides() {
    for (upshot, after) in [(Success, Ok(())), (Error, Err(5_000))] {
        let one = One::new(1, 1);
        one.done(0, Error).unwrap();
        let tries = one.ask(5_000).ok().unwrap();
        assert_eq!(one.done(5_001, Success), Err(1_000), "one at a time");
        tries.settle(upshot, one.at(6_000));
        assert_eq!(one.done(6_000, Success), after, "{upshot:?}");
    }
}

#[test]
fn a_try_that_is_given_up_leaves_it_to_the_next() {
    let one = One::new(1, 1);
    one.done(0, Error).unwrap();
    drop(one.ask(5_000).ok().unwrap());
    assert_eq!(one.done(5_001, Success), Ok(()));
    assert_eq!(one.done(5_002, Success), Ok(()), "closed");
}

#[test]
fn a_try_that_does_not_come_back_is_followed_by_another() {
    let one = One::new(1, 1);
    one.done(0, Error).unwrap();
    let lost = one.ask(5_000).ok().unwrap();
    assert_eq!(one.done(9_999, Success), Err(1_000));
    assert_eq!(one.done(10_000, Success), Ok(()));
    lost.settle(Error, one.at(10_001));
    assert_eq!(one.done(10_002, Success), Ok(()), "the first try is no longer asked");
}

#[test]
fn results_of_requests_from_before_do_not_count() {
    let one = One::new(1, 1);
    let (slow, given_up) = (one.ask(0).ok().unwrap(), one.ask(0).ok().unwrap());
    one.done(1, Error).unwrap();
    slow.settle(Success, one.at(2));
    drop(given_up);
    assert_eq!(one.done(3, Success), Err(4_998), "still open");
    let slow = one.ask(5_001).ok().unwrap();
    drop(slow);
    assert_eq!(one.done(5_002, Success), Ok(()));
}

#[test]
fn a_request_that_is_given_up_is_not_counted() {
    let one = One::new(1, 2);
    one.done(0, Error).unwrap();
    drop(one.ask(0));
    assert!(one.ask(0).is_ok(), "one result only");
}

#[test]
fn endpoints_places_and_settings_have_circuits_of_their_own() {
    let one = One::new(1, 1);
    one.done(0, Error).unwrap();
    assert!(one.ask(1).is_err());
    let other = fixture::cloud(2, "http://a.example.com");
    let elsewhere = Breaker { place: "on_http_request[1].actions[0]".into(), ..breaker(1, 1) };
    for (endpoint, breaker) in
        [(&other, breaker(1, 1)), (&one.endpoint, elsewhere), (&one.endpoint, breaker(2, 1))]
    {
        assert!(one.breakers.ask(endpoint, &breaker, one.at(1)).is_ok());
    }
}

#[test]
fn without_room_requests_pass_uncounted_and_open_circuits_stay() {
    let breakers = Breakers::sized(STRIPES * 100, STRIPES, &Counter::default());
    let endpoint = fixture::cloud(1, "http://a.example.com");
    let at = |ms| breakers.table.at(ms);
    let placed = |n: usize| Breaker { place: n.to_string(), ..breaker(1, 1) };
    let many = STRIPES * 20;
    let fail = |n: usize, ms: u64| {
        breakers.ask(&endpoint, &placed(n), at(ms)).map(|permit| permit.settle(Error, at(ms))).is_ok()
    };
    assert!((0..many).all(|n| fail(n, 0)));
    let refused = |ms| (0..many).filter(|n| breakers.ask(&endpoint, &placed(*n), at(ms)).is_err()).count();
    let open = refused(1);
    assert!((1..=STRIPES).contains(&open), "{open}");
    // Others look for room in vain as long as they are of use.
    assert_eq!((0..many).filter(|n| fail(*n, 4_999)).count(), many - open);
    assert_eq!(refused(4_999), open);
    // A window after they might have been tried they make room.
    assert!((0..many).all(|n| fail(n + many, 15_000)));
    let refused = (0..many).filter(|n| breakers.ask(&endpoint, &placed(n + many), at(15_001)).is_err());
    assert!(refused.count() >= 1);
}

proptest! {
    /// Against the list of all results: a circuit opens exactly when the window has enough of them.
    #[test]
    fn it_opens_as_the_list_of_results_says(
        error_ppm in 0u32..=1_000_000,
        volume in 1u32..20,
        requests in proptest::collection::vec((0u64..3_000, any::<bool>()), 1..200),
    ) {
        let one = One::new(error_ppm, volume);
        let (mut now_ms, mut list) = (0, VecDeque::new());
        for (pause, fails) in requests {
            now_ms += pause;
            one.done(now_ms, if fails { Error } else { Success }).unwrap();
            let bucket = now_ms / (WINDOW_MS / 10);
            list.push_back((bucket, fails));
            list.retain(|(at, _)| bucket - at < 10);
            let errors = list.iter().filter(|(_, fails)| *fails).count() as u64;
            let trips = list.len() as u64 >= u64::from(volume)
                && errors * 1_000_000 >= list.len() as u64 * u64::from(error_ppm);
            let asked = one.ask(now_ms);
            prop_assert_eq!(asked.is_err(), trips);
            drop(asked);
            if trips {
                now_ms += TRIPPED_MS;
                one.done(now_ms, Success).unwrap();
                list.clear();
            }
        }
    }
}
