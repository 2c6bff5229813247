//! Region codes. One installation is one region; the published codes are accepted so that old requests still work.

use std::net::{IpAddr, SocketAddr};

use super::failure::ApiError;
use crate::record::Installation;

const CODES: [&str; 9] = ["us", "us-cal-1", "eu", "au", "ap", "sa", "jp", "in", "global"];

/// Refuses a code that never existed. Empty means none.
pub(super) fn check(region: &str, code: u32) -> Result<(), ApiError> {
    if region.is_empty() || CODES.contains(&region) {
        return Ok(());
    }
    let message =
        format!("`region`: `{region}` is unknown; use one of {}, or leave it out", CODES.join(", "));
    Err(ApiError::bad(code, message).detail("field", "region"))
}

/// What to say of a region that was asked for and means nothing here; None: it is the one there is, or none was given.
pub(super) fn ignored(region: &str, installation: &Installation) -> Option<String> {
    let own = &installation.region;
    (!region.is_empty() && region != own).then(|| {
        format!("`region` has no effect: this installation is one region, `{own}`, and serves from there")
    })
}

/// Whether a text names where a domain resolves to: a region, or an address with or without port.
pub(super) fn is_place(text: &str) -> bool {
    CODES.contains(&text) || text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}
