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
        let judged = self.judge(&question("GET", "/"), b"");
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

/// A request for `a.example` that says nothing else.
fn question(method: &str, target: &str) -> Question {
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
    Question {
        method: method.into(),
        target: target.into(),
        version: "HTTP/1.1".into(),
        headers: vec![("host".into(), "a.example".into())],
        client: address,
        server: address,
        exclude: Vec::new(),
        response: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ResponseHead;

    const RULES: &str = r#"
SecAction "id:900110,phase:1,pass,nolog,setvar:tx.inbound_anomaly_score_threshold=5,\
    setvar:tx.outbound_anomaly_score_threshold=4,setvar:tx.critical=5"
SecRule ARGS "@rx ^a(.)c" "id:942001,phase:2,block,capture,t:lowercase,msg:'m %{TX.1}',\
    logdata:'%{MATCHED_VAR_NAME}',severity:'CRITICAL',tag:'one',chain"
    SecRule MATCHED_VARS "@contains c" "setvar:'tx.anomaly_score=+%{tx.critical}'"
SecRule REQUEST_BODY "@contains tide" "id:942002,phase:2,block,severity:'ERROR',tag:'two',setvar:'tx.anomaly_score=+4'"
SecRule REQUEST_HEADERS:X-Off "@streq 1" "id:942003,phase:1,pass,nolog,ctl:ruleRemoveTargetById=942001;ARGS:q"
SecRule &ARGS "@gt 2" "id:942004,phase:2,pass,nolog,skipAfter:END"
SecRule ARGS|!ARGS:free "@contains late" "id:942005,phase:2,block,severity:'ERROR',setvar:'tx.anomaly_score=+4'"
SecMarker END
SecRule ARGS "@rx ^\xff\x00$" "id:942006,phase:2,block,severity:'ERROR',setvar:'tx.anomaly_score=+3'"
SecRule RESPONSE_BODY "@contains leak" "id:951001,phase:4,block,severity:'ERROR',setvar:'tx.outbound_anomaly_score=+4'"
SecRuleRemoveByTag two
"#;

    fn engine(rules: &str) -> Result<Engine, EngineError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.conf");
        std::fs::write(&file, rules).unwrap();
        Engine::load(&file)
    }

    #[test]
    fn chains_captures_markers_controls_and_exclusions_do_what_they_say() {
        let engine = engine(RULES).unwrap();
        let score = |question: &Question, body: &str| engine.judge(question, body.as_bytes()).unwrap().score;
        let found = engine.judge(&question("POST", "/?q=ABC"), b"").unwrap();
        assert_eq!((found.score, found.threshold, found.matched_rules.len()), (5, 5, 1));
        let rule = &found.matched_rules[0];
        assert_eq!(
            (rule.id, rule.message.as_str(), rule.data.as_str()),
            (942_001, "m b", "MATCHED_VARS:ARGS:q")
        );
        assert_eq!(score(&question("POST", "/?q=abc&r=abc"), ""), 10, "each value adds to the score");
        assert_eq!(score(&Question { exclude: vec![942_001], ..question("POST", "/?q=abc") }, ""), 0);
        let off = ("x-off".to_owned(), "1".to_owned());
        assert_eq!(score(&Question { headers: vec![off.clone()], ..question("POST", "/?q=abc") }, ""), 0);
        assert_eq!(score(&Question { headers: vec![off], ..question("POST", "/?r=abc") }, ""), 5);
        assert_eq!(score(&question("POST", "/"), "the tide"), 0, "its tag is taken away");
        assert_eq!(score(&question("POST", "/?c=late"), ""), 4);
        assert_eq!(score(&question("POST", "/?free=late"), ""), 0);
        assert_eq!(score(&question("POST", "/?a=1&b=2&c=late"), ""), 0, "skipped");
        assert_eq!(score(&question("POST", "/?b=%FF%00"), ""), 3, "bytes that are no text");
        let response = ResponseHead { status: 200, headers: Vec::new() };
        let told = engine
            .judge(&Question { response: Some(response), ..question("POST", "/?q=abc") }, b"a leak")
            .unwrap();
        assert_eq!((told.score, told.threshold, told.matched_rules[0].id), (4, 4, 951_001));
    }

    #[test]
    fn rules_that_cannot_be_carried_out_are_refused_with_file_and_line() {
        let check = |rules: &str, expect: &str| {
            let error = engine(rules).err().unwrap().to_string();
            assert!(error.contains(expect), "{rules}: {error}");
        };
        check("SecRule ARGS \"@rx a\" \"id:942001,phase:2\"\n", "no inbound_anomaly_score_threshold");
        check("\nSecRuleRemoveByMsg x\n", "rules.conf:2: ");
        check(
            "SecRule ARGS \"@rx a\" \"id:1,ctl:ruleRemoveTargetById=1;UNHEARD:x\"\n",
            "no variable `UNHEARD`",
        );
        check("SecRule ARGS \"@pmFromFile nowhere.data\" \"id:1\"\n", "nowhere.data");
        check("SecRule ARGS \"@validateByteRange 1-999\" \"id:1\"\n", "`1-999` is no range");
        check("SecAction \"id:1,pass\"\n", "no rule of the Core Rule Set");
    }
}
