//! Pools with members that die, fall silent or are full, and the strategies of policies. No sockets; randomness is seeded.

use super::*;
use crate::state::endpoint::fixture::{agent, agent_with, cloud};
use crate::tunnel::health::FIRST_TRIAL_MS;
use ebbgate_model::feed::Drain;
use std::collections::BTreeMap;
use tokio::time::Duration;

const URL: &str = "tcp://a.internal:1";

fn health(member: &Endpoint) -> &health::Health {
    match &member.kind {
        Kind::Agent(agent) => &agent.health,
        Kind::Cloud => unreachable!("built as an agent"),
    }
}

fn ask() -> Ask<'static> {
    Ask::repeatable()
}

#[test]
fn takes_turns_and_spreads_evenly() {
    let pool = Pool::new(vec![agent(1, URL), agent(2, URL), cloud(3, URL)]);
    let mut counts = BTreeMap::new();
    for _ in 0..300 {
        *counts.entry(pool.pick(&[], ask()).unwrap().id).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|n| *n == 100), "{counts:?}");
}

#[test]
fn a_retry_takes_no_turn_so_that_the_dead_one_is_not_always_first() {
    let (dead, good) = (agent(1, URL), agent(2, URL));
    let pool = Pool::new(vec![dead.clone(), good.clone()]);
    let mut firsts = Vec::new();
    for _ in 0..4 {
        let first = pool.pick(&[], ask()).unwrap();
        if first.id == dead.id {
            assert_eq!(pool.pick(&[dead.id], ask()).unwrap().id, good.id);
        }
        firsts.push(first.id);
    }
    assert_eq!(firsts, [dead.id, good.id, dead.id, good.id]);
}

#[test]
fn what_a_member_leaves_is_spread_over_all_others() {
    let members = [agent(1, URL), agent(2, URL), agent(3, URL)];
    let pool = Pool::new(members.to_vec());
    health(&members[0]).refused(Instant::now());
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        *counts.entry(pool.pick(&[], ask()).unwrap().id).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(members[1].id, 50), (members[2].id, 50)]));
}

#[test]
fn a_member_set_aside_is_tried_by_one_visitor_and_only_by_one_that_can_be_repeated() {
    let (aside, good) = (agent(1, URL), agent(2, URL));
    let pool = Pool::new(vec![aside.clone(), good.clone()]);
    let start = Instant::now();
    let asked = |repeats, now| -> Vec<_> {
        (0..4).map(|_| pool.pick(&[], Ask::at(now, repeats)).unwrap().id).collect()
    };
    health(&aside).refused(start);
    assert_eq!(asked(true, start), [good.id; 4]);
    let due = start + Duration::from_millis(FIRST_TRIAL_MS);
    assert_eq!(asked(false, due), [good.id; 4]);
    assert_eq!(asked(true, due).iter().filter(|id| **id == aside.id).count(), 1);
    health(&aside).answered(start);
    assert_eq!(asked(false, due).iter().filter(|id| **id == aside.id).count(), 2);
}

#[test]
fn where_all_are_set_aside_all_are_asked() {
    let members = [agent(1, URL), agent(2, URL)];
    let pool = Pool::new(members.to_vec());
    let now = Instant::now();
    for member in &members {
        health(member).refused(now);
    }
    let first = pool.pick(&[], Ask::at(now, false)).unwrap();
    let second = pool.pick(&[first.id], Ask::at(now, false)).unwrap();
    assert_ne!(first.id, second.id);
    assert!(pool.pick(&[first.id, second.id], ask()).is_none());
}

/// Picks of each member, in the order given.
fn picks<const N: usize>(pool: &Pool, members: &[Arc<Endpoint>; N], ask: Ask, times: usize) -> [usize; N] {
    let ids: Vec<_> = (0..times).map(|_| pool.pick(&[], ask).unwrap().id).collect();
    members.each_ref().map(|member| ids.iter().filter(|id| **id == member.id).count())
}

