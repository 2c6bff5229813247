//! What the line of a connection or a request says, each field listed once: for JSON of our own and for tracing.

use std::fmt::Display;

use ebbgate_model::event::{ConnectionEvent, NotEnforced, RequestEvent};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// Target of requests' lines.
pub(super) const REQUEST: &str = "ebbgate_edge::request";
/// Target of connections' lines.
pub(super) const CONNECTION: &str = "ebbgate_edge::connection";

/// One field of a line.
trait Field: Serialize {
    /// Its form in tracing, which has neither lists nor ids.
    type Traced<'a>: tracing::Value
    where
        Self: 'a;

    /// This form.
    fn traced(&self) -> Self::Traced<'_>;

    /// Whether the line leaves it out.
    fn is_absent(&self) -> bool {
        false
    }
}

impl Field for String {
    type Traced<'a> = &'a str;

    fn traced(&self) -> &str {
        self
    }
}

impl Field for u16 {
    type Traced<'a> = u16;

    fn traced(&self) -> u16 {
        *self
    }
}

impl Field for u64 {
    type Traced<'a> = u64;

    fn traced(&self) -> u64 {
        *self
    }
}

impl<T: Display + Serialize> Field for Option<T> {
    type Traced<'a>
        = Option<String>
    where
        T: 'a;

    fn traced(&self) -> Option<String> {
        self.as_ref().map(T::to_string)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

/// A text that is left out when it is empty.
#[derive(Serialize)]
struct NonEmpty<'t>(&'t str);

impl Field for NonEmpty<'_> {
    type Traced<'a>
        = Option<&'a str>
    where
        Self: 'a;

    fn traced(&self) -> Option<&str> {
        Some(self.0).filter(|text| !text.is_empty())
    }

    fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}

/// What `log` actions wrote: each entry has the names that the policy gave.
impl Field for Vec<Value> {
    type Traced<'a> = Option<String>;

    fn traced(&self) -> Option<String> {
        (!self.is_empty()).then(|| json!(self).to_string())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// What policies came to that are not enforced.
impl Field for Vec<NotEnforced> {
    type Traced<'a> = Option<String>;

    fn traced(&self) -> Option<String> {
        (!self.is_empty()).then(|| json!(self).to_string())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

macro_rules! line {
    ($(#[$doc:meta])* $name:ident($event:ident: $of:ty), $target:ident, $message:literal, {
        $($key:ident: $value:expr),* $(,)?
    }) => {
        $(#[$doc])*
        pub(super) struct $name<'a>(pub(super) &'a $of);

        impl Serialize for $name<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let $event = self.0;
                let mut map = serializer.serialize_map(None)?;
                $(
                    let value = &$value;
                    if !value.is_absent() {
                        map.serialize_entry(stringify!($key), value)?;
                    }
                )*
                map.end()
            }
        }

        impl $name<'_> {
            /// Gives the line to tracing.
            pub(super) fn trace(&self) {
                let $event = self.0;
                tracing::info!(target: $target, $($key = $value.traced(),)* $message);
            }
        }
    };
}

line!(
    /// The line of a connection.
    ConnectionLine(event: ConnectionEvent), CONNECTION, "connection", {
        account: event.account,
        endpoint: event.endpoint,
        url: event.url,
        forwarded_to: event.forwarded_to,
        client: event.client,
        server: event.server,
        server_name: event.server_name,
        tls: event.tls_version,
        duration_ms: event.duration_ms,
        bytes_in: event.bytes_in,
        bytes_out: event.bytes_out,
        code: event.error,
        outcome: event.outcome,
        operation: NonEmpty(&event.operation),
        policy_logs: event.policy_logs,
        not_enforced: event.not_enforced,
    }
);

line!(
    /// The line of a request.
    RequestLine(event: RequestEvent), REQUEST, "request", {
        account: event.account,
        endpoint: event.endpoint,
        url: event.url,
        forwarded_to: event.forwarded_to,
        client: event.client,
        method: event.method,
        host: event.host,
        path: event.path,
        version: event.version,
        status: event.status,
        duration_ms: event.duration_ms,
        bytes_in: event.bytes_in,
        bytes_out: event.bytes_out,
        code: event.error,
        operation: NonEmpty(&event.operation),
        detail: NonEmpty(&event.detail),
        policy_logs: event.policy_logs,
        not_enforced: event.not_enforced,
    }
);
