//! The process's work: says what it loaded, then answers one question after another until the edge is gone.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::engine::Engine;
use crate::protocol::{self, Answer, FrameError, Greeting, Question};

/// Reads the rules and greets. None: they were refused, and the edge was told why. `ready` runs before the greeting.
pub fn greet(
    socket: &mut impl Write,
    rules: &Path,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> Result<Option<Engine>, FrameError> {
    match Engine::load(rules) {
        Ok(engine) => {
            ready()?;
            protocol::write(socket, &Greeting::Ready(engine.loaded().clone()), b"")?;
            Ok(Some(engine))
        }
        Err(error) => {
            protocol::write(socket, &Greeting::Refused(error.to_string()), b"")?;
            Ok(None)
        }
    }
}

/// Answers until the other end is closed.
pub fn answer(socket: &mut (impl Read + Write), engine: &Engine) -> Result<(), FrameError> {
    while let Some((question, body)) = protocol::read::<Question>(socket)? {
        // A message that trips up a crate fails alone; the panic's own line is in the log.
        let judged = catch_unwind(AssertUnwindSafe(|| engine.judge(&question, &body)));
        let answer = match judged {
            Ok(Ok(judgement)) => Answer::Judged(judgement),
            Ok(Err(error)) => Answer::Failed(error.to_string()),
            Err(_) => Answer::Failed("the rules panicked over this message".to_owned()),
        };
        protocol::write(socket, &answer, b"")?;
    }
    Ok(())
}
