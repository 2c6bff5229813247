//! `close-connection`: drops the client's connection without an answer.

use std::sync::Arc;

use super::{Action, Compiled, Config, Flow, Gathered};
use crate::facts::Context;
use crate::verdict::Verdict;

#[derive(Debug)]
struct CloseConnection;

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
