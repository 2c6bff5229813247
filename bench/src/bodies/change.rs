//! What gateways do to the page, and whether a page came as it was asked for.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ebbgate_bench::page::{OTHER_WORD, PAGE_BYTES, WORD};
use ebbgate_lab::http;

/// What is done to the page on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Nothing,
    Gzip,
    Replace,
}

impl Change {
    pub(super) const ALL: [Self; 3] = [Self::Nothing, Self::Gzip, Self::Replace];

    /// First label of the host that does it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Nothing => "plain",
            Self::Gzip => "gzip",
            Self::Replace => "replace",
        }
    }

    pub(super) fn host(self) -> String {
        format!("{}.bench.example", self.label())
    }

    /// One page, which must be what was asked for.
    pub(super) fn fetch(self, addr: SocketAddr) -> Result<()> {
        let headers = [("accept-encoding", "gzip")];
        let answer = http::request(http::connect(addr)?, "GET", &self.host(), "/", &headers, b"")?;
        ensure!(answer.status == 200, "{} at {addr}: {}", self.host(), answer.status);
        let coding = answer.header("content-encoding");
        let has = |word: &str| http::find(&answer.body, word.as_bytes()).is_some();
        let is_right = match self {
            Self::Nothing => coding.is_none() && answer.body.len() == PAGE_BYTES && has(WORD),
            Self::Gzip => coding == Some("gzip") && answer.body.len() < PAGE_BYTES / 2,
            Self::Replace => coding.is_none() && !has(WORD) && has(OTHER_WORD),
        };
        ensure!(is_right, "{} at {addr}: {} bytes, {:?}", self.host(), answer.body.len(), answer.headers);
        Ok(())
    }
}
