//! Hands proxied streams to whoever takes an endpoint's connections. Carriers deliver beside the session's loop, which
//! hears only of streams that nobody serves yet; all it does is publish who serves what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_wire::link::DELIVERED;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{ProxyHeader, StopTunnel};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, timeout};

use super::{Accepted, Delivery, Event, Observer};
use crate::claims::Claims;
use crate::plan::Key;
use crate::relay::Broken;
use crate::stream::{Proxied, Stream};
use crate::upstream::{self, DeliveryError};

/// What carriers have to tell that the session's loop has not heard yet; more of it waits.
const HEARD_MAX: usize = 64;

/// Seconds a stream may take to carry the word that its visitor is delivered there.
const DELIVERED_SECS_MAX: u64 = 10;

/// Who takes the connections of one endpoint.
#[derive(Debug)]
pub(super) struct Route {
    /// The endpoint's name, for events.
    pub(super) name: String,
    pub(super) delivery: Delivery,
}

/// Routes by bind id, each with the plan's key of its endpoint.
type ByBindId = HashMap<String, (Key, Arc<Route>)>;

/// Who serves which bind id now. Locked for the length of a look-up only.
#[derive(Clone, Default)]
pub(super) struct Routes(Arc<Mutex<ByBindId>>);

impl Routes {
    fn lock(&self) -> MutexGuard<'_, ByBindId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `route` serves `bind_id` from now on, and whatever id it had before no more.
    pub(super) fn publish(&self, bind_id: &str, key: Key, route: &Arc<Route>) {
        let mut routes = self.lock();
        routes.retain(|_, (known, _)| *known != key);
        routes.insert(bind_id.to_owned(), (key, route.clone()));
    }

    /// The endpoint is no longer served.
    pub(super) fn withdraw(&self, key: Key) {
        self.lock().retain(|_, (known, _)| *known != key);
    }

    /// Nothing is served: the connection is lost.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn find(&self, bind_id: &str) -> Option<Arc<Route>> {
        self.lock().get(bind_id).map(|(_, route)| route.clone())
    }
}

/// What carriers cannot decide, for the session's loop.
pub(super) enum Heard {
    /// Nobody serves this stream, or not yet.
    Unrouted(Proxied),
    /// The edge ended an endpoint.
    StopTunnel(StopTunnel),
    /// The edge asks this agent to stop.
    Stop,
}

/// Delivers streams of one connection; a clone per carrier.
#[derive(Clone)]
pub(super) struct Desk {
    routes: Routes,
    observer: Observer,
    to_loop: mpsc::Sender<Heard>,
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

impl Desk {
    pub(super) fn new(routes: Routes, observer: Observer) -> (Self, mpsc::Receiver<Heard>) {
        let (to_loop, heard) = mpsc::channel(HEARD_MAX);
        let (claims, under_way) = (Arc::default(), Arc::new(watch::channel(0).0));
        (Self { routes, observer, to_loop, claims, under_way }, heard)
    }

    /// Counts a stream until the guard is dropped; closing waits for it.
    pub(super) fn begin(&self) -> UnderWay {
        self.under_way.send_modify(|streams| *streams += 1);
        UnderWay(self.under_way.clone())
    }

    /// Until no stream is under way.
    pub(super) async fn quiet(&self) {
        // The sender is this desk's own, so it cannot be gone.
        let _ = self.under_way.subscribe().wait_for(|streams| *streams == 0).await;
    }

    /// Tells the session's loop; one that is gone does nothing any more.
    pub(super) async fn tell(&self, heard: Heard) {
        let _ = self.to_loop.send(heard).await;
    }

    /// Delivers one stream, to its end where an upstream takes it. Counted from the call on. A visitor who comes a second
    /// time, by another way, is not delivered again.
    pub(super) fn take(self, mut proxied: Proxied) -> impl Future<Output = ()> + Send {
        let under_way = self.begin();
        async move {
            if !self.is_first(&proxied.header) {
                proxied.stream.reset(Code::CANCELLED);
            } else if proxied.header.instead == 0 || say_delivered(&mut proxied.stream).await {
                match self.routes.find(&proxied.header.id) {
                    Some(route) => self.deliver(&route, proxied).await,
                    None => self.tell(Heard::Unrouted(proxied)).await,
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

    /// Delivers a stream that waited until its endpoint is known, if it is known by now.
    pub(super) fn take_late(self, mut proxied: Proxied) -> impl Future<Output = ()> + Send {
        let under_way = self.begin();
        async move {
            match self.routes.find(&proxied.header.id) {
                Some(route) => self.deliver(&route, proxied).await,
                // REFUSED says that nothing was delivered: the edge may try another member of a pool.
                None => proxied.stream.reset(Code::REFUSED),
            }
            drop(under_way);
        }
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
                let accepted = Accepted { stream, client };
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
