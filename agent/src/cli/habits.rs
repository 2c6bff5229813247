//! Answers to what people are used to from other tools: a flag or verb that this command does not have, and what to write
//! instead.

use clap::error::{ContextKind, ContextValue, ErrorKind};

const POLICY: &str = "write it into a traffic policy and give that by --traffic-policy-file FILE";

/// Flags of other tools, by prefix.
const FLAGS: &[(&str, &str)] = &[
    ("--domain", "write `--url https://NAME`"),
    ("--hostname", "write `--url https://NAME`"),
    ("--subdomain", "write `--url https://NAME.DOMAIN`"),
    ("--remote-addr", "write `--url tcp://HOST:PORT`"),
    ("--scheme", "the scheme of `--url` says it: `--url http://NAME` or `--url https://NAME`"),
    ("--region", "a self-hosted gateway has no regions; leave it out"),
    ("--server-addr", "write `--connect-url HOST:PORT`"),
    ("--server", "write `--connect-url HOST:PORT`"),
    ("--token", "write `--authtoken TOKEN`"),
    ("--root-cas", "write `--connect-cas FILE`"),
    ("--protocol", "write `--carrier auto|mux|link|quic`"),
    ("--port", "write the port alone: `ebbgate http 8080`"),
    ("--host-header", POLICY),
    ("--basic-auth", POLICY),
    ("--auth", POLICY),
    ("--cidr-", POLICY),
    ("--ip-policy", POLICY),
    ("--request-header-", POLICY),
    ("--response-header-", POLICY),
    ("--oauth", "there is no sign-in with a provider; use the policy actions jwt-validation or basic-auth"),
    ("--oidc", "there is no sign-in with an issuer; use the policy actions jwt-validation or basic-auth"),
    ("--verify-webhook", "signatures of webhooks are not checked here; check them in the service"),
    ("--mutual-tls-cas", "use `ebbgate tls UPSTREAM --crt FILE --key FILE --mutual-tls-cas FILE`"),
    (
        "--terminate-at",
        "use `ebbgate tls UPSTREAM --crt FILE --key FILE`, or the policy action terminate-tls",
    ),
    ("--traffic-policy-url", "download it and write `--traffic-policy-file FILE`"),
    ("--policy", "write `--traffic-policy-file FILE`"),
    ("--compression", "answers are not compressed here; let the service do it, and leave this out"),
    ("--circuit-breaker", "there is no circuit breaker; leave it out"),
    ("--websocket-tcp-converter", "there is no such converter; serve a `tcp://` endpoint instead"),
    ("--inspect", "this agent records no traffic; leave it out"),
    ("--web-addr", "this agent has no web page; leave it out"),
    ("-c", "write `--config FILE`"),
];

/// Words of the policy action that a flag stands for.
const ACTIONS: &[(&str, &str)] = &[
    ("--host-header", "on_http_request: [{actions: [{type: add-headers, config: {headers: {host: NAME}}}]}]"),
    (
        "--basic-auth",
        "on_http_request: [{actions: [{type: basic-auth, config: {credentials: ['USER:PASSWORD']}}]}]",
    ),
    (
        "--auth",
        "on_http_request: [{actions: [{type: basic-auth, config: {credentials: ['USER:PASSWORD']}}]}]",
    ),
    ("--cidr-", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [CIDR]}}]}]"),
    ("--ip-policy", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {ip_policies: [ID]}}]}]"),
    (
        "--request-header-add",
        "on_http_request: [{actions: [{type: add-headers, config: {headers: {NAME: VALUE}}}]}]",
    ),
    (
        "--request-header-remove",
        "on_http_request: [{actions: [{type: remove-headers, config: {headers: [NAME]}}]}]",
    ),
    (
        "--response-header-add",
        "on_http_response: [{actions: [{type: add-headers, config: {headers: {NAME: VALUE}}}]}]",
    ),
    (
        "--response-header-remove",
        "on_http_response: [{actions: [{type: remove-headers, config: {headers: [NAME]}}]}]",
    ),
];

