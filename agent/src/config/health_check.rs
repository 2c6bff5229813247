//! `health_check` of an endpoint: how its upstream is checked. A key of our own; the published agent has none.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::{Field, Findings};

/// Shortest and longest time between checks.
pub(super) const INTERVAL_MS: RangeInclusive<u64> = 100..=3_600_000;
/// Shortest and longest time that one check may take.
pub(super) const TIMEOUT_MS: RangeInclusive<u64> = 10..=60_000;
/// Most checks in a row that change the verdict.
pub(super) const RUN_MAX: u32 = 100;
/// Longest path and host of an HTTP check, in bytes.
pub(super) const TARGET_BYTES_MAX: usize = 1_024;
/// Statuses that an HTTP check takes unless told otherwise.
const STATUS: RangeInclusive<u16> = 200..=399;

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Connects.
    Tcp,
    /// Connects, and finishes a TLS handshake.
    Tls,
    /// Asks for a path and looks at the status, over HTTP/1.1.
    Http(HttpCheck),
    /// Begins a PostgreSQL session, without credentials, and leaves when the server answers.
    Postgres,
}

impl CheckKind {
    /// As the file says it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http(_) => "http",
            Self::Postgres => "postgres",
        }
    }
}

/// What an HTTP check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path and query.
    pub path: String,
    /// `Host`; none: the upstream's own host and port.
    pub host: Option<String>,
    /// Statuses of a healthy upstream.
    pub status: RangeInclusive<u16>,
    /// Whether over TLS; none: as the upstream's address says.
    pub tls: Option<bool>,
}

/// How an upstream is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a check does.
    pub kind: CheckKind,
    /// From the beginning of a check to that of the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Checks in a row that must pass before an unhealthy upstream is healthy again.
    pub rise: u32,
    /// Checks in a row that must fail before it is unhealthy.
    pub fall: u32,
    /// Each interval is longer by a random part of this, so that agents do not check in step.
    pub jitter: Duration,
}

/// Reads the key; none when something is wrong with it.
pub(super) fn read(field: Field, found: &mut Findings) -> Option<HealthCheck> {
    let errors_before = found.errors.len();
    let mut table = field.table(found)?;
    let kind = match table.take("type") {
        None => {
            table.missing(found, "type", "missing; write `tcp`, `tls`, `http` or `postgres`");
            None
        }
        Some(field) => {
            let words = [("tcp", "tcp"), ("tls", "tls"), ("http", "http"), ("postgres", "postgres")];
            field.word(found, &words)
        }
    };
    let mut http = HttpCheck { path: "/".to_owned(), host: None, status: STATUS, tls: None };
    for key in ["path", "host", "status", "tls"] {
        let Some(field) = table.take(key) else { continue };
        if kind.is_some_and(|kind| kind != "http") {
            field.refuse(found, "only a check of type `http` has it; remove it");
            continue;
        }
        match key {
            "path" => http.path = path(&field, found).unwrap_or_default(),
            "host" => http.host = host(&field, found),
            "status" => http.status = status(&field, found).unwrap_or(STATUS),
            _ => http.tls = field.flag(found),
        }
    }
    let mut time = |key, bounds: RangeInclusive<u64>, default: u64, found: &mut Findings| {
        let field = table.take(key);
        field.map_or(Some(Duration::from_millis(default)), |field| within(&field, &bounds, found))
    };
    let interval = time("interval", INTERVAL_MS, 10_000, found);
    let timeout = time("timeout", TIMEOUT_MS, 2_000, found);
    let most = interval.map_or(*INTERVAL_MS.end(), millis);
    let jitter = time("jitter", 0..=most, most / 10, found);
    let mut count = |key, default: u32, found: &mut Findings| {
        let Some(field) = table.take(key) else { return Some(default) };
        let number = field.text(found)?.parse().ok().filter(|number| (1..=RUN_MAX).contains(number));
        if number.is_none() {
            field.refuse(found, format!("write a number from 1 to {RUN_MAX}"));
        }
        number
    };
    let (rise, fall) = (count("rise", 2, found), count("fall", 3, found));
    table.finish(
        found,
        &[
            ("kind", "it is called `type`"),
            ("healthy_threshold", "it is called `rise`"),
            ("unhealthy_threshold", "it is called `fall`"),
            ("expected_status", "it is called `status`"),
        ],
    );
    if found.errors.len() > errors_before {
        return None;
    }
    let kind = match kind? {
        "tcp" => CheckKind::Tcp,
        "tls" => CheckKind::Tls,
        "http" => CheckKind::Http(http),
        _ => CheckKind::Postgres,
    };
    Some(HealthCheck {
        kind,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        jitter: jitter?,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration within bounds; `0` where they allow it.
fn within(field: &Field, bounds: &RangeInclusive<u64>, found: &mut Findings) -> Option<Duration> {
    let is_zero = *bounds.start() == 0 && field.text(found)?.trim_end_matches(['m', 's']) == "0";
    let duration = if is_zero { Duration::ZERO } else { field.duration(found)? };
    if bounds.contains(&millis(duration)) {
        return Some(duration);
    }
    let shown =
        |ms: &u64| if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") };
    field
        .refuse(found, format!("write a duration from {} to {}", shown(bounds.start()), shown(bounds.end())));
    None
}

/// What may stand in a request line.
fn path(field: &Field, found: &mut Findings) -> Option<String> {
    let text = field.text_within(found, TARGET_BYTES_MAX)?;
    let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_path {
        field
            .refuse(found, format!("`{text}` is not a path; write one that begins with `/`, without spaces"));
    }
    is_path.then_some(text)
}

/// What may stand in a `Host` header.
fn host(field: &Field, found: &mut Findings) -> Option<String> {
    let text = field.text_within(found, TARGET_BYTES_MAX)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let is_host = !text.is_empty() && text.bytes().all(fits);
    if !is_host {
        field.refuse(found, format!("`{text}` is not a host; write `name` or `name:port`"));
    }
    is_host.then_some(text)
}

/// `204`, or `200-299`.
fn status(field: &Field, found: &mut Findings) -> Option<RangeInclusive<u16>> {
    let text = field.text(found)?;
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
    if range.is_none() {
        field.refuse(found, format!("`{text}` is no status; write `204` or `200-299`"));
    }
    range.map(|(first, last)| first..=last)
}
