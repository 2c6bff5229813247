//! `ebbgate api RESOURCE VERB`: one call of control's REST API, or all pages of a list, its answer printed.
//!
//! Resources, verbs and flags come from the API's own document. What a body may say, control judges.

mod command;
mod print;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use http::{Method, Uri};
use serde_json::Value;

use self::command::Chosen;
use self::print::{Form, shown};
use super::client::{Call, Client, ClientArguments};
use super::env::{Env, Failure};

/// Most pages that `--all` reads.
const PAGES_MAX: usize = 10_000;

/// Flags of all resources.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    client: ClientArguments,
    /// How the answer is printed.
    #[arg(long, global = true, value_enum, value_name = "FORM", default_value = "json")]
    output: Form,
}

pub(super) struct ApiArguments {
    common: Common,
    chosen: Chosen,
}

impl Args for ApiArguments {
    /// The document is read only when this command is the one that was written.
    fn augment_args(command: Command) -> Command {
        Common::augment_args(command).defer(command::with_resources)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ApiArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        Ok(Self {
            common: Common::from_arg_matches(matches)?,
            chosen: Chosen::of(matches).ok_or_else(missing)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(arguments: &ApiArguments, env: Env<'_>) -> Result<(), Failure> {
    let ApiArguments { common, chosen } = arguments;
    let call = chosen.call()?;
    let mut client = Client::new(&common.client, env)?;
    let key = chosen.operation.list_key.as_deref();
    let answer = match key {
        Some(key) if chosen.wants_all() => every_page(&mut client, &call, key)?,
        _ => client.call(&call)?.json()?,
    };
    let text = shown(&answer, key, common.output);
    if !text.is_empty() {
        println!("{text}");
    }
    Ok(())
}

/// One list of all pages.
pub(super) fn every_page(client: &mut Client, first: &Call, key: &str) -> Result<Value, Failure> {
    let path = first.target.split('?').next().unwrap_or_default().to_owned();
    let mut target = first.target.clone();
    let mut whole: Option<Value> = None;
    for _ in 0..PAGES_MAX {
        let mut page = client.call(&Call::plain(Method::GET, target.clone()))?.json()?;
        let next = page
            .get("next_page_uri")
            .and_then(Value::as_str)
            .map(|uri| next_target(uri, &path))
            .transpose()?;
        if let (Some(Value::Array(sofar)), Some(Value::Array(more))) =
            (whole.as_mut().and_then(|whole| whole.get_mut(key)), page.get_mut(key))
        {
            sofar.append(more);
        } else {
            if let Some(object) = page.as_object_mut() {
                object.insert("next_page_uri".into(), Value::Null);
            }
            whole = Some(page);
        }
        match next {
            None => return Ok(whole.unwrap_or_default()),
            Some(next) if next == target => break,
            Some(next) => target = next,
        }
    }
    Err(Failure::new(format!(
        "the list did not end after {PAGES_MAX} pages; read it by --limit and --before-id"
    )))
}

/// Path and query of the next page. The key goes to no other host and to no other path than the first page's.
fn next_target(uri: &str, path: &str) -> Result<String, Failure> {
    let strange = || Failure::new(format!("the next page's address is strange: {uri}"));
    let parsed: Uri = uri.parse().map_err(|_| strange())?;
    if !parsed.path().ends_with(path) {
        return Err(strange());
    }
    let query = parsed.query().ok_or_else(strange)?;
    Ok(format!("{path}?{query}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Arguments, Verb};
    use super::*;

    fn call(line: &[&str]) -> Result<Call, String> {
        let words = ["ebbgate", "api"].iter().chain(line).copied();
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Verb::Api(arguments) = parsed.verb else { panic!("not `api`") };
        arguments.chosen.call().map_err(|failure| failure.to_string())
    }

    #[test]
    fn verbs_become_calls() {
        let check = |line: &[&str], expect: (&str, &str, Option<&str>)| {
            let found = call(line).unwrap();
            let found = (found.method.as_str(), found.target.as_str(), found.body.as_deref());
            assert_eq!(found, expect, "{line:?}");
        };
        check(&["endpoints", "get", "ep_1"], ("GET", "/endpoints/ep_1", None));
        check(&["ip-restrictions", "get", "a/b?c"], ("GET", "/ip_restrictions/a%2Fb%3Fc", None));
        check(&["ip_restrictions", "list"], ("GET", "/ip_restrictions", None));
        check(&["root", "get"], ("GET", "/", None));
        check(&["root", "self"], ("GET", "/self", None));
        check(&["api-keys", "delete", "ak_1"], ("DELETE", "/api_keys/ak_1", None));
        check(&["api-keys", "create"], ("POST", "/api_keys", Some("{}")));
        check(&["api-keys", "create", "--data", "{}"], ("POST", "/api_keys", Some("{}")));
        let data = "{\"metadata\":\"\"}";
        check(
            &["reserved-domains", "update", "rd_1", "--data", data],
            ("PATCH", "/reserved_domains/rd_1", Some(data)),
        );
        check(
            &["endpoints", "list", "--filter", "obj.port == 1", "--limit", "5", "--url", "a", "--url", "b"],
            ("GET", "/endpoints?limit=5&filter=obj.port%20%3D%3D%201&url=a&url=b", None),
        );
        check(&["tunnel-sessions", "stop", "ts_1"], ("POST", "/tunnel_sessions/ts_1/stop", None));
        check(
            &["reserved-domains", "delete-certificate", "rd_1"],
            ("DELETE", "/reserved_domains/rd_1/certificate", None),
        );
    }

    #[test]
    fn flags_become_fields() {
        let body = |line: &[&str]| {
            call(line).map(|call| serde_json::from_str::<Value>(&call.body.unwrap()).unwrap())
        };
        let made = body(&[
            "credentials",
            "create",
            "--acl",
            "bind:a",
            "--acl",
            "bind:b",
            "--description",
            "-x",
            "--data",
            "{\"metadata\":\"m\"}",
        ]);
        let expect = serde_json::json!({ "acl": ["bind:a", "bind:b"], "description": "-x", "metadata": "m" });
        assert_eq!(made, Ok(expect));
        let made = body(&[
            "endpoints",
            "update",
            "ep_1",
            "--pooling-enabled",
            "--clear",
            "bindings",
            "--traffic-policy-file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .unwrap();
        assert_eq!((&made["pooling_enabled"], &made["bindings"]), (&Value::Bool(true), &Value::Null));
        assert!(made["traffic_policy"].as_str().unwrap().contains("ebbgate-agent"));
        let made = body(&[
            "reserved-domains",
            "create",
            "--domain",
            "a.example",
            "--certificate-management-policy.authority",
            "letsencrypt",
            "--resolves-to",
            "{\"value\":\"eu\"}",
        ]);
        let expect = serde_json::json!({
            "domain": "a.example", "certificate_management_policy": { "authority": "letsencrypt" },
            "resolves_to": [{ "value": "eu" }],
        });
        assert_eq!(made, Ok(expect));
        assert_eq!(
            body(&["service-users", "update", "x", "--active=false"]),
            Ok(serde_json::json!({ "active": false }))
        );
    }

    #[test]
    fn wrong_words_are_refused() {
        for (line, expect) in [
            (&["endpoints", "list", "--limit", "many"][..], "invalid value 'many'"),
            (&["ip-policy-rules", "create", "--action", "maybe"], "[possible values: allow, deny]"),
            (&["endpoints", "get"], "<ID>"),
            (&["endpoints", "update", "ep_1"], "names no field"),
            (&["endpoints", "update", "ep_1", "--clear", "colour"], "no field `colour`"),
            (&["endpoints", "update", "ep_1", "--url", "a", "--clear", "url"], "`url` is given twice"),
            (
                &["endpoints", "update", "ep_1", "--url", "a", "--data", "{\"url\":1}"],
                "in --data and given by a flag",
            ),
            (&["endpoints", "update", "ep_1", "--url", "a", "--data", "[]"], "--data is not a JSON object"),
            (&["reserved-domains", "create", "--resolves-to", "eu"], "--resolves-to is not JSON"),
            (&["endpoints", "create", "--traffic-policy-file", "/nowhere"], "cannot read /nowhere"),
            (&["endpoints", "fly"], "unrecognized subcommand 'fly'"),
            (&["wings", "list"], "unrecognized subcommand 'wings'"),
            (&["endpoints", "update", "ep_1", "--id", "ep_2"], "unexpected argument '--id'"),
        ] {
            let error = call(line).unwrap_err();
            assert!(error.contains(expect), "{line:?}: {error}");
        }
    }

    #[test]
    fn the_key_follows_no_page_elsewhere() {
        let next = |uri: &str| next_target(uri, "/endpoints").ok();
        assert_eq!(
            next("https://x/endpoints?before_id=1&limit=2").as_deref(),
            Some("/endpoints?before_id=1&limit=2")
        );
        assert_eq!(next("https://x/gate/endpoints?a=1").as_deref(), Some("/endpoints?a=1"));
        assert_eq!(next("https://x/other?a=1"), None);
        assert_eq!(next("https://x/endpoints"), None);
        assert_eq!(next("not a uri"), None);
    }
}
