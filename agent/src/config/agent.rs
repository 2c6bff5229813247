//! The `agent:` section (surface.md section 2.2): which edge to dial, which certificates to trust, how to log.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ebbgate_telemetry::LogFormat;
use ebbgate_wire::CONNECT_PORT;
use ebbgate_wire::rpc::Secret;

use super::read::{Field, Findings, Table, beside};
use super::token::clean_token;
use super::tree::Value;
use crate::proxy::ProxyUrl;
use crate::trust::Trust;

const NO_REVOCATION: &str =
    "this agent checks no revocation lists; remove the key, and use short-lived certificates";
/// Longest metadata of a session, in bytes.
const METADATA_BYTES_MAX: usize = 4096;

/// `host:port` of the edge's agent listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl ConnectAddress {
    /// Parses `host[:port]`; an IPv6 address with a port needs brackets.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not `host:port`, as in `connect.example.com:4443`");
        if text.contains("://") {
            return Err(format!("`{text}` has a scheme; despite its name this key holds `host:port` only"));
        }
        let whole_is_ip = text.parse::<std::net::IpAddr>().is_ok();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !whole_is_ip && !port.ends_with(']') => {
                (host, port.parse().map_err(|_| bad())?)
            }
            _ => (text, CONNECT_PORT),
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let is_name =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if port == 0 || !(is_name || host.parse::<std::net::Ipv6Addr>().is_ok()) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Edges that an agent holds sessions at unless told otherwise: the end of one costs no visitor more than a retry.
const CONNECT_EDGES: usize = 2;
/// Most edges that a configuration may name.
pub const ADDRESSES_MAX: usize = 16;
/// Most edges that an agent holds sessions at.
pub const CONNECT_EDGES_MAX: usize = 4;

/// Several edges: `host[:port]`, separated by commas.
pub fn parse_addresses(text: &str) -> Result<Vec<ConnectAddress>, String> {
    let addresses = text.split(',').map(|part| ConnectAddress::parse(part.trim()));
    distinct(addresses.collect::<Result<_, _>>()?)
}

/// Each address is named once, and there are not too many.
fn distinct(addresses: Vec<ConnectAddress>) -> Result<Vec<ConnectAddress>, String> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!("at most {ADDRESSES_MAX} edges may be named, found {}", addresses.len()));
    }
    for (index, address) in addresses.iter().enumerate() {
        if addresses.iter().take(index).any(|before| before == address) {
            return Err(format!("`{address}` is named twice"));
        }
    }
    Ok(addresses)
}

impl fmt::Display for ConnectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How visitors' streams come from the edge; the session itself is the same over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CarrierChoice {
    /// Links beside the session, and QUIC where it is better or the only way.
    #[default]
    Auto,
    /// The session's own streams only, as SDKs have them.
    Mux,
    /// Links beside the session; never QUIC.
    Link,
    /// Session and streams over QUIC; never TCP.
    Quic,
}

impl CarrierChoice {
    /// The words of file and flag.
    pub const WORDS: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("mux", Self::Mux), ("link", Self::Link), ("quic", Self::Quic)];

    /// One of [`CarrierChoice::WORDS`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words = Self::WORDS.map(|(word, _)| format!("`{word}`"));
            format!("`{text}` is not one of {}", words.join(", "))
        })
    }

    /// What Auth asks the edge for.
    pub fn wanted(self) -> &'static [&'static str] {
        match self {
            Self::Auto => &["link", "raw", "quic"],
            Self::Mux => &[],
            Self::Link => &["link", "raw"],
            Self::Quic => &["quic"],
        }
    }
}

/// Whether people are told what happens in plain lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Console {
    /// When standard output is a terminal.
    #[default]
    IfTty,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Where logs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere.
    Off,
    /// Appended to a file.
    File(PathBuf),
}

/// Least important line that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Errors only; `crit` in the file means the same.
    Error,
    /// And warnings.
    Warn,
    /// And what happens in normal service.
    #[default]
    Info,
    /// And every connection's details.
    Debug,
}

