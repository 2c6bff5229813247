//! The table of providers: what each signs, with what, and where it puts the signature. Sources are the providers' own pages.

use aws_lc_rs::hmac::{self, Algorithm};

/// Seconds by which a signed time may differ from ours, where the provider names no other bound.
pub(super) const TOLERANCE_SECS: u32 = 300;

/// How a provider shows that a request is its own.
#[derive(Debug)]
pub(super) enum Scheme {
    /// The secret itself, in a header.
    Token(&'static str),
    /// An HMAC in a header.
    Hmac(Hmac),
    /// An HMAC-SHA1 of the URL and the sorted fields of the form, in a header, as base64.
    Form(&'static str),
    /// An HMAC-SHA256 of time and token, all in the JSON body.
    Mailgun,
    /// An ECDSA signature of time and body; the secret is the public key.
    SendGrid,
    /// An HMAC-SHA256 of method, path, chosen headers and body.
    Contentful,
    /// An HMAC-SHA256 of a JSON document that holds the body as text.
    Hygraph,
    /// An HMAC-SHA256 of the URL, the sorted fields of the form and a nonce.
    Plivo,
    /// An RSA signature of members of the JSON body; the key is in a certificate of Amazon's. There is no secret.
    Sns,
}

/// An HMAC in a header.
#[derive(Debug)]
pub(super) struct Hmac {
    pub(super) header: &'static str,
    pub(super) hash: Hash,
    pub(super) encoding: Encoding,
    pub(super) form: Form,
    /// What is signed, in order.
    pub(super) signed: &'static [Part],
    /// Where the signed time stands; None: nothing keeps a request from being sent again.
    pub(super) stamp: Option<Stamp>,
    pub(super) key: Key,
}

/// The hash function.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

/// How the signature's bytes are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoding {
    Hex,
    Base64,
}

/// What the header's value looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// The signature behind a text, which may be empty.
    Prefix(&'static str),
    /// Signatures, each behind a text, between these characters. One that is right is enough: keys rotate.
    List { separator: char, prefix: &'static str },
    /// `time=...,signature=...`, by these names; further ones are passed over.
    Pairs { time: &'static str, signature: &'static str },
}

/// A piece of what is signed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Text(&'static str),
    /// The signed time, as it was written.
    Stamp,
    Header(&'static str),
    Method,
    Url,
    Body,
}

/// The signed time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    /// Its header; None: it is one of the pairs.
    pub(super) header: Option<&'static str>,
    pub(super) unit: Unit,
    pub(super) tolerance_secs: u32,
}

/// How the time is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    Secs,
    Millis,
    Rfc3339,
    /// As RFC 3339 has it, but the offset may be absent: UTC.
    Utc,
}

/// What the secret's text means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key {
    /// The key itself.
    Text,
    /// The key as base64.
    Base64,
    /// The key as base64, behind this text if it is there.
    Behind(&'static str),
}

