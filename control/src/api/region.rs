//! Region codes. One installation is one region; the published codes are accepted so that old requests still work.

use std::net::{IpAddr, SocketAddr};

use super::failure::ApiError;

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

/// Whether a text names where a domain resolves to: a region, or an address with or without port.
pub(super) fn is_place(text: &str) -> bool {
    CODES.contains(&text) || text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}
