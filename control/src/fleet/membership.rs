//! Membership: tokens to join with, edges that have joined, and their certificates.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::feed::{Enrolled, JoinRequest, RenewRequest};
use ebbgate_model::{EdgeId, Token};

use crate::App;
use crate::authority::AuthorityError;
use crate::clock::UnixSecs;
use crate::csr::{self, CsrError};
use crate::record::fleet::{EDGES_PREFIX, EdgeJoin, FleetEdge, JOINS_PREFIX};
use crate::record::{self, RecordError, Stored};
use crate::secret;
use crate::store::{Outcome, Range, StoreError, Txn};

/// Seconds that a token to join with is good for.
pub const JOIN_SECS: UnixSecs = 3600;
/// Longest name of an edge in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Tokens that may wait at once; expired ones do not count.
const JOINS_MAX: usize = 1000;

/// Why an edge does not join, or gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Unknown, used or too old: the three look alike from outside.
    #[error(
        "the join string is used, expired or of another control: make a new one with `ebbgate-control edge join`"
    )]
    Token,
    /// The edge was removed, or never joined here.
    #[error("{0} is no edge of this installation: `ebbgate-control edge list` shows those that are")]
    NoEdge(EdgeId),
    /// The name.
    #[error("`name` has at most {NAME_BYTES_MAX} bytes and no control characters")]
    Name,
    /// Too many tokens wait.
    #[error("{JOINS_MAX} join strings wait to be used: let some of them expire")]
    TooMany,
    /// Another change came first.
    #[error("another change of the same object came first; repeat")]
    Conflict,
    /// The signing request is not base64.
    #[error("`csr` is not base64")]
    Base64,
    /// The signing request.
    #[error("`csr`: {0}")]
    Csr(#[from] CsrError),
    /// A certificate could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<StoreError> for FleetError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

/// Makes a token for one edge. Those that have expired go in the same write.
pub async fn new_join(app: &App, name: &str) -> Result<(Token, UnixSecs), FleetError> {
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(FleetError::Name);
    }
    let (now, id) = (app.now(), app.ksuid());
    let token = app.token(id);
    let expires_at = now.saturating_add(JOIN_SECS);
    let join = EdgeJoin { name: name.to_owned(), hash: secret::hash(token.expose()), expires_at };
    let (mut txn, mut waiting) = (Txn::new().put(EdgeJoin::key(id), record::encode(&join)), 0);
    for item in app.store.range(Range::all(JOINS_PREFIX)).await?.items {
        // What cannot be read is good for no edge.
        match record::parse::<EdgeJoin>(&item) {
            Ok(join) if join.expires_at > now => waiting += 1,
            _ => txn = txn.delete(&item.key),
        }
    }
    if waiting >= JOINS_MAX {
        return Err(FleetError::TooMany);
    }
    commit(app, txn).await?;
    Ok((token, expires_at))
}

/// Lets an edge in. The token is spent in the write that makes the edge: of two that use it at once one is refused.
pub async fn join(
    app: &App,
    authorities_pem: &str,
    JoinRequest { token, csr }: &JoinRequest,
) -> Result<Enrolled, FleetError> {
    let token: Token = token.parse().map_err(|_| FleetError::Token)?;
    let key = EdgeJoin::key(token.ksuid());
    let stored = record::read::<EdgeJoin>(&*app.store, &key).await?.ok_or(FleetError::Token)?;
    let is_right = secret::same(&stored.record.hash.0, &secret::hash(token.expose()).0);
    if !is_right || stored.record.expires_at <= app.now() {
        return Err(FleetError::Token);
    }
    let edge = EdgeId::new(app.ksuid());
    let enrolled = certify(app, authorities_pem, edge, csr)?;
    let record =
        FleetEdge { id: edge, name: stored.record.name, joined_at: app.now(), drained: false, canary: false };
    let txn = Txn::new().if_unchanged(&key, stored.modified).delete(&key);
    match commit(app, txn.put(FleetEdge::key(edge), record::encode(&record))).await {
        Err(FleetError::Conflict) => Err(FleetError::Token),
        done => done.map(|()| enrolled),
    }
}

