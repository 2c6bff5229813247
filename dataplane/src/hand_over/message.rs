//! What two processes of an edge say at a hand-over: JSON objects, one a message, some with descriptors beside them. Unknown
//! fields are ignored; another format is refused.

use ebbgate_model::Host;
use serde::{Deserialize, Serialize};

/// The format of these messages.
pub const FORMAT: u32 = 1;

/// The newer process to the older one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromNewer {
    /// First message.
    Hello {
        /// [`FORMAT`] of the newer process.
        format: u32,
        /// Version of its program.
        version: String,
        /// Its process.
        pid: u32,
        /// Whether it takes the filter in the kernel over. A process of an older release does not say so, and waits until that is free.
        #[serde(default)]
        takes_filter: bool,
    },
    /// So many descriptors have come in all.
    Received {
        /// Their number.
        descriptors: usize,
    },
    /// It could serve now.
    Ready,
    /// It serves.
    Serving,
    /// It cannot serve.
    Failed {
        /// Why.
        reason: String,
    },
    /// A message of another release.
    #[serde(other)]
    Unknown,
}

/// The older process to the newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromOlder {
    /// There will be no hand-over.
    Refused {
        /// Why.
        reason: String,
    },
    /// Descriptors come with this message, one for each item.
    Descriptors {
        /// What they are, in order.
        items: Vec<Item>,
    },
    /// That was all, and the directory stays as it is: get ready.
    Prepare {
        /// Generation of the Program in the directory.
        generation: u64,
        /// Generation for connection ids of QUIC.
        quic_generation: u8,
        /// The edge's incarnation, as other edges know it; None: a process of an older release does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incarnation: Option<String>,
    },
    /// Nobody accepts any more: serve.
    Go {
        /// Ports that were closed meanwhile.
        #[serde(default)]
        closed: Vec<u16>,
    },
    /// The newer process is the edge.
    Done,
    /// A message of another release.
    #[serde(other)]
    Unknown,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Listeners are named as in metrics; others are `claim`, `directory`, `door`, `quic`, `passage`, `older`, `ticket_keys` and
    /// `xdp_pins`.
    pub name: String,
    /// Of a claim: the listener with the address that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Of a TCP port: host part of its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// Of a TCP port: the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Of a passage for packets: generation of the process at its other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u8>,
}

impl Item {
    /// One that a name says everything of.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), of: None, host: None, port: None, generation: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_release_adds_is_no_error() {
        let heard: FromNewer =
            serde_json::from_str(r#"{"type":"hello","format":1,"version":"9","pid":7,"colour":"blue"}"#)
                .unwrap();
        assert_eq!(heard, FromNewer::Hello { format: 1, version: "9".into(), pid: 7, takes_filter: false });
        assert_eq!(serde_json::from_str::<FromOlder>(r#"{"type":"dance"}"#).unwrap(), FromOlder::Unknown);
        let item: Item = serde_json::from_str(r#"{"name":"peers","rooms":3}"#).unwrap();
        assert_eq!(item, Item::named("peers"));
    }
}
