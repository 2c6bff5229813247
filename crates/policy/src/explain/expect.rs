//! What is expected of a case, and how an explanation differs from it.

use std::collections::BTreeMap;

use ebbgate_model::EndpointUrl;
use serde::Deserialize;

use super::{CaseText, Decision, Explanation};

/// Words of [`Expected::outcome`].
const OUTCOMES: [&str; 5] = ["upstream", "forward", "respond", "close", "fail"];

/// A case with what must come out of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCase {
    /// Shown with the result.
    pub name: String,
    /// The connection and the request.
    #[serde(default)]
    pub given: CaseText,
    /// What must come out.
    pub expect: Expected,
}

/// What must come out; each field that is there is compared.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expected {
    /// `upstream`, `forward`, `respond`, `close` or `fail`.
    pub outcome: Option<String>,
    /// Whether what the rules decide is done: false with `enforce: false` in the policy.
    pub enforced: Option<bool>,
    /// Of the response that the client gets.
    pub status: Option<u16>,
    /// The internal endpoint of a forward.
    pub to: Option<EndpointUrl>,
    /// Such as `ERR_NGROK_3203`.
    pub code: Option<String>,
    /// The place that decides, or what it begins with: `on_http_request[0]`.
    pub decided_by: Option<String>,
    /// The text of a reply's body.
    pub body: Option<String>,
    /// Headers that an upstream gets; null: not there.
    pub request_headers: BTreeMap<String, Option<String>>,
    /// Headers that the client gets; null: not there.
    pub response_headers: BTreeMap<String, Option<String>>,
}

impl Expected {
    /// Refuses an expectation that says nothing, and an outcome that there is not.
    pub fn check(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err("`expect` is empty: say what must come out, such as `outcome: close`".to_owned());
        }
        match self.outcome.as_deref() {
            Some(outcome) if !OUTCOMES.contains(&outcome) => {
                Err(format!("`outcome` is one of {}", OUTCOMES.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// One sentence for each field that did not come out.
    #[must_use]
    pub fn differences(&self, got: &Explanation) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |field: &str, wanted: Option<String>, got: Option<String>| {
            if wanted.is_some() && wanted != got {
                let show = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
                all.push(format!("{field} is {}, not {}", show(got), show(wanted)));
            }
        };
        let words = |flag: Option<bool>| flag.map(|flag| flag.to_string());
        compare("enforced", words(self.enforced), words(Some(got.is_enforced)));
        compare("outcome", self.outcome.clone(), Some(got.decision.word().to_owned()));
        let status = got.response.as_ref().map(|response| response.status.as_u16().to_string());
        compare("status", self.status.map(|status| status.to_string()), status);
        let to = match &got.decision {
            Decision::Forward(url) => Some(url.to_string()),
            _ => None,
        };
        compare("to", self.to.as_ref().map(ToString::to_string), to);
        compare("code", self.code.clone(), got.decision.code().map(|code| code.to_string()));
        if self.decided_by.as_deref().is_some_and(|place| !is_at(&got.decided_by, place)) {
            compare("decided_by", self.decided_by.clone(), Some(got.decided_by.clone()));
        }
        let body = match &got.decision {
            Decision::Respond(reply) => Some(String::from_utf8_lossy(&reply.body).into_owned()),
            _ => None,
        };
        compare("body", self.body.clone(), body);
        let headers = [
            ("request_headers", &self.request_headers, got.request.as_ref().map(|r| &r.headers)),
            ("response_headers", &self.response_headers, got.response.as_ref().map(|r| &r.headers)),
        ];
        for (field, wanted, got) in headers {
            for (name, wanted) in wanted {
                let value = got.and_then(|headers| headers.get(name));
                let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                if *wanted != value {
                    let show =
                        |text: Option<&String>| text.map_or("absent".to_owned(), |text| format!("`{text}`"));
                    all.push(format!(
                        "{field}.{name} is {}, not {}",
                        show(value.as_ref()),
                        show(wanted.as_ref())
                    ));
                }
            }
        }
        all
    }
}

/// Whether a place is another or inside it.
fn is_at(place: &str, wanted: &str) -> bool {
    place.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
