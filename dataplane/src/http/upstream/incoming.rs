//! The body of a response, and the connection that it comes over until it is over.

use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use http_body::Frame;

use super::http1::{Connection, Inner};
use crate::http::body::{Body, Polled, Source};
use crate::http::fault::BodyFault;
use crate::http::framing::BodyPart;

/// The response with its body. Once that is over `keep` is given the connection, if it can carry another exchange.
pub(super) fn body_then(
    connection: Connection,
    response: Response<()>,
    keep: impl FnOnce(Connection) + 'static,
) -> Response<Body> {
    let mut incoming = Incoming { connection: Some(connection), keep: Some(keep), failed: None };
    let length = incoming.inner().and_then(|inner| inner.length);
    if length == Some(0) || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        incoming.release();
    }
    response.map(|()| Body::stream(incoming, length))
}

/// The body of a response, and the connection that it comes over until it is over.
struct Incoming<K: FnOnce(Connection)> {
    connection: Option<Connection>,
    keep: Option<K>,
    failed: Option<BodyFault>,
}

impl<K: FnOnce(Connection)> Incoming<K> {
    fn inner(&mut self) -> Option<&mut Inner> {
        self.connection.as_mut()?.inner.as_mut().map(|inner| inner.get_mut())
    }

    /// The body is over. What nginx calls `request_body_sent` decides too: an upload that was answered early leaves its
    /// connection in the middle of a request.
    fn release(&mut self) {
        let between = self.inner().is_some_and(|inner| inner.is_between());
        let keeps = self.inner().is_some_and(|inner| inner.keep_alive);
        let (Some(mut connection), Some(keep)) = (self.connection.take(), self.keep.take()) else { return };
        connection.is_free = between;
        if between && keeps {
            keep(connection);
        }
    }

    fn fail(&mut self, fault: BodyFault) -> Polled {
        self.connection = None;
        Poll::Ready(Some(Err(fault)))
    }
}

impl<K: FnOnce(Connection)> Source for Incoming<K> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(fault) = self.failed.take() {
            return self.fail(fault);
        }
        let Some(inner) = self.inner() else { return Poll::Ready(None) };
        let part = match ready!(inner.poll_body(cx)) {
            Ok(part) => part,
            Err(fault) => return self.fail(fault),
        };
        let frame = match part {
            BodyPart::Data(data) => {
                if inner.body.is_over(&mut inner.input) {
                    self.release();
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            BodyPart::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            BodyPart::More | BodyPart::End => None,
        };
        self.release();
        Poll::Ready(frame)
    }

    fn is_over(&self) -> bool {
        self.connection.is_none() && self.failed.is_none()
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(inner) = self.inner()
            && let Err(fault) = inner.poll_upload(cx)
        {
            self.failed = Some(fault);
        }
    }
}
