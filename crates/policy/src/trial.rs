//! A policy that is not enforced (`enforce: false`): what its run may ask for, and what the run tells.
//!
//! Pure. Nothing here changes the traffic: the rules run over a copy of its context.

use ebbgate_model::event::NotEnforced;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;

use crate::facts::{Context, EndpointFacts, Phase, Trial};
use crate::verdict::{Effect, Verdict};
use crate::work::Work;

/// Most places of actions that were not judged in what a phase tells.
const NOT_JUDGED_MAX: usize = 16;

/// Whether a forward of this phase is done: a cloud endpoint has no upstream, and nothing else serves its traffic.
pub(crate) fn forwards(phase: Phase, endpoint: &EndpointFacts) -> bool {
    let decides = if endpoint.url.scheme().is_http() { Phase::HttpRequest } else { Phase::TcpConnect };
    endpoint.member.is_none() && phase == decides
}

impl Trial {
    /// One over the traffic of a context. Work of it counts apart, so that an enforced policy after it has all of its own.
    pub(crate) fn of(cx: &Context) -> Self {
        let cx = Context { work: Work::default(), logs: Vec::new(), not_enforced: Vec::new(), ..cx.clone() };
        Self { cx, has_ended: false, found: None, is_told: false, not_judged: Vec::new() }
    }

    /// Begins a phase. False: the phase would not run, because one before would have ended the traffic.
    pub(crate) fn begin(&mut self, phase: Phase, cx: &Context) -> bool {
        (self.found, self.is_told) = (None, false);
        self.not_judged.clear();
        if phase == Phase::HttpResponse || phase.has_response() && self.cx.response.is_none() {
            self.cx.response.clone_from(&cx.response);
        }
        !(phase.has_response() && self.has_ended)
    }

    /// Whether an effect changes nothing but counts of this edge, and holds nothing up for longer than the message lasts.
    /// Key sets are fetched: they are public, and no verdict on a token comes without them.
    pub(crate) fn may_perform(&self, effect: &Effect) -> bool {
        let request = self.cx.request.as_ref().map(|request| &request.headers);
        let message = self.cx.response.as_ref().map(|response| &response.headers).or(request);
        match effect {
            Effect::Keys { .. }
            | Effect::Sessions
            | Effect::IsEnded(_)
            | Effect::Count(_)
            | Effect::Breaker(_)
            | Effect::Guess { .. } => true,
            // The end of a body without a length may come after what it waits for.
            Effect::Body { bytes_max } => request
                .and_then(length)
                .is_some_and(|length| usize::try_from(length).is_ok_and(|l| l <= *bytes_max)),
            Effect::Inspect(inspection) => !inspection.process_body || message.and_then(length).is_some(),
            Effect::TerminateTls(_) | Effect::Call(_) | Effect::Exchange(_) | Effect::Note(_) => false,
        }
    }

    /// An action cannot be judged without acting. The rules go on as if it had passed.
    pub(crate) fn not_judged(&mut self, place: String) {
        if self.not_judged.len() < NOT_JUDGED_MAX {
            self.not_judged.push(place);
        }
    }

    /// The phase comes to this. What it came to before stays.
    pub(crate) fn find(&mut self, phase: Phase, verdict: &Verdict, place: impl FnOnce() -> String) {
        if self.found.is_some() {
            return;
        }
        let mut found = NotEnforced {
            url: self.cx.endpoint.url.to_string(),
            phase: phase.key().to_owned(),
            not_judged: self.not_judged.clone(),
            ..NotEnforced::default()
        };
        let mut word = match verdict {
            Verdict::Continue => "continue",
            Verdict::Forward { url, .. } => {
                found.to = url.to_string();
                "forward"
            }
            Verdict::Respond(reply) => {
                found.status = Some(reply.status.as_u16());
                found.code = reply.code;
                "respond"
            }
            Verdict::Close { code } => {
                found.code = *code;
                "close"
            }
            Verdict::Failed { code, .. } => {
                found.code = Some(*code);
                "fail"
            }
        };
        // What refuses, refuses whether or not something before it does.
        let refuses = matches!(verdict, Verdict::Respond(_) | Verdict::Close { .. });
        if !self.not_judged.is_empty() && !refuses {
            word = "unknown";
        }
        if !matches!(verdict, Verdict::Continue) {
            found.decided_by = place();
        }
        word.clone_into(&mut found.outcome);
        self.has_ended |= refuses || word == "fail";
        self.found = Some(found);
    }

    /// Gives the caller what the phase came to, once.
    pub(crate) fn tell(&mut self, cx: &mut Context) {
        if !self.is_told {
            self.is_told = true;
            cx.not_enforced.extend(self.found.clone());
        }
    }
}

/// What a message says its body is long.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
