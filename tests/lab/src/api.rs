//! The REST API as its user sees it: method, path, JSON in, status and JSON out.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;

/// An API address and the key to use there.
#[derive(Clone)]
pub struct Api {
    addr: SocketAddr,
    key: String,
}

impl Api {
    /// Plain HTTP at a loopback address.
    pub fn new(addr: SocketAddr, key: &str) -> Self {
        Self { addr, key: key.to_owned() }
    }

    /// Any call; an empty body is `Value::Null`.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.raw(method, path, &[], body.as_bytes())?;
        let value = if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body)? };
        Ok((answer.status, value))
    }

    /// A call with a body of bytes, for what is not JSON on purpose, and further headers.
    pub fn raw(&self, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Result<http::Answer> {
        let authorization = format!("Bearer {}", self.key);
        let mut headers = vec![("authorization", authorization.as_str()), ("ngrok-version", "2")];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        headers.retain(|(name, _)| !more.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        headers.extend(more);
        let stream =
            http::connect(self.addr).with_context(|| format!("connect to the API at {}", self.addr))?;
        http::request(stream, method, &self.addr.to_string(), path, &headers, body)
            .with_context(|| format!("{method} {path}"))
    }

    /// Creates a resource; anything but 201 is an error that shows the answer.
    pub fn create(&self, path: &str, body: &Value) -> Result<Value> {
        match self.call("POST", path, Some(body))? {
            (201, value) => Ok(value),
            (status, value) => bail!("POST {path} {body} answered {status}: {value}"),
        }
    }

    /// Reads a resource or a list; anything but 200 is an error that shows the answer.
    pub fn read(&self, path: &str) -> Result<Value> {
        match self.call("GET", path, None)? {
            (200, value) => Ok(value),
            (status, value) => bail!("GET {path} answered {status}: {value}"),
        }
    }
}

/// A string member of an answer.
pub fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("the answer has no text `{key}`: {value}"))
}

/// All pages of a list.
pub fn list(api: &Api, path: &str, key: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut next = path.to_owned();
    loop {
        let page = api.read(&next)?;
        all.extend(page.get(key).and_then(Value::as_array).into_iter().flatten().cloned());
        let Some(uri) = page.get("next_page_uri").and_then(Value::as_str) else { return Ok(all) };
        // An absolute URL on the API's own base.
        let below = uri.find(path).and_then(|at| uri.get(at..));
        below.with_context(|| format!("next_page_uri {uri} is not below {path}"))?.clone_into(&mut next);
    }
}
