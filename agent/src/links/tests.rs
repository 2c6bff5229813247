//! The books of links in virtual time.

use proptest::prelude::*;

use super::*;

fn at(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Links of which every wanted one is there.
fn ready(links_max: usize) -> Links {
    let mut links = Links::new(links_max, LINKS_IDLE_MIN, at(0));
    fill(&mut links, at(0));
    links
}

/// Dials whatever is wanted, with success.
fn fill(links: &mut Links, now: Duration) -> usize {
    let mut dialled = 0;
    loop {
        let dials = links.dial(now);
        (0..dials).for_each(|_| links.parked());
        dialled += dials;
        if dials == 0 {
            return dialled;
        }
    }
}

#[test]
fn a_few_are_ready_at_once_and_no_more() {
    let mut links = Links::new(64, LINKS_IDLE_MIN, at(0));
    assert_eq!(links.dial(at(0)), LINKS_IDLE_MIN);
    assert_eq!(links.dial(at(0)), 0, "they are being dialled");
    assert_eq!(links.next_due(), None);
    (0..LINKS_IDLE_MIN).for_each(|_| links.parked());
    assert_eq!(links.dial(at(100)), 0);
}

#[test]
fn the_offer_is_the_limit() {
    assert_eq!(Links::new(2, LINKS_IDLE_MIN, at(0)).dial(at(0)), 2);
    assert_eq!(Links::new(0, LINKS_IDLE_MIN, at(0)).dial(at(0)), 0);
    let mut links = ready(6);
    for _ in 0..100 {
        links.missed(at(1));
    }
    fill(&mut links, at(1));
    assert_eq!(links.count(), 6);
}

#[test]
fn a_claimed_link_is_replaced_and_a_returned_one_used_again() {
    let mut links = ready(64);
    links.claimed(at(1));
    assert!(links.next_due().is_some_and(|due| due <= at(1)));
    assert_eq!(fill(&mut links, at(1)), 1);
    links.returned();
    for second in 2..100 {
        links.claimed(at(second));
        assert_eq!(fill(&mut links, at(second)), 0, "five suffice for one visitor at a time");
        links.returned();
    }
}

#[test]
fn a_crowd_grows_the_stock_and_quiet_shrinks_what_is_wanted() {
    let mut links = ready(64);
    for _ in 0..20 {
        links.missed(at(1));
    }
    fill(&mut links, at(1));
    assert_eq!(links.count(), LINKS_IDLE_MIN + 20);
    // Nobody comes for windows on end, and the edge lets go of them one by one.
    for second in 2..100 {
        links.review(at(second));
        links.gone(PriorState::Idle, at(second), 0);
        fill(&mut links, at(second));
    }
    assert_eq!(links.count(), LINKS_IDLE_MIN);
}

#[test]
fn idle_links_that_nobody_wants_are_hung_up() {
    let mut links = ready(64);
    (0..20).for_each(|_| links.missed(at(1)));
    fill(&mut links, at(1));
    assert_eq!((links.surplus(), links.count()), (0, LINKS_IDLE_MIN + 20));
    assert!(links.next_due().is_some(), "it is looked at again without any visitor");
    let mut now = at(1);
    while let Some(due) = links.next_due() {
        assert!(due > now && due < at(200), "{links:?}");
        now = due;
        assert_eq!(links.dial(now), 0);
        (0..links.surplus()).for_each(|_| links.gone(PriorState::Idle, now, 0));
    }
    assert_eq!(links.count(), LINKS_IDLE_MIN);
}

#[test]
fn few_descriptors_mean_few_links() {
    let mut links = ready(64);
    (0..60).for_each(|_| links.missed(at(1)));
    links.bound(64);
    fill(&mut links, at(1));
    assert_eq!(links.count(), 8, "eight links, eight raw ones, and what each leads to are 32 of 64");
    links.bound(16);
    assert_eq!(links.surplus(), 6);
    links.bound(u64::MAX);
    (0..100).for_each(|_| links.missed(at(1)));
    fill(&mut links, at(1));
    assert_eq!(links.count(), 64);
    links.bound(0);
    assert_eq!(links.surplus(), 63, "one is always tried");
}

#[test]
fn dials_are_few_at_once() {
    let mut links = ready(64);
    for _ in 0..60 {
        links.missed(at(1));
    }
    assert_eq!(links.dial(at(1)), LINK_DIALS_MAX);
    links.parked();
    assert_eq!(links.dial(at(1)), 1);
}

#[test]
fn failed_dials_wait_longer_and_longer_and_one_success_forgets_it() {
    let mut links = Links::new(64, 1, at(0));
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(links.dial(now), 1);
        links.gone(PriorState::Dialling, now, u32::MAX);
        assert_eq!(links.dial(now), 0);
        let due = links.next_due().unwrap();
        waits.push(due.saturating_sub(now).as_millis());
        now = due;
    }
    assert_eq!(waits, [250, 250, 250, 250, 500, 1_000, 2_000, 4_000]);
    assert_eq!(links.dial(now), 1);
    links.parked();
    links.gone(PriorState::Fresh, now, u32::MAX);
    assert_eq!(
        links.next_due(),
        Some(now + at(8)),
        "an edge that takes a link and ends it at once is no success"
    );
    now += at(8);
    assert_eq!(links.dial(now), 1);
    links.parked();
    links.gone(PriorState::Idle, now, u32::MAX);
    assert_eq!(links.dial(now), 1, "a link that lasted and ended is replaced at once");
    links.gone(PriorState::Dialling, now, u32::MAX);
    assert_eq!(links.next_due(), Some(now + Duration::from_millis(250)));
}

