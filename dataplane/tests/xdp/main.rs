//! The guard and the kernel: what stays when an edge dies, what the next one takes over, and what happens when something
//! is in the way. Each test runs again in a child with network and mounts of its own, root only; nothing outlives it.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that goes wrong has failed")]

mod changes;
mod lab;

use std::fs;
use std::sync::Arc;

use ebbgate_edge::xdp::interfaces::Interfaces;
use ebbgate_edge::xdp::{Mode, pins};
use ebbgate_model::feed::Enforcer;

use lab::{ALLOWED, Lab, OTHER, REFUSED, eventually, ip, isolated, link_ids, unprivileged};

#[test]
fn the_filter_outlives_its_edge_and_the_next_one_takes_it_over() {
    isolated("the_filter_outlives_its_edge_and_the_next_one_takes_it_over", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let first = lab.guard();
        lab.until(&first, Enforcer::Xdp, "");
        assert!(lab.connects(ALLOWED) && !lab.connects(REFUSED));
        let ids = link_ids(&lab.pins);
        assert_eq!(ids.len(), 1);
        drop(first);
        assert!(!lab.connects(REFUSED), "nobody is there, and the filter stands");
        assert!(lab.connects(ALLOWED));

        // The next one has another list: it makes the maps equal to it, in the same link.
        lab.allow(&[OTHER]);
        let second = lab.guard();
        let report = lab.until(&second, Enforcer::Xdp, "");
        assert!(report.dropped["unlisted"] >= 2, "counters go on: {report:?}");
        assert!(lab.connects(OTHER) && !lab.connects(REFUSED) && !lab.connects(ALLOWED));
        assert_eq!(link_ids(&lab.pins), ids);
        assert_eq!(pins::layouts(&lab.pins).len(), 1);
    });
}

#[test]
fn a_port_that_is_given_up_lets_everybody_through() {
    isolated("a_port_that_is_given_up_lets_everybody_through", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let guard = lab.guard();
        lab.until(&guard, Enforcer::Xdp, "");
        lab.occupied_by_others();
        lab.look(&guard);
        lab.until(&guard, Enforcer::Userspace, "another endpoint");
        assert!(lab.connects(REFUSED), "whom user space asks, the kernel must not refuse");
        lab.occupied_alone();
        lab.look(&guard);
        lab.until(&guard, Enforcer::Xdp, "");
        assert!(!lab.connects(REFUSED));
    });
}

#[test]
fn two_edges_do_not_share_their_pins() {
    isolated("two_edges_do_not_share_their_pins", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let first = lab.guard();
        lab.until(&first, Enforcer::Xdp, "");
        lab.allow(&[OTHER]);
        let second = lab.guard();
        lab.until(&second, Enforcer::Userspace, "another edge holds the pins");
        assert!(!lab.connects(OTHER), "the first one's list is in force");
        drop(first);
        lab.until(&second, Enforcer::Xdp, "");
        assert!(lab.connects(OTHER) && !lab.connects(ALLOWED));
    });
}

#[test]
fn a_process_that_takes_over_keeps_the_filter_while_the_one_before_lives() {
    isolated("a_process_that_takes_over_keeps_the_filter_while_the_one_before_lives", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let first = lab.guard_until_xdp();
        let ids = link_ids(&lab.pins);
        lab.settings.follows = true;
        let second = lab.guard();
        lab.until(&second, Enforcer::Userspace, "before this one keeps the filter");

        let lock = lab.rest(&first);
        assert!(lock.is_some());
        // Whatever changes now is for the one that takes over.
        lab.allow(&[OTHER]);
        lab.look(&first);
        lab.until(&first, Enforcer::Userspace, "about to keep the filter");
        assert!(lab.connects(ALLOWED) && !lab.connects(OTHER) && !lab.connects(REFUSED));
        first.leave();
        lab.settle(&first);
        second.take_over(lock);
        lab.look(&second);
        lab.until(&second, Enforcer::Xdp, "");
        assert!(lab.connects(OTHER) && !lab.connects(ALLOWED) && !lab.connects(REFUSED));
        lab.look(&first);
        lab.until(&first, Enforcer::Userspace, "another process of this edge keeps the filter");
        assert_eq!(link_ids(&lab.pins), ids, "the same link, with another process's program");

        // The end of the one before takes nothing with it, and the lock is the second one's.
        drop(first);
        lab.allow(&[ALLOWED]);
        lab.look(&second);
        assert!(lab.connects(ALLOWED) && !lab.connects(OTHER) && !lab.connects(REFUSED));
        lab.settings.follows = false;
        let other = lab.guard();
        lab.until(&other, Enforcer::Userspace, "another edge holds the pins");
    });
}

