//! From allowlists to the contents of kernel maps, and from one content to the next. Pure: a test needs no kernel.
//!
//! The LPM trie answers with the longest prefix only, while `restrict-ips` lets any deny win; so every prefix is stored
//! with the verdict that all lists together give the addresses it is the longest match of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ebbgate_ebpf::{PORT_OPEN, PREFIXES_MAX, VERDICT_ALLOW, VERDICT_DENY, port_index};
use ebbgate_model::Prefix;
use ipnet::IpNet;

use super::lists::SourceList;

/// What the kernel maps should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// Policy number, from 1, of each guarded port by its index.
    pub ports: BTreeMap<u32, u32>,
    /// Verdict of each prefix of each policy.
    pub prefixes: BTreeMap<(u32, Prefix), u32>,
}

/// A listener whose every connection must pass the lists.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// TCP port, of one endpoint alone.
    pub port: u16,
    /// All of these must admit a source.
    pub lists: Vec<SourceList>,
}

/// Why the tables cannot be made; what is in the kernel stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More prefixes than the map holds.
    #[error(
        "the allowlists have {found} prefixes together; the limit is {PREFIXES_MAX}. The lists before stay in force"
    )]
    Prefixes {
        /// How many there are.
        found: usize,
    },
    /// More guarded ports than policy numbers.
    #[error("more than {} ports have an allowlist of their own", ebbgate_ebpf::POLICIES_MAX - 1)]
    Policies,
}

/// The tables for these listeners. A port keeps the policy number it had in `before`, and numbers in use before are not
/// given to another port, so that none points at a stranger's list while writes are under way.
pub fn compile(before: &Tables, guarded: &[Guarded]) -> Result<Tables, CompileError> {
    let taken: BTreeSet<u32> = before.ports.values().copied().collect();
    let mut free = (1..ebbgate_ebpf::POLICIES_MAX).filter(|n| !taken.contains(n));
    let mut tables = Tables::default();
    for listener in guarded {
        let index = port_index(false, listener.port);
        let kept = before.ports.get(&index).copied();
        let policy = kept.or_else(|| free.next()).ok_or(CompileError::Policies)?;
        tables.ports.insert(index, policy);
        let verdicts = verdicts(&listener.lists);
        tables.prefixes.extend(verdicts.into_iter().map(|(prefix, verdict)| ((policy, prefix), verdict)));
    }
    match tables.prefixes.len() {
        found if found > PREFIXES_MAX as usize => Err(CompileError::Prefixes { found }),
        _ => Ok(tables),
    }
}

/// The verdict of every prefix that any list names, for the addresses it is the longest match of.
fn verdicts(lists: &[SourceList]) -> BTreeMap<Prefix, u32> {
    let mut named: BTreeMap<Prefix, Vec<(usize, bool)>> = BTreeMap::new();
    for (i, list) in lists.iter().enumerate() {
        for prefix in &list.allow {
            named.entry(*prefix).or_default().push((i, false));
        }
        for prefix in &list.deny {
            named.entry(*prefix).or_default().push((i, true));
        }
    }
    let mut found = BTreeMap::new();
    // Sorted by network, then length: whatever covers a prefix comes before it, so the covering ones form a stack.
    let mut covering: Vec<(Prefix, Vec<bool>, bool)> = Vec::new();
    let mut ordered: Vec<_> = named.into_iter().collect();
    ordered.sort_by_key(|(prefix, _)| (prefix.net().network(), prefix.net().prefix_len()));
    for (prefix, marks) in ordered {
        while covering.last().is_some_and(|(outer, ..)| !contains(*outer, prefix)) {
            covering.pop();
        }
        let (mut allowed, mut denied) = match covering.last() {
            Some((_, allowed, denied)) => (allowed.clone(), *denied),
            None => (vec![false; lists.len()], false),
        };
        for (list, deny) in marks {
            denied |= deny;
            if let Some(allowed) = allowed.get_mut(list).filter(|_| !deny) {
                *allowed = true;
            }
        }
        let admits = !denied && allowed.iter().all(|a| *a);
        found.insert(prefix, if admits { VERDICT_ALLOW } else { VERDICT_DENY });
        covering.push((prefix, allowed, denied));
    }
    found
}

fn contains(outer: Prefix, inner: Prefix) -> bool {
    match (outer.net(), inner.net()) {
        (IpNet::V4(outer), IpNet::V4(inner)) => outer.contains(&inner),
        (IpNet::V6(outer), IpNet::V6(inner)) => outer.contains(&inner),
        _ => false,
    }
}

/// One write to a kernel map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Set a port's policy; [`PORT_OPEN`] takes the guard away.
    Port {
        /// Index in the map.
        index: u32,
        /// Policy number.
        policy: u32,
    },
    /// Set a prefix's verdict.
    Put {
        /// Policy number.
        policy: u32,
        /// Network.
        prefix: Prefix,
        /// Its verdict.
        verdict: u32,
    },
    /// Remove a prefix.
    Remove {
        /// Policy number.
        policy: u32,
        /// Network.
        prefix: Prefix,
    },
}

