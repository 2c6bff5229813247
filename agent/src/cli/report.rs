//! Tells people and logs what a session goes through, and judges when there is no point in going on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ebbgate::plan::Refusal;
use ebbgate::session::Event;
use tokio::sync::watch;

/// What kind of run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// `http`, `tcp`, `tls`: somebody is watching, so the first refusal ends it.
    AdHoc,
    /// `start`: keeps trying whatever may heal.
    Start,
}

/// Why a run ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The edge asked for it.
    Stop,
    /// There is no point in going on.
    Fail(String),
}

/// Watches the beginning of a run. Pure.
#[derive(Debug)]
struct Judge {
    mode: Mode,
    /// Endpoints never online so far, with their last refusal for good.
    waiting: BTreeMap<String, Option<Refusal>>,
    any_online: bool,
}

impl Judge {
    fn new(mode: Mode, names: impl IntoIterator<Item = String>) -> Self {
        Self { mode, waiting: names.into_iter().map(|name| (name, None)).collect(), any_online: false }
    }

    fn hear(&mut self, event: &Event) -> Option<Verdict> {
        match event {
            Event::StopRequested => Some(Verdict::Stop),
            // What one edge refuses the first session may serve all the same.
            Event::Further(event) => match **event {
                Event::StopRequested | Event::EndpointOnline { .. } => self.hear(event),
                _ => None,
            },
            Event::AuthRefused { refusal, was_online: false, .. }
                if self.mode == Mode::AdHoc || refusal.is_permanent() =>
            {
                Some(Verdict::Fail(block("The edge refused this agent", refusal)))
            }
            Event::EndpointOnline { name, .. } => {
                self.waiting.remove(name);
                self.any_online = true;
                None
            }
            Event::EndpointRefused { name, refusal, .. } => self.refused(name, refusal),
            Event::EndpointStopped { refusal, .. } if self.mode == Mode::AdHoc => {
                Some(Verdict::Fail(block("The edge stopped the endpoint", refusal)))
            }
            _ => None,
        }
    }

    fn refused(&mut self, name: &str, refusal: &Refusal) -> Option<Verdict> {
        let waiting = self.waiting.get_mut(name)?;
        if self.mode == Mode::AdHoc {
            // Without a code there was no answer, and another try may bring one.
            refusal.code?;
            return Some(Verdict::Fail(block(&format!("The edge refused the endpoint `{name}`"), refusal)));
        }
        if refusal.is_permanent() {
            *waiting = Some(refusal.clone());
        }
        if self.any_online || self.waiting.values().any(Option::is_none) {
            return None;
        }
        let blocks: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(name, refusal)| {
                Some(block(&format!("The edge refused the endpoint `{name}`"), refusal.as_ref()?))
            })
            .collect();
        Some(Verdict::Fail(blocks.join("\n")))
    }
}

/// The words of a refusal and, on a line of its own, the code that tools look for.
fn block(what: &str, refusal: &Refusal) -> String {
    let code = refusal.code.map(|code| format!("\n\n{code}")).unwrap_or_default();
    format!("{what}: {}{code}", refusal.message)
}

/// Logs, prints and judges.
pub(super) struct Reporter {
    console: bool,
    upstreams: BTreeMap<String, String>,
    judge: Mutex<Judge>,
    verdict: watch::Sender<Option<Verdict>>,
}

impl Reporter {
    /// `upstreams` names every endpoint of the run and where it goes.
    pub(super) fn new(
        mode: Mode,
        console: bool,
        upstreams: BTreeMap<String, String>,
        verdict: watch::Sender<Option<Verdict>>,
    ) -> Self {
        let judge = Mutex::new(Judge::new(mode, upstreams.keys().cloned()));
        Self { console, upstreams, judge, verdict }
    }

    pub(super) fn hear(&self, event: &Event) {
        self.log(event, None);
        if self.console
            && let Some(line) = self.line(event)
        {
            println!("{line}");
        }
        status(event);
        let verdict = self.judge.lock().unwrap_or_else(PoisonError::into_inner).hear(event);
        if verdict.is_some() {
            self.verdict.send_if_modified(|current| {
                let first = current.is_none();
                if first {
                    current.clone_from(&verdict);
                }
                first
            });
        }
    }

    fn upstream(&self, name: &str) -> &str {
        self.upstreams.get(name).map_or("", String::as_str)
    }

    /// `further`: of a session at a further edge.
    fn log(&self, event: &Event, further: Option<bool>) {
        match event {
            Event::SessionOnline { target, region, account, banner } => {
                tracing::info!(further, edge = target, region, account, banner, "session online");
            }
            Event::AuthRefused { refusal, retry_in, .. } => {
                tracing::error!(further, reason = %refusal, retry_ms = millis(*retry_in), "session refused");
            }
            Event::SessionOffline { reason, retry_in } => {
                tracing::warn!(further, reason, retry_ms = millis(*retry_in), "session offline");
            }
            Event::Carrier { way, reason } => tracing::info!(further, way, reason, "carrier"),
            Event::Latency(round_trip) => tracing::debug!(latency_us = micros(*round_trip), "heartbeat"),
            Event::EndpointOnline { name, url } => {
                tracing::info!(further, name, url = %url, upstream = self.upstream(name), "endpoint online");
            }
            Event::EndpointRefused { name, refusal, retry_in } => {
                let retry_ms = retry_in.map(millis);
                tracing::error!(further, name, reason = %refusal, retry_ms, "endpoint refused");
            }
            Event::EndpointStopped { name, refusal } => {
                tracing::error!(further, name, reason = %refusal, "endpoint stopped");
            }
            Event::DeliveryFailed { name, reason } => tracing::warn!(name, reason, "connection failed"),
            Event::VisitorGone { name, reason } => tracing::debug!(name, reason, "visitor gone"),
            Event::StopRequested => tracing::warn!("stop requested"),
            Event::Further(event) => self.log(event, Some(true)),
        }
    }

