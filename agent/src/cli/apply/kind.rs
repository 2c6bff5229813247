//! The kinds of objects that documents may declare: every resource of the API that can be made, listed, changed and
//! deleted. A kind's name is its resource's: `ip_policies` gives `IpPolicy`.

use std::sync::LazyLock;

use super::super::document::{Operation, operations};

/// All kinds, in the order of the API's document.
static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(read);

/// One kind.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: String,
    /// The collection below the root.
    pub(super) resource: &'static str,
    /// Key of the array in its lists.
    pub(super) list_key: &'static str,
    pub(super) fields: Vec<Field>,
}

/// A field of a declaration.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// Whether a change may set it.
    pub(super) is_changeable: bool,
    pub(super) shown: Shown,
}

/// How answers show a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// Under its own name.
    Plain,
    /// As a reference under another name: `x_id` as `x`.
    Reference(String),
    /// As references under another name: `x_ids` as `xs`.
    References(String),
    /// Not at all: it is sent when an object is made, and never compared.
    Never,
}

impl Kind {
    /// The field of this name.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether its objects can be told from others by a label in their metadata.
    pub(super) fn has_metadata(&self) -> bool {
        self.field("metadata").is_some()
    }

    /// Whether the answer to a creation has a secret that is never shown again.
    pub(super) fn has_token(&self) -> bool {
        matches!(self.resource, "api_keys" | "credentials")
    }
}

/// All kinds.
pub(super) fn all() -> &'static [Kind] {
    &KINDS
}

/// The kind of this name, whatever the case of its letters.
pub(super) fn find(name: &str) -> Option<&'static Kind> {
    all().iter().find(|kind| kind.name.eq_ignore_ascii_case(name))
}

fn read() -> Vec<Kind> {
    // Service users stand in the API under two names.
    let makes = operations().iter().filter(|one| one.verb == "create" && one.resource != "bot_users");
    makes.filter_map(kind).collect()
}

fn kind(create: &'static Operation) -> Option<Kind> {
    let of = |verb: &str| operations().iter().find(|one| one.resource == create.resource && one.verb == verb);
    let (list, update) = (of("list")?, of("update")?);
    of("delete")?;
    let outer = |operation: &'static Operation| {
        let body = operation.body.iter().flat_map(|body| &body.fields);
        body.filter(|field| !field.is_deprecated)
            .map(|field| field.name.split('.').next().unwrap_or_default())
    };
    let mut fields: Vec<Field> = Vec::new();
    for name in outer(create) {
        if fields.iter().all(|field| field.name != name) {
            let is_changeable = outer(update).any(|other| other == name);
            fields.push(Field {
                name: name.to_owned(),
                is_changeable,
                shown: shown(name, &create.answer_fields),
            });
        }
    }
    Some(Kind {
        name: kind_name(&create.resource),
        resource: &create.resource,
        list_key: list.list_key.as_deref()?,
        fields,
    })
}

fn shown(name: &str, answer: &[String]) -> Shown {
    let has = |name: &str| answer.iter().any(|field| field == name);
    if has(name) {
        return Shown::Plain;
    }
    if let Some(other) = name.strip_suffix("_id").filter(|other| has(other)) {
        return Shown::Reference(other.to_owned());
    }
    if let Some(stem) = name.strip_suffix("_ids") {
        let many = [format!("{stem}s"), format!("{}ies", stem.trim_end_matches('y'))];
        if let Some(other) = many.into_iter().find(|other| has(other)) {
            return Shown::References(other);
        }
    }
    Shown::Never
}

fn kind_name(resource: &str) -> String {
    let one = match resource {
        _ if resource.ends_with("ies") => format!("{}y", resource.trim_end_matches("ies")),
        _ if resource.ends_with("sses") => resource.trim_end_matches("es").to_owned(),
        _ => resource.trim_end_matches('s').to_owned(),
    };
    let words = one.split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_the_resources_in_the_singular() {
        let check = |name: &str, resource: &str, field: &str, expect: &Shown, changeable: bool| {
            let kind = find(name).unwrap();
            let field = kind.field(field).unwrap();
            assert_eq!(
                (kind.resource, &field.shown, field.is_changeable),
                (resource, expect, changeable),
                "{name}"
            );
        };
        check("ReservedDomain", "reserved_domains", "domain", &Shown::Plain, false);
        check(
            "ReservedDomain",
            "reserved_domains",
            "certificate_id",
            &Shown::Reference("certificate".into()),
            true,
        );
        check(
            "IPPolicyRule",
            "ip_policy_rules",
            "ip_policy_id",
            &Shown::Reference("ip_policy".into()),
            false,
        );
        check(
            "IpRestriction",
            "ip_restrictions",
            "ip_policy_ids",
            &Shown::References("ip_policies".into()),
            true,
        );
        check("TlsCertificate", "tls_certificates", "private_key_pem", &Shown::Never, false);
        check("AgentIngress", "agent_ingresses", "domain", &Shown::Plain, false);
        check("Endpoint", "endpoints", "traffic_policy", &Shown::Plain, true);
        assert!(find("ReservedDomain").unwrap().field("name").is_none(), "an old name is no field");
        assert!(!find("ServiceUser").unwrap().has_metadata());
        assert!(find("BotUser").is_none());
    }
}