#[test]
fn an_unhealthy_or_ejected_member_gets_nothing_unless_all_are() {
    use crate::tunnel::health::OutlierLimits;
    let members = [agent(1, URL), agent(2, URL), agent(3, URL)];
    let pool = Pool::new(members.to_vec());
    let now = Instant::now();
    let ask = Ask::at(now + Duration::from_mins(5), true);
    health(&members[0]).checked(now, false, "tcp".into(), "refused".into());
    assert_eq!(picks(&pool, &members, ask, 100), [0, 50, 50], "however long it is ago");
    let limits = OutlierLimits { ejection: Duration::from_mins(10), ..OutlierLimits::default() };
    let until = health(&members[1]).eject(now, &limits);
    assert_eq!((pool.ejected(now), pool.ejected(until)), (1, 0));
    assert_eq!(picks(&pool, &members, ask, 100), [0, 0, 100]);
    health(&members[2]).refused(ask.now);
    assert_eq!(picks(&pool, &members, ask, 99), [33, 33, 33], "none is fit, so each is tried");
    health(&members[2]).answered(ask.now);
    health(&members[0]).checked(now, true, "tcp".into(), String::new());
    assert_eq!(picks(&pool, &members, Ask::at(until, true), 99), [33, 33, 33], "back without a word");
}

#[test]
fn a_drained_member_gets_nothing_while_a_healthy_one_is_left_and_comes_before_those_that_may_not_work() {
    let drained = Drain { at_ms: 1, drained: true };
    let members = [agent(1, URL), far(agent(2, URL)), agent(3, URL)];
    let pool = Pool::new(members.to_vec());
    let now = Instant::now();
    let get_work = || picks(&pool, &members, Ask::at(now, true), 30).map(|picks| picks > 0);
    assert_eq!(get_work(), [true, false, true]);
    health(&members[0]).set_drain(now, drained);
    assert_eq!(get_work(), [false, false, true]);
    health(&members[2]).checked(now, false, "tcp".into(), String::new());
    assert_eq!(get_work(), [false, true, false], "a healthy one elsewhere comes first");
    let tried = [members[1].id];
    let ask = Ask::at(now, true);
    assert_eq!(pool.pick(&tried, ask).unwrap().id, members[0].id, "what others refuse comes to it");
    assert!(!pool.has_other(&tried), "and nobody waits for it");
    health(&members[1]).told(now, false);
    assert_eq!(get_work(), [true, false, false], "it works, and the others may not");
    health(&members[0]).refused(now);
    assert_eq!(get_work(), [false, true, true], "drained, it comes behind those that may not work either");
    health(&members[0]).answered(now);
    health(&members[1]).set_drain(now, drained);
    health(&members[2]).set_drain(now, drained);
    assert_eq!(get_work(), [true, false, false], "of drained members the healthy one");
    health(&members[1]).told(now, true);
    health(&members[2]).checked(now, true, "tcp".into(), String::new());
    assert_eq!(get_work(), [true, true, true], "a drain takes no service down");
    health(&members[1]).set_drain(now, Drain { at_ms: 2, drained: false });
    assert_eq!(get_work(), [false, true, false]);
}

#[test]
fn where_as_many_are_unreachable_as_are_tried_the_drained_one_that_works_is_asked() {
    let members: [_; TRIES_MAX + 1] = std::array::from_fn(|n| agent(u8::try_from(n + 1).unwrap(), URL));
    let (pool, now) = (Pool::new(members.to_vec()), Instant::now());
    let (works, unreachable) = members.split_last().unwrap();
    health(works).set_drain(now, Drain { at_ms: 1, drained: true });
    for member in unreachable {
        health(member).refused(now);
    }
    assert_eq!(picks(&pool, &members, Ask::at(now, true), 30), [0, 0, 0, 0, 30]);
}

#[test]
fn a_member_that_starts_slowly_gets_a_growing_part_of_its_share() {
    use crate::tunnel::health::Health;
    let start = Instant::now();
    let slow = || Health::new(Duration::from_secs(100), Box::new(|_, _| {}));
    let members = [agent(1, URL), agent(2, URL), agent_with(3, URL, slow().starting(start))];
    let pool = Pool::new(members.to_vec());
    let at = |secs: u64| picks(&pool, &members, Ask::at(start + Duration::from_secs(secs), true), 300);
    // A third is its share; the others have what it leaves, half each.
    for (secs, part) in [(0, 10), (10, 10), (20, 20), (50, 50), (90, 90), (100, 100), (500, 100)] {
        let rest = (100 - part) / 2;
        assert_eq!(at(secs), [100 + rest, 100 + rest, part], "after {secs} s");
    }
    // Alone it has everything.
    let alone = [agent_with(4, URL, slow().starting(start))];
    assert_eq!(picks(&Pool::new(alone.to_vec()), &alone, Ask::at(start, true), 10), [10]);
}

