//! `circuit-breaker`: keeps requests from an upstream that fails too often (surface.md section 4.2).
//!
//! Names the circuit and its limits. The edge counts what becomes of requests, for all its shards; see [`Breaker`].

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::facts::Context;
use crate::verdict::{Breaker, Effect, Reply, Verdict};

/// Fewest requests in a window, unless said, and the most that may be said.
const VOLUME: u64 = 10;
/// See [`VOLUME`].
const VOLUME_MAX: u64 = 2_000_000_000;
/// Shortest and longest window, and time for which a circuit stays open.
const TIMES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(2);
/// Both, unless said.
const TIME: Duration = Duration::from_secs(10);
/// Buckets of a window: the published number, and no other.
const BUCKETS: u64 = 10;
/// Half of the requests.
const ERROR_PPM: u32 = 500_000;

#[derive(Debug)]
struct CircuitBreaker {
    breaker: Breaker,
    enforce: bool,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Requests are kept from an upstream that fails too often: they are answered 503 with `retry-after` ([callouts.md](callouts.md)).",
    fields: &[
        Field::flag("enforce", true),
        Field::text_or("error_threshold", "0.5")
            .note("0 to 1: the share of errors at which the circuit opens"),
        Field::text_or("num_buckets", "10").note("no other number"),
        Field::text_or("tripped_duration", "10s").note("1s to 2m"),
        Field::number_or("volume_threshold", VOLUME, 1..=VOLUME_MAX),
        Field::text_or("window_duration", "10s").note("1s to 2m"),
    ],
    codes: &[3202],
    example: "on_http_request:
  - actions: [{type: circuit-breaker, config: {error_threshold: 0.1, window_duration: 30s}}]
",
    given: "{circuit_open: true}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let error_ppm = error_ppm(config);
    let volume = config.number("volume_threshold", VOLUME, 1..=VOLUME_MAX);
    let window = config.duration("window_duration", TIME, TIMES);
    let tripped = config.duration("tripped_duration", TIME, TIMES);
    buckets(config);
    let enforce = config.flag("enforce", true);
    config.finish();
    let volume = u32::try_from(volume).ok()?;
    let breaker = Breaker { place: config.path(), error_ppm, volume, window, tripped };
    (config.errors() == before).then(|| Arc::new(CircuitBreaker { breaker, enforce }) as Arc<dyn Action>)
}

fn buckets(config: &mut Config) {
    let Some(value) = config.raw("num_buckets") else { return };
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    if number != Some(BUCKETS) {
        let path = config.at("num_buckets");
        config.error(code::NUMBER_RANGE, path, format!("a window has {BUCKETS} buckets"));
    }
}

/// The share of errors, in parts of a million.
fn error_ppm(config: &mut Config) -> u32 {
    let Some(value) = config.raw("error_threshold") else { return ERROR_PPM };
    let path = config.at("error_threshold");
    let share = match &value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match share {
        Some(share) if (0.0..=1.0).contains(&share) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and a million"
            )]
            let ppm = (share * 1_000_000.0).round() as u32;
            ppm
        }
        Some(share) => {
            config.error(code::NUMBER_RANGE, path, format!("{share} is out of range: 0 to 1"));
            ERROR_PPM
        }
        None => {
            config.error(code::VALUE_TYPE, path, "expected a number from 0 to 1");
            ERROR_PPM
        }
    }
}

