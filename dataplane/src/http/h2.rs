//! One client's HTTP/2 connection: the h2 server behind a flood guard, one local task per stream.
//!
//! h2 keeps the protocol; shapes it lets through are refused by [`shape`] and [`blocks`], floods it pays for by [`flood`],
//! and every wait ends here or in the bodies.

mod blocks;
mod flood;
mod guard;
mod pseudo;
mod scan;
mod shape;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::Form;
use super::body::{Body, Source as _};
use super::exchange::Exchange;
use super::h2_stream::{self, Reading, Sender};
use super::limits::{
    H2_CONNECTION_WINDOW_BYTES, H2_HEADER_LIST_BYTES_MAX, H2_LOCAL_RESETS_MAX, H2_PENDING_RESETS_MAX,
    H2_SEND_BUFFER_BYTES_MAX, H2_STREAM_WINDOW_BYTES, Limits,
};
use super::min_rate::{MinRate, SlowAllowance};
use super::service::{Answer, HttpService};
use crate::dispatch::gateway::{Gateway, HttpOutcome};
use guard::Guard;

/// How long the last frames of a connection that is closed may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the streams of a connection tell the loop that accepts them.
#[derive(Debug)]
struct Streams {
    open: Cell<usize>,
    requests: Cell<u64>,
    rest_since: Cell<Instant>,
    close: Cell<bool>,
    changed: Notify,
}

/// One stream in [`Streams::open`].
struct Open(Rc<Streams>);

impl Open {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.requests.set(streams.requests.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.rest_since.set(Instant::now());
        self.0.changed.notify_one();
    }
}

/// Serves the connection to its end.
pub(super) async fn serve<G, IO>(service: Rc<HttpService<G>>, io: IO) -> HttpOutcome
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let limits = service.limits().clone();
    let streams = Rc::new(Streams {
        open: Cell::new(0),
        requests: Cell::new(0),
        rest_since: Cell::new(Instant::now()),
        close: Cell::new(false),
        changed: Notify::new(),
    });
    let trouble = Rc::new(guard::Trouble::default());
    let guard = Guard::new(io, trouble.clone(), limits.clone(), &service.patience());
    let handshake = builder(&limits).handshake::<_, Bytes>(guard);
    let outcome = match timeout(limits.head, handshake).await {
        Err(_) => "no HTTP/2 preface in time".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(mut connection)) => accept(service, &mut connection, &streams, &trouble, &limits).await,
    };
    HttpOutcome { requests: streams.requests.get(), outcome, broken: false }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams_max)
        .initial_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(H2_SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(H2_LOCAL_RESETS_MAX));
    builder
}

/// Takes streams until the connection is over; gives back why it is.
async fn accept<G, IO>(
    service: Rc<HttpService<G>>,
    connection: &mut Connection<Guard<IO>, Bytes>,
    streams: &Rc<Streams>,
    trouble: &Rc<guard::Trouble>,
    limits: &Rc<Limits>,
) -> String
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut draining = std::pin::pin!(service.gateway().leaving());
    // Told to go, but not to drop what it is sending at this moment.
    let mut leaving = false;
    loop {
        let resting = streams.open.get() == 0;
        let deadline = streams.rest_since.get() + if leaving { GOODBYE } else { limits.keep_alive };
        tokio::select! {
            accepted = connection.accept() => match accepted {
                None => return "closed".to_owned(),
                Some(Err(error)) => {
                    let outcome = trouble.found().map_or_else(|| error.to_string(), |trouble| trouble.to_string());
                    goodbye(connection).await;
                    return outcome;
                }
                Some(Ok((request, respond))) => {
                    let stream = Stream { service: service.clone(), open: Open::new(streams), limits: limits.clone() };
                    tokio::task::spawn_local(stream.serve(request, respond));
                }
            },
            () = trouble.told() => {
                let Some(cut) = trouble.found() else { continue };
                connection.abrupt_shutdown(cut.reason());
                goodbye(connection).await;
                return cut.to_string();
            }
            () = streams.changed.notified() => if streams.close.get() {
                return "a policy closed the connection".to_owned();
            },
            () = sleep_until(deadline), if resting => {
                if leaving {
                    return "no further request came".to_owned();
                }
                leaving = true;
                streams.rest_since.set(Instant::now());
                connection.graceful_shutdown();
            }
            () = &mut draining, if !leaving => {
                leaving = true;
                streams.rest_since.set(Instant::now());
                connection.graceful_shutdown();
            }
        }
    }
}