#[test]
fn a_silent_member_is_asked_only_when_nobody_else_is_left() {
    use crate::tunnel::agent_liveness::SILENT_MS;
    let (silent, aside, good) = (agent(1, URL), agent(2, URL), agent(3, URL));
    let Kind::Agent(agent) = &silent.kind else { unreachable!("built as an agent") };
    let (liveness, now) = (&agent.session.liveness, Instant::now());
    let _ = liveness.sent(now);
    liveness.look(now + Duration::from_millis(SILENT_MS));
    health(&aside).refused(now);
    let pool = Pool::new(vec![silent.clone(), aside.clone(), good.clone()]);
    let ask = Ask::at(now, true);
    for _ in 0..3 {
        assert_eq!(pool.pick(&[], ask).unwrap().id, good.id);
    }
    assert!(pool.has_other(&[silent.id]) && !pool.has_other(&[good.id]));
    assert_eq!(pool.pick(&[good.id], ask).unwrap().id, aside.id);
    assert_eq!(pool.pick(&[good.id, aside.id], ask).unwrap().id, silent.id);
    liveness.heard(now);
    assert_eq!(pool.pick(&[good.id], ask).unwrap().id, silent.id);
}

#[test]
fn skips_the_dead_the_full_and_the_tried() {
    let (dead, full, good) = (agent(1, URL), agent(2, URL), agent(3, URL));
    let pool = Pool::new(vec![dead.clone(), full.clone(), good.clone()]);
    let session = |e: &Endpoint| match &e.kind {
        Kind::Agent(agent) => agent.session.clone(),
        Kind::Cloud => unreachable!("built as an agent"),
    };
    session(&dead).end();
    let full = session(&full);
    let slots: Vec<_> = std::iter::from_fn(|| full.slot().ok()).collect();
    for _ in 0..5 {
        assert_eq!(pool.pick(&[], ask()).unwrap().id, good.id);
    }
    assert!(pool.pick(&[good.id], ask()).is_none());
    drop(slots);
    assert!(pool.pick(&[good.id], ask()).is_some());
}

#[test]
fn an_empty_pool_has_nobody() {
    assert!(Pool::new(Vec::new()).pick(&[], ask()).is_none());
}

mod strategies {
    use super::*;
    use crate::state::endpoint::InFlight;
    use ebbgate_policy::{Engine, MemberFacts, Phase, References, Verdict};
    use serde_json::{Value, json};

    /// A member `n` of this name, whose agent's process is `process`.
    fn member(n: u8, name: &str, process: &str) -> Arc<Endpoint> {
        let mut member = Arc::into_inner(agent(n, URL)).unwrap();
        let labels = MemberFacts { name: name.into(), ..MemberFacts::default() };
        let facts = ebbgate_policy::EndpointFacts::new(member.id.to_string(), member.url.clone());
        member.facts = Arc::new(ebbgate_policy::EndpointFacts { member: Some(Box::new(labels)), ..facts });
        if let Kind::Agent(agent) = &mut member.kind {
            agent.identity = process.into();
        }
        Arc::new(member)
    }

    /// Members 1 to `count`, named `m1` and so on.
    fn members(count: u8) -> Vec<Arc<Endpoint>> {
        (1..=count).map(|n| member(n, &format!("m{n}"), &format!("p{n}"))).collect()
    }

    /// What a policy with these keys says.
    fn balancing(keys: Value) -> Arc<Balancing> {
        let mut config = keys;
        config["url"] = json!("https://a.internal");
        let policy = json!({ "on_http_request": [{ "actions": [
            { "type": "forward-internal", "config": config }] }] });
        let policy = serde_json::from_value(policy).unwrap();
        let engine = Arc::new(Engine::compile(&policy, &References::default()).unwrap());
        let facts = ebbgate_policy::ConnFacts {
            client: "192.0.2.7:1".parse().unwrap(),
            server: "192.0.2.1:443".parse().unwrap(),
            region: String::new(),
            start_unix_ms: 0,
            tls: None,
            traffic: None,
        };
        let endpoint =
            ebbgate_policy::EndpointFacts::new("ep".into(), "https://b.example.com".parse().unwrap());
        let mut cx = ebbgate_policy::Context::new(Arc::new(facts), Arc::new(endpoint), 0);
        match engine.start(Phase::HttpRequest).step(&mut cx) {
            ebbgate_policy::Step::Done(Verdict::Forward { balancing: Some(balancing), .. }) => balancing,
            other => panic!("{other:?}"),
        }
    }