#[test]
fn dials_that_fail_together_wait_once() {
    let mut links = Links::new(64, 4, at(0));
    assert_eq!(links.dial(at(0)), 4);
    (0..4).for_each(|_| links.gone(PriorState::Dialling, at(0), u32::MAX));
    assert_eq!(links.next_due(), Some(Duration::from_millis(250)));
}

#[test]
fn an_edge_that_refuses_links_is_left_alone_for_a_while() {
    let mut links = Links::new(64, 4, at(0));
    assert_eq!(links.dial(at(0)), 4);
    (0..4).for_each(|_| links.refused(at(0)));
    assert_eq!(links.dial(at(LINK_REFUSED_SECS - 1)), 0);
    assert_eq!(links.dial(at(LINK_REFUSED_SECS)), 4, "a window later it is as at the start");
}

#[test]
fn a_dialler_without_links_is_not_asked_again() {
    let mut links = Links::new(64, 4, at(0));
    assert_eq!(links.dial(at(0)), 4);
    (0..4).for_each(|_| links.unsupported());
    links.missed(at(1));
    assert_eq!((links.dial(at(1_000)), links.next_due()), (0, None));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Dial,
    Parked,
    Refused,
    Claimed,
    Returned,
    Missed,
    Gone(PriorState),
    Later(u64),
    Bound(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let was = prop_oneof![
        Just(PriorState::Dialling),
        Just(PriorState::Fresh),
        Just(PriorState::Idle),
        Just(PriorState::Busy)
    ];
    let step = prop_oneof![
        4 => Just(Step::Dial),
        4 => Just(Step::Parked),
        1 => Just(Step::Refused),
        4 => Just(Step::Claimed),
        4 => Just(Step::Returned),
        2 => Just(Step::Missed),
        2 => was.prop_map(Step::Gone),
        2 => (1..40_u64).prop_map(Step::Later),
        1 => (0..400_u64).prop_map(Step::Bound),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever happens, the offer and the dials at once are kept to, and a quiet edge has its few links in the end.
    #[test]
    fn bounded_and_never_stuck(links_max in 0..40_usize, steps in steps(), random: u32) {
        let mut links = Links::new(links_max, LINKS_IDLE_MIN, at(0));
        let mut now = 0;
        for step in steps {
            match step {
                Step::Dial => { links.dial(at(now)); }
                Step::Parked if links.dialling > 0 => links.parked(),
                Step::Refused if links.dialling > 0 => links.refused(at(now)),
                Step::Claimed if links.idle > 0 => links.claimed(at(now)),
                Step::Returned if links.busy > 0 => links.returned(),
                Step::Missed => links.missed(at(now)),
                Step::Gone(was) => links.gone(was, at(now), random),
                Step::Later(secs) => now += secs,
                Step::Bound(descriptors) => links.bound(descriptors),
                _ => {}
            }
            prop_assert!(links.count() <= links_max, "{links:?}");
            prop_assert!(links.dialling <= LINK_DIALS_MAX, "{links:?}");
            prop_assert!(links.idle_wanted <= links_max, "{links:?}");
        }
        links.bound(u64::MAX);
        while links.dialling > 0 { links.parked(); }
        while links.busy > 0 { links.gone(PriorState::Busy, at(now), random); }
        now += 2 * LINK_REFUSED_SECS;
        links.dial(at(now));
        while links.dialling > 0 { links.parked(); }
        prop_assert!(links.idle >= LINKS_IDLE_MIN.min(links_max), "{links:?}");
    }
}
