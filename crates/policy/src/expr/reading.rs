//! What it costs to read a variable out of a context, before its value is built: units of work, and bytes of headers.
//!
//! Knows which part of a context each variable is read from, and how it is taken apart; the reading itself is in `names`.

use http::HeaderMap;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE, USER_AGENT,
};

use super::addresses;
use super::names::VARIABLES;
use super::query;
use super::reads::{request_trailers, response_trailers};
use super::unavailable::below;
use crate::facts::Context;
use crate::work::BYTES_PER_UNIT;

/// Most bytes of header names and values that one variable is read from. A request that has more is answered 431.
pub const SEEN_HEADER_BYTES_MAX: usize = 64 * 1024;

/// Units for each header line that becomes part of a map.
const LINE_UNITS: u64 = 6;
/// Units for each cookie, each with its attributes.
const COOKIE_UNITS: u64 = 10;
/// Units for each query parameter.
const PARAMETER_UNITS: u64 = 4;
/// Units for each element of a list in a header, and each parameter of a media type.
const ELEMENT_UNITS: u64 = 2;
/// Units to read any certificate, and for each [`BYTES_PER_UNIT`] of it.
const CERTIFICATE_UNITS: u64 = 300;
const CERTIFICATE_BYTES_UNITS: u64 = 200;
/// Units for each [`BYTES_PER_UNIT`] of a User-Agent: it is searched for some thirty marks.
const AGENT_BYTES_UNITS: u64 = 100;
/// Units to look an address up in databases.
const LOOK_UP_UNITS: u64 = 30;
/// Units for each [`BYTES_PER_UNIT`] of any other text.
const TEXT_BYTES_UNITS: u64 = 12;

/// The cost of one reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Units of work.
    pub(super) units: u64,
    /// Bytes of header names and values looked at.
    pub(super) header_bytes: usize,
}

impl Cost {
    fn text(bytes: usize, price: u64) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self { units: (bytes.saturating_mul(price) / BYTES_PER_UNIT).saturating_add(1), header_bytes: 0 }
    }

    fn and_each(mut self, count: usize, units: u64) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.units = self.units.saturating_add(count.saturating_mul(units));
        self
    }

    fn plus(self, other: Self) -> Self {
        Self {
            units: self.units.saturating_add(other.units),
            // The same headers, whichever of them are looked at most.
            header_bytes: self.header_bytes.max(other.header_bytes),
        }
    }
}

/// The cost of a row of the table.
pub(super) fn row(path: &str, cx: &Context) -> Cost {
    let tls = cx.conn.tls.as_deref();
    if below(path, "conn.tls.client") {
        return certificate(tls.and_then(|tls| tls.client_chain.first()));
    }
    if below(path, "conn.tls.server") {
        return certificate(tls.map(|tls| &tls.server_leaf));
    }
    if addresses::looked_up(path).is_some() {
        return Cost { units: LOOK_UP_UNITS, header_bytes: 0 };
    }
    if path == "event.data" {
        let data = cx.event.as_ref().map_or(0, |event| event.data.len());
        return Cost::text(data, TEXT_BYTES_UNITS);
    }
    let (headers, rest) = match path.split_once('.') {
        Some(("req", rest)) => (cx.request.as_ref().map(|request| &request.headers), rest),
        Some(("res", rest)) => (cx.response.as_ref().map(|response| &response.headers), rest),
        _ => return Cost::default(),
    };
    match rest {
        "headers" => all(headers),
        "trailers" if path.starts_with("req") => all(request_trailers(cx)),
        "trailers" => all(response_trailers(cx)),
        "cookies" if path.starts_with("req") => values(headers, COOKIE.as_str(), b';', COOKIE_UNITS),
        "cookies" => values(headers, SET_COOKIE.as_str(), b';', COOKIE_UNITS),
        "content_encoding" => values(headers, CONTENT_ENCODING.as_str(), b',', ELEMENT_UNITS),
        "content_length" => values(headers, CONTENT_LENGTH.as_str(), b',', 0),
        "location" => values(headers, LOCATION.as_str(), b',', 0),
        "url.query_params" => {
            let query = query::query(cx);
            Cost::text(query.len(), TEXT_BYTES_UNITS)
                .and_each(1 + count(query.as_bytes(), b'&'), PARAMETER_UNITS)
        }
        _ if below(rest, "content_type") => values(headers, CONTENT_TYPE.as_str(), b';', ELEMENT_UNITS),
        _ if below(rest, "user_agent") => {
            let agent = values(headers, USER_AGENT.as_str(), b' ', 0);
            agent.plus(Cost::text(agent.header_bytes, AGENT_BYTES_UNITS))
        }
        _ if rest == "host" || below(rest, "url") => {
            let target = cx.request.as_ref().map_or(0, |request| request.uri.path().len());
            Cost::text(target + query::query(cx).len(), TEXT_BYTES_UNITS).plus(values(
                headers,
                http::header::HOST.as_str(),
                b',',
                0,
            ))
        }
        _ => Cost::default(),
    }
}

/// The cost of asking whether something is there.
pub(super) fn presence(path: &str) -> Cost {
    let look_ups = u64::try_from(addresses::below(path).count()).unwrap_or(u64::MAX);
    Cost { units: look_ups.saturating_mul(LOOK_UP_UNITS), header_bytes: 0 }
}

/// The cost of a group: of every row below it.
pub(super) fn group(path: &str, cx: &Context) -> Cost {
    let rows = VARIABLES.iter().filter(|variable| below(variable.path, path));
    rows.fold(Cost::default(), |cost, variable| cost.plus(row(variable.path, cx)))
}

/// The cost of the values of one header.
pub(super) fn header(headers: Option<&HeaderMap>, name: &str) -> Cost {
    values(headers, name, b',', 0)
}

fn all(headers: Option<&HeaderMap>) -> Cost {
    let (mut bytes, mut lines) = (0_usize, 0);
    for (name, value) in headers.into_iter().flatten() {
        bytes = bytes.saturating_add(name.as_str().len()).saturating_add(value.len());
        lines += 1;
    }
    Cost { header_bytes: bytes, ..Cost::text(bytes, TEXT_BYTES_UNITS).and_each(lines, LINE_UNITS) }
}

/// The values of one header, cut into pieces at `mark`.
fn values(headers: Option<&HeaderMap>, name: &str, mark: u8, piece_units: u64) -> Cost {
    let (mut bytes, mut pieces) = (0_usize, 0_usize);
    for value in headers.into_iter().flat_map(|headers| headers.get_all(name)) {
        bytes = bytes.saturating_add(value.len());
        pieces = pieces.saturating_add(1);
        if piece_units > 0 {
            pieces = pieces.saturating_add(count(value.as_bytes(), mark));
        }
    }
    let cost = Cost::text(bytes, TEXT_BYTES_UNITS).and_each(pieces, piece_units);
    Cost { header_bytes: bytes, ..cost }
}

fn count(bytes: &[u8], mark: u8) -> usize {
    bytes.split(|byte| *byte == mark).count().saturating_sub(1)
}

fn certificate(der: Option<&Vec<u8>>) -> Cost {
    match der {
        Some(der) if !der.is_empty() => {
            Cost::text(der.len(), CERTIFICATE_BYTES_UNITS).and_each(1, CERTIFICATE_UNITS)
        }
        _ => Cost::default(),
    }
}