/// The `agent:` section with its defaults.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Session credential.
    pub authtoken: Option<Secret>,
    /// Key of the REST API, for `ebbgate api` only; sessions never use it.
    pub api_key: Option<Secret>,
    /// Edges to dial, the preferred one first; each may name further ones.
    pub connect: Vec<ConnectAddress>,
    /// Edges to hold a session at, at a time; from 1 to [`CONNECT_EDGES_MAX`].
    pub connect_edges: usize,
    /// Whose certificates the edge may present.
    pub trust: Trust,
    /// How streams come from the edge.
    pub carrier: CarrierChoice,
    /// Limit for TCP and TLS to the edge.
    pub connect_timeout: Duration,
    /// Network interface the session leaves by (Linux).
    pub interface: Option<String>,
    /// Proxy in front of the edge.
    pub proxy: Option<ProxyUrl>,
    /// Rules of `no_proxy` for a proxy that the environment named; none: the proxy is for every edge.
    pub no_proxy: Option<String>,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// How late an answer may be before the edge counts as dead.
    pub heartbeat_tolerance: Duration,
    /// Free text shown with the session.
    pub metadata: String,
    /// Whether the edge may stop this agent.
    pub remote_management: bool,
    /// Plain lines for people.
    pub console: Console,
    /// Where logs go; unset means: standard output unless the console is on.
    pub log: Option<LogTarget>,
    /// Least important logged line.
    pub log_level: LogLevel,
    /// Shape of log lines; unset means: for eyes on a terminal, logfmt elsewhere.
    pub log_format: Option<LogFormat>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            authtoken: None,
            api_key: None,
            connect: Vec::new(),
            connect_edges: CONNECT_EDGES,
            trust: Trust::default(),
            carrier: CarrierChoice::default(),
            connect_timeout: Duration::from_secs(10),
            interface: None,
            proxy: None,
            no_proxy: None,
            heartbeat_interval: Duration::from_secs(10),
            heartbeat_tolerance: Duration::from_secs(15),
            metadata: String::new(),
            remote_management: true,
            console: Console::default(),
            log: None,
            log_level: LogLevel::default(),
            log_format: None,
        }
    }
}

const HINTS: &[(&str, &str)] = &[
    ("server_addr", "version 3 calls it `connect_url`"),
    ("root_cas", "version 3 calls it `connect_cas`"),
    ("region", "version 3 has no regions; remove it"),
    ("tunnels", "this agent reads `endpoints` only, at the top level"),
    ("endpoints", "it stands at the top level too: keep that one and remove this"),
];

pub(super) fn read(mut table: Table, found: &mut Findings) -> AgentConfig {
    let authtoken = table.take("authtoken").and_then(|field| token(&field, found));
    let api_key = table.take("api_key").and_then(|field| token(&field, found));
    let mut agent = AgentConfig { authtoken, api_key, ..AgentConfig::default() };
    read_connection(&mut table, &mut agent, found);
    read_output(&mut table, &mut agent, found);
    if let Some(field) = table.take("metadata") {
        agent.metadata = field.text_within(found, METADATA_BYTES_MAX).unwrap_or_default();
    }
    if let Some(field) = table.take("remote_management") {
        agent.remote_management = field.flag(found).unwrap_or(true);
    }
    refuse_unsafe(&mut table, found);
    read_keys_without_use(&mut table, found);
    table.finish(found, HINTS);
    agent
}

/// A token of the file; empty text is none.
fn token(field: &Field, found: &mut Findings) -> Option<Secret> {
    let text = field.text(found).filter(|text| !text.is_empty())?;
    match clean_token(&text) {
        Ok(token) => Some(token),
        Err(message) => {
            field.refuse(found, message);
            None
        }
    }
}

/// Keys of the published agent for what this one does not have: where the value asks for nothing, nothing is said; else the
/// warning names what happens instead.
fn read_keys_without_use(table: &mut Table, found: &mut Findings) {
    for (key, message) in [
        ("console_ui_color", "not used: this agent prints plain lines without colour"),
        ("dns_resolver_ips", "not used: names are resolved as this host is set up; set its resolvers there"),
        ("inspect_db_size", "not used: this agent records no traffic"),
        ("update_channel", "not used: this agent is updated by the packages of its host"),
        ("update_check", "not used: this agent is updated by the packages of its host"),
        ("web_addr", "not used: this agent has no web page and no local API; nothing listens there"),
        ("web_allow_hosts", "not used: this agent has no web page and no local API"),
    ] {
        let Some((field, place)) = table.take_entry(key) else { continue };
        let asks_for_nothing = match &field.node.value {
            Value::Bool(false) | Value::Null => true,
            Value::Text(text) => text == "false",
            Value::Int(bytes) => key == "inspect_db_size" && *bytes == -1,
            _ => false,
        };
        if !asks_for_nothing {
            found.warn(&place, &field.path, message);
        }
    }
    if let Some((field, place)) = table.take_entry("crl_noverify") {
        match field.node.value {
            // As for `crl_url`: somebody counts on the check.
            Value::Bool(false) => field.refuse(found, NO_REVOCATION),
            _ => found.warn(&place, &field.path, "not used: this agent checks no revocation lists anyway"),
        }
    }
}

