//! Environment variables of the agent. The program's own variables win over the file; the proxy variables that all programs
//! share stand in for a missing `proxy_url`. Reads no variable itself.

use std::net::IpAddr;

use ebbgate_model::Prefix;

use super::agent::{AgentConfig, ConnectAddress, parse_addresses};
use super::read::Problem;
use super::source::Source;
use super::token::clean_token;
use crate::proxy::ProxyUrl;
use crate::trust::Trust;

/// Names of proxy variables, the first that is set wins. Most programs read both cases (Go, Python, curl).
const PROXY_VARIABLES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"];

impl Source<'_> {
    /// The value of the first of `names` that is set and not blank, without white space around it.
    pub fn variable<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| {
            let value = (self.env)(name)?.trim().to_owned();
            (!value.is_empty()).then_some((*name, value))
        })
    }
}

impl AgentConfig {
    /// Lays the environment over the file: each variable that is set wins over the key it stands for.
    pub(super) fn apply_environment(&mut self, source: &Source<'_>) -> Result<(), Problem> {
        let refused = |name: &str, message| Problem { place: None, field: name.to_owned(), message };
        if let Some((name, text)) = source.variable(&["EBBGATE_AUTHTOKEN", "NGROK_AUTHTOKEN"]) {
            self.authtoken = Some(clean_token(&text).map_err(|message| refused(name, message))?);
        }
        if let Some((name, text)) = source.variable(&["EBBGATE_API_KEY", "NGROK_API_KEY"]) {
            self.api_key = Some(clean_token(&text).map_err(|message| refused(name, message))?);
        }
        if let Some((name, text)) = source.variable(&["EBBGATE_CONNECT_URL"]) {
            self.connect = parse_addresses(&text).map_err(|message| refused(name, message))?;
        }
        if let Some((_, text)) = source.variable(&["EBBGATE_CONNECT_CAS"]) {
            self.trust = Trust::parse(&text);
        }
        if let Some((name, text)) = source.variable(&["EBBGATE_PROXY_URL"]) {
            let proxy = ProxyUrl::parse(&text);
            self.proxy = Some(proxy.map_err(|error| refused(name, error.to_string()))?);
        }
        self.apply_proxy_environment(source)
    }

    /// The shared proxy variables, for a configuration that names no proxy. Asked again when a flag has named other edges.
    pub fn apply_proxy_environment(&mut self, source: &Source<'_>) -> Result<(), Problem> {
        // In a CGI program `HTTP_PROXY` is a header of the client.
        let cgi = source.variable(&["REQUEST_METHOD"]).is_some();
        let names = if cgi { &PROXY_VARIABLES[..3] } else { &PROXY_VARIABLES[..] };
        let (None, Some((name, url))) = (&self.proxy, source.variable(names)) else { return Ok(()) };
        let no_proxy = source.variable(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
        // A bare `host:port` is an HTTP proxy to curl and Go.
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        match ProxyUrl::parse(&url) {
            Ok(proxy) => (self.proxy, self.no_proxy) = (Some(proxy), Some(no_proxy)),
            Err(error) if self.connect.iter().any(|edge| goes_by_proxy(edge, &no_proxy)) => {
                return Err(Problem { place: None, field: name.to_owned(), message: error.to_string() });
            }
            // The variable is of no concern here.
            Err(_) => {}
        }
        Ok(())
    }

    /// The proxy in front of an edge.
    pub fn proxy_to(&self, edge: &ConnectAddress) -> Option<&ProxyUrl> {
        let spared = self.no_proxy.as_ref().is_some_and(|rules| !goes_by_proxy(edge, rules));
        self.proxy.as_ref().filter(|_| !spared)
    }
}

/// Whether the proxy variables concern this edge: never on this machine, and not where `no_proxy` names it.
fn goes_by_proxy(edge: &ConnectAddress, no_proxy: &str) -> bool {
    let host = edge.host.to_ascii_lowercase();
    let ip = host.parse::<IpAddr>().ok();
    let here = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
    let mut rules = no_proxy.split([',', ' ', '\t', '\n']).map(str::trim).filter(|rule| !rule.is_empty());
    !here && !rules.any(|rule| is_spared(&host, ip, edge.port, rule))
}

/// One rule of `no_proxy`: `*`, a network, an address or a domain with all below it, the last two with or without a port.
fn is_spared(host: &str, ip: Option<IpAddr>, port: u16, rule: &str) -> bool {
    if rule == "*" {
        return true;
    }
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let whole_is_ip = bare(rule).parse::<IpAddr>().is_ok();
    let (name, only_port) = match rule.rsplit_once(':') {
        Some((name, text)) if !whole_is_ip && !rule.contains('/') => (name, Some(text)),
        _ => (rule, None),
    };
    if only_port.is_some_and(|text| text.parse() != Ok(port)) {
        return false;
    }
    let name = bare(name);
    if let Some(ip) = ip {
        return Prefix::parse_lenient(&name).is_ok_and(|network| network.contains(ip));
    }
    let domain = name.trim_start_matches("*.").trim_start_matches('.');
    !domain.is_empty()
        && (host == domain || host.strip_suffix(domain).is_some_and(|front| front.ends_with('.')))
}