impl Hash {
    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

use Encoding::{Base64, Hex};
use Hash::{Sha1, Sha256, Sha512};
use Part::{Body, Header, Method, Text, Url};

const fn body(header: &'static str, hash: Hash, encoding: Encoding, prefix: &'static str) -> Hmac {
    Hmac { header, hash, encoding, form: Form::Prefix(prefix), signed: &[Body], stamp: None, key: Key::Text }
}

const fn stamp(header: &'static str, unit: Unit) -> Stamp {
    Stamp { header: Some(header), unit, tolerance_secs: TOLERANCE_SECS }
}

/// `time.body`, with time and signature in one header.
const fn pairs(header: &'static str, time: &'static str, signature: &'static str) -> Hmac {
    Hmac {
        form: Form::Pairs { time, signature },
        signed: &[Part::Stamp, Text("."), Body],
        stamp: Some(Stamp { header: None, unit: Unit::Secs, tolerance_secs: TOLERANCE_SECS }),
        ..body(header, Sha256, Hex, "")
    }
}

/// `v0:time:body`, with the time in a header of its own.
const fn v0(header: &'static str, time: &'static str) -> Hmac {
    Hmac {
        signed: &[Text("v0:"), Part::Stamp, Text(":"), Body],
        stamp: Some(stamp(time, Unit::Secs)),
        ..body(header, Sha256, Hex, "v0=")
    }
}

/// `id.time.body` of the Standard Webhooks specification.
const fn standard(header: &'static str, signed: &'static [Part], time: &'static str) -> Hmac {
    Hmac {
        form: Form::List { separator: ' ', prefix: "v1," },
        signed,
        stamp: Some(stamp(time, Unit::Secs)),
        key: Key::Behind("whsec_"),
        ..body(header, Sha256, Base64, "")
    }
}

const HUB_256: Scheme = Scheme::Hmac(body("x-hub-signature-256", Sha256, Hex, "sha256="));
const SVIX: Scheme = Scheme::Hmac(standard(
    "svix-signature",
    &[Header("svix-id"), Text("."), Part::Stamp, Text("."), Body],
    "svix-timestamp",
));

/// Published ids, sorted.
pub(super) static PROVIDERS: &[(&str, Scheme)] = &[
    ("aftership", Scheme::Hmac(body("aftership-hmac-sha256", Sha256, Base64, ""))),
    (
        "airship",
        Scheme::Hmac(Hmac {
            signed: &[Part::Stamp, Text(":"), Body],
            stamp: Some(stamp("x-ua-timestamp", Unit::Secs)),
            ..body("x-ua-signature", Sha256, Hex, "")
        }),
    ),
    ("alchemy", Scheme::Hmac(body("x-alchemy-signature", Sha256, Hex, ""))),
    ("autodesk", Scheme::Hmac(body("x-adsk-signature", Sha1, Hex, "sha1hash="))),
    ("bitbucket", Scheme::Hmac(body("x-hub-signature", Sha256, Hex, "sha256="))),
    ("bolt", Scheme::Hmac(body("x-bolt-hmac-sha256", Sha256, Base64, ""))),
    (
        "box",
        Scheme::Hmac(Hmac {
            signed: &[Body, Part::Stamp],
            stamp: Some(Stamp {
                header: Some("box-delivery-timestamp"),
                unit: Unit::Rfc3339,
                tolerance_secs: 600,
            }),
            ..body("box-signature-primary", Sha256, Base64, "")
        }),
    ),
    (
        "brex",
        Scheme::Hmac(standard(
            "webhook-signature",
            &[Header("webhook-id"), Text("."), Part::Stamp, Text("."), Body],
            "webhook-timestamp",
        )),
    ),
    ("buildkite", Scheme::Hmac(pairs("x-buildkite-signature", "timestamp", "signature"))),
    ("calendly", Scheme::Hmac(pairs("calendly-webhook-signature", "t", "v1"))),
    ("castle", Scheme::Hmac(body("x-castle-signature", Sha256, Base64, ""))),
    ("chargify", Scheme::Hmac(body("x-chargify-webhook-signature-hmac-sha-256", Sha256, Hex, ""))),
    (
        "circleci",
        Scheme::Hmac(Hmac {
            form: Form::List { separator: ',', prefix: "v1=" },
            ..body("circleci-signature", Sha256, Hex, "")
        }),
    ),
    ("clearbit", Scheme::Hmac(body("x-request-signature", Sha1, Hex, "sha1="))),
    ("clerk", SVIX),
    ("coinbase", Scheme::Hmac(body("x-cc-webhook-signature", Sha256, Hex, ""))),
    ("contentful", Scheme::Contentful),
    ("docusign", Scheme::Hmac(body("x-docusign-signature-1", Sha256, Base64, ""))),
    ("dropbox", Scheme::Hmac(body("x-dropbox-signature", Sha256, Hex, ""))),
    ("facebook_graph_api", HUB_256),
    ("facebook_messenger", HUB_256),
    ("frameio", Scheme::Hmac(v0("x-frameio-signature", "x-frameio-request-timestamp"))),
    ("github", HUB_256),
    ("gitlab", Scheme::Token("x-gitlab-token")),
    (
        "go1",
        Scheme::Hmac(Hmac {
            stamp: Some(Stamp { header: None, unit: Unit::Secs, tolerance_secs: 60 }),
            ..pairs("go1-signature", "t", "v1")
        }),
    ),
    ("graphcms", Scheme::Hygraph),
    ("heroku", Scheme::Hmac(body("heroku-webhook-hmac-sha256", Sha256, Base64, ""))),
    (
        "hubspot",
        Scheme::Hmac(Hmac {
            signed: &[Method, Url, Body, Part::Stamp],
            stamp: Some(stamp("x-hubspot-request-timestamp", Unit::Millis)),
            ..body("x-hubspot-signature-v3", Sha256, Base64, "")
        }),
    ),
    ("instagram", HUB_256),
    ("intercom", Scheme::Hmac(body("x-hub-signature", Sha1, Hex, "sha1="))),
    ("jira", Scheme::Hmac(body("x-hub-signature", Sha256, Hex, "sha256="))),
    ("launch_darkly", Scheme::Hmac(body("x-ld-signature", Sha256, Hex, ""))),
    ("linear", Scheme::Hmac(body("linear-signature", Sha256, Hex, ""))),
    ("mailchimp", Scheme::Form("x-mandrill-signature")),
    ("mailgun", Scheme::Mailgun),
    (
        "microsoft_teams",
        Scheme::Hmac(Hmac { key: Key::Base64, ..body("authorization", Sha256, Base64, "HMAC ") }),
    ),
    ("modern_treasury", Scheme::Hmac(body("x-signature", Sha256, Hex, ""))),
    ("mongodb", Scheme::Hmac(body("x-mms-signature", Sha1, Base64, ""))),
    ("mux", Scheme::Hmac(pairs("mux-signature", "t", "v1"))),
    (
        "orb",
        Scheme::Hmac(Hmac {
            signed: &[Text("v1:"), Part::Stamp, Text(":"), Body],
            stamp: Some(stamp("x-orb-timestamp", Unit::Utc)),
            ..body("x-orb-signature", Sha256, Hex, "v1=")
        }),
    ),
    (
        "pagerduty",
        Scheme::Hmac(Hmac {
            form: Form::List { separator: ',', prefix: "v1=" },
            ..body("x-pagerduty-signature", Sha256, Hex, "")
        }),
    ),
    (
        "pinwheel",
        Scheme::Hmac(Hmac {
            signed: &[Text("v2:"), Part::Stamp, Text(":"), Body],
            stamp: Some(stamp("x-timestamp", Unit::Secs)),
            ..body("x-pinwheel-signature", Sha256, Hex, "v2=")
        }),
    ),
    ("plivo", Scheme::Plivo),
    ("pusher", Scheme::Hmac(body("x-pusher-signature", Sha256, Hex, ""))),
    ("sendgrid", Scheme::SendGrid),
    ("sentry", Scheme::Hmac(body("sentry-hook-signature", Sha256, Hex, ""))),
    ("shopify", Scheme::Hmac(body("x-shopify-hmac-sha256", Sha256, Base64, ""))),
    ("signal_sciences", Scheme::Hmac(body("x-sigsci-signature", Sha256, Hex, ""))),
    ("slack", Scheme::Hmac(v0("x-slack-signature", "x-slack-request-timestamp"))),
    ("sns", Scheme::Sns),
    ("sonatype", Scheme::Hmac(body("x-nexus-webhook-signature", Sha1, Hex, ""))),
    (
        "square",
        Scheme::Hmac(Hmac {
            signed: &[Url, Body],
            ..body("x-square-hmacsha256-signature", Sha256, Base64, "")
        }),
    ),
    ("stripe", Scheme::Hmac(pairs("stripe-signature", "t", "v1"))),
    ("svix", SVIX),
    ("terraform", Scheme::Hmac(body("x-tfe-notification-signature", Sha512, Hex, ""))),
    ("tiktok", Scheme::Hmac(pairs("tiktok-signature", "t", "s"))),
    ("trendmicro_conformity", Scheme::Hmac(body("x-conformity-signature", Sha256, Hex, ""))),
    ("twilio", Scheme::Form("x-twilio-signature")),
    ("twitter", Scheme::Hmac(body("x-twitter-webhooks-signature", Sha256, Base64, "sha256="))),
    ("typeform", Scheme::Hmac(body("typeform-signature", Sha256, Base64, "sha256="))),
    ("webex", Scheme::Hmac(body("x-spark-signature", Sha1, Hex, ""))),
    ("whatsapp", HUB_256),
    ("worldline", Scheme::Hmac(body("x-gcs-signature", Sha256, Base64, ""))),
    ("xero", Scheme::Hmac(body("x-xero-signature", Sha256, Base64, ""))),
    (
        "zendesk",
        Scheme::Hmac(Hmac {
            signed: &[Part::Stamp, Body],
            stamp: Some(stamp("x-zendesk-webhook-signature-timestamp", Unit::Rfc3339)),
            ..body("x-zendesk-webhook-signature", Sha256, Base64, "")
        }),
    ),
    ("zoom", Scheme::Hmac(v0("x-zm-signature", "x-zm-request-timestamp"))),
];

/// Published ids of providers without verification, each with the reason: a wrong verdict is worse than none.
pub(super) const UNSERVED: &[(&str, &str)] = &[
    (
        "hostedhooks",
        "its documentation names the signature's header as one web framework does, and no second source says which header is sent",
    ),
    ("orbit", "its service has closed, and the only description left of its signature cannot be checked"),
    ("vmware", "it publishes no signature; where it sends a user name and a password, use `basic-auth`"),
];

/// A provider by its published id.
pub(super) fn find(id: &str) -> Option<&'static (&'static str, Scheme)> {
    PROVIDERS.iter().find(|(known, _)| *known == id)
}
