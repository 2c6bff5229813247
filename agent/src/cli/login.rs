//! `ebbgate login`: a person allows this program in the browser, and it keeps an API key of that person.
//!
//! It waits for the browser on a loopback port (RFC 8252 section 7.3), or takes a code that is pasted. The code is worth nothing
//! without the verifier that stays here (RFC 7636).

mod answer;

use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ebbgate::config::set_agent_key;
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::client::{Call, Client};
use super::config::{read_or_empty, write};
use super::env::{Env, Failure, default_file};
use super::running::hostname;

/// Seconds a person has in the browser.
const PERSON_SECS_MAX: u64 = 600;
/// Bytes of verifier and state.
const RANDOM_BYTES: usize = 32;
/// Longest code that is pasted, in bytes.
const CODE_BYTES_MAX: u64 = 256;

#[derive(Args)]
pub(super) struct LoginArguments {
    /// The API's address [default: `EBBGATE_API_URL`, else `http://127.0.0.1:4480`].
    #[arg(long, visible_alias = "api-url", value_name = "URL")]
    api: Option<String>,
    /// Whose certificate an https API may present: `trusted`, `host` or a PEM file.
    #[arg(long, value_name = "WHO", default_value = "trusted")]
    api_cas: String,
    /// Open no browser: print the address and take a code that is pasted.
    #[arg(long)]
    no_browser: bool,
    /// Configuration file that the key is written into.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &LoginArguments, env: Env<'_>) -> Result<(), Failure> {
    let mut client = Client::without_key(arguments.api.as_deref(), &arguments.api_cas, env)?;
    let file = arguments.config.clone().or_else(|| default_file(env));
    let file = file.ok_or_else(|| Failure::new("HOME is not set; name the file with --config FILE"))?;
    // Before anybody is asked: a file that cannot be changed would lose the key.
    let text = read_or_empty(&file)?;
    set_agent_key(&file, &text, "api_key", "x").map_err(Failure::new)?;
    let made = log_in(&mut client, !arguments.no_browser)?;
    let said = |name: &str| made.get(name).and_then(Value::as_str).unwrap_or_default();
    let text = read_or_empty(&file)?;
    let text = set_agent_key(&file, &text, "api_key", said("api_key")).map_err(Failure::new)?;
    write(&file, &text).map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    println!("Logged in as {} ({}) of {}", said("email"), said("role"), said("account_name"));
    println!("Saved the API key {} to {}", said("id"), file.display());
    Ok(())
}

fn log_in(client: &mut Client, browser: bool) -> Result<Value, Failure> {
    let (verifier, state) = (random()?, random()?);
    let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
    let asked = format!("challenge={}&state={state}", URL_SAFE_NO_PAD.encode(hash));
    let code = if browser {
        client.run(from_browser(&client.url(), &asked, &state))?
    } else {
        show(&format!("{}/dashboard/cli?{asked}", client.url()), false);
        eprint!("Code: ");
        pasted()?
    };
    let body = json!({ "code": code, "verifier": verifier, "machine": hostname() });
    let mut call = Call::plain(Method::POST, "/dashboard/cli/token".to_owned());
    call.body = Some(body.to_string());
    client.call(&call)?.json()
}

async fn from_browser(url: &str, asked: &str, state: &str) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| Failure::new(format!("no port for the browser: {error}")))?;
    let port = listener.local_addr().map_err(Failure::new)?.port();
    show(&format!("{url}/dashboard/cli?port={port}&{asked}"), true);
    let code = timeout(Duration::from_secs(PERSON_SECS_MAX), answer::wait(&listener, port, state)).await;
    code.map_err(|_| Failure::new("nobody allowed it in the browser within ten minutes"))?
}

fn random() -> Result<String, Failure> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes).map_err(|_| Failure::new("the system's random generator does not work"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Prints the address, and opens it where there is something that opens addresses.
fn show(url: &str, open: bool) {
    eprintln!("Allow this program in the browser:\n  {url}");
    if open {
        let mut opener = Command::new("xdg-open");
        let quiet = opener.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Without one the person opens what was printed.
        drop(quiet.spawn());
    }
}

fn pasted() -> Result<String, Failure> {
    let mut line = String::new();
    let read = std::io::Read::take(std::io::stdin().lock(), CODE_BYTES_MAX).read_line(&mut line);
    read.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    Ok(line.trim().to_owned())
}