/// A new certificate for an edge that has shown the one before.
pub async fn renew(
    app: &App,
    authorities_pem: &str,
    edge: EdgeId,
    RenewRequest { csr }: &RenewRequest,
) -> Result<Enrolled, FleetError> {
    member(app, edge).await?;
    certify(app, authorities_pem, edge, csr)
}

/// The record of an edge that belongs.
pub(super) async fn member(app: &App, edge: EdgeId) -> Result<Stored<FleetEdge>, FleetError> {
    let stored = record::read::<FleetEdge>(&*app.store, &FleetEdge::key(edge)).await?;
    stored.ok_or(FleetError::NoEdge(edge))
}

/// Edges that have joined, oldest first. One with a damaged record is left out.
pub async fn edges(app: &App) -> Result<Vec<FleetEdge>, FleetError> {
    let items = app.store.range(Range::all(EDGES_PREFIX)).await?.items;
    Ok(items.iter().filter_map(|item| record::parse(item).ok()).collect())
}

/// Canary edges that belong, connected or not.
pub async fn canaries(app: &App) -> Result<BTreeSet<EdgeId>, RecordError> {
    let items = app.store.range(Range::all(EDGES_PREFIX)).await?.items;
    let edges = items.iter().filter_map(|item| record::parse::<FleetEdge>(item).ok());
    Ok(edges.filter(|edge| edge.canary).map(|edge| edge.id).collect())
}

/// Takes an edge out of service, or puts it into service again.
pub async fn drain(app: &App, edge: EdgeId, drained: bool) -> Result<FleetEdge, FleetError> {
    let stored = member(app, edge).await?;
    let key = FleetEdge::key(edge);
    let was_drained = stored.record.drained;
    let record = FleetEdge { drained, ..stored.record };
    if drained != was_drained {
        commit(app, Txn::new().if_unchanged(&key, stored.modified).put(&key, record::encode(&record)))
            .await?;
    }
    app.presence.set_drained(edge, drained);
    Ok(record)
}

/// Says whether an edge gets changes before others.
pub async fn set_canary(app: &App, edge: EdgeId, canary: bool) -> Result<FleetEdge, FleetError> {
    let stored = member(app, edge).await?;
    let key = FleetEdge::key(edge);
    let record = FleetEdge { canary, ..stored.record.clone() };
    if record != stored.record {
        commit(app, Txn::new().if_unchanged(&key, stored.modified).put(&key, record::encode(&record)))
            .await?;
    }
    app.presence.set_canary(edge, canary);
    Ok(record)
}

/// Makes an edge's certificates useless. Its feed ends within seconds.
pub async fn remove(app: &App, edge: EdgeId) -> Result<FleetEdge, FleetError> {
    let stored = member(app, edge).await?;
    let key = FleetEdge::key(edge);
    commit(app, Txn::new().if_unchanged(&key, stored.modified).delete(&key)).await?;
    Ok(stored.record)
}

fn certify(app: &App, authorities_pem: &str, edge: EdgeId, csr: &str) -> Result<Enrolled, FleetError> {
    let public_key = csr::public_key(&STANDARD.decode(csr).map_err(|_| FleetError::Base64)?)?;
    let pair = app.issuer.edge.peer(&edge.to_string(), &public_key, app.now())?;
    Ok(Enrolled {
        edge,
        certificate_pem: pair.certificate_pem,
        authorities_pem: authorities_pem.to_owned(),
        not_before: pair.not_before,
        not_after: pair.not_after,
    })
}

