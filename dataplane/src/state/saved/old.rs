//! The Program as releases before the log kept it: one JSON file with a digest at its end, each policy inside its endpoint.

use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_model::{Program, TrafficPolicy};
use serde_json::Value;

/// Prefix of the digest at the end of the file.
const SEAL: &str = r#","sha256":""#;
/// Characters of a digest and of the end of the file.
const SEALED_END_CHARS: usize = 64 + 2;

/// Reads the file. The error is for the operator.
pub(super) fn read(file: &[u8]) -> Result<Program, String> {
    if !is_intact(file) {
        return Err("its checksum does not fit what it holds".to_owned());
    }
    let said = |error: serde_json::Error| error.to_string();
    let mut text: Value = serde_json::from_slice(file).map_err(said)?;
    let mut policies = Vec::new();
    for endpoint in text.get_mut("endpoints").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(policy) = endpoint.1.get_mut("policy").filter(|policy| policy.is_object()) {
            let shared: TrafficPolicy = serde_json::from_value(policy.take()).map_err(said)?;
            *policy = Value::String(shared.hash().to_string());
            policies.push(shared);
        }
    }
    let mut program: Program = serde_json::from_value(text).map_err(said)?;
    for policy in policies {
        program.share(policy);
    }
    Ok(program)
}

/// Whether a file's digest fits. The first releases wrote none.
fn is_intact(file: &[u8]) -> bool {
    let Some(at) = file.len().checked_sub(SEAL.len() + SEALED_END_CHARS) else { return true };
    let (open, seal) = file.split_at(at);
    let Some(told) = seal.strip_prefix(SEAL.as_bytes()).and_then(|seal| seal.strip_suffix(b"\"}")) else {
        return true;
    };
    let found = digest(&SHA256, &[open, b"}"].concat());
    hex(found.as_ref()).as_bytes() == told
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As release 0.1.0 wrote it, but for the length.
    const OLD: &str = concat!(
        r#"{"generation":7,"settings":{"region":"local","connect_hosts":[],"connect_certificate":null,"#,
        r#""default_domain":null,"default_domain_certificate":null,"tcp_host":null,"random_tcp_ports":null},"#,
        r#""endpoints":{"ep_2xAB5KO4NKVDR4NSjGTjnCmEkNa":{"account":"ac_2xAB5KO4NKVDR4NSjGTjnCmEkNa","#,
        r#""url":"https://a.example.com","binding":"public","pooling_enabled":false,"policy":{"on_tcp_connect":"#,
        r#"[{"actions":[{"type":"deny"}]}]}}},"domains":{}}"#
    );

    fn sealed() -> String {
        let sum = hex(digest(&SHA256, OLD.as_bytes()).as_ref());
        format!("{}{SEAL}{sum}\"}}", OLD.strip_suffix('}').unwrap())
    }

    #[test]
    fn is_read_with_its_policies_shared() {
        for file in [OLD.to_owned(), sealed()] {
            let program = read(file.as_bytes()).unwrap();
            let (hash, policy) = program.policies.first_key_value().unwrap();
            assert_eq!(policy.on_tcp_connect[0].actions[0].kind, "deny");
            assert_eq!(program.endpoints.values().next().unwrap().policy, Some(*hash));
            assert_eq!((program.generation, policy.hash()), (7, *hash));
        }
    }

    #[test]
    fn with_any_character_changed_is_not_served() {
        let (whole, expect) = (sealed().into_bytes(), read(OLD.as_bytes()).unwrap());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            // Only what marks the digest may be lost; the Program is right then.
            assert!(read(&changed).is_err() || read(&changed).unwrap() == expect, "{at}");
        }
        let message = read(sealed().replace("deny", "pass").as_bytes()).unwrap_err();
        assert!(message.contains("checksum"), "{message}");
    }
}