#[test]
fn a_process_that_nobody_takes_over_from_has_the_filter_again() {
    isolated("a_process_that_nobody_takes_over_from_has_the_filter_again", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let guard = lab.guard_until_xdp();
        let ids = link_ids(&lab.pins);
        for (now, before) in [(OTHER, ALLOWED), (ALLOWED, OTHER)] {
            drop(lab.rest(&guard));
            lab.allow(&[now]);
            lab.look(&guard);
            assert!(lab.connects(before) && !lab.connects(now), "the filter stands as it was");
            guard.resume();
            lab.look(&guard);
            lab.until(&guard, Enforcer::Xdp, "");
            assert!(lab.connects(now) && !lab.connects(before) && !lab.connects(REFUSED));
        }
        assert_eq!(link_ids(&lab.pins), ids);
    });
}

#[test]
fn a_process_that_is_given_no_lock_has_the_filter_once_it_is_free() {
    isolated("a_process_that_is_given_no_lock_has_the_filter_once_it_is_free", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        // A process of an older release gives none, and keeps the filter as long as it lives.
        let first = lab.guard_until_xdp();
        lab.settings.follows = true;
        let second = lab.guard();
        second.take_over(None);
        lab.until(&second, Enforcer::Userspace, "another edge holds the pins");
        lab.allow(&[OTHER]);
        lab.look(&first);
        lab.look(&second);
        assert!(lab.connects(OTHER) && !lab.connects(ALLOWED));
        drop(first);
        lab.until(&second, Enforcer::Xdp, "");
        assert!(lab.connects(OTHER) && !lab.connects(ALLOWED));
    });
}

#[test]
fn a_filter_that_cannot_be_taken_over_is_taken_away() {
    isolated("a_filter_that_cannot_be_taken_over_is_taken_away", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let first = lab.guard_until_xdp();
        assert!(!lab.connects(REFUSED));
        lab.settings.follows = true;
        lab.settings.object = b"no program";
        let second = lab.guard();
        let lock = lab.rest(&first);
        first.leave();
        lab.settle(&first);
        second.take_over(lock);
        lab.settle(&second);
        lab.until(&second, Enforcer::Userspace, "");
        assert!(lab.connects(REFUSED) && !lab.pins.exists(), "nobody would keep its lists");
    });
}

#[test]
fn an_interface_that_goes_and_comes_back_is_guarded_again() {
    isolated("an_interface_that_goes_and_comes_back_is_guarded_again", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        lab.settings.interfaces = Interfaces::Named(["lab.7".to_owned()].into());
        let guard = lab.guard();
        lab.until(&guard, Enforcer::Userspace, "there is no interface lab.7");
        // A dot in the name, as VLANs have it.
        ip(&["link", "add", "lab.7", "type", "veth", "peer", "name", "far"]);
        let report = lab.until(&guard, Enforcer::Xdp, "");
        assert_eq!(report.interfaces["lab.7"], "native");
        ip(&["link", "del", "lab.7"]);
        lab.until(&guard, Enforcer::Userspace, "lab.7");
        assert!(pins::links(&lab.pins).is_empty());
        ip(&["link", "add", "lab.7", "type", "veth", "peer", "name", "far"]);
        lab.until(&guard, Enforcer::Xdp, "");
    });
}

