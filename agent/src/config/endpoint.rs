//! The `endpoints:` list (surface.md section 2.3): from located YAML to drafts, and each draft's defects back to places.

use std::path::Path;

use super::Secret;
use super::draft::{Defect, EndpointConfig, EndpointDraft, PolicyText, TerminationPem};
use super::health_check;
use super::read::{Field, Findings, Problem, Table, beside};
use super::source::{CONFIG_BYTES_MAX, Source};
use super::tree::{Node, Place, Value};

/// Most endpoints one agent serves.
pub const ENDPOINTS_MAX: usize = 1_000;

const HINTS: &[(&str, &str)] = &[
    ("addr", "write `upstream: {url: …}`"),
    ("proto", "the scheme of `url` says it; remove this"),
    ("hostname", "write `url: https://…`"),
    ("domain", "write `url: https://…`"),
    ("remote_addr", "write `url: tcp://host:port`"),
    ("crt", "write `agent_tls_termination: {server_certificate: …}`"),
    ("policy", "it is called `traffic_policy`"),
    ("inspect", "this agent records no traffic; remove it"),
];

pub(super) fn read_all(list: Field, source: &Source<'_>, found: &mut Findings) -> Vec<EndpointConfig> {
    let place = list.node.place.clone();
    let items = list.list(found).unwrap_or_default();
    if items.len() > ENDPOINTS_MAX {
        found.error(&place, "endpoints", format!("at most {ENDPOINTS_MAX} endpoints are allowed"));
        return Vec::new();
    }
    let mut names: Vec<String> = Vec::new();
    let mut endpoints = Vec::new();
    for item in items {
        let node = item.node.clone();
        let path = item.path.clone();
        let Some(draft) = read_one(item, source, found) else { continue };
        if names.contains(&draft.name) {
            let twice = format!("`{}` is the name of an earlier endpoint; names are unique", draft.name);
            found.error(&node.descend("name").place, &format!("{path}.name"), twice);
            continue;
        }
        names.push(draft.name.clone());
        match draft.check() {
            Ok((endpoint, warnings)) => {
                found.warnings.extend(warnings.into_iter().map(|defect| placed(defect, &path, &node)));
                endpoints.push(endpoint);
            }
            Err(defects) => {
                for defect in defects {
                    let to = if defect.warning { &mut found.warnings } else { &mut found.errors };
                    to.push(placed(defect, &path, &node));
                }
            }
        }
    }
    endpoints
}

fn placed(defect: Defect, path: &str, node: &Node) -> Problem {
    let place = match defect.inside {
        Some((file, line, column)) => Place { file: file.into(), line, column },
        None => node.descend(&defect.field).place.clone(),
    };
    Problem { place: Some(place), field: format!("{path}.{}", defect.field), message: defect.message }
}

/// Reads one item; none when a key is unknown, missing or of the wrong type.
fn read_one(item: Field, source: &Source<'_>, found: &mut Findings) -> Option<EndpointDraft> {
    let errors_before = found.errors.len();
    let mut table = item.table(found)?;
    let mut draft = EndpointDraft::default();
    match table.take("name") {
        Some(field) => draft.name = field.text(found).unwrap_or_default(),
        None => table.missing(found, "name", "missing; every endpoint has a name, for `ebbgate start NAME`"),
    }
    let mut text =
        |key, found: &mut Findings| table.take(key).and_then(|field| field.text(found)).unwrap_or_default();
    draft.url = text("url", found);
    draft.description = text("description", found);
    draft.metadata = text("metadata", found);
    if let Some(field) = table.take("bindings") {
        draft.bindings = field.texts(found).unwrap_or_default();
    }
    if let Some(field) = table.take("pooling_enabled") {
        draft.pooling_enabled = field.flag(found).unwrap_or_default();
    }
    draft.policy = read_policy(&mut table, source, found);
    if let Some(inner) = table.take("agent_tls_termination").and_then(|field| field.table(found)) {
        draft.termination = read_termination(inner, source, found);
    }
    if let Some(field) = table.take("health_check") {
        draft.health_check = health_check::read(field, found);
    }
    match table.take("upstream") {
        Some(field) => read_upstream(field, &mut draft, found),
        None => {
            table.missing(
                found,
                "upstream",
                "missing; write `upstream: {url: …}`, the place traffic goes to",
            );
        }
    }
    table.finish(found, HINTS);
    (found.errors.len() == errors_before).then_some(draft)
}