    fn weights(weights: &[(&str, u32)]) -> Value {
        let entry = |(name, weight): &(&str, u32)| json!({ "selector": format!("endpoint.name == '{name}'"), "weight": weight });
        weights.iter().map(entry).collect()
    }

    fn counts(picked: impl Iterator<Item = Arc<Endpoint>>) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for member in picked {
            *counts.entry(member.facts.member.as_ref().unwrap().name.clone()).or_default() += 1;
        }
        counts
    }

    fn expect(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn weights_are_kept_to_the_last_pick_and_0_is_nothing() {
        let keys = json!({ "endpoint_weights": weights(&[("m1", 6), ("m2", 3), ("m3", 0)]) });
        let pool = Pool::new(members(4)).select(&balancing(keys));
        let picked = counts((0..100).map(|_| pool.pick(&[], ask()).unwrap()));
        assert_eq!(picked, expect(&[("m1", 60), ("m2", 30), ("m4", 10)]));
        let ids: Vec<_> = pool.members().iter().map(|member| member.id).collect();
        assert!(pool.pick(&ids, ask()).is_none(), "a weight of 0 is no last resort");
        assert!(!pool.has_other(&ids));
    }

    #[test]
    fn selectors_leave_the_others_out_and_a_retry_stays_among_them() {
        let keys = json!({ "endpoint_selectors": ["endpoint.name in ['m2', 'm4']"] });
        let pool = Pool::new(members(4)).select(&balancing(keys));
        assert_eq!(counts((0..10).map(|_| pool.pick(&[], ask()).unwrap())), expect(&[("m2", 5), ("m4", 5)]));
        let first = pool.pick(&[], ask()).unwrap();
        let second = pool.pick(&[first.id], ask()).unwrap();
        assert!(pool.pick(&[first.id, second.id], ask()).is_none());
        let nobody = balancing(json!({ "endpoint_selectors": ["endpoint.name == 'x'"] }));
        assert!(Pool::new(members(4)).select(&nobody).members().is_empty());
    }

    #[test]
    fn what_a_weighted_member_leaves_is_shared_by_weight() {
        let all = members(3);
        let keys = json!({ "endpoint_weights": weights(&[("m1", 4), ("m2", 3), ("m3", 1)]) });
        let pool = Pool::new(all.clone()).select(&balancing(keys));
        health(&all[0]).refused(Instant::now());
        let picked = counts((0..64).map(|_| pool.pick(&[], ask()).unwrap()));
        assert_eq!(picked, expect(&[("m2", 48), ("m3", 16)]));
    }

    #[test]
    fn the_least_loaded_gets_it_for_its_weight() {
        let all = members(3);
        let keys = json!({ "strategy": "least_connections", "endpoint_weights": weights(&[("m3", 2)]) });
        let pool = Pool::new(all.clone()).select(&balancing(keys));
        let mut held = Vec::new();
        for _ in 0..40 {
            held.push(InFlight::of(&pool.pick(&[], ask()).unwrap()));
        }
        let loads: Vec<_> = all.iter().map(|member| member.load().now()).collect();
        assert_eq!(loads, [10, 10, 20]);
        held.retain(|held| held.endpoint().id != all[1].id);
        for _ in 0..10 {
            let member = pool.pick(&[], ask()).unwrap();
            assert_eq!(member.id, all[1].id);
            held.push(InFlight::of(&member));
        }
        drop(held);
        assert!(all.iter().all(|member| member.load().now() == 0));
        let idle = counts((0..9).map(|_| pool.pick(&[], ask()).unwrap()));
        assert_eq!(idle.values().sum::<usize>(), 9);
    }

    #[test]
    fn a_retry_goes_to_the_least_loaded_of_those_left() {
        let all = members(3);
        let pool = Pool::new(all.clone()).select(&balancing(json!({ "strategy": "least_connections" })));
        let _held = [InFlight::of(&all[1]), InFlight::of(&all[1]), InFlight::of(&all[2])];
        assert_eq!(pool.pick(&[], ask()).unwrap().id, all[0].id);
        assert_eq!(pool.pick(&[all[0].id], ask()).unwrap().id, all[2].id);
    }

    #[test]
    fn a_large_pool_is_compared_in_part_and_nobody_is_forgotten() {
        let all: Vec<_> = (0..=255).map(|n| member(n, "", &n.to_string())).collect();
        let pool = Pool::new(all.clone()).select(&balancing(json!({ "strategy": "least_connections" })));
        let held: Vec<_> = (0..256 * 4).map(|_| InFlight::of(&pool.pick(&[], ask()).unwrap())).collect();
        let loads: Vec<_> = all.iter().map(|member| member.load().now()).collect();
        assert!(loads.iter().all(|load| (3..=5).contains(load)), "{loads:?}");
        drop(held);
    }

    #[test]
    fn an_address_keeps_its_member_and_moves_only_with_it() {
        let all = members(5);
        let balancing = balancing(json!({ "strategy": "sticky_client_address" }));
        let base = Pool::new(all.clone());
        let pick = |pool: &Pool, n: u32| {
            let client = if n.is_multiple_of(2) {
                IpAddr::V4(std::net::Ipv4Addr::from_bits(0xcb00_7100 + n))
            } else {
                IpAddr::V6(std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(n)))
            };
            pool.select(&balancing).pick(&[], Ask { client: Some(client), ..ask() }).unwrap().id
        };
        let before: Vec<_> = (0..2_000).map(|n| pick(&base, n)).collect();
        assert_eq!(before, (0..2_000).map(|n| pick(&base, n)).collect::<Vec<_>>());
        let share = |id| before.iter().filter(|member| **member == id).count();
        assert!(all.iter().all(|member| (340..460).contains(&share(member.id))), "five alike");
        let less = base.without(all[2].id);
        for (n, was) in (0..2_000).zip(&before) {
            let is = pick(&less, n);
            assert!(is == *was || *was == all[2].id && is != all[2].id);
        }
        // The agent comes back under another endpoint id, by another edge's eyes too.
        let back = member(99, "m3", "another process");
        let again = less.with(Arc::clone(&back));
        for (n, was) in (0..2_000).zip(&before) {
            let wanted = if *was == all[2].id { back.id } else { *was };
            assert_eq!(pick(&again, n), wanted);
        }
        // One that is set aside loses its visitors for as long as that lasts, to the same member each time.
        health(&back).refused(Instant::now());
        let aside: Vec<_> = (0..200).map(|n| pick(&again, n)).collect();
        assert_eq!(aside, (0..200).map(|n| pick(&again, n)).collect::<Vec<_>>());
        assert!(!aside.contains(&back.id));
    }

    #[test]
    fn a_cookie_brings_its_visitor_back_until_the_member_is_gone_and_again_on_its_return() {
        let all = members(3);
        let balancing = balancing(json!({ "strategy": "sticky_cookie" }));
        let base = Pool::new(all.clone());
        let pool = base.select(&balancing);
        let pick = |pool: &Pool, cookies: &[String]| pool.pick(&[], Ask { cookies, ..ask() }).unwrap();
        let first = pick(&pool, &[]);
        let cookie = vec![pool.cookie(first.id, &[]).unwrap()];
        assert_eq!(pool.cookie(first.id, &cookie), None, "the visitor has it");
        assert!((0..10).all(|_| pick(&pool, &cookie).id == first.id));
        let new = counts((0..30).map(|_| pick(&pool, &[])));
        assert_eq!(new, expect(&[("m1", 10), ("m2", 10), ("m3", 10)]), "visitors without it take turns");
        let forged = ["", "x", &"g".repeat(32), &"0".repeat(32), &"f".repeat(4_000)].map(str::to_owned);
        assert!(counts((0..30).map(|_| pick(&pool, &forged))).len() == 3);
        for secret in ["m1", "p1", &first.id.to_string(), &first.account.to_string()] {
            assert!(!cookie[0].contains(secret));
        }
        // Gone: another serves, and says so.
        let less = base.without(first.id);
        let other = pick(&less.select(&balancing), &cookie);
        assert_ne!(other.id, first.id);
        let second = less.select(&balancing).cookie(other.id, &cookie).unwrap();
        assert_ne!(second, cookie[0]);
        // The process came back, and so did its visitors.
        let back = member(77, "", "p1");
        let again = less.with(Arc::clone(&back)).select(&balancing);
        assert!((0..10).all(|_| pick(&again, &cookie).id == back.id));
        // The process was replaced: its endpoint's name is enough, as long as one member alone has it.
        let replaced = member(78, "m1", "a new process");
        let again = less.with(Arc::clone(&replaced)).select(&balancing);
        assert!((0..10).all(|_| pick(&again, &cookie).id == replaced.id));
        assert!(again.cookie(replaced.id, &cookie).is_some(), "the cookie names the new process from now on");
        let twice = less.with(replaced).with(member(79, "m1", "one more")).select(&balancing);
        assert!(counts((0..40).map(|_| pick(&twice, &cookie))).len() > 1);
    }

    #[test]
    fn a_member_that_a_cookie_names_is_left_while_it_is_set_aside() {
        let all = members(2);
        let pool = Pool::new(all.clone()).select(&balancing(json!({ "strategy": "sticky_cookie" })));
        let cookies = vec![pool.cookie(all[0].id, &[]).unwrap()];
        health(&all[0]).refused(Instant::now());
        let ask = Ask { cookies: &cookies, ..ask() };
        assert!((0..5).all(|_| pool.pick(&[], ask).unwrap().id == all[1].id));
        health(&all[0]).answered(Instant::now());
        assert!((0..5).all(|_| pool.pick(&[], ask).unwrap().id == all[0].id));
    }

    #[test]
    fn a_selection_is_made_once_and_anew_when_the_pool_changes() {
        let balancing = balancing(json!({ "endpoint_selectors": ["endpoint.name != 'm2'"] }));
        let base = Pool::new(members(3));
        let selected = base.select(&balancing);
        assert!(Arc::ptr_eq(&selected.0, &base.select(&balancing).0));
        let _ = selected.pick(&[], ask());
        let more = base.with(member(9, "m9", "p9"));
        let names: Vec<_> = more.select(&balancing).members().iter().map(|member| member.id).collect();
        assert_eq!(names.len(), 3);
        assert_eq!(more.select(&balancing).turn(), 1, "turns go on where they were");
        // A member that is described anew is judged anew.
        let renamed = more.with(member(9, "m2", "p9"));
        assert_eq!(renamed.select(&balancing).members().len(), 2);
        assert_eq!(renamed.without(base.members()[0].id).select(&balancing).members().len(), 1);
    }
}

