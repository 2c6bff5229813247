//! Identity providers: what a provider publishes of itself, and the published providers that speak plain `OAuth` 2.0, as a table.

use serde::Deserialize;
use serde_json::Value;

/// Longest URL that a provider names, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Members of the discovery document that matter here (`OpenID` Connect Discovery 1.0 section 3).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Metadata {
    issuer: String,
    pub(crate) authorization_endpoint: String,
    pub(crate) token_endpoint: String,
    #[serde(default)]
    pub(crate) userinfo_endpoint: Option<String>,
    pub(crate) jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Metadata {
    /// Where an issuer publishes it.
    pub(crate) fn url(issuer: &str) -> String {
        format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
    }

    /// Reads what an issuer published, or says what is wrong with it.
    pub(crate) fn parse(document: &[u8], issuer: &str) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(document)
            .map_err(|error| format!("the metadata of {issuer} cannot be read: {error}"))?;
        if read.issuer != issuer {
            let said: String = read.issuer.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(format!(
                "the metadata at {issuer} is of the issuer `{said}`: write `issuer_url` exactly so"
            ));
        }
        let urls = [&read.authorization_endpoint, &read.token_endpoint, &read.jwks_uri];
        for url in urls.into_iter().chain(&read.userinfo_endpoint) {
            check_url(url, issuer.starts_with("http://"))
                .map_err(|why| format!("the metadata of {issuer} names `{}`: {why}", short(url)))?;
        }
        Ok(read)
    }

    /// Whether the client's secret goes into the form, and not into `Authorization`.
    pub(crate) fn wants_secret_in_form(&self) -> bool {
        let methods = self.token_endpoint_auth_methods_supported.as_deref().unwrap_or_default();
        let takes = |method: &str| methods.iter().any(|known| known == method);
        takes("client_secret_post") && !takes("client_secret_basic")
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// What is wrong with a URL of a provider, if anything is. `in_clear`: `http://` is allowed too.
pub(crate) fn check_url(url: &str, in_clear: bool) -> Result<(), String> {
    let uri = url.parse::<http::Uri>().map_err(|_| "it is not a URL".to_owned())?;
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match (uri.scheme_str(), uri.host()) {
        _ if url.len() > URL_BYTES_MAX => Err(format!("it is longer than {URL_BYTES_MAX} bytes")),
        _ if has_user => Err("it carries a user name or password".to_owned()),
        (Some("https"), Some(host)) if !host.is_empty() => Ok(()),
        (Some("http"), Some(host)) if in_clear && !host.is_empty() => Ok(()),
        _ => Err("it is not an https URL".to_owned()),
    }
}

/// Endpoints of a provider that is not asked for metadata.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Where browsers are sent (RFC 6749 section 3.1).
    pub authorization_endpoint: String,
    /// Where codes are given for tokens (RFC 6749 section 3.2).
    pub token_endpoint: String,
    /// Who a token is about.
    pub userinfo_endpoint: String,
    /// A list of `{email, primary, verified}`, asked where user info has no address.
    #[serde(default)]
    pub emails_endpoint: Option<String>,
}

/// Why endpoints of a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointsError {
    /// The text.
    #[error("the file is no JSON object of providers and their endpoints: {0}")]
    Json(#[from] serde_json::Error),
    /// The name.
    #[error("there is no provider `{name}`: {}", names())]
    Name {
        /// As written.
        name: String,
    },
    /// A URL.
    #[error("`{name}`: `{url}`: {why}")]
    Url {
        /// Of the provider.
        name: String,
        /// As written.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

fn names() -> String {
    format!("they are {}", PROVIDERS.iter().map(|provider| provider.name).collect::<Vec<_>>().join(", "))
}

/// Reads the endpoints that an operator puts in the place of published ones: a JSON object, keyed by names of `provider`.
/// `http://` URLs are taken on loopback only.
pub fn parse_endpoints(text: &str) -> Result<std::collections::BTreeMap<String, Endpoints>, EndpointsError> {
    let read: std::collections::BTreeMap<String, Endpoints> = serde_json::from_str(text)?;
    for (name, endpoints) in &read {
        if named(name).is_none() {
            return Err(EndpointsError::Name { name: name.clone() });
        }
        let Endpoints { authorization_endpoint, token_endpoint, userinfo_endpoint, emails_endpoint } =
            endpoints;
        for url in
            [authorization_endpoint, token_endpoint, userinfo_endpoint].into_iter().chain(emails_endpoint)
        {
            check_url(url, is_loopback(url)).map_err(|why| EndpointsError::Url {
                name: name.clone(),
                url: short(url),
                why,
            })?;
        }
    }
    Ok(read)
}

fn is_loopback(url: &str) -> bool {
    let host =
        url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A published value of `provider`.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) name: &'static str,
    authorization: &'static str,
    token: &'static str,
    userinfo: &'static str,
    emails: Option<&'static str>,
    /// Asked for where the policy names none.
    pub(crate) scopes: &'static [&'static str],
    /// Whether it takes a code challenge (RFC 7636); others may refuse a parameter that they do not know.
    pub(crate) pkce: bool,
    /// Members of user info: the person's id, name and address; the first that is there counts.
    pub(crate) id: &'static str,
    pub(crate) names: &'static [&'static str],
}