/// Lets the last frames out.
async fn goodbye<IO: AsyncRead + AsyncWrite + Unpin>(connection: &mut Connection<Guard<IO>, Bytes>) {
    let _ = timeout(GOODBYE, poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// One stream of one client.
struct Stream<G: Gateway> {
    service: Rc<HttpService<G>>,
    open: Open,
    limits: Rc<Limits>,
}

impl<G: Gateway> Stream<G> {
    async fn serve(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, stream) = request.into_parts();
        let exchange = Exchange::new(head.headers.contains_key(EXPECT) && !stream.is_end_stream());
        let patience = self.service.patience();
        let pace = MinRate::lenient(self.limits.pace, self.limits.pace_bytes_min, &patience);
        let reading = Reading::new(stream, Sender::Visitor, Some((pace, exchange.clone())));
        let rest = reading.rest();
        match self.answer(head, reading, &exchange, &mut respond).await {
            Some(Answer::Response(response)) => {
                // A client may read no response before it has sent its body, so both go on at once.
                let mut draining = std::pin::pin!(rest.drain(&self.limits));
                let mut responding = std::pin::pin!(self.respond(response, respond, &patience));
                tokio::select! {
                    () = &mut responding => {
                        let _ = timeout(self.limits.drain, draining).await;
                    }
                    () = &mut draining => responding.await,
                }
            }
            Some(Answer::Close) => {
                self.open.0.close.set(true);
                respond.send_reset(Reason::CANCEL);
            }
            // Upgrade does not exist here; the walk was told so.
            Some(Answer::Switched(..)) => respond.send_reset(Reason::INTERNAL_ERROR),
            None => {}
        }
    }

    /// The answer; none when the client took its request back.
    async fn answer(
        &self,
        mut head: Parts,
        reading: Reading,
        exchange: &Exchange,
        respond: &mut SendResponse<Bytes>,
    ) -> Option<Answer<G>> {
        let authority = match shape::check(&mut head, reading.is_over()) {
            Ok(authority) => authority,
            Err(shape) => {
                let answer = shape.failure().answer(Form::asked(&head.headers), None);
                return Some(Answer::Response(answer));
            }
        };
        let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = Body::stream(reading, length);
        let request = Request::from_parts(head, body);
        let mut answer = std::pin::pin!(self.service.answer(request, &authority, false, exchange));
        poll_fn(|cx| {
            let answered = answer.as_mut().poll(cx);
            while let Some(interim) = exchange.take_interim(cx.waker()) {
                // A stream that takes no more is noticed below.
                let _ = respond.send_informational(interim.into_response());
            }
            match answered {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            }
        })
        .await
    }

    async fn respond(
        &self,
        response: Response<Body>,
        mut respond: SendResponse<Bytes>,
        patience: &Rc<SlowAllowance>,
    ) {
        let (mut head, body) = response.into_parts();
        head.version = http::Version::HTTP_2;
        let over = http_body::Body::is_end_stream(&body);
        let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), over) else { return };
        if !over {
            let pace = MinRate::lenient(self.limits.write_pace, self.limits.pace_bytes_min, patience);
            // A write that fails has reset the stream; the event of the request says how far it got.
            let _ = h2_stream::write(body, &mut stream, pace, &Cell::new(0)).await;
        }
    }
}
