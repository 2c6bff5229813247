//! `ebbgate-control audit verify|export|public-key`: the log of a data directory, control running or not.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::appender::append_head;
use super::chain::hex;
use super::checkpoint::Checkpoint;
use super::error::AuditError;
use super::key::SigningKey;
use super::page::Page;
use super::record::{AUDIT_PREFIX, HEAD_KEY, Head, KEY_KEY, LOG_PREFIX};
use super::verify::{Verified, verify as judge};
use crate::clock::UnixSecs;
use crate::dir::DataDir;
use crate::engine::Engine;
use crate::record;
use crate::store::Item;

struct Log {
    items: Vec<Item>,
    key: SigningKey,
}

impl Log {
    async fn open(dir: &DataDir) -> Result<Self, AuditError> {
        let vault = dir.vault()?;
        let page = Engine::of(dir, None)?.read_all().await?.ok_or(AuditError::NoLog)?;
        let is_own = |item: &Item| item.key.starts_with(AUDIT_PREFIX);
        let items: Vec<_> = page.items.into_iter().filter(is_own).collect();
        let key = items.iter().find(|item| item.key == KEY_KEY).ok_or(AuditError::NoLog)?;
        Ok(Self { key: SigningKey::read(key, &vault)?, items })
    }
}

/// Judges the whole log, against heads remembered in these files too.
pub async fn verify(dir: &DataDir, heads: &[PathBuf]) -> Result<Verified, AuditError> {
    // Before the log: a running control signs on.
    let texts = heads.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let log = Log::open(dir).await?;
    let remembered = heads.iter().zip(&texts).map(|(path, text)| remembered(path, text, &log.key));
    let remembered = remembered.collect::<Result<Vec<_>, _>>()?;
    let judged = judge(&log.items, log.key.verifier(), &remembered.concat());
    judged.map_err(|(verified, defects)| AuditError::Defects { verified, defects })
}

fn read(path: &Path) -> Result<String, AuditError> {
    std::fs::read_to_string(path).map_err(|source| AuditError::Remembered { path: path.to_owned(), source })
}

fn remembered(path: &Path, text: &str, key: &SigningKey) -> Result<Vec<Checkpoint>, AuditError> {
    let read = key.verifier().read(text);
    read.map_err(|source| AuditError::Checkpoint { path: path.to_owned(), source })
}

/// The key to verify heads with, as C2SP signed-note writes it.
pub async fn public_key(dir: &DataDir) -> Result<String, AuditError> {
    Ok(Log::open(dir).await?.key.verifier().text())
}

/// Which entries to export.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this account.
    pub account: Option<String>,
    /// Only of this time (RFC 3339) and later.
    pub since: Option<String>,
    /// Where the signed head goes besides.
    pub heads: Option<PathBuf>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Entries.
    pub entries: usize,
}

/// Writes entries as JSON lines, the oldest first, and at the end the head, signed now. The log must verify.
pub async fn export(
    dir: &DataDir,
    wanted: &Wanted,
    now: UnixSecs,
    out: &mut dyn Write,
) -> Result<Exported, AuditError> {
    let log = Log::open(dir).await?;
    let judged = judge(&log.items, log.key.verifier(), &[]);
    judged.map_err(|(verified, defects)| AuditError::Defects { verified, defects })?;
    let since = wanted.since.as_deref().map(parse_time).transpose()?;
    let mut entries = 0;
    let mut line = |value: Value| writeln!(out, "{value}").map_err(AuditError::Output);
    for item in log.items.iter().filter(|item| item.key.starts_with(LOG_PREFIX)) {
        let page = Page::parse(&item.key, &item.value);
        for (number, hash, content) in page.iter().flat_map(Page::numbered) {
            let event: Value = serde_json::from_str(content).unwrap_or_else(|_| content.into());
            if is_wanted(&event, wanted.account.as_deref(), since) {
                line(json!({ "sequence": number, "hash": hex(hash), "event": event }))?;
                entries += 1;
            }
        }
    }
    let head = log.items.iter().find(|item| item.key == HEAD_KEY);
    let head = head.map(record::decode::<Head>).transpose()?.and_then(|head| head.record.tip());
    let note = log.key.sign(head.unwrap_or_default(), now);
    if let Some(path) = &wanted.heads {
        append_head(path, &note)?;
    }
    line(json!({ "checkpoint": note }))?;
    Ok(Exported { entries })
}

fn is_wanted(event: &Value, account: Option<&str>, since: Option<OffsetDateTime>) -> bool {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let at = || OffsetDateTime::parse(text("event_timestamp")?, &Rfc3339).ok();
    account.is_none_or(|account| text("account_id") == Some(account))
        && since.is_none_or(|since| at().is_none_or(|at| at >= since))
}

fn parse_time(text: &str) -> Result<OffsetDateTime, AuditError> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| AuditError::Time(text.to_owned()))
}