/// The same member, of an agent that is connected to another edge.
fn far(member: Arc<Endpoint>) -> Arc<Endpoint> {
    let mut member = Arc::into_inner(member).unwrap();
    let (id, account) = (member.id, member.account);
    let Kind::Agent(agent) = &mut member.kind else { unreachable!("it is an agent's") };
    let (edge, session) = (ebbgate_model::EdgeId::new(id.ksuid()), agent.session.id);
    let elsewhere =
        crate::tunnel::peer::Elsewhere { edge, account, session, endpoint: id, passes_bare: false };
    agent.elsewhere = Some(Box::new(elsewhere));
    Arc::new(member)
}

#[test]
fn members_here_come_first_then_those_of_other_edges_then_those_of_edges_that_end() {
    let members = [1, 2].map(|n| far(agent(n, URL)));
    let near = agent(3, URL);
    let pool = Pool::new(Vec::new()).with(members[0].clone()).with(near.clone()).with(members[1].clone());
    assert_eq!(pool.members()[0].id, near.id, "and stand first");
    let pick = |tried: &[EndpointId]| pool.pick(tried, Ask::repeatable()).unwrap().id;
    for _ in 0..6 {
        assert_eq!(pick(&[]), near.id);
    }
    let mut others: Vec<_> = (0..4).map(|_| pick(&[near.id])).collect();
    others.sort();
    assert_eq!(others, [members[0].id, members[0].id, members[1].id, members[1].id], "by turns");
    let Kind::Agent(first) = &members[0].kind else { unreachable!("it is an agent's") };
    first.session.prefer_others(true);
    for _ in 0..4 {
        assert_eq!(pick(&[near.id]), members[1].id);
    }
    assert_eq!(pick(&[near.id, members[1].id]), members[0].id);
    assert!(pool.has_other(&[near.id]));
    health(&near).refused(Instant::now());
    assert_ne!(pick(&[]), near.id, "one that is set aside here does not come before a good one elsewhere");
}
