//! What to do next for a name: from what is remembered, what the authority says, and the time. Pure.

use super::name::{Issued, Managed};
use super::settings::ChallengeKind;
use super::trouble::Trouble;
use crate::clock::UnixSecs;

/// Certificates that live shorter than this are renewed at half their life.
const SHORT_LIFE_SECS: i64 = 10 * 86_400;
/// An order that is older is given up: authorities keep none for longer.
const ORDER_SECS_MAX: i64 = 7 * 86_400;
/// Shortest and longest time until the authority is asked for its wish again, in seconds (RFC 9773 section 4.3).
const ASK_SECS: (i64, i64) = (60, 86_400);

/// What is to be done for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before this time.
    Wait(UnixSecs),
    /// Ask when the authority wants the certificate renewed.
    Ask,
    /// Begin an order.
    Begin,
    /// Go on with the order under way.
    GoOn,
}

/// What is to be done for a name. `key_type`: what its owner asks for.
pub(super) fn next(name: &Managed, key_type: &str, now: UnixSecs) -> Next {
    // After a failure its wait comes first, whatever else would be due.
    if name.failure.is_some() && now < name.next_at {
        return Next::Wait(name.next_at);
    }
    if let Some(order) = &name.order {
        let too_old = now.saturating_sub(order.begun_at) > ORDER_SECS_MAX;
        return if too_old || order.private_key_type != key_type { Next::Begin } else { Next::GoOn };
    }
    let Some(issued) = &name.issued else { return Next::Begin };
    if issued.private_key_type != key_type || now >= issued.renews_at || now < issued.not_before {
        return Next::Begin;
    }
    match issued.ask_at {
        Some(at) if now >= at => Next::Ask,
        at => Next::Wait(at.unwrap_or(issued.renews_at).min(issued.renews_at)),
    }
}

/// When a certificate is renewed where the authority has no wish: at two thirds of its life, at half of a short one; up
/// to a twentieth of its life sooner. `jitter` is from 0 to 999 and the same for the certificate at every look.
pub(super) fn renews_at(not_before: UnixSecs, not_after: UnixSecs, jitter: u32) -> UnixSecs {
    let life = not_after.saturating_sub(not_before).max(0);
    let latest = if life < SHORT_LIFE_SECS { life / 2 } else { life / 3 * 2 };
    let sooner = share(life / 20, jitter);
    not_before.saturating_add(latest - sooner)
}

/// So many thousandths of a time span, at most 999.
fn share(span: i64, thousandths: u32) -> i64 {
    let thousandths = i64::from(thousandths.min(999));
    span / 1_000 * thousandths + span % 1_000 * thousandths / 1_000
}

/// What an authority wishes of a renewal (RFC 9773 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) start: UnixSecs,
    pub(super) end: UnixSecs,
    /// Seconds until it is to be asked again.
    pub(super) again_secs: i64,
}

/// The certificate's times after the authority was asked. A window that makes no sense changes nothing but the next question.
pub(super) fn wished(issued: &Issued, wish: Wish, jitter: u32, now: UnixSecs) -> Issued {
    let again = wish.again_secs.clamp(ASK_SECS.0, ASK_SECS.1);
    let mut issued = Issued { ask_at: Some(now.saturating_add(again)), ..issued.clone() };
    if wish.start < wish.end && wish.start < issued.not_after {
        let window = wish.end.saturating_sub(wish.start);
        let chosen = wish.start.saturating_add(share(window, jitter));
        // A window beyond the certificate's life would let it expire.
        let latest = renews_at(issued.not_before, issued.not_after, 0).max(wish.start);
        issued.renews_at = if wish.end > issued.not_after { chosen.min(latest) } else { chosen };
    }
    issued
}

/// After a question that got no usable answer: the times stay, the next question comes later.
pub(super) fn unanswered(issued: &Issued, now: UnixSecs) -> Issued {
    Issued { ask_at: Some(now.saturating_add(6 * 3_600)), ..issued.clone() }
}