#[test]
fn a_mode_that_an_interface_lacks_is_said() {
    isolated("a_mode_that_an_interface_lacks_is_said", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        lab.settings.modes = vec![Mode::Native];
        let guard = lab.guard();
        lab.until(&guard, Enforcer::Userspace, "lo takes no XDP program in native mode");
        assert!(lab.connects(REFUSED));
    });
}

#[test]
fn maps_of_another_layout_are_left_behind_in_one_step() {
    isolated("maps_of_another_layout_are_left_behind_in_one_step", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let first = lab.guard();
        lab.until(&first, Enforcer::Xdp, "");
        let ids = link_ids(&lab.pins);
        drop(first);
        let old = pins::layouts(&lab.pins).remove(0);
        let renamed = lab.pins.join("layout-1-1");
        fs::rename(&old, &renamed).unwrap();
        let second = lab.guard();
        lab.until(&second, Enforcer::Xdp, "");
        assert!(lab.connects(ALLOWED) && !lab.connects(REFUSED));
        assert_eq!(link_ids(&lab.pins), ids, "the link is the same, its program another");
        let layouts = pins::layouts(&lab.pins);
        assert!(layouts.len() == 1 && layouts[0] != renamed, "{layouts:?}");
    });
}

#[test]
fn pins_that_are_not_what_they_should_be_are_replaced() {
    isolated("pins_that_are_not_what_they_should_be_are_replaced", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        drop(lab.guard_until_xdp());
        let old = pins::layouts(&lab.pins).remove(0);
        // Somebody else's map under our name.
        fs::remove_file(old.join("PORTS")).unwrap();
        fs::rename(old.join("CONFIG"), old.join("PORTS")).unwrap();
        let guard = lab.guard_until_xdp();
        assert!(lab.connects(ALLOWED) && !lab.connects(REFUSED));
        let layouts = pins::layouts(&lab.pins);
        assert!(layouts.len() == 1 && layouts[0] != old, "{layouts:?}");
        drop(guard);
    });
}

#[test]
fn a_list_that_does_not_fit_leaves_the_port_to_user_space() {
    isolated("a_list_that_does_not_fit_leaves_the_port_to_user_space", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let guard = lab.guard_until_xdp();
        assert!(!lab.connects(REFUSED));
        // One prefix too many, and among them the source that was refused: the old list must not hold against it.
        lab.allow_many(1_000_001, REFUSED);
        lab.look(&guard);
        let report = lab.until(&guard, Enforcer::Userspace, "1000001");
        assert!(report.reason.contains("1000000") && report.interfaces.is_empty(), "{report:?}");
        assert!(lab.connects(REFUSED));
        lab.allow(&[OTHER]);
        lab.look(&guard);
        lab.until(&guard, Enforcer::Xdp, "");
        assert!(lab.connects(OTHER) && !lab.connects(REFUSED));
    });
}

