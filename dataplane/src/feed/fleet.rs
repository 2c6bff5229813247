//! An edge of another machine: joins control's fleet once, and renews its certificate every day.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ebbgate_model::EdgeJoinString;
use ebbgate_model::feed::{Enrolled, FLEET_BYTES_MAX, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest};
use http_body_util::{BodyExt as _, Full, Limited};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use serde::Serialize;
use tokio::time::{Duration, sleep, timeout};

use super::address::{Control, IdentityError};
use super::control;
use super::error::FeedError;
use crate::net::tls::{PeerTls, PeerTlsError};
use crate::state::clock;
use crate::state::disk::Disk;
use crate::state::edge::Edge;
use crate::state::identity::Identity;
use crate::state::random;
use crate::state::saved::{Saved, SavedError};
use crate::tunnel::peer::ALPN_PEER;

/// Seconds from connecting to the answer.
const CALL_SECS_MAX: u64 = 20;
/// Seconds from one certificate to the next: a day in 90, so that a new authority is known everywhere soon.
const RENEW_SECS: u64 = 24 * 3600;
/// Seconds after which a renewal that failed is tried again.
const RENEW_RETRY_SECS: u64 = 300;
/// Seconds by which a certificate begins before control makes it.
const BACKDATE_SECS: i64 = 3600;
/// Seconds before the end of a certificate in which any new one is better: 14 days.
const LAST_SECS: i64 = 14 * 24 * 3600;

/// Why an edge has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// It has an identity.
    #[error("this is {edge} already: remove {file} to let it join as another edge")]
    Joined {
        /// Which edge.
        edge: ebbgate_model::EdgeId,
        /// Where its identity is.
        file: String,
    },
    /// No key could be made.
    #[error("no key can be made: {0}")]
    Key(#[from] rcgen::Error),
    /// No control let it in.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The directory.
    #[error(transparent)]
    Saved(#[from] SavedError),
}

/// Asks the controls of a join string in turn, and keeps what the first that answers makes of this edge. Also gives why its
/// certificate is not in force, if a clock is wrong: the string is used, and this edge has joined.
pub async fn join(
    saved: &Saved,
    join: &EdgeJoinString,
) -> Result<(Identity, Option<FeedError>), JoinFailure> {
    if let Some(Identity { edge, .. }) = saved.identity()? {
        return Err(JoinFailure::Joined { edge, file: saved.identity_file().display().to_string() });
    }
    let controls: Vec<String> = join.controls().map(str::to_owned).collect();
    let tls = control::tls(&join.authorities_pem(), None).map_err(FeedError::from)?;
    let (key_pem, csr) = key()?;
    let asked = JoinRequest { token: join.token().expose().to_owned(), csr };
    let mut last = FeedError::Nowhere;
    for control in &controls {
        match call(control, &tls, JOIN_PATH, &asked).await {
            Ok(enrolled) => {
                let wrong_clock = in_force(control, &enrolled, clock::unix_secs()).err();
                let identity = Identity::new(enrolled, controls.clone(), key_pem);
                saved.save_identity(&identity)?;
                return Ok((identity, wrong_clock));
            }
            // Another control has the same tokens: it would say the same.
            Err(refused @ FeedError::Refused(_)) => return Err(refused.into()),
            Err(error) => {
                tracing::warn!(control, %error, "this control did not answer; asking the next");
                last = error;
            }
        }
    }
    Err(last.into())
}

/// A new private key in PEM, and a signing request for it in DER and base64 (RFC 2986).
fn key() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_pem(), STANDARD.encode(csr.der())))
}

async fn call(
    address: &str,
    tls: &Arc<ClientConfig>,
    path: &str,
    asked: &(impl Serialize + Sync),
) -> Result<Enrolled, FeedError> {
    let body = serde_json::to_vec(asked).map_err(FeedError::Unwritten)?;
    let calling = async {
        let request = http::Request::post(format!("https://{address}{path}"))
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| IdentityError::Address(address.to_owned()))?;
        let io = control::connect(&Control::Remote(address.to_owned()), Some(tls)).await?;
        let (answer, driving) = control::send(io, request).await?;
        let answer = Limited::new(answer, FLEET_BYTES_MAX).collect().await;
        driving.abort();
        let answer = answer.map_err(|error| FeedError::Answer(error.to_string()))?;
        serde_json::from_slice(&answer.to_bytes()).map_err(|error| FeedError::Answer(error.to_string()))
    };
    timeout(Duration::from_secs(CALL_SECS_MAX), calling).await.map_err(|_| FeedError::Silent)?
}

/// Refuses a certificate that begins later than now: a part with the right time would refuse it.
fn in_force(control: &str, enrolled: &Enrolled, now_unix_secs: i64) -> Result<(), FeedError> {
    match enrolled.not_before.saturating_sub(now_unix_secs) {
        secs @ 1.. => Err(FeedError::FromTheFuture { control: control.to_owned(), secs }),
        _ => Ok(()),
    }
}

