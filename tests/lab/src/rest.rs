//! The clinic's REST service: a small JSON API that a lab puts behind its agent, with the issuer's keys beside it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::web::{self, Reply, Request};

/// Serves for ever on `listen`; `jwks` is a file.
pub fn serve(listen: SocketAddr, jwks: &Path) -> Result<()> {
    let jwks = std::fs::read_to_string(jwks).with_context(|| format!("read {}", jwks.display()))?;
    let jwks: Value = serde_json::from_str(&jwks)?;
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    web::serve(&listener, move |request| route(request, &jwks));
    Ok(())
}

fn route(request: &Request, jwks: &Value) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/issuer/jku") => Reply::json(200, jwks),
        ("GET", "/patients") => Reply::json(
            200,
            &json!([{ "id": 1, "name": "Ada Tidewater" }, { "id": 2, "name": "Ben Shoals" }]),
        ),
        (_, "/echo") => Reply::json(200, &echo(request)),
        (method, path) => Reply::json(404, &json!({ "error": format!("no {method} {path}") })),
    }
}

/// What arrived, for a look at what a gateway did to it.
pub fn echo(request: &Request) -> Value {
    let headers: BTreeMap<_, _> = request.headers.iter().cloned().collect();
    json!({
        "method": request.method,
        "path": request.path,
        "headers": headers,
        "body": String::from_utf8_lossy(&request.body),
    })
}
