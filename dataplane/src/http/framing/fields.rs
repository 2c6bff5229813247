//! The fields of a head, read once: a `HeaderMap` that shares the bytes of the head, and what they say of framing and of
//! the connection.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};

use super::grammar::{field, has_option, imitates_framing, length};
use super::{BodyFraming, FIELDS_MAX, Refusal};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Every field but Expect, in the order of the head.
    pub(super) headers: HeaderMap,
    /// Whether there is an Upgrade.
    pub(super) upgrade: bool,
    /// Whether `100-continue` is expected.
    pub(super) expects: bool,
    /// What Connection says.
    pub(super) connection: Options,
    length: Option<u64>,
    chunked: bool,
}

/// Options of Connection (RFC 9110 section 7.6.1).
#[derive(Debug, Default)]
pub(super) struct Options {
    /// It nominates Upgrade.
    pub(super) upgrade: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    /// Reads lines of `block`, about `count` of them, and refuses what has more than one reading.
    pub(super) fn read<'a>(
        block: &Bytes,
        lines: impl Iterator<Item = &'a [u8]>,
        count: usize,
    ) -> Result<Self, Refusal> {
        let headers = HeaderMap::with_capacity(count.min(FIELDS_MAX));
        let mut fields = Self { headers, ..Self::default() };
        for (n, line) in lines.enumerate() {
            if n >= FIELDS_MAX {
                return Err(Refusal::HeadTooLarge);
            }
            let (name, value) = field(line)?;
            let known = HeaderName::from_bytes(name).map_err(|_| Refusal::FieldName)?;
            fields.judge(&known, value)?;
            if known != EXPECT {
                let value = HeaderValue::from_maybe_shared(block.slice_ref(value));
                let value = value.map_err(|_| Refusal::ControlByte)?;
                fields.headers.append(known, value);
            }
        }
        // RFC 9112 section 6.1: a sender must not send both; which one counts is what smuggling is about.
        if fields.chunked && fields.length.is_some() {
            return Err(Refusal::BothFramings);
        }
        Ok(fields)
    }

    fn judge(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Refusal> {
        match *name {
            HOST if self.headers.contains_key(HOST) => return Err(Refusal::HostCount),
            CONTENT_LENGTH if self.length.is_some() => return Err(Refusal::LengthCount),
            CONTENT_LENGTH => self.length = Some(length(value)?),
            TRANSFER_ENCODING => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Coding);
                }
                self.chunked = true;
            }
            CONNECTION => {
                self.connection.upgrade |= has_option(value, b"upgrade");
                self.connection.close |= has_option(value, b"close");
                self.connection.keep_alive |= has_option(value, b"keep-alive");
            }
            UPGRADE => self.upgrade = true,
            EXPECT => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expects = true;
            }
            _ if imitates_framing(name.as_str().as_bytes()) => return Err(Refusal::FieldNameImitation),
            _ => {}
        }
        Ok(())
    }

    /// The framing the fields declare.
    pub(super) fn framing(&self) -> Option<BodyFraming> {
        match (self.chunked, self.length) {
            (true, _) => Some(BodyFraming::Chunked),
            (false, Some(0)) => Some(BodyFraming::None),
            (false, Some(length)) => Some(BodyFraming::Length(length)),
            (false, None) => None,
        }
    }

    /// Whether the connection may carry another message after this one (RFC 9112 section 9.3).
    pub(super) fn keeps_alive(&self, version_1_0: bool) -> bool {
        !self.connection.close && (!version_1_0 || self.connection.keep_alive)
    }
}