/// Keys whose silent loss would leave the user less safe than the file says.
fn refuse_unsafe(table: &mut Table, found: &mut Findings) {
    if let Some(field) = table.take("crl_url") {
        field.refuse(found, NO_REVOCATION);
    }
}

fn read_connection(table: &mut Table, agent: &mut AgentConfig, found: &mut Findings) {
    if let Some(field) = table.take("connect_url") {
        agent.connect = addresses(field, found);
    }
    if let Some(field) = table.take("connect_edges") {
        match field.node.value {
            Value::Int(number @ 1..=4) => agent.connect_edges = usize::try_from(number).unwrap_or(1),
            _ => field.refuse(found, format!("expected a number from 1 to {CONNECT_EDGES_MAX}")),
        }
    }
    if let Some(field) = table.take("connect_cas") {
        agent.trust = match field.text(found).map(|text| Trust::parse(&text)) {
            Some(Trust::File(path)) => Trust::File(beside(&field.node.place, &path)),
            other => other.unwrap_or_default(),
        };
    }
    if let Some(field) = table.take("carrier") {
        agent.carrier = field.word(found, &CarrierChoice::WORDS).unwrap_or_default();
    }
    let mut duration = |key, default| match table.take(key) {
        Some(field) => field.duration(found).unwrap_or(default),
        None => default,
    };
    agent.connect_timeout = duration("connect_timeout", agent.connect_timeout);
    agent.heartbeat_interval = duration("heartbeat_interval", agent.heartbeat_interval);
    agent.heartbeat_tolerance = duration("heartbeat_tolerance", agent.heartbeat_tolerance);
    if let Some(field) = table.take("connect_interface") {
        agent.interface = field.text(found).filter(|text| !text.is_empty());
    }
    if let Some(field) = table.take("proxy_url") {
        match field.text(found).map(|text| ProxyUrl::parse(&text)) {
            Some(Ok(proxy)) => agent.proxy = Some(proxy),
            Some(Err(error)) => field.refuse(found, error.to_string()),
            None => {}
        }
    }
}

/// One text with commas, or a list.
fn addresses(field: Field, found: &mut Findings) -> Vec<ConnectAddress> {
    let Value::List(_) = field.node.value else {
        let Some(text) = field.text(found) else { return Vec::new() };
        return parse_addresses(&text).unwrap_or_else(|message| {
            field.refuse(found, message);
            Vec::new()
        });
    };
    let place = field.node.place.clone();
    let path = field.path.clone();
    let items = field.list(found).unwrap_or_default();
    let mut addresses = Vec::new();
    for item in items {
        match item.text(found).map(|text| ConnectAddress::parse(&text)) {
            Some(Ok(address)) => addresses.push(address),
            Some(Err(message)) => item.refuse(found, message),
            None => {}
        }
    }
    distinct(addresses).unwrap_or_else(|message| {
        found.error(&place, &path, message);
        Vec::new()
    })
}

fn read_output(table: &mut Table, agent: &mut AgentConfig, found: &mut Findings) {
    if let Some(field) = table.take("console_ui") {
        let words = [("true", Console::On), ("false", Console::Off), ("iftty", Console::IfTty)];
        agent.console = field.word(found, &words).unwrap_or_default();
    }
    if let Some(field) = table.take("log") {
        agent.log = match &field.node.value {
            Value::Bool(false) => Some(LogTarget::Off),
            Value::Bool(true) => {
                field.refuse(found, "write `stdout`, `stderr`, `false` or a path");
                None
            }
            _ => field.text(found).map(|text| match LogTarget::parse(&text) {
                LogTarget::File(path) => LogTarget::File(beside(&field.node.place, &path)),
                other => other,
            }),
        };
    }
    if let Some(field) = table.take("log_level") {
        let text = field.text(found);
        match text.as_deref().map(LogLevel::parse) {
            Some(Ok(level)) => agent.log_level = level,
            Some(Err(message)) => field.refuse(found, message),
            None => {}
        }
    }
    if let Some(field) = table.take("log_format") {
        let text = field.text(found);
        match text.as_deref().map(str::parse::<LogFormat>) {
            Some(Ok(format)) => agent.log_format = Some(format),
            Some(Err(error)) => field.refuse(found, error.to_string()),
            None => {}
        }
    }
}

impl LogTarget {
    /// `stdout`, `stderr`, `false` or a path.
    pub fn parse(text: &str) -> Self {
        match text {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            "false" => Self::Off,
            path => Self::File(path.into()),
        }
    }
}

impl LogLevel {
    /// One of the file's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "crit" | "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            _ => Err(format!("`{text}` is not one of `crit`, `error`, `warn`, `info`, `debug`")),
        }
    }
}
