//! Which listeners the kernel can guard, and with which lists; and for every endpoint with an allowlist, in a sentence,
//! why not. Pure: the Tables and the owners of ports go in.
//!
//! A port is guarded when one cloud endpoint alone owns it, so that its list applies to every connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ebbgate_model::{
    Binding, EndpointId, IpPolicyId, IpRestrictionKind, IpRuleAction, Scheme, TrafficPolicy,
};
use ebbgate_policy::References;

use super::compile::{Destination, Guarded};
use super::lists::{SourceList, Unlisted, source_lists};
use crate::state::endpoint::Endpoint;
use crate::state::tables::Tables;

/// The owner of a TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOwner {
    /// None: connections are closed.
    Unserved,
    /// One cloud endpoint, and no other may join it.
    One(EndpointId),
    /// Others too, or an agent's endpoint.
    Several,
}

/// What this edge listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Addresses of the listeners that endpoints share, without those behind load balancers.
    pub shared: Vec<SocketAddr>,
    /// Address that TCP ports are bound on.
    pub tcp_bind: IpAddr,
    /// Whether TCP ports are behind load balancers, so that the kernel sees no visitor's address.
    pub tcp_behind_balancer: bool,
    /// TCP ports, and the owner of each.
    pub tcp: BTreeMap<u16, PortOwner>,
}

/// Why an endpoint's allowlist is not in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOffloadable {
    /// HTTP, HTTPS, TLS.
    #[error("{0} endpoints share their port: who is meant shows only in an accepted connection")]
    SharedPort(Scheme),
    /// An internal endpoint.
    #[error("an internal endpoint has no port of its own")]
    Internal,
    /// The port is behind load balancers.
    #[error(
        "port {0} is behind load balancers (--proxy-protocol-from): the kernel sees their addresses and not the visitors'"
    )]
    Balancer(u16),
    /// Pooling.
    #[error("pooling is enabled: an agent may serve the same address under another policy")]
    Pooled,
    /// Another endpoint is there too.
    #[error("port {0} is served by another endpoint too")]
    Others(u16),
    /// No listener.
    #[error("this edge does not listen on port {0}")]
    NotBound(u16),
    /// The policy.
    #[error(transparent)]
    Unlisted(#[from] Unlisted),
    /// A restriction of the account names a policy that is not here.
    #[error("an IP policy of the account's restriction is not in the program")]
    Restriction,
}

/// Whether the allowlist of one endpoint is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffloadStatus {
    /// The guarded port, if there is one.
    pub port: Option<u16>,
    /// Why its allowlist, or a part of it, is not in the kernel.
    pub why: Option<NotOffloadable>,
}

/// What the kernel is to hold, and the status of each endpoint.
#[derive(Debug, Default)]
pub struct Plan {
    /// All listeners, those without lists too.
    pub guarded: Vec<Guarded>,
    /// Every cloud endpoint that has an allowlist.
    pub endpoints: BTreeMap<EndpointId, OffloadStatus>,
}

/// Decides for all endpoints with lists.
pub fn plan(tables: &Tables, listening: &Listening) -> Plan {
    let mut plan = Plan::default();
    let mut lists: BTreeMap<u16, Vec<SourceList>> = BTreeMap::new();
    let listed = tables.listed.endpoints.keys().filter_map(|id| Some((id, tables.cloud.get(id)?)));
    for (id, endpoint) in listed {
        let references = tables.references(endpoint.account);
        let restricted = restrictions(tables, &references, endpoint);
        let own = tables.policy(*id).filter(|policy| policy.restricts_ips);
        let (port, found, why) = match owned_port(endpoint, listening) {
            Err(why) => (None, Vec::new(), Some(why)),
            Ok(port) => {
                let (found, why) = all_lists(&references, own.map(|policy| &*policy.spec), restricted);
                (Some(port).filter(|_| !found.is_empty()), found, why)
            }
        };
        if let Some(port) = port {
            lists.insert(port, found);
        }
        plan.endpoints.insert(*id, OffloadStatus { port, why });
    }
    let mut at: BTreeMap<u16, BTreeSet<Destination>> = BTreeMap::new();
    for address in &listening.shared {
        at.entry(address.port()).or_default().extend(destinations(address.ip()));
    }
    for (port, at) in at {
        let at = at.difference(&tcp_at(listening, port)).copied().collect();
        plan.guarded.push(Guarded { port, at, lists: Vec::new() });
    }
    for port in listening.tcp.keys() {
        let lists = lists.remove(port).unwrap_or_default();
        plan.guarded.push(Guarded { port: *port, at: tcp_at(listening, *port), lists });
    }
    plan.guarded.retain(|guarded| !guarded.at.is_empty());
    plan
}

