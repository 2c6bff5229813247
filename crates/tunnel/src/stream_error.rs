//! How the I/O of a stream fails, whatever carries the stream: the inner error of the `io::Error`.

use std::io;

use ebbgate_wire::mux::Code;

/// Why a stream's I/O failed; the inner error of the `io::Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it, or we did for a limit it broke.
    #[error("stream reset: {0}")]
    Reset(Code),
    /// The session ended under it.
    #[error("session ended under the stream")]
    SessionEnded,
    /// Our own direction is finished already.
    #[error("stream is finished in this direction")]
    Finished,
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
            StreamError::SessionEnded => io::ErrorKind::ConnectionAborted,
            StreamError::Finished => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}

/// The code of the RST behind a failed read or write, if that is what it was.
pub fn reset_code(error: &io::Error) -> Option<Code> {
    match error.get_ref()?.downcast_ref::<StreamError>()? {
        StreamError::Reset(code) => Some(*code),
        StreamError::SessionEnded | StreamError::Finished => None,
    }
}
