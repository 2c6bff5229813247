//! Hands proxied streams to the upstream or program of their endpoint, beside the session's loop. A stream may come before
//! the answer to the Bind of its endpoint; it waits here. The loop only publishes which endpoint is delivered where.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_wire::link::DELIVERED;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{Edges, ProxyHeader, StopTunnel};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Duration, timeout};

use super::{Accepted, Delivery, Event, Observer};
use crate::claims::Claims;
use crate::plan::Key;
use crate::relay::Broken;
use crate::stream::{Proxied, Stream};
use crate::upstream::{self, DeliveryError};

/// Events that the session's loop has not taken yet; more of them wait.
const EVENTS_MAX: usize = 64;
/// Streams that may wait for the answer to a Bind; more are refused.
const EARLY_MAX: usize = 64;

/// Seconds a stream may take to carry the word that its visitor is delivered there.
const DELIVERED_SECS_MAX: u64 = 10;

/// Who takes the connections of one endpoint.
#[derive(Debug)]
pub(super) struct Route {
    /// The endpoint's name, for events.
    pub(super) name: String,
    pub(super) delivery: Delivery,
}

/// Maps bind ids to the receivers of their streams. Holds ids back while an answer to Bind is under way, because the edge
/// serves an endpoint before that answer arrives. Locked for the length of a look-up only.
#[derive(Clone, Default)]
pub(super) struct Routes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    /// Each with the plan's key of its endpoint.
    by_bind_id: HashMap<String, (Key, Arc<Route>)>,
    /// Binds under way, by key: the id that was asked for, or an empty one if any may come of it.
    binding: HashMap<Key, String>,
    /// Streams that wait for an answer to a Bind.
    waiting: usize,
}

/// What is known of a bind id.
enum Found {
    Route(Arc<Route>),
    /// An answer under way may make it ours.
    NotYet,
    No,
}

impl Table {
    fn find(&self, bind_id: &str) -> Found {
        if let Some((_, route)) = self.by_bind_id.get(bind_id) {
            return Found::Route(Arc::clone(route));
        }
        let may_become = self.binding.values().any(|asked| asked.is_empty() || asked == bind_id);
        if may_become { Found::NotYet } else { Found::No }
    }
}

impl Routes {
    /// Changes the table; waiting tasks look again.
    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.lock());
        self.0.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The edge is being asked to serve the endpoint, as `bind_id` or, if that is empty, as an id of its choice.
    pub(super) fn binding(&self, key: Key, bind_id: &str) {
        self.change(|table| drop(table.binding.insert(key, bind_id.to_owned())));
    }

    /// The answer is here; what it says was published before.
    pub(super) fn answered(&self, key: Key) {
        self.change(|table| drop(table.binding.remove(&key)));
    }

    /// No answer under way is waited for any more.
    pub(super) fn forget_binding(&self) {
        self.change(|table| table.binding.clear());
    }

    /// `route` serves `bind_id` from now on, and whatever id it had before no more.
    pub(super) fn publish(&self, bind_id: &str, key: Key, route: &Arc<Route>) {
        self.change(|table| {
            table.by_bind_id.retain(|_, (known, _)| *known != key);
            table.by_bind_id.insert(bind_id.to_owned(), (key, Arc::clone(route)));
        });
    }

    /// The endpoint is no longer served.
    pub(super) fn withdraw(&self, key: Key) {
        self.change(|table| {
            table.by_bind_id.retain(|_, (known, _)| *known != key);
            table.binding.remove(&key);
        });
    }

    /// Nothing is served: the connection is lost.
    pub(super) fn clear(&self) {
        self.change(|table| {
            table.by_bind_id.clear();
            table.binding.clear();
        });
    }

    /// The receiver of a bind id's streams. Waits while an answer under way may name the id, unless [`EARLY_MAX`] streams wait
    /// already.
    async fn find(&self, bind_id: &str) -> Option<Arc<Route>> {
        let _waiting = {
            let mut table = self.lock();
            match table.find(bind_id) {
                Found::Route(route) => return Some(route),
                Found::No => return None,
                Found::NotYet if table.waiting >= EARLY_MAX => return None,
                Found::NotYet => table.waiting += 1,
            }
            Waiting(self)
        };
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From now on no change is missed.
            changed.as_mut().enable();
            match self.lock().find(bind_id) {
                Found::Route(route) => return Some(route),
                Found::No => return None,
                Found::NotYet => {}
            }
            changed.await;
        }
    }
}

/// One stream that waits for an answer to a Bind, until dropped.
struct Waiting<'a>(&'a Routes);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut table = self.0.lock();
        table.waiting = table.waiting.saturating_sub(1);
    }
}

/// What transports have to tell the session's loop.
pub(super) enum SessionEvent {
    /// The edge ended an endpoint.
    StopTunnel(StopTunnel),
    /// The edge asks this agent to stop.
    Stop,
    /// These are the other edges now.
    Edges(Edges),
    /// The edge's process ends: connect anew.
    Move,
}

/// Delivers streams of one connection; a clone per carrier.
#[derive(Clone)]
pub(super) struct StreamDispatcher {
    routes: Routes,
    observer: Observer,
    to_loop: mpsc::Sender<SessionEvent>,
    /// Locked for one look.
    claims: Arc<Mutex<Claims>>,
    /// Streams being read or delivered.
    under_way: Arc<watch::Sender<usize>>,
}