fn tcp_at(listening: &Listening, port: u16) -> BTreeSet<Destination> {
    let bound = listening.tcp.contains_key(&port);
    if bound && !listening.tcp_behind_balancer { destinations(listening.tcp_bind) } else { BTreeSet::new() }
}

/// `0.0.0.0` takes every IPv4 address, `::` every address of both families.
fn destinations(address: IpAddr) -> BTreeSet<Destination> {
    match address.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => BTreeSet::from([Destination::AnyV4]),
        IpAddr::V6(ip) if ip.is_unspecified() => BTreeSet::from([Destination::AnyV4, Destination::AnyV6]),
        ip => BTreeSet::from([Destination::Address(ip)]),
    }
}

/// The port that the endpoint alone owns.
fn owned_port(endpoint: &Endpoint, listening: &Listening) -> Result<u16, NotOffloadable> {
    if endpoint.binding != Binding::Public {
        return Err(NotOffloadable::Internal);
    }
    if endpoint.url.scheme() != Scheme::Tcp {
        return Err(NotOffloadable::SharedPort(endpoint.url.scheme()));
    }
    let port = endpoint.url.port();
    if listening.tcp_behind_balancer {
        return Err(NotOffloadable::Balancer(port));
    }
    if endpoint.pooling_enabled {
        return Err(NotOffloadable::Pooled);
    }
    match listening.tcp.get(&port) {
        Some(PortOwner::One(alone)) if *alone == endpoint.id => Ok(port),
        Some(PortOwner::One(_) | PortOwner::Several) => Err(NotOffloadable::Others(port)),
        Some(PortOwner::Unserved) | None => Err(NotOffloadable::NotBound(port)),
    }
}

/// The lists of the endpoint's own policy and of its account; what cannot be taken is left to user space.
fn all_lists(
    references: &References,
    policy: Option<&TrafficPolicy>,
    restricted: Result<Vec<SourceList>, NotOffloadable>,
) -> (Vec<SourceList>, Option<NotOffloadable>) {
    let own = policy.map_or(Ok(Vec::new()), |policy| source_lists(policy, &references.ip_policies));
    let why = own.as_ref().err().copied().map(NotOffloadable::from).or(restricted.as_ref().err().copied());
    (own.into_iter().flatten().chain(restricted.into_iter().flatten()).collect(), why)
}

/// What the account demands of visitors of its public endpoints, one list per restriction.
fn restrictions(
    tables: &Tables,
    references: &References,
    endpoint: &Endpoint,
) -> Result<Vec<SourceList>, NotOffloadable> {
    let applies = tables.restrictions.of(endpoint.account, IpRestrictionKind::Endpoints);
    let applies = applies.filter(|_| endpoint.binding == Binding::Public);
    applies.map(|restriction| merged(references, &restriction.ip_policies)).collect()
}

