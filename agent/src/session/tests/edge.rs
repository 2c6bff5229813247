//! A small edge on the wire crate's driver: answers Auth and Bind as a test scripts it, remembers what it was asked, and
//! opens proxied streams. Works over any byte stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ebbgate_tunnel::driver::{self, Stream};
use ebbgate_tunnel::link::{LinkStream, Parked, answer_hello, read_hello};
use ebbgate_tunnel::{heartbeat, rpc_io};
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{
    Auth, AuthReply, AuthReplyExtra, Bind, BindReply, CarrierOffer, ConnectAddress, Edges, Outcome,
    ProxyHeader, Secret, StopTunnel, StreamKind, Unbind, UnbindReply, error_text,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::stream::Carrier;

#[derive(Default)]
pub(super) struct Book {
    pub(super) auths: Vec<Auth>,
    pub(super) binds: Vec<Bind>,
    pub(super) unbinds: Vec<String>,
    /// Bind ids served now, by URL.
    pub(super) served: BTreeMap<String, String>,
    /// Codes to refuse the next Auths with.
    pub(super) refuse_auth: VecDeque<u32>,
    /// Codes to refuse the next Binds of a URL with.
    pub(super) refuse_bind: BTreeMap<String, VecDeque<u32>>,
    /// The next Binds go unanswered.
    pub(super) silent_binds: u32,
    /// Milliseconds between serving an endpoint and saying so.
    pub(super) bind_delay_ms: u64,
    /// Heartbeats go unanswered.
    pub(super) mute: bool,
    /// What beside the session is offered.
    pub(super) offer: Option<CarrierOffer>,
    /// Links are refused with this code.
    pub(super) refuse_links: Option<Code>,
    /// Links that asked to be taken.
    pub(super) link_hellos: u32,
    /// Links that wait for a visitor.
    pub(super) parked: Vec<Parked<Box<dyn Carrier>>>,
    /// Its name among several.
    pub(super) id: String,
    /// What it says of the others.
    pub(super) others: Vec<String>,
    session: Option<driver::Session>,
}

/// A cut connection serves nothing, however it was cut.
struct Forget(Edge);

impl Drop for Forget {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.served.clear();
        book.parked.clear();
    }
}

/// Shared by all connections of one simulated edge.
#[derive(Clone, Default)]
pub(super) struct Edge {
    book: Arc<Mutex<Book>>,
    next_id: Arc<AtomicU64>,
}

