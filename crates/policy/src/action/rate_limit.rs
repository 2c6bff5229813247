//! `rate-limit`: so many requests of one bucket in a sliding window (surface.md section 4.1).
//!
//! Names the bucket by the values of its expressions. The edge counts, for all its shards; see [`Quota`].

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::Expression;
use crate::facts::Context;
use crate::verdict::{Effect, Quota, Reply, Verdict};

/// Longest name.
const NAME_BYTES_MAX: usize = 1024;
/// Most expressions of a bucket.
const KEYS_MAX: usize = 10;
/// Most requests in a window.
const CAPACITY_MAX: u64 = 2_000_000_000;
/// Shortest and longest window.
const WINDOW: std::ops::RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24);
/// Windows are multiples of this, in seconds.
const WINDOW_STEP_SECS: u64 = 10;
/// Bytes of a bucket's values that are kept for expressions; the whole is counted by.
const SHOWN_BYTES_MAX: usize = 1024;

#[derive(Debug)]
struct RateLimit {
    name: String,
    capacity: u32,
    window: Duration,
    keys: Vec<Expression>,
    enforce: bool,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "So many requests of one bucket in a sliding window; others are answered 429 with `retry-after`.",
    fields: &[
        Field::choice("algorithm", &["sliding_window"]),
        Field::list("bucket_key", "expression", KEYS_MAX).required(),
        Field::number("capacity", 1..=CAPACITY_MAX),
        Field::flag("enforce", true),
        Field::text("name").required().at_most(NAME_BYTES_MAX),
        Field::text("rate").required().note("60s to 24h, a multiple of 10s, as `60s` or `1h30m`"),
    ],
    codes: &[2300],
    example: "on_http_request:
  - actions:
      - type: rate-limit
        config: {name: visits, algorithm: sliding_window, capacity: 30, rate: 60s, bucket_key: [conn.client_ip]}
",
    given: "{rate_limited: [visits]}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let name = config.required_text("name").unwrap_or_default();
    if name.len() > NAME_BYTES_MAX {
        let path = config.at("name");
        config.error(code::VALUE_BAD, path, format!("a name has at most {NAME_BYTES_MAX} bytes"));
    }
    config.required("algorithm");
    config.choice("algorithm", (), &[("sliding_window", ())]);
    config.required("capacity");
    let capacity = config.number("capacity", 1, 1..=CAPACITY_MAX);
    let window = window(config);
    let sources = config.required_texts("bucket_key", KEYS_MAX);
    let mut keys = Vec::new();
    for (path, source) in sources {
        config.notes.shows_a_secret = false;
        keys.extend(config.expression(&source, &path));
        if std::mem::take(&mut config.notes.shows_a_secret) {
            config.error(code::VALUE_BAD, path, "a bucket may not be named by a secret");
        }
    }
    let enforce = config.flag("enforce", true);
    config.finish();
    let capacity = u32::try_from(capacity).ok()?;
    (config.errors() == before)
        .then(|| Arc::new(RateLimit { name, capacity, window, keys, enforce }) as Arc<dyn Action>)
}

fn window(config: &mut Config) -> Duration {
    config.required("rate");
    let window = config.duration("rate", *WINDOW.start(), WINDOW);
    if !window.as_millis().is_multiple_of(u128::from(WINDOW_STEP_SECS * 1000)) {
        let path = config.at("rate");
        let message = format!("{}s is no multiple of {WINDOW_STEP_SECS}s", window.as_secs_f64());
        config.error(code::VALUE_BAD, path, message);
    }
    window
}

impl RateLimit {
    /// What requests have in common that are counted together. Unambiguous: the parts are JSON.
    fn bucket(&self, cx: &Context) -> Result<Value, String> {
        let value = |key: &Expression| key.eval(cx).map_err(|e| e.to_string());
        self.keys.iter().map(value).collect()
    }
}