/// One stream under way, for as long as it lives.
pub(super) struct UnderWay(Arc<watch::Sender<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|streams| *streams = streams.saturating_sub(1));
    }
}

impl StreamDispatcher {
    pub(super) fn new(routes: Routes, observer: Observer) -> (Self, mpsc::Receiver<SessionEvent>) {
        let (to_loop, events) = mpsc::channel(EVENTS_MAX);
        let (claims, under_way) = (Arc::default(), Arc::new(watch::channel(0).0));
        (Self { routes, observer, to_loop, claims, under_way }, events)
    }

    /// Counts a stream until the guard is dropped; closing waits for it.
    pub(super) fn begin(&self) -> UnderWay {
        self.under_way.send_modify(|streams| *streams += 1);
        UnderWay(self.under_way.clone())
    }

    /// Until no stream is under way.
    pub(super) async fn quiet(&self) {
        // The sender is this dispatcher's own, so it cannot be gone.
        let _ = self.under_way.subscribe().wait_for(|streams| *streams == 0).await;
    }

    /// Tells the session's loop; one that is gone does nothing any more.
    pub(super) async fn tell(&self, event: SessionEvent) {
        let _ = self.to_loop.send(event).await;
    }

    /// Delivers one stream, to its end where an upstream takes it. Counted from the call on. A visitor who comes a second
    /// time, by another way, is not delivered again.
    pub(super) fn take(self, mut proxied: Proxied) -> impl Future<Output = ()> + Send {
        let under_way = self.begin();
        async move {
            if !self.is_first(&proxied.header) {
                proxied.stream.reset(Code::CANCELLED);
            } else if proxied.header.instead == 0 || say_delivered(&mut proxied.stream).await {
                match self.routes.find(&proxied.header.id).await {
                    Some(route) => self.deliver(&route, proxied).await,
                    // REFUSED says that nothing was delivered: the edge may try another member of a pool.
                    None => proxied.stream.reset(Code::REFUSED),
                }
            }
            drop(under_way);
        }
    }

    /// Whether its visitor has not been here.
    fn is_first(&self, header: &ProxyHeader) -> bool {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        [header.claim, header.instead]
            .into_iter()
            .filter(|claim| *claim != 0)
            .all(|claim| claims.decide(claim))
    }

    async fn deliver(&self, route: &Route, proxied: Proxied) {
        let name = || route.name.clone();
        match &route.delivery {
            Delivery::Forward(upstream) => {
                let Err(error) = upstream.deliver(proxied.stream).await else { return };
                let reason = error.to_string();
                (self.observer)(match error {
                    DeliveryError::Broken(Broken::Visitor(_)) => Event::VisitorGone { name: name(), reason },
                    _ => Event::DeliveryFailed { name: name(), reason },
                });
            }
            Delivery::Accept(queue, inbound) => {
                let client = proxied.header.client_addr.parse().ok();
                let stream = match upstream::unwrap(proxied.stream, inbound).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        let reason = error.to_string();
                        return (self.observer)(Event::DeliveryFailed { name: name(), reason });
                    }
                };
                let accepted = Accepted { stream: stream.counted(self.begin()), client };
                if let Err(refused) = queue.try_send(accepted) {
                    refused.into_inner().stream.reset(Code::REFUSED);
                    let reason = "the program does not accept connections fast enough".to_owned();
                    (self.observer)(Event::DeliveryFailed { name: name(), reason });
                }
            }
        }
    }
}

/// Tells the edge that the visitor of an unconfirmed claim is delivered by this stream. False: it does not hear it.
async fn say_delivered(stream: &mut Stream) -> bool {
    let say = async {
        stream.write_u8(DELIVERED).await?;
        stream.flush().await
    };
    matches!(timeout(Duration::from_secs(DELIVERED_SECS_MAX), say).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Arc<Route> {
        let (queue, _) = mpsc::channel(1);
        Arc::new(Route {
            name: "a".into(),
            delivery: Delivery::Accept(queue, super::super::Inbound::default()),
        })
    }

    #[tokio::test]
    async fn a_stream_waits_for_the_answer_that_may_name_its_bind() {
        let (routes, [key, other]) = (Routes::default(), [0, 1]);
        assert!(routes.find("b1").await.is_none(), "nothing is under way");
        routes.binding(key, "");
        routes.binding(other, "b2");
        let (found, stray, ()) = tokio::join!(routes.find("b1"), routes.find("b3"), async {
            routes.publish("b1", key, &route());
            routes.answered(key);
        });
        assert!(found.is_some());
        assert!(stray.is_none(), "what is still under way asked for another id");
        let (lost, ()) = tokio::join!(routes.find("b2"), async { routes.clear() });
        assert!(lost.is_none());
        assert_eq!(routes.lock().waiting, 0);
    }

    #[tokio::test]
    async fn so_many_streams_wait_for_an_answer_and_no_more() {
        let (routes, key) = (Routes::default(), 0);
        routes.binding(key, "");
        let mut waiting: Vec<_> = (0..EARLY_MAX).map(|_| Box::pin(routes.find("b1"))).collect();
        for stream in &mut waiting {
            tokio::select! {
                biased;
                _ = stream => panic!("nobody serves it yet"),
                () = std::future::ready(()) => {}
            }
        }
        assert!(routes.find("b1").await.is_none(), "one too many");
        routes.publish("b1", key, &route());
        for stream in waiting {
            assert!(stream.await.is_some());
        }
    }
}