#[test]
fn the_blocklist_holds_on_every_port_of_ours_and_on_no_other() {
    isolated("the_blocklist_holds_on_every_port_of_ours_and_on_no_other", || {
        let mut lab = Lab::new();
        lab.allow(&["127.0.0.0/8"]);
        let file = lab.dir.path().join("blocklist");
        fs::write(&file, format!("{REFUSED} # of yesterday\n")).unwrap();
        lab.settings.blocklist = Some(file.clone());
        let guard = lab.guard_until_xdp();
        let blocked = |source: &str| guard.blocklist.load().contains(source.parse().unwrap());
        assert!(blocked(REFUSED) && !blocked(OTHER));
        for port in [lab.port, lab.shared_port] {
            assert!(!lab.connects_to(REFUSED, port) && lab.connects_to(OTHER, port), "{port}");
        }
        assert!(lab.connects_to(REFUSED, lab.foreign_port), "a port of somebody else's");

        fs::write(&file, format!("{OTHER}\nnonsense\n")).unwrap();
        guard.reload();
        lab.settle(&guard);
        assert!(blocked(REFUSED) && !blocked(OTHER), "a bad line refuses the whole file");
        assert!(!lab.connects(REFUSED) && lab.connects(OTHER));

        // Without a signal: the change is seen.
        fs::write(&file, format!("{OTHER}\n")).unwrap();
        eventually("the changed file", || (blocked(OTHER) && !blocked(REFUSED)).then_some(()));
        eventually("the changed file in the kernel", || {
            (lab.connects(REFUSED) && !lab.connects(OTHER)).then_some(())
        });
    });
}

#[test]
fn what_is_taken_off_by_hand_stays_off_until_the_operator_says() {
    isolated("what_is_taken_off_by_hand_stays_off_until_the_operator_says", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        let guard = lab.guard_until_xdp();
        for link in pins::links(&lab.pins) {
            link.remove().unwrap();
        }
        lab.until(&guard, Enforcer::Userspace, "");
        assert!(lab.connects(REFUSED));
        guard.reload();
        lab.until(&guard, Enforcer::Xdp, "");
        assert!(!lab.connects(REFUSED));
    });
}

#[test]
fn an_edge_without_xdp_takes_away_what_it_had_pinned() {
    isolated("an_edge_without_xdp_takes_away_what_it_had_pinned", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        lab.settings.note = Some(lab.dir.path().join("xdp-pins"));
        drop(lab.guard_until_xdp());
        assert!(!lab.connects(REFUSED));
        lab.settings.interfaces = Interfaces::Off;
        let guard = lab.guard();
        lab.until(&guard, Enforcer::Userspace, "--xdp");
        eventually("the filter to be gone", || lab.connects(REFUSED).then_some(()));
        assert!(!lab.pins.exists() && !lab.dir.path().join("xdp-pins").exists());
    });
}

#[test]
fn without_privilege_everything_stays_in_user_space() {
    let test = "without_privilege_everything_stays_in_user_space";
    isolated(test, || {
        unprivileged(test, |bpffs| {
            let mut lab = Lab::in_bpffs(bpffs);
            lab.allow(&[ALLOWED]);
            let file = lab.dir.path().join("blocklist");
            fs::write(&file, REFUSED).unwrap();
            lab.settings.blocklist = Some(file);
            let guard = lab.guard();
            lab.until(&guard, Enforcer::Userspace, "needs CAP_BPF");
            assert!(guard.blocklist.load().contains(REFUSED.parse().unwrap()));
            assert!(lab.connects(REFUSED), "the kernel knows nothing of it");
        });
    });
}

#[test]
fn sampled_drops_are_logged_within_bounds() {
    isolated("sampled_drops_are_logged_within_bounds", || {
        let mut lab = Lab::new();
        lab.allow(&[ALLOWED]);
        lab.settings.rates.sample_one_in = 1;
        let log = lab.dir.path().join("log");
        let file = Arc::new(fs::File::create(&log).unwrap());
        tracing_subscriber::fmt().json().with_writer(file).init();
        let guard = lab.guard_until_xdp();
        assert!(!lab.connects(REFUSED));
        let lines = || fs::read_to_string(&log).unwrap();
        let line = eventually("a line of the drop", || {
            lines().lines().find(|l| l.contains(REFUSED)).map(str::to_owned)
        });
        let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(fields["fields"]["reason"], "unlisted", "{line}");
        assert_eq!(fields["fields"]["port"], lab.port, "{line}");
        lab.flood(REFUSED, 2_000);
        eventually("the rest to be counted", || lines().contains("further sampled drops").then_some(()));
        drop(guard);
    });
}
