//! What the document says of fields beyond their Rust types: a sentence, bounds, words, an example. By the field's name,
//! because a name means the same in every object; by `Schema.field` where it does not.
//!
//! The rules themselves stand where bodies are judged; a conformance test holds the two together.

use serde_json::Value;
use utoipa::openapi::schema::{ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};

use super::super::text_limits::{DESCRIPTION_BYTES_MAX, METADATA_BYTES_MAX};

/// What is known of a field.
struct Facts {
    /// Of these objects; empty: of any.
    schemas: &'static [&'static str],
    field: &'static str,
    text: &'static str,
    form: Form,
    example: &'static str,
}

/// What texts of a field look like.
#[derive(Clone, Copy)]
enum Form {
    /// Nothing is said of it.
    Any,
    /// At most so many bytes of UTF-8.
    Bytes(usize),
    /// A regular expression.
    Pattern(&'static str),
    /// One of these; the empty text stands for the default.
    Words(&'static [&'static str]),
    /// RFC 3339.
    Time,
    /// A document of a media type, at most a request body long.
    Document(&'static str),
    /// Accepted for old clients only.
    Deprecated,
}

const fn of(
    schemas: &'static [&'static str],
    field: &'static str,
    text: &'static str,
    form: Form,
    example: &'static str,
) -> Facts {
    Facts { schemas, field, text, form, example }
}

