//! `Exchange`: what the two sides of one request tell each other beside head and body: whether its sender may rest, interim
//! answers on their way back, and how the visitor wrote the target.
//!
//! Does not know connections: the visitor's side is woken and takes what there is.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Response, StatusCode, Uri};

use super::fields;
use super::framing::{Spelling, interim_head};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange(Rc<Inner>);

#[derive(Default)]
struct Inner {
    may_rest: Cell<bool>,
    /// The visitor may wait for a 100 before it sends its body, and none was sent yet.
    expects: Cell<bool>,
    takes_interim: Cell<bool>,
    interim: RefCell<VecDeque<Interim>>,
    visitor: RefCell<Option<Waker>>,
    spelling: RefCell<Option<Spelling>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("expects", &self.expects).finish_non_exhaustive()
    }
}

/// An answer before the answer (RFC 9110 section 15.2).
#[derive(Debug)]
pub(super) struct Interim {
    status: StatusCode,
    headers: HeaderMap,
}

impl Exchange {
    /// One whose visitor takes interim answers; `expects`: and may wait for a 100.
    pub(super) fn new(expects: bool) -> Self {
        let exchange = Self::default();
        exchange.0.takes_interim.set(true);
        exchange.0.expects.set(expects);
        exchange
    }

    /// Notes how the visitor wrote the target.
    pub(super) fn set_spelling(&self, spelling: Option<Spelling>) {
        self.0.spelling.replace(spelling);
    }

    /// How the visitor wrote this target, if it wrote it otherwise.
    pub(super) fn spelling_of(&self, uri: &Uri) -> Option<Spelling> {
        let spelling = self.0.spelling.borrow();
        let path = uri.path_and_query()?.as_str();
        spelling.as_ref().filter(|spelling| spelling.encoded == path).cloned()
    }

    /// From now on the sender of the body may, or may not, rest as long as the exchange does.
    pub(super) fn set_may_rest(&self, may_rest: bool) {
        self.0.may_rest.set(may_rest);
    }

    /// Whether it may. One that waits for a 100 may.
    pub(super) fn may_rest(&self) -> bool {
        self.0.may_rest.get() || self.0.expects.get()
    }

    /// Whether the visitor may still wait for a 100.
    pub(super) fn expects(&self) -> bool {
        self.0.expects.get()
    }

    /// The edge itself needs the body, so it asks for it (RFC 9110 section 10.1.1).
    pub(super) fn ask_for_body(&self) {
        if self.expects() {
            self.answer_before(StatusCode::CONTINUE, HeaderMap::new());
        }
    }

    /// The body comes, with or without a 100.
    pub(super) fn body_begun(&self) {
        self.0.expects.set(false);
    }

    /// Passes on an interim answer.
    pub(super) fn answer_before(&self, status: StatusCode, mut headers: HeaderMap) {
        if status == StatusCode::CONTINUE {
            self.0.expects.set(false);
        }
        if self.0.takes_interim.get() {
            fields::clean_response(&mut headers);
            headers.remove(CONTENT_LENGTH);
            self.0.interim.borrow_mut().push_back(Interim { status, headers });
        }
        if let Some(waker) = self.0.visitor.take() {
            waker.wake();
        }
    }

    /// The next interim answer to send. Without one, `waker` is woken when there is.
    pub(super) fn take_interim(&self, waker: &Waker) -> Option<Interim> {
        let interim = self.0.interim.borrow_mut().pop_front();
        if interim.is_none() && self.0.takes_interim.get() {
            let mut visitor = self.0.visitor.borrow_mut();
            if !visitor.as_ref().is_some_and(|known| known.will_wake(waker)) {
                visitor.replace(waker.clone());
            }
        }
        interim
    }
}

impl Interim {
    /// As HTTP/1.1 text.
    pub(super) fn write(&self, text: &mut BytesMut) {
        interim_head(text, self.status, &self.headers);
    }

    /// As a response of HTTP/2.
    pub(super) fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