fn merged(references: &References, ids: &BTreeSet<IpPolicyId>) -> Result<SourceList, NotOffloadable> {
    let mut list = SourceList::default();
    for id in ids {
        for rule in references.ip_policies.get(id).ok_or(NotOffloadable::Restriction)? {
            match rule.action {
                IpRuleAction::Allow => list.allow.push(rule.cidr),
                IpRuleAction::Deny => list.deny.push(rule.cidr),
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{
        AccountId, CloudEndpointSpec, IpPolicyRule, IpPolicySpec, IpRestrictionId, IpRestrictionSpec, Ksuid,
        Program,
    };
    use serde_json::{Value, json};

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000, [n; 16])
    }

    fn id(n: u8) -> EndpointId {
        EndpointId::new(ksuid(n))
    }

    /// An endpoint with a policy of its own.
    type Spec = (CloudEndpointSpec, TrafficPolicy);

    fn spec(url: &str, policy: Value) -> Spec {
        let url: ebbgate_model::EndpointUrl = url.parse().unwrap();
        let policy: TrafficPolicy = serde_json::from_value(policy).unwrap();
        let spec = CloudEndpointSpec {
            account: AccountId::new(ksuid(1)),
            binding: url.implied_binding(),
            url,
            pooling_enabled: false,
            policy: Some(policy.hash()),
        };
        (spec, policy)
    }

    fn plan(program: &Program, listening: &Listening) -> Plan {
        super::plan(&Tables::compile(program, &Tables::default()).0, listening)
    }

    fn allow(cidr: &str) -> Value {
        json!({ "on_tcp_connect": [{ "actions": [{ "type": "restrict-ips", "config": { "allow": [cidr] } }] }] })
    }

    fn listening(bind: &str, tcp: &[(u16, PortOwner)]) -> Listening {
        let shared = ["0.0.0.0:80", "0.0.0.0:443", "[::]:4443"].map(|text| text.parse().unwrap());
        Listening {
            shared: shared.into(),
            tcp_bind: bind.parse().unwrap(),
            tcp_behind_balancer: false,
            tcp: tcp.iter().copied().collect(),
        }
    }

    fn program(endpoints: &[(u8, Spec)]) -> Program {
        let mut program = Program::default();
        for (n, (spec, policy)) in endpoints {
            program.share(policy.clone());
            program.endpoints.insert(id(*n), spec.clone());
        }
        program
    }

    /// Sorts the sources 10.0.0.1 and 10.0.0.2 by what the plan says of them at a port.
    fn admitted(plan: &Plan, port: u16) -> Option<[bool; 2]> {
        let guarded = plan.guarded.iter().find(|guarded| guarded.port == port)?;
        let admits = |ip: &str| guarded.lists.iter().all(|list| list.admits(ip.parse().unwrap()));
        Some([admits("10.0.0.1"), admits("10.0.0.2")])
    }

    #[test]
    fn a_lone_endpoint_on_a_bound_port_is_guarded_at_its_addresses() {
        let program = program(&[(1, spec("tcp://t.example.com:20017", allow("10.0.0.1")))]);
        let tcp = [(20017, PortOwner::One(id(1))), (20018, PortOwner::Unserved)];
        for (bind, at) in [
            ("0.0.0.0", BTreeSet::from([Destination::AnyV4])),
            ("::", BTreeSet::from([Destination::AnyV4, Destination::AnyV6])),
            ("::ffff:192.0.2.1", BTreeSet::from([Destination::Address("192.0.2.1".parse().unwrap())])),
        ] {
            let plan = plan(&program, &listening(bind, &tcp));
            assert_eq!(plan.endpoints[&id(1)], OffloadStatus { port: Some(20017), why: None });
            assert_eq!(admitted(&plan, 20017), Some([true, false]));
            assert_eq!(admitted(&plan, 20018), Some([true, true]), "ours, without a list");
            assert_eq!(plan.guarded.iter().find(|g| g.port == 20017).unwrap().at, at);
            let ports: Vec<u16> = plan.guarded.iter().map(|guarded| guarded.port).collect();
            assert_eq!(ports, [80, 443, 4443, 20017, 20018]);
        }
    }

    #[test]
    fn everybody_else_hears_why_not() {
        let lone = |n| [(20017, PortOwner::One(id(n)))];
        let check = |spec: Spec, tcp: &[(u16, PortOwner)], expect: &str| {
            let plan = plan(&program(&[(1, spec)]), &listening("0.0.0.0", tcp));
            let standing = &plan.endpoints[&id(1)];
            assert_eq!(standing.port, None);
            assert!(standing.why.unwrap().to_string().contains(expect), "{:?}", standing.why);
            assert!(plan.guarded.iter().all(|guarded| guarded.lists.is_empty()));
        };
        let tcp = |policy| spec("tcp://t.example.com:20017", policy);
        check(spec("https://a.example.com", allow("10.0.0.1")), &lone(1), "https endpoints share their port");
        check(spec("tcp://a.internal:1", allow("10.0.0.1")), &lone(1), "internal");
        let (spec_of_one, policy) = tcp(allow("10.0.0.1"));
        check((CloudEndpointSpec { pooling_enabled: true, ..spec_of_one }, policy), &lone(1), "pooling");
        check(tcp(allow("10.0.0.1")), &lone(2), "another endpoint");
        check(tcp(allow("10.0.0.1")), &[(20017, PortOwner::Several)], "another endpoint");
        check(tcp(allow("10.0.0.1")), &[], "does not listen on port 20017");
        check(tcp(allow("${conn.client_ip}/32")), &lone(1), "expression");
        let conditional = json!({ "on_tcp_connect": [{ "expressions": ["true"], "actions": [
            { "type": "restrict-ips", "config": { "allow": ["10.0.0.1"] } },
        ] }] });
        check(tcp(conditional), &lone(1), "no restrict-ips applies to every connection");
    }

    #[test]
    fn a_port_behind_balancers_has_nothing_in_the_kernel() {
        let program = program(&[(1, spec("tcp://t.example.com:20017", allow("10.0.0.1")))]);
        let tcp = [(20017, PortOwner::One(id(1))), (20018, PortOwner::Unserved), (443, PortOwner::Unserved)];
        let listening = Listening { tcp_behind_balancer: true, ..listening("0.0.0.0", &tcp) };
        let plan = plan(&program, &listening);
        let why = NotOffloadable::Balancer(20017);
        assert_eq!(plan.endpoints[&id(1)], OffloadStatus { port: None, why: Some(why) });
        assert!(why.to_string().contains("--proxy-protocol-from"));
        // Neither the blocklist nor the rate of new connections judges the balancer there.
        let ports: Vec<u16> = plan.guarded.iter().map(|guarded| guarded.port).collect();
        assert_eq!(ports, [80, 443, 4443], "the fixed listeners, which have no balancer");
    }

    #[test]
    fn an_endpoint_without_a_list_is_not_reported() {
        let off = json!({ "on_tcp_connect": [{ "actions": [
            { "type": "restrict-ips", "config": { "enforce": false, "allow": [] } },
        ] }] });
        for policy in [json!({}), off] {
            let program = program(&[(1, spec("tcp://t.example.com:20017", policy))]);
            let plan = plan(&program, &listening("0.0.0.0", &[(20017, PortOwner::One(id(1)))]));
            assert!(plan.endpoints.is_empty());
            assert_eq!(admitted(&plan, 20017), Some([true, true]));
        }
    }

    #[test]
    fn the_accounts_restriction_is_one_list_more() {
        let mut program = program(&[
            (1, spec("tcp://t.example.com:20017", allow("10.0.0.0/8"))),
            (2, spec("tcp://t.example.com:20018", json!({}))),
            (3, spec("https://a.example.com", json!({}))),
        ]);
        let policy = IpPolicyId::new(ksuid(7));
        let rules = vec![IpPolicyRule { cidr: "10.0.0.2/32".parse().unwrap(), action: IpRuleAction::Allow }];
        let account = AccountId::new(ksuid(1));
        program.ip_policies.insert(policy, IpPolicySpec { account, rules });
        let restriction = IpRestrictionSpec {
            account,
            kind: IpRestrictionKind::Endpoints,
            enforced: true,
            ip_policies: BTreeSet::from([policy]),
        };
        let key = IpRestrictionId::new(ksuid(1));
        program.ip_restrictions.insert(key, restriction.clone());
        let tcp = [(20017, PortOwner::One(id(1))), (20018, PortOwner::One(id(2)))];
        let now = plan(&program, &listening("0.0.0.0", &tcp));
        assert_eq!(admitted(&now, 20017), Some([false, true]));
        assert_eq!(admitted(&now, 20018), Some([false, true]));
        assert_eq!(now.endpoints[&id(3)].why, Some(NotOffloadable::SharedPort(Scheme::Https)));

        for other in [
            IpRestrictionSpec { enforced: false, ..restriction.clone() },
            IpRestrictionSpec { kind: IpRestrictionKind::Agent, ..restriction.clone() },
            IpRestrictionSpec { account: AccountId::new(ksuid(2)), ..restriction.clone() },
        ] {
            program.ip_restrictions.insert(key, other);
            let now = plan(&program, &listening("0.0.0.0", &tcp));
            assert_eq!(admitted(&now, 20018), Some([true, true]));
            assert_eq!(now.endpoints.len(), 1);
        }
        // A policy that is not there: the kernel leaves the account's demand to user space, and says so.
        program.ip_restrictions.insert(key, restriction);
        program.ip_policies.clear();
        let now = plan(&program, &listening("0.0.0.0", &tcp));
        assert_eq!(admitted(&now, 20017), Some([true, true]));
        assert_eq!(
            now.endpoints[&id(1)],
            OffloadStatus { port: Some(20017), why: Some(NotOffloadable::Restriction) }
        );
        assert_eq!(
            now.endpoints[&id(2)],
            OffloadStatus { port: None, why: Some(NotOffloadable::Restriction) }
        );
    }
}