/// Refuses a renewed certificate that is not in force, as the one before would be lost; unless control will refuse that one soon.
fn renewed(
    control: &str,
    enrolled: &Enrolled,
    old_not_after: i64,
    now_unix_secs: i64,
) -> Result<(), FeedError> {
    let control_unix_secs = enrolled.not_before.saturating_add(BACKDATE_SECS);
    if old_not_after.saturating_sub(control_unix_secs) < LAST_SECS {
        return Ok(());
    }
    in_force(control, enrolled, now_unix_secs)
}

/// TLS towards other edges.
///
/// # Errors
/// If the identity cannot be used.
pub fn peer_tls(identity: &Identity) -> Result<PeerTls, PeerTlsError> {
    let Identity { certificate_pem, key_pem, authorities_pem, .. } = identity;
    PeerTls::new(certificate_pem, key_pem, authorities_pem, ALPN_PEER)
}

/// The identity as it is now, for every new connection.
#[derive(Clone)]
pub struct Member {
    now: Arc<Mutex<(Identity, Arc<ClientConfig>)>>,
}

impl Member {
    /// Whether the identity can be used is seen here.
    pub fn new(identity: Identity) -> Result<Self, IdentityError> {
        let tls = control::tls(&identity.authorities_pem, Some(&identity))?;
        Ok(Self { now: Arc::new(Mutex::new((identity, tls))) })
    }

    /// TLS that shows the certificate.
    pub fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    fn identity(&self) -> Identity {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Renews for ever. A control that cannot be reached is tried again: there are weeks.
    pub async fn keep(self, edge: Arc<Edge>, disk: Arc<Disk>, file: std::path::PathBuf) {
        loop {
            let pause = match self.renew().await {
                Ok(identity) => {
                    match peer_tls(&identity) {
                        Ok(proof) => edge.peers.prove_by(proof),
                        Err(error) => {
                            tracing::error!(%error, "the renewed certificate does not serve towards other edges");
                        }
                    }
                    if let Err(error) = disk.write(&file, identity.text().as_bytes()) {
                        tracing::error!(%error, "the renewed certificate is not on disk; it is written later");
                    }
                    RENEW_SECS
                }
                Err(error) => {
                    let until = self.identity().not_after;
                    tracing::warn!(%error, not_after_unix_secs = until, "the certificate towards control is not renewed yet");
                    RENEW_RETRY_SECS
                }
            };
            // A fleet that was started at once does not ask at once for ever.
            sleep(Duration::from_secs(pause / 2 + random::number() % (pause / 2 + 1))).await;
        }
    }

    /// Takes a new key and certificate from the first control that gives one.
    async fn renew(&self) -> Result<Identity, JoinFailure> {
        let (old, tls) = (self.identity(), self.tls());
        let mut last = FeedError::Nowhere;
        for control in &old.controls {
            let (key_pem, csr) = key()?;
            match call(control, &tls, RENEW_PATH, &RenewRequest { csr }).await {
                Ok(enrolled) => {
                    if let Err(error) = renewed(control, &enrolled, old.not_after, clock::unix_secs()) {
                        last = error;
                        continue;
                    }
                    let new = Identity::new(enrolled, old.controls.clone(), key_pem);
                    let tls = control::tls(&new.authorities_pem, Some(&new)).map_err(FeedError::from)?;
                    *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (new.clone(), tls);
                    tracing::info!(
                        control,
                        not_after_unix_secs = new.not_after,
                        "certificate towards control renewed"
                    );
                    return Ok(new);
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{EdgeId, Ksuid};

    #[test]
    fn a_certificate_of_a_control_whose_clock_is_ahead_takes_no_other_s_place() {
        let enrolled = |not_before| Enrolled {
            edge: EdgeId::new(Ksuid::new(1_700_000_000, [1; 16])),
            certificate_pem: String::new(),
            authorities_pem: String::new(),
            not_before,
            not_after: not_before + 1,
        };
        let said = |not_before| in_force("a:1", &enrolled(not_before), 10_000).map_err(|e| e.to_string());
        for begun in [0, 6_400, 10_000] {
            assert_eq!(said(begun), Ok(()));
        }
        let refused = said(92_800).unwrap_err();
        assert!(refused.contains("82800 s from now") && refused.contains("clock"), "{refused}");
        // By control's time the old certificate is about to end: an edge with a slow clock takes the new one.
        let control_unix_secs = 92_800 + BACKDATE_SECS;
        let taken = |left| renewed("a:1", &enrolled(92_800), control_unix_secs + left, 10_000).is_ok();
        assert_eq!([-1, LAST_SECS - 1, LAST_SECS].map(taken), [true, true, false]);
    }
}