impl Action for RateLimit {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        let Some(counted) = gathered.counted else {
            return match self.bucket(cx) {
                Ok(values) => {
                    let bucket = values.to_string();
                    gathered.bucket = (bucket.len() <= SHOWN_BYTES_MAX).then_some(values);
                    let (name, capacity, window) = (self.name.clone(), self.capacity, self.window);
                    Flow::Need(Effect::Count(Quota { name, bucket, capacity, window }))
                }
                Err(message) => {
                    let message = format!("rate-limit `{}`: bucket_key: {message}", self.name);
                    Flow::failed(code::EXPRESSION_FAILED, message)
                }
            };
        };
        let limited = counted.is_err();
        let shown = gathered.bucket.take();
        cx.set_result("rate_limit", json!({ "bucket_key": shown, "limited": limited }));
        let Some(wait) = counted.err().filter(|_| self.enforce) else { return Flow::Next };
        Flow::End(Verdict::Respond(Reply::empty(StatusCode::TOO_MANY_REQUESTS, None).after(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{CheckContext, Owner, check};
    use crate::facts::Phase;
    use crate::facts::tests::request;
    use crate::testing::{World, engine};
    use ebbgate_model::Binding;

    fn config() -> Value {
        json!({ "name": "clinic", "algorithm": "sliding_window", "capacity": 3, "rate": "60s",
            "bucket_key": ["conn.client_ip", "getReqHeader('x-key')"] })
    }

    fn policy(config: &Value) -> Value {
        json!({ "on_http_request": [{ "actions": [
            { "type": "rate-limit", "config": config },
            { "type": "custom-response", "config": { "body": "${actions.ngrok.rate_limit.limited}" } },
        ] }] })
    }

    fn run(config: &Value, world: &mut World) -> (String, Value) {
        let mut cx = request("/", &[("x-key", "k1")]);
        let said = match world.run(&engine(policy(config)), Phase::HttpRequest, &mut cx) {
            Verdict::Respond(reply) => {
                let wait = reply.headers.get("retry-after").map(|value| value.to_str().unwrap().to_owned());
                format!("{} {}", reply.status.as_u16(), wait.unwrap_or_default())
            }
            other => format!("{other:?}"),
        };
        (said, cx.result("rate_limit").cloned().unwrap_or_default())
    }

    #[test]
    fn a_request_is_counted_by_its_bucket_and_told_when_to_come_again() {
        let mut world = World::default();
        let (said, result) = run(&config(), &mut world);
        assert_eq!(said, "200 ");
        let bucket = r#"["203.0.113.42",["k1"]]"#;
        let shown: Value = serde_json::from_str(bucket).unwrap();
        assert_eq!(result, json!({ "bucket_key": shown, "limited": false }));
        let quota = Quota {
            name: "clinic".into(),
            bucket: bucket.into(),
            capacity: 3,
            window: Duration::from_mins(1),
        };
        assert_eq!(world.counted, [quota]);

        world.waits.insert(bucket.into(), Duration::from_millis(1_001));
        let (said, result) = run(&config(), &mut world);
        assert_eq!((said.as_str(), &result["limited"]), ("429 2", &json!(true)));
        let mut open = config();
        open["enforce"] = json!(false);
        let (said, result) = run(&open, &mut world);
        assert_eq!((said.as_str(), &result["limited"]), ("200 ", &json!(true)));
    }

    #[test]
    fn a_bucket_that_cannot_be_computed_fails_the_request() {
        let mut broken = config();
        broken["bucket_key"] = json!(["req.headers['absent'][0]"]);
        let (said, _) = run(&broken, &mut World::default());
        assert!(said.contains("2300") && said.contains("bucket_key"), "{said}");
    }

    #[test]
    fn the_published_bounds_hold() {
        let cx =
            CheckContext { scheme: "https".parse().unwrap(), binding: Binding::Public, owner: Owner::Cloud };
        let check = |key: &str, value: Value, code: Option<u32>| {
            let mut config = config();
            config[key] = value;
            let found = match check(&policy(&config).to_string(), &cx) {
                Ok(_) => None,
                Err(errors) => errors.first().map(|error| error.code.number()),
            };
            assert_eq!(found, code, "{config}");
        };
        check("name", json!("n".repeat(1_024)), None);
        check("name", json!("n".repeat(1_025)), Some(2204));
        check("name", json!(""), Some(2223));
        check("name", Value::Null, Some(2234));
        check("algorithm", json!("fixed_window"), Some(2204));
        check("algorithm", Value::Null, Some(2234));
        check("capacity", json!(1), None);
        check("capacity", json!(2_000_000_000), None);
        check("capacity", json!(0), Some(2215));
        check("capacity", json!(2_000_000_001u64), Some(2215));
        check("rate", json!("60s"), None);
        check("rate", json!("1m10s"), None);
        check("rate", json!("24h"), None);
        check("rate", json!("50s"), Some(2215));
        check("rate", json!("24h10s"), Some(2215));
        check("rate", json!("65s"), Some(2204));
        check("rate", json!("60"), Some(2204));
        check("bucket_key", json!(vec!["req.method"; 10]), None);
        check("bucket_key", json!(vec!["req.method"; 11]), Some(2218));
        check("bucket_key", json!([]), Some(2223));
        check("bucket_key", json!(["req.nothing"]), Some(2224));
        check("bucket_key", json!(["secrets.get('v', 's')"]), Some(2204));
        check("per_second", json!(1), Some(2203));
    }
}