impl Edge {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Serves one agent connection to its end; dropping the future cuts the connection.
    pub(super) async fn serve<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (session, mut incoming, driving) = driver::connect(io, Role::Server, Limits::EDGE);
        self.book().session = Some(session.clone());
        let _forget = Forget(self.clone());
        let accepting = async {
            let mut tasks = tokio::task::JoinSet::new();
            while let Some(stream) = incoming.accept().await {
                let edge = self.clone();
                tasks.spawn(async move { edge.answer(stream).await });
            }
        };
        tokio::select! {
            _ = driving => {}
            () = accepting => {}
        }
    }

    async fn answer(&self, mut stream: Stream) -> Option<()> {
        let kind = stream.kind().await.ok()?;
        if kind == StreamKind::Heartbeat {
            let mute = self.book().mute;
            if mute {
                std::future::pending::<()>().await;
            }
            return heartbeat::echo(stream, || {}).await.ok();
        }
        let request = rpc_io::read_object(&mut stream).await.ok()?;
        match kind {
            StreamKind::Auth => {
                let reply = self.auth(Auth::decode(request).unwrap());
                rpc_io::write_object(&mut stream, &reply).await.ok()
            }
            StreamKind::Bind => {
                if self.swallows_bind() {
                    std::future::pending::<()>().await;
                }
                let reply = self.bind(&Bind::decode(request).unwrap());
                let delay = std::time::Duration::from_millis(self.book().bind_delay_ms);
                tokio::time::sleep(delay).await;
                rpc_io::write_object(&mut stream, &reply).await.ok()
            }
            StreamKind::Unbind => {
                let id = Unbind::decode(request).unwrap().id;
                self.unbind(id);
                rpc_io::write_object(&mut stream, &UnbindReply::default()).await.ok()
            }
            other => panic!("the agent opened a {other:?} stream"),
        }
    }

    fn auth(&self, auth: Auth) -> AuthReply {
        let mut book = self.book();
        book.auths.push(auth.clone());
        if let Some(code) = book.refuse_auth.pop_front() {
            return AuthReply::refused(error_text("not you", code));
        }
        let known = !auth.client_id.is_empty()
            && auth.extra.cookie.expose() == format!("cookie of {}", auth.client_id);
        let client_id = if known { auth.client_id } else { format!("client{}", self.fresh()) };
        AuthReply {
            version: "3".into(),
            extra: AuthReplyExtra {
                cookie: Secret::new(format!("cookie of {client_id}")),
                region: "lab".into(),
                carriers: book.offer.clone(),
                edge_id: book.id.clone(),
                connect_addresses: Some(named(&book.others)),
                ..AuthReplyExtra::default()
            },
            client_id,
            error: String::new(),
        }
    }

    fn bind(&self, bind: &Bind) -> BindReply {
        let mut book = self.book();
        book.binds.push(bind.clone());
        let asked = bind.opts.0["URL"].as_str().unwrap_or_default().to_owned();
        if let Some(code) = book.refuse_bind.get_mut(&asked).and_then(VecDeque::pop_front) {
            return BindReply::refused(bind, error_text("not this", code));
        }
        let url = if asked.is_empty() { format!("https://random{}.example", self.fresh()) } else { asked };
        let id = if bind.id.is_empty() { format!("bind{}", self.fresh()) } else { bind.id.clone() };
        book.served.insert(url.clone(), id.clone());
        let token = Secret::new(format!("token of {id}"));
        bind.reply(id, &url.parse().unwrap(), token, "tn_1".into())
    }

    fn swallows_bind(&self) -> bool {
        let mut book = self.book();
        let silent = book.silent_binds > 0;
        book.silent_binds = book.silent_binds.saturating_sub(1);
        silent
    }

    fn unbind(&self, id: String) {
        let mut book = self.book();
        book.served.retain(|_, served| *served != id);
        book.unbinds.push(id);
    }

    fn fresh(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Offers links from the next Auth on.
    pub(super) fn offer_links(&self, links_max: u16) {
        let offer = CarrierOffer {
            ticket: Secret::new("ticket"),
            links_max,
            link_version: 2,
            ..CarrierOffer::default()
        };
        self.book().offer = Some(offer);
    }

    /// Takes a link, or refuses it.
    pub(super) async fn serve_link(&self, mut io: Box<dyn Carrier>) {
        let Ok(hello) = read_hello(&mut io).await else { return };
        let refused = {
            let mut book = self.book();
            book.link_hellos += 1;
            book.refuse_links.or((hello.ticket.expose() != "ticket").then_some(Code::REFUSED))
        };
        let answered = answer_hello(&mut io, refused.unwrap_or(Code::NONE)).await;
        if answered.is_ok() && refused.is_none() {
            self.book().parked.push(Parked::new(io, hello.version));
        }
    }

    /// A visitor of `url` on an idle link.
    pub(super) fn visit_link(&self, url: &str) -> LinkStream<Box<dyn Carrier>> {
        self.claim_link(url, 0)
    }

    /// The same by a claim of this number.
    pub(super) fn claim_link(&self, url: &str, claim: u64) -> LinkStream<Box<dyn Carrier>> {
        let mut book = self.book();
        let id = book.served.get(url).expect("served").clone();
        let link = book.parked.pop().expect("a link waits");
        link.claim(&ProxyHeader { claim, ..header(&id) }).unwrap()
    }

    /// A visitor of `url` in place of the claim of this number.
    pub(super) async fn visit_instead(&self, url: &str, instead: u64) -> Stream {
        let id = self.book().served.get(url).expect("served").clone();
        let mut stream = self.session().open(StreamKind::Proxy).await.unwrap();
        let header = ProxyHeader { instead, ..header(&id) };
        rpc_io::write_proxy_header(&mut stream, &header).await.unwrap();
        stream
    }

    /// The visitor left in order; the link waits for the next.
    pub(super) async fn park_again(&self, visitor: LinkStream<Box<dyn Carrier>>) {
        let version = visitor.version();
        let freed = visitor.freed().await.expect("an orderly end");
        self.book().parked.push(Parked::new(freed, version));
    }

    fn session(&self) -> driver::Session {
        self.book().session.clone().expect("an agent connected")
    }

    /// A visitor's stream to whoever serves `url`.
    pub(super) async fn visit(&self, url: &str) -> Stream {
        let id = self.book().served.get(url).expect("served").clone();
        self.visit_bind(&id).await
    }

    pub(super) async fn visit_bind(&self, id: &str) -> Stream {
        let mut stream = self.session().open(StreamKind::Proxy).await.unwrap();
        rpc_io::write_proxy_header(&mut stream, &header(id)).await.unwrap();
        stream
    }

    pub(super) async fn open(&self, kind: StreamKind) -> Stream {
        self.session().open(kind).await.unwrap()
    }

    pub(super) async fn stop_tunnel(&self, id: &str) {
        let notice = StopTunnel { id: id.into(), message: "over".into(), error_code: "ERR_NGROK_300".into() };
        rpc_io::notify(self.open(StreamKind::StopTunnel).await, &notice).await.unwrap();
    }

    /// Names the other edges.
    pub(super) async fn tell_of(&self, others: &[&str], leave: bool) {
        let others: Vec<String> = others.iter().map(|&other| other.to_owned()).collect();
        let notice = Edges { connect_addresses: named(&others), leave };
        rpc_io::notify(self.open(StreamKind::Edges).await, &notice).await.unwrap();
    }

    /// Asks Stop, Restart or Update; the error text of the answer.
    pub(super) async fn ask(&self, kind: StreamKind) -> String {
        let reply = rpc_io::call(self.open(kind).await, &serde_json::json!({})).await.unwrap();
        Outcome::decode(reply).unwrap().error
    }
}

fn named(others: &[String]) -> Vec<ConnectAddress> {
    let named = |other: &String| ConnectAddress { region: String::new(), server_addr: other.clone() };
    others.iter().map(named).collect()
}

fn header(id: &str) -> ProxyHeader {
    ProxyHeader {
        id: id.into(),
        client_addr: "203.0.113.7:4711".into(),
        proto: "tls".into(),
        ..ProxyHeader::default()
    }
}
