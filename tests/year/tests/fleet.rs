//! Days of a small fleet under as many faults as a large one has in a year; and that each rule, once broken, is noticed.

use std::time::{SystemTime, UNIX_EPOCH};

use ebbgate_year::{Broken, Settings, Violation, run};

/// A seed that was looked at.
const SEED: u64 = 15;

fn check(seed: u64) {
    let report = run(&Settings::short(seed)).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{report}");
    assert!(report.faults > 20 && report.settled > 0, "{report}");
    assert!(report.served > 0 && report.waited > 0 && report.refused > 0, "{report}");
}

fn breaks(broken: Broken) -> String {
    let settings = Settings { broken: Some(broken), ..Settings::short(SEED) };
    let error = run(&settings).expect_err("the rule is broken");
    let violation = error.downcast_ref::<Violation>().unwrap_or_else(|| panic!("{error:#}"));
    assert_eq!(violation.seed, SEED);
    assert!(violation.to_string().contains("seed 15, after "), "{violation}");
    let again = run(&settings).expect_err("the same seed shows the same");
    assert_eq!(again.to_string(), error.to_string());
    violation.what.clone()
}

#[test]
fn a_fleet_under_faults_keeps_its_rules() {
    check(SEED);
}

#[test]
fn a_fleet_under_faults_of_any_seed_keeps_its_rules() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    check(seed.into());
}

#[test]
fn edges_that_begin_all_handshakes_at_once_are_noticed() {
    let what = breaks(Broken::Turns);
    assert!(what.contains("handshakes within a second"), "{what}");
}

#[test]
fn news_that_do_not_arrive_are_noticed() {
    let what = breaks(Broken::News);
    assert!(what.contains("otherwise than they are") || what.contains("endpoints of other edges"), "{what}");
}

#[test]
fn agents_that_come_back_late_are_noticed() {
    let what = breaks(Broken::Backoff);
    assert!(what.contains("has no edge for") || what.contains("has no session"), "{what}");
}

#[test]
fn a_session_of_another_account_is_noticed() {
    let what = breaks(Broken::Account);
    assert!(what.contains("account") || what.contains("session of"), "{what}");
}
