//! `terminate-tls`: the handshake's settings on https endpoints; on tls endpoints also the switch that turns it on.

use std::sync::Arc;

use ebbgate_model::AuthorityId;
use x509_parser::pem::Pem;

use super::{About, Action, Compiled, Config, Field, Flow, Gathered, Refs};
use crate::code;
use crate::facts::Context;
use crate::verdict::{Effect, ServerCertificate, TlsSettings, TlsVersion, Verification};

/// Most authorities one action names.
const AUTHORITIES_MAX: usize = 32;
const AUTHORITIES: &str = "mutual_tls_certificate_authorities";
const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

#[derive(Debug)]
struct TerminateTls {
    settings: Arc<TlsSettings>,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Settings of the handshake on https endpoints; on tls endpoints also the switch that turns it on.",
    fields: &[
        Field::choice_or("max_version", "1.3", &["1.2", "1.3"]),
        Field::choice_or("min_version", "1.2", &["1.2", "1.3"]),
        Field::list(AUTHORITIES, "text", AUTHORITIES_MAX).note("PEM, or the `ca_` id of an uploaded one"),
        Field::choice_or(
            "mutual_tls_verification_strategy",
            "require-and-verify",
            &["require-and-verify", "require-any", "request"],
        )
        .note("with authorities only"),
        Field::text("server_certificate").note("PEM; with its key only"),
        Field::text("server_private_key").note("PEM"),
    ],
    codes: &[],
    example: "on_tcp_connect:
  - actions: [{type: terminate-tls, config: {min_version: '1.3'}}]
",
    given: "{}",
    all: "mutual_tls_certificate_authorities: [ca_2a4YjQ2Xk9PJhD0PjTtXEBQrgyz]",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let min = config.choice("min_version", TlsVersion::V1_2, VERSIONS);
    let max = config.choice("max_version", TlsVersion::V1_3, VERSIONS);
    if min > max {
        let path = config.at("min_version");
        config.error(code::VALUES_CONFLICT, path, "min_version is higher than max_version");
    }
    let certificate = certificate(config);
    let client_authorities = authorities(config);
    let strategies = [
        ("require-and-verify", Verification::RequireAndVerify),
        ("require-any", Verification::RequireAny),
        ("request", Verification::Request),
    ];
    let named = config.raw("mutual_tls_verification_strategy").is_some();
    let verification =
        config.choice("mutual_tls_verification_strategy", Verification::RequireAndVerify, &strategies);
    let listed = config.raw(AUTHORITIES);
    // Without authorities no certificate is asked for: an empty list would turn the strategy into its opposite.
    if listed.as_ref().is_some_and(|list| list.as_array().is_some_and(Vec::is_empty)) {
        let path = config.at(AUTHORITIES);
        config.error(code::VALUE_EMPTY, path, "at least one certificate authority is needed");
    }
    if named && listed.is_none() {
        let path = config.at("mutual_tls_verification_strategy");
        config.error(
            code::VALUES_CONFLICT,
            path,
            "a verification strategy needs `mutual_tls_certificate_authorities`",
        );
    }
    config.finish();
    let settings = Arc::new(TlsSettings { min, max, certificate, client_authorities, verification });
    (config.errors() == before).then(|| Arc::new(TerminateTls { settings }) as Arc<dyn Action>)
}

fn certificate(config: &mut Config) -> Option<ServerCertificate> {
    let chain = config.text("server_certificate");
    let key = config.text("server_private_key");
    let (chain_pem, key_pem) = match (chain, key) {
        (Some(chain), Some(key)) => (chain, key),
        (None, None) => return None,
        (chain, _) => {
            let (given, missing) = if chain.is_some() {
                ("server_certificate", "server_private_key")
            } else {
                ("server_private_key", "server_certificate")
            };
            let path = config.at(given);
            config.error(
                code::VALUES_CONFLICT,
                path,
                format!("`{given}` needs `{missing}`: give both or none"),
            );
            return None;
        }
    };
    if let Err(message) = check_chain(&chain_pem) {
        let path = config.at("server_certificate");
        config.error(code::VALUE_BAD, path, message);
    }
    let is_key =
        Pem::iter_from_buffer(key_pem.as_bytes()).flatten().any(|pem| pem.label.ends_with("PRIVATE KEY"));
    if !is_key {
        let path = config.at("server_private_key");
        config.error(code::VALUE_BAD, path, "this is not a PEM private key");
    }
    Some(ServerCertificate { chain_pem, key_pem })
}

/// Whether a PEM text holds certificates and nothing else.
fn check_chain(text: &str) -> Result<(), String> {
    let pems: Vec<Pem> = Pem::iter_from_buffer(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("this is not PEM: {e}"))?;
    if pems.is_empty() {
        return Err("this is not a PEM certificate; it begins with -----BEGIN CERTIFICATE-----".into());
    }
    for pem in pems {
        if pem.label != "CERTIFICATE" {
            return Err(format!("a {} stands where a certificate belongs", pem.label));
        }
        pem.parse_x509().map_err(|e| format!("a certificate cannot be read: {e}"))?;
    }
    Ok(())
}

fn authorities(config: &mut Config) -> Vec<String> {
    let mut authorities = Vec::new();
    for (path, text) in config.texts(AUTHORITIES, AUTHORITIES_MAX) {
        if text.starts_with("ca_") {
            authorities.extend(named_authority(config, &path, &text));
        } else if let Err(message) = check_authority(&text) {
            config.error(code::VALUE_BAD, path, message);
        } else {
            authorities.push(text);
        }
    }
    authorities
}

fn named_authority(config: &mut Config, path: &str, text: &str) -> Option<String> {
    let id: AuthorityId = match text.parse() {
        Ok(id) => id,
        Err(error) => {
            config.error(
                code::VALUE_BAD,
                path.to_owned(),
                format!("`{text}` is not a certificate authority: {error}"),
            );
            return None;
        }
    };
    config.notes.authorities.push(id);
    let Refs::Of(refs) = config.refs else { return None };
    let pem = refs.authorities.get(&id).cloned();
    if pem.is_none() {
        config.error(
            code::VALUE_BAD,
            path.to_owned(),
            format!("the account has no certificate authority {id}"),
        );
    }
    pem
}

/// Whether a PEM text holds certificates that may sign others.
fn check_authority(text: &str) -> Result<(), String> {
    check_chain(text)?;
    for pem in Pem::iter_from_buffer(text.as_bytes()).flatten() {
        let certificate = pem.parse_x509().map_err(|e| format!("a certificate cannot be read: {e}"))?;
        if !certificate.is_ca() {
            return Err(format!(
                "{} is not a certificate authority (basicConstraints has no CA:TRUE)",
                certificate.subject()
            ));
        }
    }
    Ok(())
}

impl Action for TerminateTls {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        if !gathered.tls {
            return Flow::Need(Effect::TerminateTls(Arc::clone(&self.settings)));
        }
        if let Some(tls) = cx.conn.tls.clone() {
            cx.set_result("terminate_tls", crate::certificate::tls_json(&tls));
        }
        Flow::Next
    }
}
