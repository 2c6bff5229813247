//! `Engine`: the compiled rules, and what they say of one message.

use std::path::Path;

use crate::error::EngineError;
use crate::message::Message;
use crate::program::Program;
use crate::protocol::{Judgement, Loaded, MATCHED_RULES_MAX, MatchedRule, Question};
use crate::rules;
use crate::run::Run;

/// Variables with the score of a request, newest rule set first.
const SCORES_IN: [&str; 2] = ["blocking_inbound_anomaly_score", "anomaly_score"];
/// The same of a response.
const SCORES_OUT: [&str; 2] = ["blocking_outbound_anomaly_score", "outbound_anomaly_score"];
const THRESHOLD_IN: &str = "inbound_anomaly_score_threshold";
const THRESHOLD_OUT: &str = "outbound_anomaly_score_threshold";
/// The phases, counted from 0.
const REQUEST_HEAD: usize = 0;
const REQUEST_BODY: usize = 1;
const RESPONSE_HEAD: usize = 2;
const RESPONSE_BODY: usize = 3;

/// See the module.
pub struct Engine {
    program: Program,
    loaded: Loaded,
}

impl Engine {
    /// Reads and compiles the rules of a directory with `crs-setup.conf` and `rules/*.conf`, or of a file that includes them.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        let program = Program::compile(&rules::read(path)?)?;
        let loaded = Loaded {
            rules: program.numbered().count(),
            version: program.version().to_owned(),
            dead: program.dead().into_iter().collect(),
        };
        if loaded.rules == 0 {
            return Err(EngineError(format!("{}: no rule of the Core Rule Set is in it", path.display())));
        }
        let engine = Self { program, loaded };
        engine.check(path)?;
        Ok(engine)
    }

    /// What was read.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Whether a request can be judged.
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
        let judged = self.judge(&question, b"");
        judged.map(drop).map_err(|error| EngineError(format!("{}: {error}", path.display())))
    }

    /// Runs the rules over a request, or over a response if there is one; `body` is the start of what is judged.
    pub fn judge(&self, question: &Question, body: &[u8]) -> Result<Judgement, EngineError> {
        let mut run = Run::new(&self.program, Message::new(question), &question.exclude);
        run.phase(REQUEST_HEAD)?;
        if question.response.is_none() {
            run.message.read_body(body);
            run.phase(REQUEST_BODY)?;
            return judgement(run, SCORES_IN, THRESHOLD_IN);
        }
        run.matched.clear();
        if let Some(response) = &mut run.message.response {
            response.body = body.to_vec();
        }
        run.phase(RESPONSE_HEAD)?;
        run.phase(RESPONSE_BODY)?;
        judgement(run, SCORES_OUT, THRESHOLD_OUT)
    }
}

/// A rule set without its setup has no threshold, and would refuse everything.
fn judgement(run: Run, scores: [&str; 2], name: &str) -> Result<Judgement, EngineError> {
    let threshold = run.tx.number(name).filter(|threshold| *threshold > 0);
    let no_threshold = || format!("the rules set no {name}; is crs-setup.conf among them?");
    let threshold = threshold.ok_or_else(|| EngineError(no_threshold()))?;
    let matched_rules: Vec<MatchedRule> = run.matched.into_values().take(MATCHED_RULES_MAX).collect();
    let score = scores.iter().find_map(|name| run.tx.number(name)).unwrap_or_default();
    Ok(Judgement { score, threshold, matched_rules })
}
