//! Expressions over a request: any expression that a policy may name, any request that a visitor may send.

use std::sync::Arc;

use ebbgate_policy::{ConnFacts, Context, EndpointFacts, Engine, Phase, References, Step, Verdict};
use serde_json::json;

/// Most steps of a run that asks for nothing: the work of a request, with a pause at least at every tenth of an evaluation.
const STEPS_MAX: usize = 1_000;

/// Three parts with zero bytes between them: an expression, a target, and lines of headers.
///
/// As a condition and as a value of `set-vars`, the expression ends within its bounds, and a second run decides the same.
pub fn evaluate(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let (Some(Ok(expression)), target, headers) = (
        parts.next().map(std::str::from_utf8),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    ) else {
        return;
    };
    let Some(request) = request(target, headers) else { return };
    let condition =
        json!({"on_http_request": [{"expressions": [expression], "actions": [{"type": "deny"}]}]});
    let vars = json!({"vars": [{"value": format!("${{{expression}}}")}]});
    let value = json!({"on_http_request": [{"actions": [
        {"type": "set-vars", "config": vars},
        {"type": "custom-response", "config": {"body": "${vars.value}"}},
    ]}]});
    for policy in [condition, value] {
        let policy = serde_json::from_value(policy).expect("a policy is plain data");
        let Ok(engine) = Engine::compile(&policy, &References::default()) else { continue };
        let engine = Arc::new(engine);
        let first = verdict(&engine, request.clone());
        assert_eq!(first, verdict(&engine, request.clone()), "a second run decided otherwise");
    }
}

/// The verdict of a run, as text. None: the run asked for something.
fn verdict(engine: &Arc<Engine>, request: http::request::Parts) -> Option<String> {
    let conn = ConnFacts {
        client: ([203, 0, 113, 42], 50_000).into(),
        server: ([192, 0, 2, 1], 443).into(),
        region: "lab".into(),
        start_unix_ms: 1_767_323_045_000,
        tls: None,
        traffic: None,
    };
    let url = "https://api.example.com".parse().expect("a URL");
    let endpoint = EndpointFacts::new("ep_fuzz".into(), url);
    let mut cx = Context::new(Arc::new(conn), Arc::new(endpoint), 1_767_323_045_678);
    cx.request = Some(request);
    let mut run = engine.start(Phase::HttpRequest);
    for _ in 0..STEPS_MAX {
        match run.step(&mut cx) {
            Step::Pause => {}
            Step::Need(_) => return None,
            Step::Done(Verdict::Respond(reply)) => return Some(format!("{:?}", reply.body)),
            Step::Done(verdict) => return Some(format!("{verdict:?}")),
        }
    }
    panic!("the run takes more than {STEPS_MAX} steps");
}

fn request(target: &[u8], headers: &[u8]) -> Option<http::request::Parts> {
    let target = if target.is_empty() { b"/".as_slice() } else { target };
    let mut builder = http::Request::builder().uri(target).header("host", "api.example.com");
    for line in headers.split(|byte| *byte == b'\n').take(64) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        builder = builder.header(halves.next()?, halves.next().unwrap_or_default());
    }
    Some(builder.body(()).ok()?.into_parts().0)
}
