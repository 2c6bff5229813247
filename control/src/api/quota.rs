//! How much an account may have: refuses a write that would be one object too many, too many bytes, or more than edges can
//! be sent.
//!
//! Knows no resource: which one it is, its path and its limit are arguments. Knows no transaction either.

use http::StatusCode;

use super::call::Call;
use super::failure::ApiError;
use crate::record::{self, Record};
use crate::room::{NoRoom, Reservation, Write};

/// Refuses one more of a resource than an account may have: `owned_max`, unless the operator says otherwise. Some made
/// at the very same moment may still pass.
pub(super) async fn check_owned<R: Record>(
    call: &Call,
    path: &str,
    owned_max: usize,
) -> Result<(), ApiError> {
    let owned = match call.app.room.owned(call.account, R::COLLECTION) {
        Some(owned) => owned,
        None => call.app.store.usage(record::prefix::<R>(call.account)).await?,
    };
    if owned.keys < call.limits.objects(R::COLLECTION, owned_max) {
        return Ok(());
    }
    let message = format!(
        "this account has {} objects in `{path}`, the most one account may have; delete one first",
        owned.keys
    );
    Err(ApiError::plain(StatusCode::FORBIDDEN, message))
}

/// Refuses what would make an account larger than its limit. Gives how many bytes it has now.
pub(super) async fn check_bytes(call: &Call, more: usize) -> Result<usize, ApiError> {
    let owned = match call.app.room.owned(call.account, "") {
        Some(owned) => owned,
        None => call.app.store.usage(record::account_prefix(call.account)).await?,
    };
    if more == 0 || owned.bytes + more <= call.limits.bytes() {
        return Ok(owned.bytes);
    }
    let message = format!(
        "this account's objects would take more than {} MiB together, the most one account may have; delete or shorten some first",
        call.limits.bytes() >> 20
    );
    Err(ApiError::plain(StatusCode::FORBIDDEN, message))
}

/// Refuses what edges could not be sent.
pub(super) fn reserve<R: Record>(
    call: &Call,
    own: usize,
    (keys, bytes, sent): (usize, usize, usize),
) -> Result<Reservation, ApiError> {
    let refused = |error: NoRoom| ApiError::plain(StatusCode::FORBIDDEN, error.to_string());
    let write = Write { account: call.account, collection: R::COLLECTION, keys, bytes, sent };
    call.app.room.reserve(own, write).map_err(refused)
}
