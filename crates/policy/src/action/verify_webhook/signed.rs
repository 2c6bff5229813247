//! What a provider's signature is looked for in, why a request has none, and what all schemes read alike. No value is told.

use aws_lc_rs::hmac;
use http::HeaderMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::provider::Unit;

/// Longest header that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 4096;
/// Most signatures of one header.
pub(super) const SIGNATURES_MAX: usize = 16;
/// Most fields of a form.
pub(super) const FIELDS_MAX: usize = 1024;

/// What is looked at.
pub(super) struct Signed<'r> {
    pub(super) method: &'r str,
    /// As the provider called it.
    pub(super) url: &'r str,
    pub(super) headers: &'r HeaderMap,
    pub(super) body: &'r [u8],
    pub(super) now_unix_ms: i64,
}

/// Why a request is not its provider's. Says no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Defect {
    #[error("the header `{0}` is missing, twice there, or no text")]
    Header(&'static str),
    #[error("the signature in `{0}` has another form")]
    Form(&'static str),
    #[error("the signed time has another form")]
    Time,
    #[error("the signed time is more than {0} seconds away")]
    Stale(u32),
    #[error("the body has no signature of the provider's form")]
    Body,
    #[error("the signature is another's")]
    Wrong,
    #[error("the secret is no key of the provider's form")]
    Secret,
    #[error("the URL of the certificate is not one of the provider's")]
    Place,
    #[error("the certificate cannot be had: {0}")]
    Away(String),
    #[error("the certificate is not one with an RSA key that is valid now")]
    Certificate,
}

pub(super) fn header_text<'r>(headers: &'r HeaderMap, name: &'static str) -> Result<&'r str, Defect> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Defect::Header(name)) };
    let text = value.to_str().map_err(|_| Defect::Header(name))?;
    if text.len() > HEADER_BYTES_MAX { Err(Defect::Header(name)) } else { Ok(text) }
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Whether a signed time is near enough.
pub(super) fn check_time(
    unit: Unit,
    tolerance_secs: u32,
    text: &str,
    now_unix_ms: i64,
) -> Result<(), Defect> {
    let number = || text.parse::<i64>().ok().filter(|number| *number >= 0);
    let at_ms = match unit {
        Unit::Secs => number().and_then(|secs| secs.checked_mul(1000)),
        Unit::Millis => number(),
        Unit::Rfc3339 => OffsetDateTime::parse(text, &Rfc3339).ok().and_then(unix_ms),
        Unit::Utc => OffsetDateTime::parse(text, &Rfc3339)
            .or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339))
            .ok()
            .and_then(unix_ms),
    };
    let away_ms = at_ms.ok_or(Defect::Time)?.abs_diff(now_unix_ms);
    if away_ms > u64::from(tolerance_secs) * 1000 { Err(Defect::Stale(tolerance_secs)) } else { Ok(()) }
}

fn unix_ms(at: OffsetDateTime) -> Option<i64> {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// Whether one of these is the HMAC-SHA256 of a text.
pub(super) fn is_tag<T: AsRef<[u8]>>(
    secret: &str,
    text: &[u8],
    tags: impl IntoIterator<Item = T>,
) -> Result<(), Defect> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let is_right = |tag: T| hmac::verify(&key, text, tag.as_ref()).is_ok();
    if tags.into_iter().take(SIGNATURES_MAX).any(is_right) { Ok(()) } else { Err(Defect::Wrong) }
}