async fn commit(app: &App, txn: Txn) -> Result<(), FleetError> {
    match app.store.commit(txn).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict(_) => Err(FleetError::Conflict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;

    fn csr() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        STANDARD.encode(rcgen::CertificateParams::default().serialize_request(&key).unwrap().der())
    }

    async fn joined(lab: &Lab, token: &str) -> Result<Enrolled, FleetError> {
        join(&lab.app, "authorities", &JoinRequest { token: token.to_owned(), csr: csr() }).await
    }

    #[tokio::test]
    async fn a_token_lets_one_edge_in_and_no_other() {
        let lab = Lab::new().await;
        let (token, _) = new_join(&lab.app, "paris").await.unwrap();
        let bad = JoinRequest { token: token.expose().to_owned(), csr: "AAAA".to_owned() };
        assert!(matches!(join(&lab.app, "", &bad).await, Err(FleetError::Csr(_))), "it is not spent on this");
        let one = joined(&lab, token.expose()).await.unwrap();
        assert_eq!(one.authorities_pem, "authorities");
        assert!(matches!(joined(&lab, token.expose()).await, Err(FleetError::Token)));
        let all = edges(&lab.app).await.unwrap();
        assert_eq!(
            all.iter().map(|edge| (edge.id, edge.name.as_str())).collect::<Vec<_>>(),
            [(one.edge, "paris")]
        );
        // The same public half with another secret.
        let (other, _) = new_join(&lab.app, "").await.unwrap();
        let (half, _) = other.expose().split_once('_').unwrap();
        let forged = format!("{half}_{}", "a".repeat(21));
        for text in [forged.as_str(), "", "x", token.expose()] {
            assert!(matches!(joined(&lab, text).await, Err(FleetError::Token)), "{text}");
        }
        assert!(joined(&lab, other.expose()).await.is_ok(), "a wrong guess does not spend it");
    }

    #[tokio::test]
    async fn of_two_that_use_a_token_at_once_one_joins() {
        let lab = Lab::new().await;
        let (token, _) = new_join(&lab.app, "").await.unwrap();
        let (one, two) = tokio::join!(joined(&lab, token.expose()), joined(&lab, token.expose()));
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
        assert_eq!(edges(&lab.app).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_token_expires_and_is_swept_with_the_next() {
        let lab = Lab::new().await;
        let (token, expires_at) = new_join(&lab.app, "").await.unwrap();
        let key = EdgeJoin::key(token.ksuid());
        let stored = record::read::<EdgeJoin>(&*lab.app.store, &key).await.unwrap().unwrap();
        assert_eq!(expires_at, lab.app.now() + JOIN_SECS);
        let old = EdgeJoin { expires_at: lab.app.now(), ..stored.record };
        let _ = lab.app.store.commit(Txn::new().put(&key, record::encode(&old))).await.unwrap();
        assert!(matches!(joined(&lab, token.expose()).await, Err(FleetError::Token)));
        new_join(&lab.app, "").await.unwrap();
        assert!(lab.app.store.get(&key).await.unwrap().is_none());
        for name in ["a\n", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(matches!(new_join(&lab.app, name).await, Err(FleetError::Name)), "{name}");
        }
    }

    #[tokio::test]
    async fn an_edge_that_is_removed_gets_no_certificate() {
        let lab = Lab::new().await;
        let (token, _) = new_join(&lab.app, "paris").await.unwrap();
        let edge = joined(&lab, token.expose()).await.unwrap().edge;
        let again = async || renew(&lab.app, "next", edge, &RenewRequest { csr: csr() }).await;
        let renewed = again().await.unwrap();
        assert_eq!((renewed.edge, renewed.authorities_pem.as_str()), (edge, "next"));
        assert_eq!(remove(&lab.app, edge).await.unwrap().name, "paris");
        assert!(matches!(again().await, Err(FleetError::NoEdge(_))));
        assert!(matches!(remove(&lab.app, edge).await, Err(FleetError::NoEdge(_))));
        assert!(edges(&lab.app).await.unwrap().is_empty());
    }
}