    fn line(&self, event: &Event) -> Option<String> {
        Some(match event {
            Event::SessionOnline { target, region, account, banner } => {
                let facts = [("region", region), ("account", account)];
                let facts: Vec<_> =
                    facts.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!(", {k} {v}")).collect();
                let banner = if banner.is_empty() { String::new() } else { format!("\n{banner}") };
                format!("Session      online ({target}{}){banner}", facts.concat())
            }
            Event::SessionOffline { reason, retry_in } => {
                format!("Session      reconnecting in {:.1} s: {reason}", retry_in.as_secs_f32())
            }
            Event::AuthRefused { refusal, .. } => format!("Session      refused: {refusal}"),
            Event::EndpointOnline { name, url } => format!("Forwarding   {url} -> {}", self.upstream(name)),
            Event::EndpointRefused { name, refusal, retry_in } => {
                let retry = retry_in.map(|wait| format!("; again in {:.1} s", wait.as_secs_f32()));
                format!("Refused      {name}: {refusal}{}", retry.unwrap_or_default())
            }
            Event::EndpointStopped { name, refusal } => format!("Stopped      {name}: {refusal}"),
            Event::DeliveryFailed { name, reason } => format!("Failed       {name}: {reason}"),
            Event::Carrier { way, reason } => format!("Carrier      {way}: {reason}"),
            Event::StopRequested => "Session      asked to stop by the edge".to_owned(),
            // The second edge is told when it comes and goes; that it serves the same is not news.
            Event::Further(event) => match **event {
                Event::SessionOnline { .. } | Event::SessionOffline { .. } | Event::AuthRefused { .. } => {
                    self.line(event)?.replacen("Session     ", "Further     ", 1)
                }
                Event::DeliveryFailed { .. } => self.line(event)?,
                _ => return None,
            },
            Event::Latency(_) | Event::VisitorGone { .. } => return None,
        })
    }
}

/// One line for the service manager, where there is one.
fn status(event: &Event) {
    let text = match event {
        Event::SessionOnline { target, .. } => format!("online at {target}"),
        Event::SessionOffline { reason, .. } => format!("reconnecting: {reason}"),
        Event::AuthRefused { refusal, .. } => format!("refused: {refusal}"),
        _ => return,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&text)]);
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ebbgate_model::ErrorCode;

    use super::*;

    fn judge(mode: Mode) -> Judge {
        Judge::new(mode, ["a".to_owned(), "b".to_owned()])
    }

    fn refusal(code: u32) -> Refusal {
        Refusal { message: "no".into(), code: (code > 0).then(|| ErrorCode::new(code)) }
    }

    fn refused(name: &str, code: u32) -> Event {
        let retry_in = Some(Duration::from_secs(1));
        Event::EndpointRefused { name: name.into(), refusal: refusal(code), retry_in }
    }

    fn auth(code: u32, was_online: bool) -> Event {
        Event::AuthRefused { refusal: refusal(code), was_online, retry_in: Duration::ZERO }
    }

    fn online(name: &str) -> Event {
        Event::EndpointOnline { name: name.into(), url: "https://a.internal".parse().unwrap() }
    }

    #[test]
    fn a_bad_token_ends_the_first_start_of_either_kind_and_no_later_one() {
        for mode in [Mode::AdHoc, Mode::Start] {
            let Some(Verdict::Fail(text)) = judge(mode).hear(&auth(107, false)) else { panic!("{mode:?}") };
            assert!(text.ends_with("\n\nERR_NGROK_107"), "{text}");
            assert_eq!(judge(mode).hear(&auth(107, true)), None);
        }
        assert_eq!(judge(Mode::Start).hear(&auth(108, false)), None, "a session limit may heal");
        assert!(judge(Mode::AdHoc).hear(&auth(108, false)).is_some());
    }

    #[test]
    fn an_adhoc_run_ends_with_the_first_refusal_of_an_endpoint_never_online() {
        for code in [308, 316, 334] {
            assert!(judge(Mode::AdHoc).hear(&refused("a", code)).is_some(), "{code}");
        }
        assert_eq!(judge(Mode::AdHoc).hear(&refused("a", 0)), None, "no answer is no refusal");
        let mut lasting = judge(Mode::AdHoc);
        lasting.hear(&online("a"));
        assert_eq!(lasting.hear(&refused("a", 334)), None);
    }

    #[test]
    fn a_start_ends_only_when_nothing_can_ever_come_online() {
        let mut start = judge(Mode::Start);
        assert_eq!(start.hear(&refused("a", 334)), None);
        assert_eq!(start.hear(&refused("a", 316)), None);
        assert_eq!(start.hear(&refused("b", 334)), None, "this one may heal");
        assert!(start.hear(&refused("b", 316)).is_some());
        let mut partly = judge(Mode::Start);
        partly.hear(&online("a"));
        assert_eq!(partly.hear(&refused("b", 316)), None, "the other serves");
    }
}