/// What the authority says of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: Status,
    /// What it says went wrong.
    pub(super) trouble: Option<Trouble>,
    pub(super) proofs: Vec<SeenProof>,
}

/// Status of an order (RFC 8555 section 7.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

/// An authorization: a name to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenProof {
    /// The name; a wildcard begins with `*.`.
    pub(super) name: String,
    pub(super) is_pending: bool,
    pub(super) is_valid: bool,
    pub(super) offers: Vec<Offer>,
}

/// A challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) kind: ChallengeKind,
    pub(super) token: String,
    /// Whether the authority still waits to hear that it is answered.
    pub(super) is_open: bool,
    pub(super) trouble: Option<Trouble>,
}

/// What to do with an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Have this challenge answered, then tell the authority.
    Answer(ChallengeKind),
    /// Look again a little later.
    Look,
    /// Send the certificate's request.
    Finalize,
    /// Fetch the certificate.
    Fetch,
}

/// What to do with an order for `name`.
///
/// # Errors
///
/// Why the order leads to no certificate.
pub(super) fn act(name: &str, wanted: ChallengeKind, has_dns: bool, seen: &Seen) -> Result<Act, Trouble> {
    let [proof] = seen.proofs.as_slice() else {
        let message = format!("the ACME server wants {} names proved for an order of one", seen.proofs.len());
        return Err(Trouble::late(message));
    };
    if proof.name != name {
        return Err(Trouble::late(format!("the ACME server wants another name proved than `{name}`")));
    }
    match seen.status {
        Status::Ready => Ok(Act::Finalize),
        Status::Processing => Ok(Act::Look),
        Status::Valid => Ok(Act::Fetch),
        Status::Invalid => Err(failed(seen, proof)),
        Status::Pending if proof.is_valid => Ok(Act::Look),
        Status::Pending if !proof.is_pending => Err(failed(seen, proof)),
        Status::Pending => {
            if proof.offers.iter().any(|offer| !offer.is_open) {
                return Ok(Act::Look);
            }
            choose(name, wanted, has_dns, &proof.offers).map(Act::Answer)
        }
    }
}

fn failed(seen: &Seen, proof: &SeenProof) -> Trouble {
    let of_challenge = proof.offers.iter().find_map(|offer| offer.trouble.clone());
    let told = of_challenge.or_else(|| seen.trouble.clone());
    let mut trouble = told.unwrap_or_else(|| Trouble::unproved("the ACME server could not prove the name"));
    // The order is over, whatever its reason: soon would be the same order.
    if trouble.again == super::trouble::Again::Soon {
        trouble.again = super::trouble::Again::Late;
    }
    trouble
}

fn choose(
    name: &str,
    wanted: ChallengeKind,
    has_dns: bool,
    offers: &[Offer],
) -> Result<ChallengeKind, Trouble> {
    let is_wildcard = name.starts_with("*.");
    if is_wildcard && !has_dns {
        return Err(Trouble::unproved(NO_DNS));
    }
    let usable = |kind: ChallengeKind| match kind {
        ChallengeKind::Dns01 => has_dns,
        ChallengeKind::Http01 | ChallengeKind::TlsAlpn01 => !is_wildcard,
    };
    let order = [wanted, ChallengeKind::Http01, ChallengeKind::TlsAlpn01, ChallengeKind::Dns01];
    let offered = |kind: &ChallengeKind| usable(*kind) && offers.iter().any(|offer| offer.kind == *kind);
    order.into_iter().find(offered).ok_or_else(|| {
        let offered: Vec<_> = offers.iter().map(|offer| offer.kind.as_str()).collect();
        Trouble::late(format!(
            "the ACME server offers no challenge that can be answered here, only {offered:?}"
        ))
    })
}

/// Said of a wildcard where nobody writes TXT records.
pub(super) const NO_DNS: &str = "a wildcard is proved by a TXT record only, and nobody here writes them: the operator gives --acme-dns or --acme-dns-hook to `ebbgate-control config set`";

#[cfg(test)]
mod tests;
