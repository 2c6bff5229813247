//! `close-connection`: drops the client's connection without an answer.

use std::sync::Arc;

use super::{About, Action, Compiled, Config, Flow, Gathered};
use crate::facts::Context;
use crate::verdict::Verdict;

#[derive(Debug)]
struct CloseConnection;

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "The client's connection is closed without an answer.",
    fields: &[],
    codes: &[],
    example: "on_tcp_connect:
  - expressions: [\"conn.client_ip == '203.0.113.9'\"]
    actions: [{type: close-connection}]
",
    given: "{client_ip: 203.0.113.9}",
    all: "",
};

#[expect(clippy::unnecessary_wraps, reason = "the table's signature")]
pub(super) fn compile(config: &mut Config) -> Compiled {
    config.finish();
    Some(Arc::new(CloseConnection))
}

impl Action for CloseConnection {
    fn run(&self, _: &mut Context, _: &mut Gathered) -> Flow {
        Flow::End(Verdict::Close { code: None })
    }
}
