//! What carries a session or a link to the edge.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to the edge.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}
