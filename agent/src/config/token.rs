//! A token as people paste it.

use ebbgate_wire::rpc::Secret;

/// Reads a token: white space around it is removed, white space or control characters inside are an error.
pub fn clean_token(text: &str) -> Result<Secret, String> {
    let token = text.trim();
    if token.is_empty() {
        return Err("the token is empty".into());
    }
    if token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(
            "the token has white space or a control character inside; copy it again, whole and on one line"
                .into(),
        );
    }
    Ok(Secret::new(token))
}
