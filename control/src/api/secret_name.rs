//! Names of vaults and secrets: what `secrets.get` may be given.

use super::failure::ApiError;

/// Longest name in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// What a name is of, and the codes by which a bad one is refused.
pub(super) struct Name {
    pub(super) noun: &'static str,
    pub(super) charset: u32,
    pub(super) empty: u32,
    pub(super) too_long: u32,
}

/// Refuses a name that is empty, too long, or has a character that none may have.
///
/// The published message leaves out `-`, but the published examples use it.
pub(super) fn check_name(of: &Name, name: &str) -> Result<(), ApiError> {
    let noun = of.noun;
    let refuse = |code, message: String| Err(ApiError::bad(code, message).detail("field", "name"));
    if name.is_empty() {
        return refuse(of.empty, format!("`name`: a {noun} needs a name"));
    }
    if name.len() > NAME_BYTES_MAX {
        let message = format!("`name` has {} bytes; at most {NAME_BYTES_MAX} are allowed", name.len());
        return refuse(of.too_long, message);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
    match name.chars().find(|c| !allowed(*c)) {
        Some(c) => refuse(
            of.charset,
            format!("`name`: a {noun} name has only the characters a-z A-Z 0-9 _ / . -, and not {c:?}"),
        ),
        None => Ok(()),
    }
}
