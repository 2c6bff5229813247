//! `deny`: an empty answer on requests, a closed connection on `on_tcp_connect`.

use std::sync::Arc;

use http::StatusCode;

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::facts::Context;
use crate::facts::Phase;
use crate::verdict::{Reply, Verdict};

#[derive(Debug)]
struct Deny {
    /// Absent on `on_tcp_connect`.
    status: Option<StatusCode>,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "An empty answer; in `on_tcp_connect` the connection is closed.",
    fields: &[Field::number_or("status_code", 403, 200..=599).note("without effect in `on_tcp_connect`")],
    codes: &[],
    example: "on_http_request:
  - expressions: [\"req.method == 'DELETE'\"]
    actions: [{type: deny, config: {status_code: 405}}]
",
    given: "{method: DELETE, path: /v1/visits/7}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let status = config.number("status_code", 403, 200..=599);
    if config.phase == Phase::TcpConnect && config.raw("status_code").is_some() {
        let path = config.at("status_code");
        config.warn(
            code::VALUE_BAD,
            path,
            "`status_code` has no effect in on_tcp_connect: a connection is closed without an answer",
            "remove it, or move the action to on_http_request",
        );
    }
    config.finish();
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())?;
    Some(Arc::new(Deny { status: (config.phase != Phase::TcpConnect).then_some(status) }))
}

impl Action for Deny {
    fn run(&self, _: &mut Context, _: &mut Gathered) -> Flow {
        Flow::End(match self.status {
            Some(status) => Verdict::Respond(Reply::empty(status, None)),
            None => Verdict::Close { code: None },
        })
    }
}
