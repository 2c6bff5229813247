//! One name, taken as far as it goes: from the wish over an order and its proof to a certificate in the store.
//!
//! Each step is stored before the next, so that a job that ends anywhere is gone on with.

use std::time::{Duration, SystemTime};

use ebbgate_model::{CertificateId, Host};
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error, Identifier,
    NewOrder, OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use tokio::time::{Instant, sleep};

use super::account::account;
use super::acknowledged::acknowledged;
use super::challenge::{Challenge, Proof};
use super::check::{Life, check};
use super::client::Http;
use super::dns;
use super::machine::{
    Act, NO_DNS, Next, Offer, Seen, SeenProof, Status, Wish, act, next, renews_at, unanswered, wished,
};
use super::name::{Failure, Issued, Managed, Order, Owner};
use super::settings::{AcmeSettings, ChallengeKind};
use super::trouble::{Again, Trouble, wait};
use crate::App;
use crate::authority::certificates;
use crate::clock::UnixSecs;
use crate::init::{below, is_local};
use crate::leader::Claim;
use crate::record::{self, AgentIngress, IssuedCertificate, ReservedDomain};
use crate::secret;
use crate::store::{Outcome, Revision, Txn};

/// Seconds that a job looks at an order before it makes room for others.
const JOB_SECS_MAX: u64 = 60;
/// Seconds until it looks again then.
const LATER_SECS: i64 = 15;
/// Milliseconds until the first look at an order, and most until any.
const LOOK_MS: (u64, u64) = (250, 5_000);
/// Authorizations of one order that are read.
const AUTHORIZATIONS_MAX: usize = 4;

/// Why a job ends early.
enum Stop {
    /// It is told and tried again.
    Trouble(Trouble),
    /// Somebody else changed the name, or issues now.
    Lost,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// What an owner asks for.
struct Wanted {
    host: Host,
    key_type: String,
}

struct Job<'a> {
    app: &'a App,
    settings: &'a AcmeSettings,
    claim: Claim,
    owner: Owner,
    name: Managed,
    modified: Revision,
}

/// The wildcard of the default domain, where it can be proved. None: our own authority's certificate stays.
pub(super) fn default_domain(app: &App, settings: &AcmeSettings) -> Option<Host> {
    let domain = app.installation.default_domain.as_ref().filter(|domain| !is_local(domain))?;
    below(domain).filter(|_| settings.dns.is_some())
}

/// Does what is to be done for a name. Leaves when it is to be looked at next in what is stored.
pub(super) async fn run(app: &App, settings: &AcmeSettings, claim: Claim, owner: Owner) {
    let stored = match record::read::<Managed>(&*app.store, &owner.key()).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return,
        Err(error) => return tracing::error!(%owner, %error, "a certificate order cannot be gone on with"),
    };
    let mut job = Job { app, settings, claim, owner, name: stored.record, modified: stored.modified };
    let ended = job.run().await;
    if let Err(Stop::Trouble(trouble)) = ended
        && let Err(Stop::Trouble(trouble)) = job.failed(trouble).await
    {
        tracing::error!(%owner, %trouble, "a failure could not be stored");
    }
}