/// Verbs of other tools.
const VERBS: &[(&str, &str)] = &[
    ("tunnel", "use `ebbgate http PORT --url https://NAME`, or `ebbgate start --all` for those of the file"),
    ("authtoken", "use `ebbgate config add-authtoken TOKEN`"),
    ("login", "use `ebbgate join STRING`, or `ebbgate config add-authtoken TOKEN`"),
    ("up", "use `ebbgate start --all`"),
    ("run", "use `ebbgate start --all`"),
    ("serve", "use `ebbgate start --all`"),
    ("start-all", "use `ebbgate start --all`"),
    ("connect", "use `ebbgate start --all`; the edge is given by --connect-url HOST:PORT"),
    ("status", "use `systemctl status ebbgate`, or `ebbgate api tunnel-sessions list`"),
    ("list", "use `ebbgate api endpoints list`"),
    ("diagnose", "use `ebbgate config check`; `ebbgate start --none` says whether the edge is reached"),
    ("update", "install the new package of this host; the agent does not replace itself"),
    ("credits", "the licences are in the package's documentation"),
    ("completion", "there are no completions"),
    // Of `config`.
    (
        "edit",
        "open the file with an editor (`ebbgate config check` prints its path) and check it with `ebbgate config check`",
    ),
    (
        "upgrade",
        "write `version: 3`, options under `agent:` and tunnels as `endpoints`; then `ebbgate config check`",
    ),
    ("add-api-key", "write `api_key: KEY` under `agent:`, or set EBBGATE_API_KEY"),
    ("add-server-addr", "use `ebbgate config add-connect-url HOST:PORT`"),
    ("add-root-cas", "use `ebbgate config add-connect-cas FILE`"),
];

/// What to write instead of what `error` is about; none where no other tool has it.
pub(crate) fn advice(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let written = text(ContextKind::InvalidArg)?;
            let flag = written.split('=').next().unwrap_or(written);
            let exact = |known: &str| flag == known;
            let below = |known: &str| known.starts_with("--") && flag.starts_with(known);
            // The longest name that fits: `--policy` is not `--policy-file`, but of its kind.
            let known = FLAGS.iter().filter(|(name, _)| exact(name) || below(name));
            let (_, advice) = known.max_by_key(|(name, _)| name.len())?;
            let action =
                ACTIONS.iter().filter(|(name, _)| flag.starts_with(name)).max_by_key(|(name, _)| name.len());
            let action = action.map(|(_, action)| format!("\n  {action}")).unwrap_or_default();
            Some(format!("{flag} is not a flag here; {advice}{action}"))
        }
        ErrorKind::InvalidSubcommand => {
            let written = text(ContextKind::InvalidSubcommand)?;
            let (_, advice) = VERBS.iter().find(|(verb, _)| *verb == written)?;
            Some(format!("`{written}` is not a command here; {advice}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Arguments;
    use super::*;

    fn answer(line: &str) -> Option<String> {
        let parsed = Arguments::try_parse_from(line.split(' '));
        advice(&parsed.err().expect("an error"))
    }

    #[test]
    fn habits_of_other_tools_are_answered_with_the_right_command() {
        for (line, expect) in [
            ("ebbgate http 80 --domain a.example.com", "--url https://NAME"),
            ("ebbgate http 80 --hostname=a.example.com", "--url https://NAME"),
            ("ebbgate http 80 --basic-auth u:p", "type: basic-auth"),
            ("ebbgate http 80 --oauth google", "jwt-validation"),
            ("ebbgate http 80 --oauth-allow-domain x", "jwt-validation"),
            ("ebbgate http 80 --cidr-allow 10.0.0.0/8", "type: restrict-ips"),
            ("ebbgate http 80 --request-header-remove x", "type: remove-headers"),
            ("ebbgate http 80 --policy-file p.yml", "--traffic-policy-file"),
            ("ebbgate http 80 --mutual-tls-cas ca.pem", "ebbgate tls"),
            ("ebbgate tcp 22 --remote-addr a:1", "--url tcp://"),
            ("ebbgate tunnel --url http://localhost:80", "ebbgate http PORT"),
            ("ebbgate authtoken x", "config add-authtoken"),
            ("ebbgate config edit", "config check"),
            ("ebbgate config add-server-addr x", "add-connect-url"),
        ] {
            let answer = answer(line).unwrap_or_default();
            assert!(answer.contains(expect), "{line}: {answer}");
        }
        for unheard_of in ["ebbgate http 80 --colour red", "ebbgate brew", "ebbgate http"] {
            assert_eq!(answer(unheard_of), None, "{unheard_of}");
        }
    }

    #[test]
    fn the_actions_that_are_recommended_are_accepted() {
        use ebbgate_model::{Binding, Scheme};
        use ebbgate_policy::{CheckContext, Owner, check};
        let context = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Agent };
        for (flag, action) in ACTIONS {
            let text =
                action.replace("CIDR", "'10.0.0.0/8'").replace("[ID]", "['ipp_2nE8YuyjzVnpGnbNLUEbJiGtPVw']");
            let problems = check(&text, &context).err();
            assert!(problems.is_none(), "{flag}: {problems:?}");
        }
    }
}