/// The writes that lead from one content to the other, in an order that opens no window: between any two of them a
/// source has the verdict it had before or the one it will have, never a third.
///
/// New prefixes go in longest first: a new entry then never hides a longer new one that is still to come. Old ones go
/// out shortest first: an old entry then never shows where a longer old one has already gone. A port is guarded after
/// its list is in, and released before its list goes out.
pub fn writes(from: &Tables, to: &Tables) -> Vec<Write> {
    let length = |prefix: &Prefix| prefix.net().prefix_len();
    let mut puts: Vec<_> =
        to.prefixes.iter().filter(|(key, v)| from.prefixes.get(*key) != Some(*v)).collect();
    puts.sort_by_key(|((_, prefix), _)| Reverse(length(prefix)));
    let mut removes: Vec<_> = from.prefixes.keys().filter(|key| !to.prefixes.contains_key(*key)).collect();
    removes.sort_by_key(|(_, prefix)| length(prefix));

    let put = puts.into_iter().map(|((policy, prefix), v)| Write::Put {
        policy: *policy,
        prefix: *prefix,
        verdict: *v,
    });
    let guard = to.ports.iter().filter(|(index, policy)| from.ports.get(*index) != Some(*policy));
    let guard = guard.map(|(index, policy)| Write::Port { index: *index, policy: *policy });
    let release = from.ports.keys().filter(|index| !to.ports.contains_key(*index));
    let release = release.map(|index| Write::Port { index: *index, policy: PORT_OPEN });
    let remove =
        removes.into_iter().map(|(policy, prefix)| Write::Remove { policy: *policy, prefix: *prefix });
    put.chain(guard).chain(release).chain(remove).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    /// Networks in a space of 256 addresses, so that random ones nest and collide.
    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<u8>(), 24u8..=32)
            .prop_map(|(n, len)| Prefix::parse_lenient(&format!("10.0.0.{n}/{len}")).unwrap())
    }

    fn list() -> impl Strategy<Value = SourceList> {
        (vec(prefix(), 0..6), vec(prefix(), 0..4)).prop_map(|(allow, deny)| SourceList { allow, deny })
    }

    fn guarded() -> impl Strategy<Value = Vec<Guarded>> {
        vec((0u8..3, vec(list(), 1..3)), 0..3).prop_map(|listeners| {
            let distinct: BTreeMap<u8, Vec<SourceList>> = listeners.into_iter().collect();
            let listener = |(n, lists)| Guarded { port: 1000 + u16::from(n), lists };
            distinct.into_iter().map(listener).collect()
        })
    }

    /// What the kernel program does with the maps: None where the port is not guarded.
    fn look_up(tables: &Tables, port: u16, source: IpAddr) -> Option<bool> {
        let policy = *tables.ports.get(&port_index(false, port))?;
        let covering =
            tables.prefixes.iter().filter(|((p, prefix), _)| *p == policy && prefix.contains(source));
        let longest = covering.max_by_key(|((_, prefix), _)| prefix.net().prefix_len());
        Some(longest.is_some_and(|(_, verdict)| *verdict == VERDICT_ALLOW))
    }

    fn apply(tables: &mut Tables, write: Write) {
        match write {
            Write::Port { index, policy: PORT_OPEN } => drop(tables.ports.remove(&index)),
            Write::Port { index, policy } => drop(tables.ports.insert(index, policy)),
            Write::Put { policy, prefix, verdict } => drop(tables.prefixes.insert((policy, prefix), verdict)),
            Write::Remove { policy, prefix } => drop(tables.prefixes.remove(&(policy, prefix))),
        }
    }

    fn source(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_trie_says_what_the_lists_say(guarded in guarded(), n in any::<u8>()) {
            let tables = compile(&Tables::default(), &guarded).unwrap();
            for listener in &guarded {
                let expect = listener.lists.iter().all(|list| list.admits(source(n)));
                prop_assert_eq!(look_up(&tables, listener.port, source(n)), Some(expect));
            }
        }

        #[test]
        fn no_write_on_the_way_gives_a_third_verdict(a in guarded(), b in guarded()) {
            let from = compile(&Tables::default(), &a).unwrap();
            let to = compile(&from, &b).unwrap();
            let mut now = from.clone();
            for write in writes(&from, &to) {
                apply(&mut now, write);
                for port in 1000..1003 {
                    for n in (0..=255).step_by(3) {
                        let verdict = look_up(&now, port, source(n));
                        let allowed = [look_up(&from, port, source(n)), look_up(&to, port, source(n))];
                        prop_assert!(allowed.contains(&verdict), "port {} source {}: {:?} not in {:?}", port, n, verdict, allowed);
                    }
                }
            }
            prop_assert_eq!(&now.ports, &to.ports);
            prop_assert_eq!(&now.prefixes, &to.prefixes);
        }
    }

    #[test]
    fn too_many_prefixes_are_refused_with_the_number() {
        let allow =
            (0..=PREFIXES_MAX).map(|n| Prefix::parse_lenient(&Ipv4Addr::from_bits(n).to_string()).unwrap());
        let lists = vec![SourceList { allow: allow.collect(), deny: Vec::new() }];
        let refused = compile(&Tables::default(), &[Guarded { port: 1, lists }]);
        assert_eq!(refused, Err(CompileError::Prefixes { found: 1_000_001 }));
    }
}
