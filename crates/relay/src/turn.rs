//! The end of a connection's turn: whoever has more to do comes back when others have been looked at.

use std::pin::pin;
use std::task::Context;

/// Wakes the task once the runtime has asked the kernel who else is ready.
///
/// Waking it at once would put it back at the end of the run queue, and tokio looks at the kernel only after 61 tasks: with
/// a few bulk connections, a byte that arrives for a small one would wait for 61 turns of theirs.
pub(crate) fn give_way(cx: &mut Context<'_>) {
    // Its first poll defers the waker; there is nothing to wait for after that.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