impl Action for CircuitBreaker {
    fn run(&self, _: &mut Context, gathered: &mut Gathered) -> Flow {
        let Some(admitted) = gathered.admitted else {
            return Flow::Need(Effect::Breaker(self.breaker.clone()));
        };
        let Some(wait) = admitted.err().filter(|_| self.enforce) else { return Flow::Next };
        let reply = Reply::empty(StatusCode::SERVICE_UNAVAILABLE, Some(code::CIRCUIT_OPEN));
        Flow::End(Verdict::Respond(reply.after(wait)))
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
    use serde_json::json;

    fn policy(config: &Value) -> Value {
        json!({ "on_http_request": [{ "actions": [
            { "type": "circuit-breaker", "config": config },
            { "type": "custom-response", "config": { "body": "in" } },
        ] }] })
    }

    fn run(config: &Value, world: &mut World) -> String {
        let mut cx = request("/", &[]);
        match world.run(&engine(policy(config)), Phase::HttpRequest, &mut cx) {
            Verdict::Respond(reply) => {
                let wait = reply.headers.get("retry-after").map_or("", |wait| wait.to_str().unwrap());
                let code = reply.code.map(|code| code.to_string()).unwrap_or_default();
                format!("{} {code} {wait}", reply.status.as_u16())
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn an_open_circuit_is_503_3202_and_says_when_to_come_again() {
        let config = json!({ "error_threshold": 0, "volume_threshold": 1, "window_duration": "30s",
            "tripped_duration": "1m" });
        let mut world = World::default();
        assert_eq!(run(&config, &mut world), "200  ");
        let asked = Breaker {
            place: "on_http_request[0].actions[0].config".into(),
            error_ppm: 0,
            volume: 1,
            window: Duration::from_secs(30),
            tripped: Duration::from_mins(1),
        };
        assert_eq!(world.breakers, [asked]);
        world.open = Some(Duration::from_millis(1_001));
        assert_eq!(run(&config, &mut world), "503 ERR_NGROK_3202 2");
        assert_eq!(run(&json!({ "enforce": false }), &mut world), "200  ", "counted, and let on");
    }

    #[test]
    fn defaults_are_the_published_ones() {
        let mut world = World::default();
        run(&json!({}), &mut world);
        let asked = world.breakers.pop().unwrap();
        assert_eq!((asked.error_ppm, asked.volume), (500_000, 10));
        assert_eq!((asked.window, asked.tripped), (Duration::from_secs(10), Duration::from_secs(10)));
    }

    #[test]
    fn settings_at_below_and_above_their_limits() {
        let cx = CheckContext {
            scheme: ebbgate_model::Scheme::Https,
            binding: Binding::Public,
            owner: Owner::Cloud,
        };
        for (key, value, code) in [
            ("error_threshold", json!(0), None),
            ("error_threshold", json!(1), None),
            ("error_threshold", json!("0.25"), None),
            ("error_threshold", json!(-0.01), Some(2215)),
            ("error_threshold", json!(1.01), Some(2215)),
            ("error_threshold", json!("NaN"), Some(2215)),
            ("error_threshold", json!(true), Some(2222)),
            ("volume_threshold", json!(1), None),
            ("volume_threshold", json!(VOLUME_MAX), None),
            ("volume_threshold", json!(0), Some(2215)),
            ("volume_threshold", json!(VOLUME_MAX + 1), Some(2215)),
            ("window_duration", json!("1s"), None),
            ("window_duration", json!("2m"), None),
            ("window_duration", json!("999ms"), Some(2215)),
            ("window_duration", json!("121s"), Some(2215)),
            ("tripped_duration", json!("1s"), None),
            ("tripped_duration", json!("2m"), None),
            ("tripped_duration", json!("0s"), Some(2215)),
            ("tripped_duration", json!("2m1ms"), Some(2215)),
            ("tripped_duration", json!("soon"), Some(2204)),
            ("tripped_duration", json!(5), Some(2222)),
            ("num_buckets", json!(10), None),
            ("num_buckets", json!(9), Some(2215)),
            ("num_buckets", json!(11), Some(2215)),
            ("bucket_count", json!(10), Some(2203)),
        ] {
            let mut config = json!({});
            config[key] = value.clone();
            let found = check(&policy(&config).to_string(), &cx);
            let codes = found
                .err()
                .unwrap_or_default()
                .iter()
                .map(|problem| problem.code.number())
                .collect::<Vec<_>>();
            assert_eq!(codes, code.into_iter().collect::<Vec<u32>>(), "{key}: {value}");
        }
    }
}