impl Job<'_> {
    async fn run(&mut self) -> Result<(), Stop> {
        let Some(wanted) = self.wanted().await? else { return self.forget().await };
        if wanted.host != self.name.host {
            self.clear().await;
            self.name = Managed::new(wanted.host, self.app.now());
            self.save(Txn::new()).await?;
        }
        match next(&self.name, &wanted.key_type, self.app.now()) {
            Next::Wait(at) if self.name.next_at == at => Ok(()),
            Next::Wait(at) => {
                self.name.next_at = at;
                self.save(Txn::new()).await.map(drop)
            }
            Next::Ask => self.ask().await,
            Next::Begin => {
                self.begin(wanted.key_type).await?;
                self.go_on().await
            }
            Next::GoOn => self.go_on().await,
        }
    }

    /// What the owner asks for. None: nothing any more.
    async fn wanted(&self) -> Result<Option<Wanted>, Stop> {
        let store = &*self.app.store;
        let unread = |error: record::RecordError| Trouble::soon(error.to_string());
        let (host, policy) = match self.owner {
            Owner::Domain(account, id) => {
                let domain = record::load::<ReservedDomain>(store, account, id).await.map_err(unread)?;
                let Some(domain) = domain.map(|stored| stored.record) else { return Ok(None) };
                (domain.host, domain.management.filter(|_| domain.certificate.is_none()))
            }
            Owner::Ingress(account, id) => {
                let ingress = record::load::<AgentIngress>(store, account, id).await.map_err(unread)?;
                let Some(ingress) = ingress.map(|stored| stored.record) else { return Ok(None) };
                (ingress.host, ingress.management)
            }
            Owner::DefaultDomain => {
                let names = default_domain(self.app, self.settings);
                return Ok(names.map(|host| Wanted { host, key_type: "ecdsa".into() }));
            }
        };
        Ok(policy.map(|policy| Wanted { host, key_type: policy.private_key_type }))
    }

    /// Stores the name, and what else `txn` has, if nobody else changed it.
    async fn save(&mut self, txn: Txn) -> Result<Revision, Stop> {
        let key = self.owner.key();
        let txn =
            self.claim.fence(txn).if_unchanged(&key, self.modified).put(&key, record::encode(&self.name));
        match self.app.store.commit(txn).await {
            Ok(Outcome::Committed(revision)) => {
                self.modified = revision;
                Ok(revision)
            }
            Ok(Outcome::Conflict(_)) => Err(Stop::Lost),
            Err(error) => Err(Trouble::soon(error.to_string()).into()),
        }
    }

    /// Nobody asks for the name any more.
    async fn forget(&mut self) -> Result<(), Stop> {
        self.clear().await;
        let key = self.owner.key();
        let txn = self.claim.fence(Txn::new()).if_unchanged(&key, self.modified).delete(&key);
        match self.app.store.commit(self.without_challenge(txn)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Trouble::soon(error.to_string()).into()),
        }
    }

    fn without_challenge(&self, txn: Txn) -> Txn {
        match self.owner.challenge_key(&self.name.host) {
            Some(key) => txn.delete(key),
            None => txn,
        }
    }

    /// Takes our TXT record away. One that stays does no harm but to the zone's looks.
    async fn clear(&mut self) {
        let Some(placed) = self.name.order.as_mut().and_then(|order| order.placed.take()) else { return };
        if let Err(trouble) = dns::remove(self.settings, &self.app.vault, &placed).await {
            tracing::warn!(name = placed.name, %trouble, "a TXT record of ours stays; remove it by hand");
        }
    }

    async fn failed(&mut self, trouble: Trouble) -> Result<(), Stop> {
        let now = self.app.now();
        let mut random = [0; 2];
        self.app.entropy.fill(&mut random);
        let jitter = u32::from(u16::from_le_bytes(random)) % 1_000;
        self.name.failures = self.name.failures.saturating_add(1);
        let wait = wait(trouble.again, self.name.failures, jitter);
        self.name.next_at = now.saturating_add(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX).max(1));
        let mut txn = Txn::new();
        if trouble.again == Again::Late {
            self.clear().await;
            self.name.order = None;
            txn = self.without_challenge(txn);
        }
        self.app.metrics.acme_failed(trouble.code);
        tracing::warn!(
            host = %self.name.host, owner = %self.owner, failures = self.name.failures, retries_in_secs = wait.as_secs(),
            %trouble, "no certificate from the ACME server"
        );
        self.name.failure = Some(Failure { code: trouble.code, message: trouble.message, at: now });
        self.save(txn).await.map(drop)
    }

    /// Begins an order: its key is stored before the authority hears of it.
    async fn begin(&mut self, key_type: String) -> Result<(), Stop> {
        if self.name.host.is_wildcard() && self.settings.dns.is_none() {
            return Err(Trouble::unproved(NO_DNS).into());
        }
        self.clear().await;
        let rsa = key_type == "rsa";
        let made = tokio::task::spawn_blocking(move || {
            if rsa {
                KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            } else {
                KeyPair::generate()
            }
        });
        let made = made.await.map_err(|error| Trouble::soon(error.to_string()))?;
        let pair = made.map_err(|error| Trouble::soon(format!("no key could be made: {error}")))?;
        let key = self.app.vault.seal(&self.owner.key(), &pair.serialize_pem());
        self.name.order = Some(Order {
            url: None,
            begun_at: self.app.now(),
            private_key_type: key_type,
            key,
            placed: None,
            without_replaces: false,
        });
        self.save(self.without_challenge(Txn::new())).await.map(drop)
    }

    fn pair(&self) -> Result<KeyPair, Stop> {
        let order = self.name.order.as_ref().ok_or(Stop::Lost)?;
        let pem =
            self.app.vault.open(&self.owner.key(), &order.key).map_err(|e| Trouble::late(e.to_string()))?;
        KeyPair::from_pem(&pem).map_err(|error| Trouble::late(format!("the order's key: {error}")).into())
    }

    async fn go_on(&mut self) -> Result<(), Stop> {
        let http = self.http()?;
        let account = account(self.app, self.settings, &self.claim, &http).await?;
        let mut order = self.order(&account, &http).await?;
        let theirs = |error| Trouble::of_error(&error, &http.heard(), SystemTime::now());
        let deadline = Instant::now() + Duration::from_secs(JOB_SECS_MAX);
        let (mut pause, mut told) = (LOOK_MS.0, false);
        while Instant::now() < deadline {
            let seen = see(&mut order).await.map_err(theirs)?;
            let asked = http.heard().retry_after.and_then(|at| at.duration_since(SystemTime::now()).ok());
            match act(self.name.host.as_str(), self.settings.challenge, self.settings.dns.is_some(), &seen)? {
                Act::Answer(kind) if !told => {
                    let authorization = proof(&mut order, kind).await.map_err(theirs)?;
                    let (token, key_authorization, value) = authorization.ok_or(Stop::Lost)?;
                    self.place(kind, &token, &key_authorization, value).await?;
                    tell(&mut order, kind).await.map_err(theirs)?;
                    told = true;
                }
                Act::Answer(_) | Act::Look => {
                    let asked = asked.unwrap_or_default().min(Duration::from_secs(JOB_SECS_MAX));
                    sleep(asked.max(Duration::from_millis(pause))).await;
                    pause = (pause * 2).min(LOOK_MS.1);
                }
                Act::Finalize => {
                    let csr = request(&self.pair()?, &self.name.host)?;
                    order.finalize_csr(&csr).await.map_err(theirs)?;
                }
                Act::Fetch => {
                    let chain = order.certificate().await.map_err(theirs)?;
                    let chain = chain.ok_or_else(|| Trouble::soon("the certificate is not there yet"))?;
                    return self.complete(chain).await;
                }
            }
        }
        self.name.next_at = self.app.now().saturating_add(LATER_SECS);
        self.save(Txn::new()).await.map(drop)
    }

    fn http(&self) -> Result<Http, Trouble> {
        Http::new(self.settings.root_pem.as_deref()).map_err(|error| Trouble::soon(error.0))
    }

    /// The order under way, made where there is none.
    async fn order(&mut self, account: &Account, http: &Http) -> Result<instant_acme::Order, Stop> {
        let theirs = |error| Trouble::of_error(&error, &http.heard(), SystemTime::now());
        let kept = self.name.order.clone().ok_or(Stop::Lost)?;
        if let Some(url) = kept.url {
            return match account.order(url).await {
                Ok(order) => Ok(order),
                Err(Error::Api(problem)) if matches!(problem.status, Some(403 | 404)) => {
                    self.clear().await;
                    self.name.order = None;
                    Err(Trouble::soon("the ACME server does not know the order any more; another is begun")
                        .into())
                }
                Err(error) => Err(theirs(error).into()),
            };
        }
        let identifiers = [Identifier::Dns(self.name.host.to_string())];
        let replaced = if kept.without_replaces { None } else { self.current().await? };
        let plain = || NewOrder::new(&identifiers);
        let order = match replaced.as_ref().and_then(|der| CertificateIdentifier::try_from(der).ok()) {
            None => account.new_order(&plain()).await,
            Some(replaced) => match account.new_order(&plain().replaces(replaced)).await {
                // The authority has no such wish to hear, or lists it and refuses it: once more without.
                Err(Error::Unsupported(_)) => account.new_order(&plain()).await,
                Err(error) if is_of_replaces(&error) => {
                    tracing::info!(host = %self.name.host, %error, "the ACME server does not take `replaces`");
                    if let Some(order) = &mut self.name.order {
                        order.without_replaces = true;
                    }
                    self.save(Txn::new()).await?;
                    account.new_order(&plain()).await
                }
                answered => answered,
            },
        };
        let order = order.map_err(theirs)?;
        self.app.metrics.acme_orders.inc();
        if let Some(kept) = &mut self.name.order {
            kept.url = Some(order.url().to_owned());
        }
        self.save(Txn::new()).await?;
        tracing::info!(host = %self.name.host, order = order.url(), "ordered a certificate");
        Ok(order)
    }

    /// The certificate in use, if the authority issued it.
    async fn current(&self) -> Result<Option<rustls::pki_types::CertificateDer<'static>>, Stop> {
        if self.name.issued.is_none() {
            return Ok(None);
        }
        let key = self.owner.certificate_key();
        let stored = record::read::<IssuedCertificate>(&*self.app.store, &key).await;
        let stored = stored.map_err(|error| Trouble::soon(error.to_string()))?;
        let leaf = stored.filter(|stored| stored.record.acme);
        Ok(leaf.and_then(|leaf| certificates(&leaf.record.chain_pem).into_iter().next()))
    }

    /// Has a challenge answered, by every edge or in DNS.
    async fn place(
        &mut self,
        kind: ChallengeKind,
        token: &str,
        key_authorization: &str,
        value: String,
    ) -> Result<(), Stop> {
        if let (ChallengeKind::Dns01, Some(settings)) = (kind, &self.settings.dns) {
            let placed = dns::record(settings, &self.name.host, value);
            let before = self.name.order.as_mut().and_then(|order| order.placed.replace(placed.clone()));
            if let Some(before) = before.filter(|before| *before != placed) {
                let _ = dns::remove(self.settings, &self.app.vault, &before).await;
            }
            self.save(Txn::new()).await?;
            return Ok(dns::add(self.settings, &self.app.vault, &placed).await?);
        }
        let Some(key) = self.owner.challenge_key(&self.name.host) else {
            return Err(Trouble::late(NO_DNS).into());
        };
        let host = self.name.host.clone();
        let proof = match kind {
            ChallengeKind::TlsAlpn01 => Proof::tls_alpn(&key, &host, key_authorization, &self.app.vault)?,
            _ => Proof::http(token, key_authorization)?,
        };
        let revision = self.save(Txn::new().put(key, record::encode(&Challenge { host, proof }))).await?;
        Ok(acknowledged(self.app, revision).await?)
    }

    /// Checks what the authority sent, and puts it in the place of what there was.
    async fn complete(&mut self, chain_pem: String) -> Result<(), Stop> {
        let now = self.app.now();
        let pair = self.pair()?;
        let life = check(&chain_pem, &pair, &self.name.host, now);
        let life =
            life.map_err(|bad| Trouble::late(format!("the ACME server sent a bad certificate: {bad}")))?;
        self.clear().await;
        let (id, key) = (self.app.ksuid(), self.owner.certificate_key());
        let certificate = IssuedCertificate {
            id: CertificateId::new(id),
            host: self.name.host.clone(),
            key: self.app.vault.seal(&key, &pair.serialize_pem()),
            chain_pem,
            not_before: life.not_before,
            not_after: life.not_after,
            acme: true,
        };
        let order = self.name.order.take().ok_or(Stop::Lost)?;
        self.name.issued = Some(issued(certificate.id, life, order.private_key_type, now));
        (self.name.failure, self.name.failures, self.name.next_at) = (None, 0, now);
        let txn = self.without_challenge(Txn::new().put(key, record::encode(&certificate)));
        self.save(txn).await?;
        self.app.metrics.acme_certificates.inc();
        tracing::info!(host = %self.name.host, not_after = life.not_after, "a certificate of the ACME server is in use");
        Ok(())
    }

    /// Asks when the authority wants the certificate renewed (RFC 9773). No answer is no failure.
    async fn ask(&mut self) -> Result<(), Stop> {
        let Some(now_issued) = self.name.issued.clone() else { return Err(Stop::Lost) };
        let now = self.app.now();
        let answer = self.wish().await?;
        let next = match answer {
            Answer::Wish(wish) => wished(&now_issued, wish, jitter(now_issued.id), now),
            Answer::None => Issued { ask_at: None, ..now_issued },
            Answer::Later => unanswered(&now_issued, now),
        };
        self.name.next_at = next.ask_at.unwrap_or(next.renews_at).min(next.renews_at);
        self.name.issued = Some(next);
        self.save(Txn::new()).await.map(drop)
    }

    async fn wish(&self) -> Result<Answer, Stop> {
        let current = self.current().await?;
        let Some(id) = current.as_ref().and_then(|der| CertificateIdentifier::try_from(der).ok()) else {
            return Ok(Answer::None);
        };
        let http = self.http()?;
        let Ok(account) = account(self.app, self.settings, &self.claim, &http).await else {
            return Ok(Answer::Later);
        };
        Ok(match account.renewal_info(&id).await {
            Ok((info, again)) => Answer::Wish(Wish {
                start: info.suggested_window.start.unix_timestamp(),
                end: info.suggested_window.end.unix_timestamp(),
                again_secs: i64::try_from(again.as_secs()).unwrap_or(i64::MAX),
            }),
            Err(Error::Unsupported(_)) => Answer::None,
            Err(error) => {
                tracing::info!(host = %self.name.host, %error, "the ACME server did not say when to renew");
                Answer::Later
            }
        })
    }
}

