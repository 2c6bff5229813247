//! A stream to an agent as the HTTP half gets it: of a session that lives here, or across from another shard.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::crossing::Crossing;
use crate::tunnel::carrier::CarrierStream;

/// A stream to an agent, from this shard or across.
pub enum AgentStream {
    /// The session lives here.
    Here(CarrierStream),
    /// The session lives on another shard.
    Across(Crossing),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut *$self {
            AgentStream::Here($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            AgentStream::Across($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
        }
    };
}

impl AsyncRead for AgentStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}
