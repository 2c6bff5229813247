//! Whether a stream of another edge is served, and to which agent it goes. Pure.

use std::sync::Arc;

use crate::state::endpoint::{Endpoint, Kind};
use crate::tunnel::origin::Origin;
use crate::tunnel::peer::{HOPS_MAX, PeerHeader};
use crate::tunnel::session::AgentRef;

/// What asks for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Another edge, for an agent of this process.
    Edge,
    /// Another edge, for an agent of an older process of this edge, which passes nothing on.
    EdgeOfOlder,
    /// A newer process of this edge.
    Newer,
}

/// Why a stream of another edge is not served. No byte of it went to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotServed {
    /// It was passed on before, so it may go round in a circle.
    #[error("the stream has passed more than {HOPS_MAX} edges")]
    Hops,
    /// The other edge knows less than this one, or more.
    #[error("no such endpoint of the account is online here")]
    NotHere,
    /// The visitor would wait for an agent that does not answer.
    #[error("nothing is heard from the agent")]
    Silent,
}

/// `found`: the endpoint of the session that the header names, if it is connected to this edge. `from`: the edge that sent the stream.
pub(super) fn judge(
    header: &PeerHeader,
    found: Option<&Arc<Endpoint>>,
    from: Asker,
) -> Result<(AgentRef, Origin), NotServed> {
    if header.hops != HOPS_MAX {
        return Err(NotServed::Hops);
    }
    let found =
        found.filter(|endpoint| endpoint.account == header.account && endpoint.url.scheme() == header.proto);
    let agent = match found.map(|endpoint| &endpoint.kind) {
        // An agent of a third edge is never asked, whatever was told of it.
        Some(Kind::Agent(agent)) if agent.elsewhere.is_some() == (from == Asker::EdgeOfOlder) => agent,
        _ => return Err(NotServed::NotHere),
    };
    // A newer process has no other way to this agent.
    if agent.session.is_silent() && from != Asker::Newer {
        return Err(NotServed::Silent);
    }
    let PeerHeader { client, server, proto, passthrough, .. } = *header;
    Ok((agent.clone(), Origin { client, server, proto, passthrough, instead: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::endpoint::fixture;
    use crate::tunnel::peer::Elsewhere;
    use ebbgate_model::{EdgeId, Ksuid, Scheme, TunnelSessionId};

    #[test]
    fn an_agent_of_this_edge_is_reached_within_its_account_after_one_hop() {
        let endpoint = fixture::agent(1, "tcp://a.internal:1");
        let ksuid = Ksuid::new(1, [1; 16]);
        let header = PeerHeader {
            account: endpoint.account,
            session: TunnelSessionId::new(ksuid),
            endpoint: endpoint.id,
            client: "192.0.2.7:5".parse().unwrap(),
            server: "192.0.2.1:443".parse().unwrap(),
            proto: Scheme::Tcp,
            passthrough: false,
            hops: 1,
        };
        let why = |header: &PeerHeader, found| judge(header, found, Asker::Edge).err();
        let (agent, origin) = judge(&header, Some(&endpoint), Asker::Edge).unwrap();
        assert_eq!((&*agent.bind, origin.client), ("bind-1", header.client));
        for hops in [0, 2, u8::MAX] {
            assert_eq!(why(&PeerHeader { hops, ..header.clone() }, Some(&endpoint)), Some(NotServed::Hops));
        }
        assert_eq!(why(&header, None), Some(NotServed::NotHere));
        let other = PeerHeader { account: fixture::account(9), ..header.clone() };
        assert_eq!(why(&other, Some(&endpoint)), Some(NotServed::NotHere));
        let other = PeerHeader { proto: Scheme::Https, ..header.clone() };
        assert_eq!(why(&other, Some(&endpoint)), Some(NotServed::NotHere));
        let cloud = fixture::cloud(2, "tcp://a.internal:1");
        assert_eq!(why(&header, Some(&cloud)), Some(NotServed::NotHere));
        let mut third = Arc::into_inner(fixture::agent(3, "tcp://a.internal:1")).unwrap();
        let Kind::Agent(agent) = &mut third.kind else { unreachable!("it is an agent's") };
        let elsewhere = Elsewhere {
            edge: EdgeId::new(ksuid),
            account: header.account,
            session: header.session,
            endpoint: header.endpoint,
            passes_bare: false,
        };
        agent.elsewhere = Some(Box::new(elsewhere));
        let third = Arc::new(third);
        assert_eq!(why(&header, Some(&third)), Some(NotServed::NotHere));
        assert!(
            judge(&header, Some(&third), Asker::EdgeOfOlder).is_ok(),
            "an older process of this edge passes nothing on"
        );
    }
}
