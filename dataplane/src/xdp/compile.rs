//! From allowlists to the contents of kernel maps, and from one content to the next. Pure: a test needs no kernel.
//!
//! The LPM trie answers with the longest prefix only, while `restrict-ips` lets any deny win; so every prefix is stored
//! with the verdict that all lists together give the addresses it is the longest match of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ebbgate_ebpf as shared;
use ebbgate_model::Prefix;
use ipnet::IpNet;
use shared::{Family, GUARD_ANY_PORT, GuardKey, POLICY_BLOCKLIST, PORT_BY_ADDRESS, PORT_FOREIGN, PORT_OWN};
use shared::{
    PREFIXES_MAX, PortEntry, Reason, VERDICT_ALLOW, VERDICT_DENY, entry_policy, port_entry, port_index,
};

use super::grace::with_grace_periods;
use super::lists::SourceList;
use super::write::Write;

/// What the kernel maps should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// Entry of each port of this edge, by its index.
    pub ports: BTreeMap<u32, PortEntry>,
    /// Entry of each listener on one address, and [`GUARD_ANY_PORT`] for each address that has a list.
    pub guards: BTreeMap<GuardKey, PortEntry>,
    /// Verdict of each prefix of each policy; those of [`POLICY_BLOCKLIST`] hold on every port.
    pub prefixes: BTreeMap<(u32, Prefix), u32>,
}

impl Tables {
    /// The `GUARDING_` bits: for which destinations a packet without a port must be dropped.
    pub fn guarding(&self) -> u32 {
        let has_list =
            |entry: PortEntry| entry_policy(entry).is_some_and(|policy| policy != POLICY_BLOCKLIST);
        let first_v6 = port_index(Family::V6, false, 0);
        let mut guarding = 0;
        for (index, entry) in &self.ports {
            if has_list(*entry) {
                guarding |= if *index < first_v6 { shared::GUARDING_V4 } else { shared::GUARDING_V6 };
            }
        }
        if self.guards.values().any(|entry| has_list(*entry)) {
            guarding |= shared::GUARDING_ADDRESSES;
        }
        guarding
    }

    /// Whether the blocklist of the whole edge has entries.
    pub fn blocking(&self) -> bool {
        self.prefixes.keys().next().is_some_and(|(policy, _)| *policy == POLICY_BLOCKLIST)
    }

    /// Every policy number in use.
    pub fn policies(&self) -> BTreeSet<u32> {
        self.ports.values().chain(self.guards.values()).filter_map(|entry| entry_policy(*entry)).collect()
    }

    /// The policy of this listener, if this edge listens there.
    pub fn policy_of(&self, port: u16, at: Destination) -> Option<u32> {
        let entry = match at.key(port) {
            (index, None) => self.ports.get(&index),
            (index, Some(address)) => self.guards.get(&GuardKey { address, port: index }),
        };
        entry.and_then(|entry| entry_policy(*entry))
    }
}

/// The destination addresses that a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// Every IPv4 address (`0.0.0.0`, or `[::]` with both families).
    AnyV4,
    /// Every IPv6 address.
    AnyV6,
    /// One address, in canonical form.
    Address(IpAddr),
}

/// Where a listener stands in the maps: its index in that of ports, and its address if it has only one.
type ListenerKey = (u32, Option<[u8; 16]>);

impl Destination {
    fn key(self, port: u16) -> ListenerKey {
        match self {
            Self::AnyV4 => (port_index(Family::V4, false, port), None),
            Self::AnyV6 => (port_index(Family::V6, false, port), None),
            Self::Address(address) => {
                let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
                (port_index(family, false, port), Some(sixteen(address)))
            }
        }
    }
}

/// An address as both sides of the kernel write it: IPv4 as `::ffff:a.b.c.d`.
pub fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A TCP port of this edge, of one endpoint alone where it has lists.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// TCP port.
    pub port: u16,
    /// Where this edge listens on it.
    pub at: BTreeSet<Destination>,
    /// All of these must admit a source; without any, the blocklist alone holds.
    pub lists: Vec<SourceList>,
}

impl Guarded {
    fn keys(&self) -> impl Iterator<Item = ListenerKey> {
        self.at.iter().map(|at| at.key(self.port))
    }
}

/// The listeners of each port, of either family.
fn by_port(keys: impl Iterator<Item = ListenerKey>) -> BTreeMap<u32, BTreeSet<ListenerKey>> {
    let mut all: BTreeMap<u32, BTreeSet<ListenerKey>> = BTreeMap::new();
    for (index, address) in keys {
        all.entry(index % 65_536).or_default().insert((index, address));
    }
    all
}