/// What an authority answers to the question when to renew.
enum Answer {
    Wish(Wish),
    None,
    Later,
}

fn issued(id: CertificateId, life: Life, private_key_type: String, now: UnixSecs) -> Issued {
    let renews_at = renews_at(life.not_before, life.not_after, jitter(id));
    // A life that is nearly over when it begins would be renewed at once, and again.
    let renews_at = renews_at.max(now.saturating_add(life.not_after.saturating_sub(now) / 3));
    let (not_before, not_after) = (life.not_before.min(now), life.not_after);
    Issued { id, not_before, not_after, private_key_type, renews_at, ask_at: Some(now) }
}

/// From 0 to 999, and the same for a certificate at every look and on every replica.
fn jitter(id: CertificateId) -> u32 {
    let hash = secret::hash_hex(id.to_string().as_bytes());
    hash.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or_default() % 1_000
}

/// Whether an order may have been refused because of `replaces`: whatever is neither the network's nor the account's fault.
fn is_of_replaces(error: &Error) -> bool {
    match error {
        Error::Api(problem) => Trouble::of_problem(problem).again == Again::Late,
        Error::Other(error) => error.to_string().contains("replaces"),
        _ => false,
    }
}

fn request(pair: &KeyPair, host: &Host) -> Result<Vec<u8>, Trouble> {
    let failed = |error: rcgen::Error| Trouble::late(format!("no certificate can be asked for: {error}"));
    let mut params = CertificateParams::new(vec![host.to_string()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(pair).map_err(failed)?.der().to_vec())
}

/// How the authority sees the order now.
async fn see(order: &mut instant_acme::Order) -> Result<Seen, Error> {
    let state = order.refresh().await?;
    let status = match state.status {
        OrderStatus::Pending => Status::Pending,
        OrderStatus::Ready => Status::Ready,
        OrderStatus::Processing => Status::Processing,
        OrderStatus::Valid => Status::Valid,
        OrderStatus::Invalid => Status::Invalid,
    };
    let trouble = state.error.as_ref().map(Trouble::of_problem);
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        let offers = authorization.challenges.iter().filter_map(|challenge| {
            Some(Offer {
                kind: kind(&challenge.r#type)?,
                token: challenge.token.clone(),
                is_open: challenge.status == ChallengeStatus::Pending,
                trouble: challenge.error.as_ref().map(Trouble::of_problem),
            })
        });
        proofs.push(SeenProof {
            name: authorization.identifier().to_string(),
            is_pending: authorization.status == AuthorizationStatus::Pending,
            is_valid: authorization.status == AuthorizationStatus::Valid,
            offers: offers.collect(),
        });
        if proofs.len() >= AUTHORIZATIONS_MAX {
            break;
        }
    }
    Ok(Seen { status, trouble, proofs })
}

fn kind(theirs: &ChallengeType) -> Option<ChallengeKind> {
    match theirs {
        ChallengeType::Http01 => Some(ChallengeKind::Http01),
        ChallengeType::TlsAlpn01 => Some(ChallengeKind::TlsAlpn01),
        ChallengeType::Dns01 => Some(ChallengeKind::Dns01),
        _ => None,
    }
}

fn theirs(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
    }
}

/// Token, key authorization and TXT value of the first authorization's challenge of a kind.
async fn proof(
    order: &mut instant_acme::Order,
    kind: ChallengeKind,
) -> Result<Option<(String, String, String)>, Error> {
    let mut authorizations = order.authorizations();
    let Some(authorization) = authorizations.next().await else { return Ok(None) };
    let mut authorization = authorization?;
    Ok(authorization.challenge(theirs(kind)).map(|challenge| {
        let key = challenge.key_authorization();
        (challenge.token.clone(), key.as_str().to_owned(), key.dns_value())
    }))
}

/// Tells the authority that the challenge is answered.
async fn tell(order: &mut instant_acme::Order, kind: ChallengeKind) -> Result<(), Error> {
    let mut authorizations = order.authorizations();
    let Some(authorization) = authorizations.next().await else { return Ok(()) };
    let mut authorization = authorization?;
    match authorization.challenge(theirs(kind)) {
        Some(mut challenge) => challenge.set_ready().await,
        None => Ok(()),
    }
}