impl Provider {
    pub(crate) fn endpoints(&self) -> Endpoints {
        Endpoints {
            authorization_endpoint: self.authorization.to_owned(),
            token_endpoint: self.token.to_owned(),
            userinfo_endpoint: self.userinfo.to_owned(),
            emails_endpoint: self.emails.map(str::to_owned),
        }
    }
}

pub(crate) static PROVIDERS: &[Provider] = &[
    Provider {
        name: "amazon",
        authorization: "https://www.amazon.com/ap/oa",
        token: "https://api.amazon.com/auth/o2/token",
        userinfo: "https://api.amazon.com/user/profile",
        emails: None,
        scopes: &["profile"],
        pkce: true,
        id: "user_id",
        names: &["name"],
    },
    Provider {
        name: "facebook",
        authorization: "https://www.facebook.com/dialog/oauth",
        token: "https://graph.facebook.com/oauth/access_token",
        userinfo: "https://graph.facebook.com/me?fields=id,name,email",
        emails: None,
        scopes: &["public_profile", "email"],
        pkce: true,
        id: "id",
        names: &["name"],
    },
    Provider {
        name: "github",
        authorization: "https://github.com/login/oauth/authorize",
        token: "https://github.com/login/oauth/access_token",
        userinfo: "https://api.github.com/user",
        emails: Some("https://api.github.com/user/emails"),
        scopes: &["read:user", "user:email"],
        pkce: true,
        id: "id",
        names: &["name", "login"],
    },
    Provider {
        name: "gitlab",
        authorization: "https://gitlab.com/oauth/authorize",
        token: "https://gitlab.com/oauth/token",
        userinfo: "https://gitlab.com/oauth/userinfo",
        emails: None,
        scopes: &["openid", "profile", "email"],
        pkce: true,
        id: "sub",
        names: &["name", "nickname"],
    },
    Provider {
        name: "google",
        authorization: "https://accounts.google.com/o/oauth2/v2/auth",
        token: "https://oauth2.googleapis.com/token",
        userinfo: "https://openidconnect.googleapis.com/v1/userinfo",
        emails: None,
        scopes: &["openid", "profile", "email"],
        pkce: true,
        id: "sub",
        names: &["name"],
    },
    Provider {
        name: "linkedin",
        authorization: "https://www.linkedin.com/oauth/v2/authorization",
        token: "https://www.linkedin.com/oauth/v2/accessToken",
        userinfo: "https://api.linkedin.com/v2/userinfo",
        emails: None,
        scopes: &["openid", "profile", "email"],
        pkce: false,
        id: "sub",
        names: &["name"],
    },
    Provider {
        name: "microsoft",
        authorization: "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
        token: "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        userinfo: "https://graph.microsoft.com/oidc/userinfo",
        emails: None,
        scopes: &["openid", "profile", "email"],
        pkce: true,
        id: "sub",
        names: &["name"],
    },
    Provider {
        name: "twitch",
        authorization: "https://id.twitch.tv/oauth2/authorize",
        token: "https://id.twitch.tv/oauth2/token",
        userinfo: "https://id.twitch.tv/oauth2/userinfo",
        emails: None,
        scopes: &["openid", "user:read:email"],
        pkce: false,
        id: "sub",
        names: &["preferred_username"],
    },
];