/// The facts, by the field's name. Where a name differs by its object, the objects are named and stand first.
const FACTS: &[Facts] = {
    use Form::{Any, Bytes, Deprecated, Document, Pattern, Time, Words};
    &[
        of(&[], "id", "Identifier.", Any, ""),
        of(&[], "uri", "Its address in this API.", Any, ""),
        of(&[], "created_at", "When it was made (RFC 3339, UTC).", Time, "2026-11-28T12:00:00Z"),
        of(&[], "updated_at", "When it was changed last (RFC 3339, UTC).", Time, "2026-11-28T12:00:00Z"),
        of(&[], "started_at", "Since when it is online (RFC 3339, UTC).", Time, "2026-11-28T12:00:00Z"),
        of(&[], "not_before", "Begin of its validity (RFC 3339, UTC).", Time, "2026-11-28T12:00:00Z"),
        of(&[], "not_after", "End of its validity (RFC 3339, UTC).", Time, "2027-11-28T12:00:00Z"),
        of(&[], "issued_at", "When it was issued (RFC 3339, UTC).", Time, "2026-11-28T12:00:00Z"),
        of(&[], "description", "For people; at most 255 bytes.", Bytes(DESCRIPTION_BYTES_MAX), "clinic 1"),
        of(&[], "metadata", "For programs; at most 4096 bytes.", Bytes(METADATA_BYTES_MAX), "site=1"),
        of(
            &[],
            "owner_id",
            "Whose it is: the id of a service user or person, or a person's e-mail address; absent: the caller's.",
            Any,
            "",
        ),
        of(
            &[],
            "acl",
            "What agents with the token may bind: `*`, or `bind:` and a name, a wildcard or a TCP address. Empty: anything.",
            Any,
            "bind:*.clinic1.internal",
        ),
        of(
            &["EndpointCreate", "EndpointUpdate", "Endpoint"],
            "url",
            "Where it stands: scheme and host on a reserved domain, or a reserved TCP address, or a name below `.internal`.",
            Any,
            "https://app.example.com",
        ),
        of(
            &["EndpointCreate"],
            "type",
            "`cloud`, which is also the default.",
            Words(&["", "cloud"]),
            "cloud",
        ),
        of(
            &[],
            "traffic_policy",
            "The traffic policy, a JSON or YAML document as one text. Every path through it must end in an action that answers or forwards.",
            Document("application/yaml"),
            "on_http_request:\n  - actions:\n      - type: custom-response\n        config: {status_code: 204}\n",
        ),
        of(
            &[],
            "bindings",
            "One of `public`, `internal`, `kubernetes`; the host decides when it is absent.",
            Any,
            "public",
        ),
        of(&[], "pooling_enabled", "Whether other endpoints may stand at the same URL.", Any, ""),
        of(
            &["ReservedAddrCreate", "ReservedDomainCreate", "ReservedDomainUpdate"],
            "region",
            "A region code; this installation is one region, and other codes are taken with a warning.",
            Words(&["", "us", "us-cal-1", "eu", "au", "ap", "sa", "jp", "in", "global"]),
            "",
        ),
        of(&[], "region", "The installation's region.", Any, ""),
        of(
            &["AgentIngress", "AgentIngressCreate"],
            "domain",
            "The name agents connect to.",
            Any,
            "connect.example.com",
        ),
        of(
            &["ReservedDomainCreate"],
            "domain",
            "A name, or `*.` and a name.",
            Pattern(r"^(\*\.)?[A-Za-z0-9.-]{1,253}$"),
            "app.example.com",
        ),
        of(&[], "domain", "The name.", Any, "app.example.com"),
        of(&["ReservedDomainCreate"], "name", "Old name of `domain`; not both.", Deprecated, ""),
        of(
            &["ServiceUserCreate", "ServiceUserUpdate"],
            "name",
            "What people call it; unique in the account, 1 to 255 bytes.",
            Bytes(255),
            "clinic 1",
        ),
        of(&[], "name", "Its name.", Any, ""),
        of(&[], "active", "Whether its keys and tokens work.", Any, ""),
        of(&[], "certificate_id", "An uploaded TLS certificate; not beside a management policy.", Any, ""),
        of(
            &[],
            "certificate_management_policy",
            "How a certificate is to be obtained; null: not at all.",
            Any,
            "",
        ),
        of(&[], "authority", "Who issues it.", Words(&["", "letsencrypt"]), "letsencrypt"),
        of(
            &["CertificateManagementPolicy"],
            "private_key_type",
            "Kind of its key.",
            Words(&["", "ecdsa", "rsa"]),
            "ecdsa",
        ),
        of(&[], "resolves_to", "Points of presence; kept as given, without effect in one region.", Any, ""),
        of(
            &[],
            "certificate_pem",
            "The chain, its leaf first, as PEM.",
            Document("application/x-pem-file"),
            "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n",
        ),
        of(
            &[],
            "private_key_pem",
            "The leaf's private key, unencrypted PEM; never shown again.",
            Document("application/x-pem-file"),
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n",
        ),
        of(
            &[],
            "ca_pem",
            "One CA certificate as PEM.",
            Document("application/x-pem-file"),
            "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n",
        ),
        of(
            &[],
            "cidr",
            "A network with its mask; bits behind the mask are zero.",
            Pattern(r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$"),
            "203.0.113.0/24",
        ),
        of(
            &[],
            "ip_policy_id",
            "The IP policy the rule belongs to.",
            Pattern("^ipp_[0-9A-Z][0-9A-Za-z]{26}$"),
            "",
        ),
        of(
            &[],
            "ip_policy_ids",
            "The IP policies of which one must allow the address; at least one.",
            Any,
            "",
        ),
        of(&["IPPolicyCreate"], "action", "Belongs on the rules now; refused (1423).", Words(&[""]), ""),
        of(
            &["IPPolicyRuleCreate", "IPPolicyRule"],
            "action",
            "`allow` or `deny`.",
            Words(&["allow", "deny"]),
            "allow",
        ),
        of(
            &["IPRestrictionCreate", "IPRestriction"],
            "type",
            "What it restricts; an account has one of a type.",
            Words(&["dashboard", "api", "agent", "endpoints"]),
            "endpoints",
        ),
        of(&[], "enforced", "Whether it is in force.", Any, ""),
        of(
            &["TunnelSessionUpdate"],
            "version",
            "Version to update to; the newest when absent. At most 64 bytes.",
            Bytes(64),
            "",
        ),
        of(&[], "token", "The secret, only in the answer to its creation; null afterwards.", Any, ""),
        of(&[], "warnings", "What is doubtful about it.", Any, ""),
        of(&[], "host", "Host of the URL.", Any, ""),
        of(&[], "hostport", "Host and port.", Any, ""),
        of(&[], "port", "Port of the URL.", Any, ""),
        of(&[], "scheme", "Scheme of the URL.", Any, ""),
        of(&[], "url", "Address of the endpoint.", Any, ""),
        of(&[], "public_url", "Old name of `url`.", Any, ""),
        of(&[], "proto", "Old name of `scheme`.", Any, ""),
        of(&[], "tcp_addr", "The reserved address it stands on.", Any, ""),
        of(&[], "certificate", "Its uploaded certificate.", Any, ""),
        of(&[], "certificate_management_status", "State of the certificate that is managed.", Any, ""),
        of(&[], "acme_challenge_cname_target", "Where `_acme-challenge` must lead, for wildcards.", Any, ""),
        of(&[], "addr", "Host and port, given by the server.", Any, ""),
        of(
            &[],
            "principal",
            "The API key or service user that made it, or the credential that serves it.",
            Any,
            "",
        ),
        of(&[], "endpoint", "The agent endpoint.", Any, ""),
        of(&[], "tunnel", "An agent endpoint under its old name.", Any, ""),
        of(&[], "tunnel_session", "The agent's session.", Any, ""),
        of(&[], "credential", "The authtoken it presented.", Any, ""),
        of(&[], "agent_version", "What the agent calls itself.", Any, ""),
        of(&[], "ip", "Address the agent connects from.", Any, ""),
        of(&[], "os", "The agent's operating system.", Any, ""),
        of(&[], "transport", "How the agent's session is carried.", Any, ""),
        of(&[], "forwards_to", "The agent's upstream.", Any, ""),
        of(&[], "upstream_url", "The agent's upstream.", Any, ""),
        of(&[], "upstream_protocol", "HTTP version towards the upstream.", Any, ""),
        of(&[], "labels", "Legacy; always empty.", Any, ""),
        of(&[], "backends", "Legacy; always empty.", Any, ""),
        of(&[], "ip_policy", "The IP policy it belongs to.", Any, ""),
        of(&[], "ip_policies", "The IP policies it names.", Any, ""),
        of(&[], "ns_targets", "Name servers to delegate the name to.", Any, ""),
        of(&[], "region_domains", "Names of the regions below it.", Any, ""),
        of(&[], "key_usages", "What its key may be used for.", Any, ""),
        of(&[], "extended_key_usages", "What it may be used for.", Any, ""),
        of(&[], "private_key_type", "Kind of its key.", Any, ""),
        of(&[], "serial_number", "Serial number in hexadecimal.", Any, ""),
        of(&[], "subject_alternative_names", "Names and addresses it is for.", Any, ""),
        of(&[], "dns_names", "DNS names it is for.", Any, ""),
        of(&[], "ips", "IP addresses it is for.", Any, ""),
        of(&[], "subject_common_name", "Of its subject.", Any, ""),
        of(&[], "subject_organization", "Of its subject.", Any, ""),
        of(&[], "subject_organizational_unit", "Of its subject.", Any, ""),
        of(&[], "subject_locality", "Of its subject.", Any, ""),
        of(&[], "subject_province", "Of its subject.", Any, ""),
        of(&[], "subject_country", "Of its subject.", Any, ""),
        of(&[], "issuer_common_name", "Of its issuer.", Any, ""),
        of(&[], "min_agent_version", "Oldest agent that may connect; empty: any.", Any, ""),
        of(&[], "min_api_version", "Oldest version of this API.", Any, ""),
        of(&[], "account", "The account.", Any, ""),
        of(&[], "api_key", "The key of the call.", Any, ""),
        of(&[], "message", "A sentence for people.", Any, ""),
        of(&["Greeting"], "version", "Version of the program.", Any, ""),
        of(&[], "endpoint_configuration", "Legacy; always null.", Any, ""),
    ]
};

/// The facts of a field of a schema, if its name is known.
fn facts(schema: &str, field: &str) -> Option<&'static Facts> {
    FACTS
        .iter()
        .find(|facts| facts.field == field && (facts.schemas.is_empty() || facts.schemas.contains(&schema)))
}

