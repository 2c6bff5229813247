//! A signing key, its JWKS and tokens for the clinic's sample, made with the openssl program.
//!
//! For labs only: RS256, one key, no rotation. The tests of the edge make their own tokens.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Key id in JWKS and tokens.
const KEY_ID: &str = "clinic-lab-1";

/// Makes an RSA key at `key` unless one is there, and returns its JWKS.
pub fn jwks(key: &Path) -> Result<Value> {
    if !key.exists() {
        let bits = ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"];
        openssl(Command::new("openssl").args(bits).arg(key), b"")?;
    }
    let shown = openssl(Command::new("openssl").args(["rsa", "-noout", "-modulus", "-in"]).arg(key), b"")?;
    let shown = String::from_utf8(shown)?;
    let hex = shown.trim().strip_prefix("Modulus=").context("openssl rsa -modulus printed no modulus")?;
    let modulus = (0..hex.len())
        .step_by(2)
        .map(|at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).context("modulus"))
        .collect::<Result<Vec<u8>>>()?;
    // openssl's default public exponent is 65537.
    let (n, e) = (URL_SAFE_NO_PAD.encode(modulus), URL_SAFE_NO_PAD.encode([1, 0, 1]));
    Ok(json!({ "keys": [{ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "n": n, "e": e }] }))
}

/// Signs claims with the key at `key`.
pub fn sign(key: &Path, claims: &Value) -> Result<String> {
    let header = json!({ "alg": "RS256", "typ": "at+jwt", "kid": KEY_ID });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign"]).arg(key);
    let signature = openssl(&mut command, signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Runs openssl with `input` on its standard input and returns what it printed.
fn openssl(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("openssl is missing; it comes with Debian's package openssl")?;
    child.stdin.take().context("stdin")?.write_all(input)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("openssl failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// Writes text that only its owner may read.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