/// The published provider of a name.
pub(crate) fn named(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// The address in a list of `{email, primary, verified}`: the primary one, where the provider has verified it.
pub(crate) fn primary_email(list: &[u8]) -> Option<String> {
    let list: Value = serde_json::from_slice(list).ok()?;
    let is = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_bool) == Some(true);
    let entry = list.as_array()?.iter().find(|entry| is(entry, "primary") && is(entry, "verified"))?;
    entry.get("email").and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ISSUER: &str = "https://id.example.com";

    fn document() -> Value {
        json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example.com/auth",
            "token_endpoint": "https://id.example.com/token",
            "jwks_uri": "https://id.example.com/jwks",
        })
    }

    #[test]
    fn metadata_is_of_the_issuer_itself_and_leads_to_https() {
        assert!(Metadata::parse(document().to_string().as_bytes(), ISSUER).is_ok());
        for (name, value) in [
            ("issuer", json!("https://id.example.com/")),
            ("issuer", json!("https://evil.example")),
            ("token_endpoint", json!("http://id.example.com/token")),
            ("token_endpoint", json!("https://u:p@id.example.com/token")),
            ("jwks_uri", json!("file:///etc/passwd")),
            ("authorization_endpoint", json!("javascript:alert(1)")),
            ("userinfo_endpoint", json!("/me")),
            ("userinfo_endpoint", json!(format!("https://h/{}", "a".repeat(URL_BYTES_MAX)))),
            ("jwks_uri", Value::Null),
        ] {
            let mut lying = document();
            lying[name] = value.clone();
            assert!(Metadata::parse(lying.to_string().as_bytes(), ISSUER).is_err(), "{name} {value}");
        }
        assert!(Metadata::parse(b"<html>", ISSUER).is_err());
    }

    #[test]
    fn a_secret_goes_into_the_form_only_where_nothing_else_is_taken() {
        let check = |methods: Value, expect: bool| {
            let mut read = document();
            read["token_endpoint_auth_methods_supported"] = methods.clone();
            let read = Metadata::parse(read.to_string().as_bytes(), ISSUER).unwrap();
            assert_eq!(read.wants_secret_in_form(), expect, "{methods}");
        };
        check(Value::Null, false);
        check(json!(["client_secret_post", "client_secret_basic"]), false);
        check(json!(["client_secret_post"]), true);
    }

    #[test]
    fn every_published_provider_has_https_endpoints() {
        for provider in PROVIDERS {
            let all = provider.endpoints();
            for url in [&all.authorization_endpoint, &all.token_endpoint, &all.userinfo_endpoint] {
                assert_eq!(check_url(url, false), Ok(()), "{url}");
            }
        }
        assert!(PROVIDERS.is_sorted_by_key(|provider| provider.name));
    }

    #[test]
    fn an_operator_puts_endpoints_in_the_place_of_published_ones() {
        let file = |token: &str, name: &str| {
            let endpoints = json!({
                "authorization_endpoint": "https://git.example.com/auth",
                "token_endpoint": token,
                "userinfo_endpoint": "https://git.example.com/user",
            });
            json!({ name: endpoints }).to_string()
        };
        assert!(parse_endpoints(&file("https://git.example.com/token", "github")).is_ok());
        assert!(parse_endpoints(&file("http://127.0.0.1:1/token", "github")).is_ok());
        for (token, name) in
            [("http://git.example.com/token", "github"), ("https://h/t", "gitea"), ("x", "github")]
        {
            assert!(parse_endpoints(&file(token, name)).is_err(), "{token} {name}");
        }
        assert!(parse_endpoints("[]").is_err() && parse_endpoints("{\"github\": {}}").is_err());
    }

    #[test]
    fn only_a_verified_primary_address_counts() {
        let list = json!([
            {"email": "a@x", "primary": false, "verified": true},
            {"email": "b@x", "primary": true, "verified": true},
        ]);
        assert_eq!(primary_email(list.to_string().as_bytes()).as_deref(), Some("b@x"));
        let list = json!([{"email": "b@x", "primary": true, "verified": false}]);
        assert_eq!(primary_email(list.to_string().as_bytes()), None);
        assert_eq!(primary_email(b"{}"), None);
    }
}