/// Why the tables cannot be made; what is in the kernel stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More prefixes than the map holds.
    #[error(
        "the allowlists and the blocklist have {found} prefixes together; the kernel's limit is {PREFIXES_MAX}"
    )]
    Prefixes {
        /// How many there are.
        found: usize,
    },
    /// More guarded ports than policy numbers.
    #[error("more than {} ports have an allowlist of their own", shared::POLICIES_MAX - 1)]
    Policies,
    /// More listeners on single addresses than the map holds.
    #[error("the edge listens on {found} single addresses and ports; the limit is {}", shared::GUARDS_MAX)]
    Guards {
        /// How many there are.
        found: usize,
    },
}

/// The tables for these listeners and this blocklist. A listener keeps the policy number it had in `before` as long as its
/// port has the same listeners: where one comes or goes, sources change from one list to another, and both must be whole
/// while they do. Numbers in use before are not given to another listener, so that none points at a stranger's list while
/// writes are under way.
pub fn compile(before: &Tables, guarded: &[Guarded], blocklist: &[Prefix]) -> Result<Tables, CompileError> {
    let had = before.listeners();
    let mut free = (1..shared::POLICIES_MAX).filter(|n| !had.contains_key(n));
    let stood = by_port(had.values().flatten().copied());
    let stand = by_port(guarded.iter().flat_map(Guarded::keys));
    let mut tables = Tables::default();
    tables.prefixes.extend(blocklist.iter().map(|prefix| ((POLICY_BLOCKLIST, *prefix), VERDICT_DENY)));
    for listener in guarded {
        if listener.lists.is_empty() {
            listener.at.iter().for_each(|at| tables.listen(listener.port, *at, POLICY_BLOCKLIST));
            continue;
        }
        let keys: BTreeSet<_> = listener.keys().collect();
        let port = u32::from(listener.port);
        let same = stood.get(&port) == stand.get(&port);
        let kept = had.iter().find(|(policy, had)| same && **policy != POLICY_BLOCKLIST && **had == keys);
        let policy = kept.map(|(policy, _)| *policy).or_else(|| free.next()).ok_or(CompileError::Policies)?;
        listener.at.iter().for_each(|at| tables.listen(listener.port, *at, policy));
        let verdicts = verdicts(&listener.lists);
        tables.prefixes.extend(verdicts.into_iter().map(|(prefix, verdict)| ((policy, prefix), verdict)));
    }
    if tables.guards.len() > shared::GUARDS_MAX as usize {
        return Err(CompileError::Guards { found: tables.guards.len() });
    }
    match tables.prefixes.len() {
        found if found > PREFIXES_MAX as usize => Err(CompileError::Prefixes { found }),
        _ => Ok(tables),
    }
}

impl Tables {
    fn listen(&mut self, port: u16, at: Destination, policy: u32) {
        let (index, address) = at.key(port);
        let entry = self.ports.entry(index).or_insert(PORT_FOREIGN);
        let Some(address) = address else {
            *entry = (*entry & PORT_BY_ADDRESS) | port_entry(policy);
            return;
        };
        *entry |= PORT_BY_ADDRESS;
        self.guards.insert(GuardKey { address, port: index }, port_entry(policy));
        if policy != POLICY_BLOCKLIST {
            self.guards.insert(GuardKey { address, port: GUARD_ANY_PORT }, PORT_OWN);
        }
    }

