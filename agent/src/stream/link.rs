//! A claimed link as a stream. When it is dropped after an orderly end the link goes back to where it came from, to wait
//! for its next visitor.

use ebbgate_tunnel::link::LinkStream;
use tokio::sync::oneshot;

use crate::dial::Carrier;

/// A claimed link.
pub struct ClaimedLink {
    stream: Option<LinkStream<Box<dyn Carrier>>>,
    home: Option<oneshot::Sender<Box<dyn Carrier>>>,
}

impl ClaimedLink {
    /// Wraps a claimed link; the receiver gets it back after an orderly end, and an error after any other.
    pub fn new(stream: LinkStream<Box<dyn Carrier>>) -> (Self, oneshot::Receiver<Box<dyn Carrier>>) {
        let (home, back) = oneshot::channel();
        (Self { stream: Some(stream), home: Some(home) }, back)
    }

    /// The stream inside; there until this is dropped.
    pub(super) fn get_mut(&mut self) -> &mut LinkStream<Box<dyn Carrier>> {
        self.stream.as_mut().expect("the stream is taken by the drop only")
    }
}

impl Drop for ClaimedLink {
    fn drop(&mut self) {
        if let Some(idle) = self.stream.take().and_then(LinkStream::into_idle)
            && let Some(home) = self.home.take()
        {
            // Nobody waits for it: the session is over, and so is the link.
            let _ = home.send(idle);
        }
    }
}
