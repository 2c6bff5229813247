//! `Engine`: the compiled rules, and what they say of one message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use zentinel_modsec::engine::phase::Phase;
use zentinel_modsec::parser::{Action, MetadataAction, OperatorName};
use zentinel_modsec::variables::{Collection as _, MutableCollection as _};
use zentinel_modsec::{CompiledRuleset, ModSecurity, Transaction};

use crate::error::EngineError;
use crate::protocol::{Judgement, Loaded, MATCHED_RULES_MAX, MatchedRule, Question, ResponseHead};
use crate::rules::{self, EXCLUDED, EXCLUDES, MATCHED};
use crate::text::{Found, cut, filled, severity};

/// Variables with the score of a request, newest rule set first.
const SCORES_IN: [&str; 2] = ["blocking_inbound_anomaly_score", "anomaly_score"];
/// The same of a response.
const SCORES_OUT: [&str; 2] = ["blocking_outbound_anomaly_score", "outbound_anomaly_score"];
const THRESHOLD_IN: &str = "inbound_anomaly_score_threshold";
const THRESHOLD_OUT: &str = "outbound_anomaly_score_threshold";

/// See the module.
pub struct Engine {
    compiled: ModSecurity,
    texts: BTreeMap<u32, Texts>,
    loaded: Loaded,
}

/// What a rule says of itself.
#[derive(Default)]
struct Texts {
    message: String,
    severity: &'static str,
    data: String,
}

impl Engine {
    /// Reads and compiles the rules of a directory with `crs-setup.conf` and `rules/*.conf`, or of a file that includes them.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        let directives = rules::read(path)?;
        let compiled =
            CompiledRuleset::compile(directives).map_err(|error| EngineError(error.to_string()))?;
        let mut texts = BTreeMap::new();
        let mut loaded = Loaded::default();
        for rule in Phase::ALL.iter().flat_map(|phase| compiled.rules_for_phase(*phase)) {
            // A pattern is compiled when it is first used; that is now.
            rule.operator.execute("");
            let Some(id) = rule.id.as_deref().and_then(|id| id.parse().ok()) else { continue };
            if !rules::EXCLUDABLE.contains(&u64::from(id)) {
                continue;
            }
            loaded.rules += 1;
            if rule.operator_spec.name == OperatorName::Rx && rule.operator.name() != "rx" {
                loaded.dead.push(id);
            }
            let (text, version) = texts_of(&rule.actions);
            if loaded.version.is_empty() {
                loaded.version = version;
            }
            texts.insert(id, text);
        }
        if texts.is_empty() {
            return Err(EngineError(format!("{}: no rule of the Core Rule Set is in it", path.display())));
        }
        loaded.dead.sort_unstable();
        let engine = Self { compiled: ModSecurity::new(compiled), texts, loaded };
        engine.check(path)?;
        Ok(engine)
    }

    /// What was read.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// A rule set without its setup has no threshold, and would refuse nothing or everything.
    fn check(&self, path: &Path) -> Result<(), EngineError> {
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
        let question = Question {
            method: "GET".into(),
            target: "/".into(),
            version: "HTTP/1.1".into(),
            headers: vec![("host".into(), "a.example".into())],
            client: address,
            server: address,
            exclude: Vec::new(),
            response: None,
        };
        let judged = self.judge(&question, b"")?;
        if judged.threshold <= 0 {
            let why = "the rules set no inbound_anomaly_score_threshold; is crs-setup.conf among them?";
            return Err(EngineError(format!("{}: {why}", path.display())));
        }
        Ok(())
    }

    /// Runs the rules over a request, or over a response if there is one; `body` is the start of what is judged.
    pub fn judge(&self, question: &Question, body: &[u8]) -> Result<Judgement, EngineError> {
        let mut run = self.compiled.new_transaction();
        exclude(&mut run, &question.exclude);
        let judged = match &question.response {
            None => self.judge_request(&mut run, question, body),
            Some(response) => self.judge_response(&mut run, question, response, body),
        };
        judged.map_err(|error: zentinel_modsec::Error| EngineError(error.to_string()))
    }

    fn judge_request(
        &self,
        run: &mut Transaction,
        question: &Question,
        body: &[u8],
    ) -> zentinel_modsec::Result<Judgement> {
        run_head(run, question, reads_as_text(&question.headers, body))?;
        run.append_request_body(body)?;
        run.process_request_body()?;
        Ok(self.judgement(run, &BTreeSet::new(), SCORES_IN, THRESHOLD_IN))
    }

    fn judge_response(
        &self,
        run: &mut Transaction,
        question: &Question,
        response: &ResponseHead,
        body: &[u8],
    ) -> zentinel_modsec::Result<Judgement> {
        run_head(run, question, false)?;
        let before = matched(run);
        run.add_response_header(":status", &response.status.to_string())?;
        for (name, value) in &response.headers {
            run.add_response_header(name, value)?;
        }
        run.process_response_headers()?;
        run.append_response_body(body)?;
        run.process_response_body()?;
        Ok(self.judgement(run, &before, SCORES_OUT, THRESHOLD_OUT))
    }

    fn judgement(
        &self,
        run: &Transaction,
        before: &BTreeSet<u32>,
        scores: [&str; 2],
        threshold: &str,
    ) -> Judgement {
        let matched_rules =
            matched(run).difference(before).take(MATCHED_RULES_MAX).map(|id| self.told(run, *id)).collect();
        Judgement {
            score: scores.iter().find_map(|name| number(run, name)).unwrap_or_default(),
            threshold: number(run, threshold).unwrap_or_default(),
            matched_rules,
        }
    }

    fn told(&self, run: &Transaction, id: u32) -> MatchedRule {
        let number = id.to_string();
        let seen = run.matched_data().iter().rev().find(|seen| seen.rule_id.as_deref() == Some(&number));
        let found = seen.map_or_else(Found::default, |seen| Found {
            variable: &seen.variable,
            value: &seen.value,
            portion: seen.matched_portion.as_deref().unwrap_or_default(),
        });
        let Some(texts) = self.texts.get(&id) else {
            return MatchedRule { id, message: String::new(), severity: String::new(), data: String::new() };
        };
        let data = if texts.data.is_empty() {
            cut(format!("{} in {}", found.portion, found.variable))
        } else {
            filled(&texts.data, &found)
        };
        MatchedRule { id, message: filled(&texts.message, &found), severity: texts.severity.into(), data }
    }
}