    /// The listeners of each policy number.
    fn listeners(&self) -> BTreeMap<u32, BTreeSet<ListenerKey>> {
        let wild = self.ports.iter().map(|(index, entry)| ((*index, None), *entry));
        let single = self.guards.iter().filter(|(key, _)| key.port != GUARD_ANY_PORT);
        let single = single.map(|(key, entry)| ((key.port, Some(key.address)), *entry));
        let mut listeners = BTreeMap::<_, BTreeSet<_>>::new();
        for (key, entry) in wild.chain(single) {
            if let Some(policy) = entry_policy(entry) {
                listeners.entry(policy).or_default().insert(key);
            }
        }
        listeners
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

/// The writes that lead from one content to the other, in an order that opens no window: between any two of them a
/// source has, at a listener that is in both, the verdict it had before or the one it will have, never a third.
///
/// New prefixes go in longest first: a new entry then never hides a longer new one that is still to come. Old ones go
/// out shortest first: an old entry then never shows where a longer old one has already gone. A listener is guarded
/// after its list is in, and released before its list goes out; an address is in before its port points at addresses,
/// and out after. The blocklist grows before all else and shrinks after all else, so that no packet slips through while
/// the lists behind it change. A packet that is judged across several writes does not mix them: see [`with_grace_periods`].
pub fn writes(from: &Tables, to: &Tables) -> Vec<Write> {
    // By family within a length, so that each map gets few and long batches.
    let order = |(policy, prefix): &(u32, Prefix)| {
        let net = prefix.net();
        (*policy == POLICY_BLOCKLIST, net.prefix_len(), net.addr().is_ipv4())
    };
    let mut puts: Vec<_> =
        to.prefixes.iter().filter(|(key, v)| from.prefixes.get(*key) != Some(*v)).collect();
    puts.sort_by_key(|(key, _)| Reverse(order(key)));
    let mut removes: Vec<_> = from.prefixes.keys().filter(|key| !to.prefixes.contains_key(*key)).collect();
    removes.sort_by_key(|key| order(key));

    let put = puts.into_iter().map(|((policy, prefix), v)| Write::Put {
        policy: *policy,
        prefix: *prefix,
        verdict: *v,
    });
    let guard = to.guards.iter().filter(|(key, entry)| from.guards.get(*key) != Some(*entry));
    let guard = guard.map(|(key, entry)| Write::Guard { key: *key, entry: *entry });
    let port = to.ports.iter().filter(|(index, entry)| from.ports.get(*index) != Some(*entry));
    let port = port.map(|(index, entry)| Write::Port { index: *index, entry: *entry });
    let release = from.ports.keys().filter(|index| !to.ports.contains_key(*index));
    let release = release.map(|index| Write::Port { index: *index, entry: PORT_FOREIGN });
    let unguard = from.guards.keys().filter(|key| !to.guards.contains_key(*key));
    let unguard = unguard.map(|key| Write::Unguard { key: *key });
    let remove =
        removes.into_iter().map(|(policy, prefix)| Write::Remove { policy: *policy, prefix: *prefix });
    with_grace_periods(put.chain(guard).chain(port).chain(release).chain(unguard).chain(remove))
}

impl Tables {
    /// Notes a write as done.
    pub fn note(&mut self, write: Write) {
        match write {
            Write::Port { index, entry: PORT_FOREIGN } => drop(self.ports.remove(&index)),
            Write::Port { index, entry } => drop(self.ports.insert(index, entry)),
            Write::Guard { key, entry } => drop(self.guards.insert(key, entry)),
            Write::Unguard { key } => drop(self.guards.remove(&key)),
            Write::Put { policy, prefix, verdict } => drop(self.prefixes.insert((policy, prefix), verdict)),
            Write::Remove { policy, prefix } => drop(self.prefixes.remove(&(policy, prefix))),
            Write::GracePeriod => {}
        }
    }

    /// The policy that packets to this destination are under, if this edge listens there.
    pub fn policy_for(&self, destination: IpAddr, port: u16) -> Option<u32> {
        let at = Destination::Address(destination);
        let entry = *self.ports.get(&at.key(port).0)?;
        let single = if entry & PORT_BY_ADDRESS == 0 { None } else { self.policy_of(port, at) };
        single.or_else(|| entry_policy(entry))
    }

    /// Whether a TCP packet passes by these tables.
    pub fn admits(&self, source: IpAddr, destination: IpAddr, port: u16) -> bool {
        self.judge(source, destination, port).is_none_or(|(_, reason)| reason.passed())
    }

    /// What the kernel program makes of a TCP packet by these tables: the policy it is counted for and the reason, or
    /// none where this edge does not listen. By linear search: the meaning that the program must keep.
    pub fn judge(&self, source: IpAddr, destination: IpAddr, port: u16) -> Option<(u32, Reason)> {
        let policy = self.policy_for(destination, port)?;
        let verdict = |policy: u32| {
            let all = self.prefixes.iter().filter(|((p, _), _)| *p == policy);
            let covering = all.filter(|((_, prefix), _)| covers(*prefix, source));
            covering.max_by_key(|((_, prefix), _)| prefix.net().prefix_len()).map(|(_, verdict)| *verdict)
        };
        Some(if verdict(POLICY_BLOCKLIST) == Some(VERDICT_DENY) {
            (POLICY_BLOCKLIST, Reason::Blocked)
        } else if policy == POLICY_BLOCKLIST {
            (policy, Reason::Allowed)
        } else {
            match verdict(policy) {
                Some(VERDICT_ALLOW) => (policy, Reason::Allowed),
                Some(_) => (policy, Reason::Denied),
                None => (policy, Reason::Unlisted),
            }
        })
    }
}

/// Whether a prefix covers a source as it stands in a packet: an IPv4-mapped address in an IPv6 packet is IPv6.
fn covers(prefix: Prefix, source: IpAddr) -> bool {
    match (prefix.net(), source) {
        (IpNet::V4(net), IpAddr::V4(source)) => net.contains(&source),
        (IpNet::V6(net), IpAddr::V6(source)) => net.contains(&source),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const PORTS: std::ops::Range<u16> = 1000..1003;
    /// The edge's addresses; the last is one that no listener is bound to alone.
    const ADDRESSES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

    /// Networks in a space of 256 addresses, so that random ones nest and collide.
    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<u8>(), 24u8..=32)
            .prop_map(|(n, len)| Prefix::parse_lenient(&format!("10.0.0.{n}/{len}")).unwrap())
    }

    fn list() -> impl Strategy<Value = SourceList> {
        (vec(prefix(), 0..6), vec(prefix(), 0..4)).prop_map(|(allow, deny)| SourceList { allow, deny })
    }

    fn destination() -> impl Strategy<Value = Destination> {
        let address = |n: usize| Destination::Address(ADDRESSES[n].parse().unwrap());
        prop_oneof![Just(Destination::AnyV4), Just(Destination::AnyV6), (0usize..2).prop_map(address)]
    }

    fn guarded() -> impl Strategy<Value = Vec<Guarded>> {
        let listener = (0u16..3, btree_set(destination(), 1..4), vec(list(), 0..3));
        vec(listener, 0..4).prop_map(|listeners| {
            let mut taken = BTreeSet::new();
            let mut guarded = Vec::new();
            for (n, mut at, lists) in listeners {
                let port = PORTS.start + n;
                at.retain(|at| taken.insert((port, *at)));
                guarded.push(Guarded { port, at, lists });
            }
            guarded.retain(|listener| !listener.at.is_empty());
            guarded
        })
    }

    fn source(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
    }

    /// What should hold, by the lists themselves.
    fn should_admit(
        guarded: &[Guarded],
        blocklist: &[Prefix],
        source: IpAddr,
        to: IpAddr,
        port: u16,
    ) -> bool {
        let stands = |at| guarded.iter().find(|l| l.port == port && l.at.contains(&at));
        let Some(listener) = stands(Destination::Address(to)).or_else(|| stands(Destination::AnyV4)) else {
            return true;
        };
        !blocklist.iter().any(|prefix| prefix.contains(source))
            && listener.lists.iter().all(|list| list.admits(source))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_tables_say_what_the_lists_say(guarded in guarded(), block in vec(prefix(), 0..3), n in any::<u8>()) {
            let tables = compile(&Tables::default(), &guarded, &block).unwrap();
            for port in PORTS {
                for to in ADDRESSES.map(|text| text.parse().unwrap()) {
                    let expect = should_admit(&guarded, &block, source(n), to, port);
                    prop_assert_eq!(tables.admits(source(n), to, port), expect, "{} to {}:{}", n, to, port);
                }
            }
        }

        #[test]
        fn no_write_on_the_way_gives_a_third_verdict(
            a in guarded(), b in guarded(), block_a in vec(prefix(), 0..3), block_b in vec(prefix(), 0..3)
        ) {
            let from = compile(&Tables::default(), &a, &block_a).unwrap();
            let to = compile(&from, &b, &block_b).unwrap();
            let listeners = PORTS.flat_map(|port| ADDRESSES.map(|to| (to.parse().unwrap(), port)));
            let in_both = |(at, port): &(IpAddr, u16)| {
                from.policy_for(*at, *port).is_some() && to.policy_for(*at, *port).is_some()
            };
            let listeners: Vec<_> = listeners.filter(in_both).collect();
            let all = |tables: &Tables| -> Vec<bool> {
                let sources = (0..=255).step_by(5).map(source);
                sources.flat_map(|s| listeners.iter().map(move |(at, port)| tables.admits(s, *at, *port))).collect()
            };
            let (before, after) = (all(&from), all(&to));
            let mut now = from.clone();
            for write in writes(&from, &to) {
                now.note(write);
                for ((now, before), after) in all(&now).into_iter().zip(&before).zip(&after) {
                    prop_assert!(now == *before || now == *after, "a third verdict after {:?}", write);
                }
            }
            prop_assert_eq!(now, to);
        }
    }

    /// As [`Tables::admits`] over IPv4, but the entries are read one by one: those before `turn` in `early`, the rest in
    /// `late`, as when a packet is judged while the tables change.
    fn admits_across(
        (early, late): (&Tables, &Tables),
        turn: u8,
        source: IpAddr,
        to: IpAddr,
        port: u16,
    ) -> bool {
        let mut reads = 0;
        let mut now = || {
            reads += 1;
            if reads <= turn { early } else { late }
        };
        let single = Destination::Address(to);
        let Some(entry) = now().ports.get(&single.key(port).0).copied() else { return true };
        let guards = now();
        let is_single = entry & PORT_BY_ADDRESS != 0;
        let found = if is_single { guards.policy_of(port, single) } else { None };
        let Some(policy) = found.or_else(|| entry_policy(entry)) else { return true };
        let mut verdict = |policy: u32| {
            let networks = (24..=32).map(|length| Prefix::from(IpNet::new(source, length).unwrap().trunc()));
            networks.filter_map(|network| now().prefixes.get(&(policy, network)).copied()).last()
        };
        verdict(POLICY_BLOCKLIST) != Some(VERDICT_DENY)
            && (policy == POLICY_BLOCKLIST || verdict(policy) == Some(VERDICT_ALLOW))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_packet_judged_across_writes_gets_a_third_verdict(
            a in guarded(), b in guarded(), block_a in vec(prefix(), 0..3), block_b in vec(prefix(), 0..3), n in any::<u8>()
        ) {
            let from = compile(&Tables::default(), &a, &block_a).unwrap();
            let to = compile(&from, &b, &block_b).unwrap();
            // What a packet may see: everything between two waits.
            let mut seen = vec![vec![from.clone()]];
            let mut now = from.clone();
            for write in writes(&from, &to) {
                now.note(write);
                match write {
                    Write::GracePeriod => seen.push(vec![now.clone()]),
                    _ => seen.last_mut().unwrap().push(now.clone()),
                }
            }
            for (port, at) in PORTS.flat_map(|port| ADDRESSES.map(|at| (port, at.parse().unwrap()))) {
                if [&from, &to].iter().any(|tables| tables.policy_for(at, port).is_none()) {
                    continue;
                }
                let expect = [&from, &to].map(|tables| tables.admits(source(n), at, port));
                for span in &seen {
                    let pairs = (0..span.len()).flat_map(|early| (early..span.len()).map(move |late| (early, late)));
                    for ((early, late), turn) in pairs.flat_map(|pair| (0..21).map(move |turn| (pair, turn))) {
                        let admits = admits_across((&span[early], &span[late]), turn, source(n), at, port);
                        prop_assert!(expect.contains(&admits), "{} to {}:{} at {}", n, at, port, turn);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_guarded_is_known_without_a_port() {
        let check = |at: &[Destination], lists: usize, guarding: u32| {
            let guarded = Guarded {
                port: 1,
                at: at.iter().copied().collect(),
                lists: vec![SourceList::default(); lists],
            };
            let tables = compile(&Tables::default(), &[guarded], &[]).unwrap();
            assert_eq!(tables.guarding(), guarding, "{at:?}");
        };
        let address = Destination::Address("192.0.2.1".parse().unwrap());
        check(&[Destination::AnyV4], 1, shared::GUARDING_V4);
        check(&[Destination::AnyV4, Destination::AnyV6], 1, shared::GUARDING_V4 | shared::GUARDING_V6);
        check(&[Destination::AnyV4, address], 0, 0);
        check(&[address], 1, shared::GUARDING_ADDRESSES);
    }

    #[test]
    fn too_many_prefixes_are_refused_with_the_number() {
        let allow =
            (0..=PREFIXES_MAX).map(|n| Prefix::parse_lenient(&Ipv4Addr::from_bits(n).to_string()).unwrap());
        let lists = vec![SourceList { allow: allow.collect(), deny: Vec::new() }];
        let guarded = Guarded { port: 1, at: BTreeSet::from([Destination::AnyV4]), lists };
        let refused = compile(&Tables::default(), &[guarded], &[]);
        assert_eq!(refused, Err(CompileError::Prefixes { found: 1_000_001 }));
    }
}