/// A schema with what is known of its fields, at every depth.
pub(super) fn describe(name: &str, mut schema: RefOr<Schema>) -> RefOr<Schema> {
    if let RefOr::T(schema) = &mut schema {
        descend(name, schema);
    }
    schema
}

fn descend(name: &str, schema: &mut Schema) {
    match schema {
        Schema::Object(object) => {
            for (field, value) in &mut object.properties {
                if let Some(facts) = facts(name, field) {
                    apply(facts, value);
                }
                if let RefOr::T(value) = value {
                    descend(name, value);
                }
            }
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items
                && let RefOr::T(items) = &mut **items
            {
                descend(name, items);
            }
        }
        Schema::OneOf(choice) => {
            for item in &mut choice.items {
                if let RefOr::T(item) = item {
                    descend(name, item);
                }
            }
        }
        _ => {}
    }
}

fn fill(place: &mut Option<String>, text: &str) {
    if place.as_ref().is_none_or(String::is_empty) && !text.is_empty() {
        *place = Some(text.to_owned());
    }
}

fn apply(facts: &Facts, field: &mut RefOr<Schema>) {
    match field {
        RefOr::Ref(reference) => {
            if reference.description.is_empty() {
                facts.text.clone_into(&mut reference.description);
            }
        }
        RefOr::T(Schema::Object(object)) => {
            fill(&mut object.description, facts.text);
            if is_text(&object.schema_type) {
                apply_form(facts, object);
            }
        }
        RefOr::T(Schema::Array(array)) => {
            fill(&mut array.description, facts.text);
            if array.examples.is_empty() && array.example.is_none() && !facts.example.is_empty() {
                array.example = Some(Value::from(vec![facts.example]));
            }
        }
        RefOr::T(Schema::OneOf(choice)) => {
            fill(&mut choice.description, facts.text);
            for item in &mut choice.items {
                if let RefOr::T(Schema::Object(object)) = item
                    && is_text(&object.schema_type)
                {
                    apply_form(facts, object);
                }
            }
        }
        RefOr::T(_) => {}
    }
}

fn is_text(kind: &SchemaType) -> bool {
    match kind {
        SchemaType::Type(kind) => *kind == Type::String,
        SchemaType::Array(kinds) => kinds.contains(&Type::String),
        SchemaType::AnyValue => false,
    }
}

fn is_nullable(kind: &SchemaType) -> bool {
    matches!(kind, SchemaType::Array(kinds) if kinds.contains(&Type::Null))
}

fn apply_form(facts: &Facts, object: &mut Object) {
    match facts.form {
        Form::Any => {}
        Form::Bytes(bytes) => object.max_length = Some(bytes),
        Form::Pattern(pattern) => object.pattern = Some(pattern.to_owned()),
        Form::Words(words) => {
            let null = is_nullable(&object.schema_type).then_some(Value::Null);
            object.enum_values = Some(words.iter().map(|word| Value::from(*word)).chain(null).collect());
        }
        Form::Time => object.format = Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)),
        Form::Document(media) => media.clone_into(&mut object.content_media_type),
        Form::Deprecated => object.deprecated = Some(utoipa::openapi::Deprecated::True),
    }
    if object.example.is_none() && !facts.example.is_empty() {
        object.example = Some(facts.example.into());
    }
}
