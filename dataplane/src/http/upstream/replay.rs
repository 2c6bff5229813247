//! `ReplayBody`: a request's body across several attempts to send it.
//!
//! An unread body can be sent again. The first [`REPLAY_BYTES_MAX`] bytes are kept, so a short body can be sent again after
//! it was read. Whether a second attempt is allowed is for the caller to decide.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};

use crate::http::body::{Body, Polled, Source};
use crate::http::exchange::Exchange;
use crate::http::fault::BodyFault;

/// Bytes of a request's body kept for another member of the pool, until the upstream answers.
pub(super) const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Clone)]
pub(in crate::http) struct ReplayBody {
    body: Rc<RefCell<Body>>,
    read: Rc<RefCell<Read>>,
    exchange: Exchange,
}

/// The bytes that attempts have read.
#[derive(Debug)]
struct Read {
    /// Whether an attempt has read from the body.
    begun: bool,
    /// All of it; None: it was more than [`REPLAY_BYTES_MAX`].
    kept: Option<BytesMut>,
    trailers: Option<HeaderMap>,
    /// The number of the attempt that may read.
    turn: u64,
}

impl ReplayBody {
    /// A body that no attempt has read.
    pub(in crate::http) fn new(body: Body) -> Self {
        let read = Read { begun: false, kept: Some(BytesMut::new()), trailers: None, turn: 0 };
        Self {
            body: Rc::new(RefCell::new(body)),
            read: Rc::new(RefCell::new(read)),
            exchange: Exchange::default(),
        }
    }

    /// The same body, of this exchange.
    pub(in crate::http) fn of(mut self, exchange: &Exchange) -> Self {
        self.exchange = exchange.clone();
        self
    }

    /// What its sender and the upstream tell each other.
    pub(in crate::http) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Whether no byte of it went out, or it can be sent any number of times.
    pub(in crate::http) fn is_whole(&self) -> bool {
        !self.read.borrow().begun || self.is_replayable()
    }

    /// Whether it can be sent any number of times.
    pub(in crate::http) fn is_replayable(&self) -> bool {
        self.body.borrow().is_replayable()
    }

    /// Whether all that was read of it is kept.
    pub(super) fn is_kept(&self) -> bool {
        self.is_whole() || self.read.borrow().kept.is_some()
    }

    /// Whether all of it will be kept, whatever is read.
    pub(in crate::http) fn is_short(&self) -> bool {
        let most = u64::try_from(REPLAY_BYTES_MAX).unwrap_or(u64::MAX);
        self.is_replayable() || self.body.borrow().length().is_some_and(|length| length <= most)
    }

    /// The body for one attempt, from its first byte if [`ReplayBody::is_kept`]. Earlier attempts read no more.
    pub(in crate::http) fn attempt(&self) -> Body {
        self.rewind();
        let replay = self.body.borrow().replay();
        replay.unwrap_or_else(|| {
            let length = self.body.borrow().length();
            let turn = {
                let mut read = self.read.borrow_mut();
                read.turn += 1;
                read.turn
            };
            Body::stream(Attempt { body: self.clone(), turn }, length)
        })
    }

    /// Takes the body to read it here; [`ReplayBody::give_back`] it.
    pub(in crate::http) fn take(&self) -> Body {
        self.rewind();
        std::mem::take(&mut *self.body.borrow_mut())
    }

    /// Gives back a body that was taken.
    pub(in crate::http) fn give_back(&self, body: Body) {
        self.body.replace(body);
    }

    /// Puts what was read back in front of the rest.
    fn rewind(&self) {
        let mut read = self.read.borrow_mut();
        if !read.begun {
            return;
        }
        let Some(kept) = read.kept.replace(BytesMut::new()) else {
            read.kept = None;
            return;
        };
        read.begun = false;
        let mut body = self.body.borrow_mut();
        let length = body.length();
        let rest = std::mem::take(&mut *body);
        let rest = read.trailers.take().map_or(rest, Body::trailing);
        *body = rest.preceded(kept.freeze(), length);
    }

    fn poll(&self, cx: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx);
        let mut read = self.read.borrow_mut();
        read.begun = true;
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            read.keep(frame);
        }
        polled
    }
}

impl Read {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let (Some(kept), Some(data)) = (&mut self.kept, frame.data_ref()) else { return };
        if kept.len().saturating_add(data.len()) > REPLAY_BYTES_MAX {
            self.kept = None;
        } else {
            kept.extend_from_slice(data);
        }
    }
}

/// The body as one attempt reads it.
struct Attempt {
    body: ReplayBody,
    turn: u64,
}

impl Source for Attempt {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        // An attempt that was given up must not take bytes of the next one.
        if self.body.read.borrow().turn != self.turn {
            return Poll::Ready(Some(Err(BodyFault::Idle)));
        }
        self.body.poll(cx)
    }

    fn is_over(&self) -> bool {
        self.body.body.borrow().is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use std::collections::VecDeque;

    struct Frames(VecDeque<Frame<Bytes>>);

    impl Source for Frames {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Polled {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn streamed(chunks: &[usize], trailers: bool) -> ReplayBody {
        let mut frames: VecDeque<_> =
            chunks.iter().map(|n| Frame::data(Bytes::from(vec![b'x'; *n]))).collect();
        if trailers {
            let trailers = [("t".parse().unwrap(), "v".parse().unwrap())].into_iter().collect();
            frames.push_back(Frame::trailers(trailers));
        }
        let length = (!trailers).then(|| chunks.iter().sum::<usize>() as u64);
        ReplayBody::new(Body::stream(Frames(frames), length))
    }

    fn read(body: Body) -> (usize, bool) {
        let whole = body.collect().now_or_never().unwrap().unwrap();
        let trailers = whole.trailers().is_some();
        (whole.to_bytes().len(), trailers)
    }

    #[test]
    fn a_short_body_is_lent_again_from_its_first_byte() {
        for (chunks, trailers) in [(vec![2], false), (vec![1, 5], true), (vec![REPLAY_BYTES_MAX], false)] {
            let body = streamed(&chunks, trailers);
            let whole = (chunks.iter().sum(), trailers);
            assert!(body.is_whole() && body.is_kept());
            let mut first = body.attempt();
            first.frame().now_or_never().unwrap().unwrap().unwrap();
            assert!(!body.is_whole(), "bytes went out");
            assert!(body.is_kept());
            let second = body.attempt();
            assert_eq!(second.length(), if trailers { None } else { Some(whole.0 as u64) });
            assert!(first.frame().now_or_never().unwrap().unwrap().is_err(), "the first try is over");
            assert_eq!(read(second), whole);
            assert_eq!(read(body.attempt()), whole);
            assert_eq!(read(body.take()), whole, "a policy of the next member reads all of it");
        }
    }

    #[test]
    fn a_long_body_is_not_kept() {
        let body = streamed(&[REPLAY_BYTES_MAX, 1], false);
        assert!(!body.is_short() && body.is_whole());
        assert_eq!(read(body.attempt()).0, REPLAY_BYTES_MAX + 1);
        assert!(!body.is_kept() && !body.is_whole());
    }
}
