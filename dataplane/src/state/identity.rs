//! `Identity`: what an edge that joined from another machine proves itself with. Kept in one file, so that key and
//! certificate always fit. Knows no connection.

use std::fmt;

use ebbgate_model::EdgeId;
use ebbgate_model::feed::Enrolled;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Id that control gave, the common name of the certificate.
    pub edge: EdgeId,
    /// `host:port` of each control.
    pub controls: Vec<String>,
    /// Certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
    /// What control's certificate must end at, PEM.
    pub authorities_pem: String,
    /// End of the certificate in Unix seconds.
    pub not_after: i64,
}

impl Identity {
    /// What control answered, with the key that was asked for.
    pub fn new(enrolled: Enrolled, controls: Vec<String>, key_pem: String) -> Self {
        let Enrolled { edge, certificate_pem, authorities_pem, not_after, .. } = enrolled;
        Self { edge, controls, certificate_pem, key_pem, authorities_pem, not_after }
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers are JSON")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("edge", &self.edge)
            .field("controls", &self.controls)
            .finish_non_exhaustive()
    }
}