fn read_upstream(field: Field, draft: &mut EndpointDraft, found: &mut Findings) {
    let Some(mut table) = field.table(found) else { return };
    match table.take("url") {
        Some(field) => draft.upstream_url = field.text(found).unwrap_or_default(),
        None => {
            table.missing(found, "url", "missing; write a port (`8080`), `host:port` or `https://host:port`");
        }
    }
    let mut text =
        |key, found: &mut Findings| table.take(key).and_then(|field| field.text(found)).unwrap_or_default();
    draft.protocol = text("protocol", found);
    draft.proxy_protocol = text("proxy_protocol", found);
    if let Some(field) = table.take("tls_verify") {
        draft.tls_verify = field.flag(found);
    }
    if let Some(field) = table.take("tls_verify_cas")
        && let Some(text) = field.text(found)
    {
        draft.tls_verify_cas = match text.as_str() {
            "host" | "trusted" | "" => text,
            path => beside(&field.node.place, Path::new(path)).to_string_lossy().into_owned(),
        };
    }
    table.finish(found, &[("addr", "it is called `url`")]);
}

fn read_policy(table: &mut Table, source: &Source<'_>, found: &mut Findings) -> Option<PolicyText> {
    let inline = table.take("traffic_policy");
    let file = table.take("traffic_policy_file");
    match (inline, file) {
        (Some(_), Some(file)) => {
            file.refuse(found, "`traffic_policy` and `traffic_policy_file` exclude each other; keep one");
            None
        }
        (Some(inline), None) => {
            if let Value::Map(_) = &inline.node.value {
                return Some(PolicyText { text: inline.node.to_json().to_string(), file: None });
            }
            let advice = "write the policy as a mapping with its phases as keys, or name a file by `traffic_policy_file`";
            inline.refuse(found, advice);
            None
        }
        (None, Some(file)) => {
            let path = beside(&file.node.place, Path::new(&file.text(found)?));
            let text = read_text(&path, &file, source, found)?;
            Some(PolicyText { text, file: Some(path) })
        }
        (None, None) => None,
    }
}

fn read_termination(mut table: Table, source: &Source<'_>, found: &mut Findings) -> Option<TerminationPem> {
    let mut required = |key: &'static str, found: &mut Findings| {
        let field = table.take(key);
        if field.is_none() {
            table.missing(found, key, "missing; write a path or the PEM text itself");
        }
        read_pem(&field?, source, found)
    };
    let certificate = required("server_certificate", found);
    let key = required("server_private_key", found);
    let mut client_authorities = Vec::new();
    if let Some(list) = table.take("mutual_tls_certificate_authorities") {
        let place = list.node.place.clone();
        let path = list.path.clone();
        let items = list.list(found)?;
        if items.is_empty() {
            // An empty list would read as "anybody", which nobody writes on purpose.
            found.error(
                &place,
                &path,
                "the list is empty; name a CA, or remove the key to ask no certificate",
            );
        }
        for item in &items {
            client_authorities.push(read_pem(item, source, found)?);
        }
    }
    table.finish(found, &[]);
    Some(TerminationPem { certificate: certificate?, key: Secret::new(key?), client_authorities })
}

/// A value that is PEM text or the path of a file with it.
fn read_pem(field: &Field, source: &Source<'_>, found: &mut Findings) -> Option<String> {
    let text = field.text(found)?;
    if text.contains("-----BEGIN") {
        return Some(text);
    }
    read_text(&beside(&field.node.place, Path::new(&text)), field, source, found)
}

fn read_text(path: &Path, field: &Field, source: &Source<'_>, found: &mut Findings) -> Option<String> {
    match (source.read)(path) {
        Ok(text) if text.len() <= CONFIG_BYTES_MAX => return Some(text),
        Ok(_) => field.refuse(found, format!("{} is larger than {CONFIG_BYTES_MAX} bytes", path.display())),
        Err(error) => field.refuse(found, format!("cannot read {}: {error}", path.display())),
    }
    None
}