/// The head of the request, and the rules that run over it. `as_text`: the body is judged as one text, whatever it is said
/// to be.
fn run_head(run: &mut Transaction, question: &Question, as_text: bool) -> zentinel_modsec::Result<()> {
    run.set_client_addr(&question.client.ip().to_string(), question.client.port());
    run.set_server_addr(&question.server.ip().to_string(), question.server.port());
    run.process_uri(&question.target, &question.method, &question.version)?;
    for (name, value) in &question.headers {
        if name == "host" {
            run.set_server_name(value);
        }
        let is_type = name == "content-type";
        run.add_request_header(
            name,
            if as_text && is_type { "application/x-www-form-urlencoded" } else { value },
        )?;
    }
    run.process_request_headers()
}

/// Whether a body is said to be JSON and is not, as one is that was cut. No rule would see anything of it.
fn reads_as_text(headers: &[(String, String)], body: &[u8]) -> bool {
    let says_json = |(name, value): &(String, String)| {
        name == "content-type"
            && value.split(';').next().is_some_and(|kind| kind.to_ascii_lowercase().contains("json"))
    };
    !body.is_empty()
        && headers.iter().any(says_json)
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err()
}

fn exclude(run: &mut Transaction, ids: &[u32]) {
    if ids.is_empty() {
        return;
    }
    run.tx_mut().set(EXCLUDES.to_owned(), "1".to_owned());
    for id in ids {
        run.tx_mut().set(format!("{EXCLUDED}{id}"), "1".to_owned());
    }
}

/// The rules with a score that matched so far.
fn matched(run: &Transaction) -> BTreeSet<u32> {
    let variables = run.tx().all();
    variables.iter().filter_map(|(name, _)| name.strip_prefix(MATCHED)?.parse().ok()).collect()
}

fn number(run: &Transaction, name: &str) -> Option<i64> {
    run.tx().get(name)?.first()?.parse().ok()
}

fn texts_of(actions: &[Action]) -> (Texts, String) {
    let (mut texts, mut version) = (Texts { severity: severity(None), ..Texts::default() }, String::new());
    for action in actions {
        match action {
            Action::Metadata(MetadataAction::Msg(text)) => texts.message.clone_from(text),
            Action::Metadata(MetadataAction::LogData(text)) => texts.data.clone_from(text),
            Action::Metadata(MetadataAction::Severity(number)) => texts.severity = severity(Some(*number)),
            Action::Metadata(MetadataAction::Ver(text)) => version.clone_from(text),
            _ => {}
        }
    }
    (texts, version)
}
