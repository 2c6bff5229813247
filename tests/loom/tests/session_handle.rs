//! A session that ends on its shard while another shard opens a stream on it, reads or writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ebbgate_loom::driver::{SessionHandle, Stream, connect};
use ebbgate_loom::stream_error::StreamError;
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::rpc::StreamKind;
use loom::future::block_on;
use loom::thread;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// A transport on which nothing ever moves.
struct Idle;

impl AsyncRead for Idle {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Idle {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// What one thread does with the handle while another ends the session.
fn check(act: fn(&SessionHandle)) {
    loom::model(move || {
        let (session, incoming, driver) = connect(Idle, Role::Server, Limits::EDGE);
        let handle = session.handle();
        let acting = thread::spawn(move || act(&handle));
        // Its connection is lost.
        drop(driver);
        acting.join().expect("no panic");
        drop((session, incoming));
    });
}

fn is_session_ended(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>());
    inner == Some(&StreamError::SessionEnded)
}

fn opened(handle: &SessionHandle) -> Option<Stream> {
    handle.open(StreamKind::Proxy).ok()
}

#[test]
fn a_reader_hears_of_the_end_whenever_it_opened_its_stream() {
    check(|handle| {
        let Some(mut stream) = opened(handle) else { return };
        let error = block_on(stream.read_u8()).expect_err("nothing was ever sent");
        assert!(is_session_ended(&error), "{error}");
    });
}

#[test]
fn a_writer_hears_of_the_end_whenever_it_opened_its_stream() {
    check(|handle| {
        let Some(mut stream) = opened(handle) else { return };
        // More than a stream may have queued.
        let bytes = vec![0; Limits::EDGE.send_bytes_max + 1];
        let error = block_on(stream.write_all(&bytes)).expect_err("nobody takes it");
        assert!(is_session_ended(&error), "{error}");
    });
}

#[test]
fn a_stream_is_opened_before_the_end_or_not_at_all() {
    check(|handle| {
        let first = opened(handle).is_some();
        let second = opened(handle).is_some();
        assert!(first || !second, "an ended session opened a stream");
    });
}
