//! Upstream connections that visitors share: which visitor gets which connection, what is sent twice, and what else a bad peer
//! can hurt.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_edge::dispatch::gateway::HttpOutcome;
use ebbgate_edge::http::limits::Limits;
use ebbgate_edge::state::endpoint::{Endpoint, Kind};
use ebbgate_edge::tunnel::session::ProxyProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use crate::lab::{
    Counted, KEPT_UPSTREAM, Lab, Made, SeenRequest, http_conn_from, https_conn, local, read_strictly,
    read_until, scripted,
};

const URL: &str = "http://a.example.com";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// What an upstream saw: the requests, each with the number of the connection that brought it.
#[derive(Clone, Default)]
struct Seen(Rc<RefCell<Log>>);

#[derive(Default)]
struct Log {
    connections: usize,
    ended: usize,
    requests: Vec<(usize, SeenRequest)>,
}

impl Seen {
    /// The connection of each request.
    fn connections(&self) -> Vec<usize> {
        self.0.borrow().requests.iter().map(|(connection, _)| *connection).collect()
    }

    fn requests(&self) -> usize {
        self.0.borrow().requests.len()
    }

    /// Connections that are open.
    fn open(&self) -> usize {
        let log = self.0.borrow();
        log.connections - log.ended
    }

    /// An upstream that answers what `answer` says to the nth request of a connection. An empty answer closes it.
    fn upstream<A: Fn(&SeenRequest, usize) -> String + Clone + 'static>(
        &self,
        answer: A,
    ) -> impl Fn(DuplexStream) + use<A> + 'static {
        let seen = self.clone();
        scripted(move |io| serve(seen.clone(), io, answer.clone()))
    }
}

async fn serve(seen: Seen, mut io: DuplexStream, answer: impl Fn(&SeenRequest, usize) -> String) {
    let connection = seen.0.borrow().connections;
    seen.0.borrow_mut().connections += 1;
    let mut input = Vec::new();
    for nth in 0.. {
        let Ok(Some(request)) = read_strictly(&mut io, &mut input).await else { break };
        let text = answer(&request, nth);
        seen.0.borrow_mut().requests.push((connection, request));
        if text.is_empty() || io.write_all(text.as_bytes()).await.is_err() {
            break;
        }
    }
    seen.0.borrow_mut().ended += 1;
}

/// A visitor's connection.
struct Visitor {
    io: DuplexStream,
    serving: JoinHandle<HttpOutcome>,
}

impl Visitor {
    fn new(lab: &Lab) -> Self {
        Self::from(lab, "192.0.2.7:40000")
    }

    fn from(lab: &Lab, client: &str) -> Self {
        let (io, serving) = lab.visit(http_conn_from(client), Limits::default());
        Self { io, serving }
    }

    async fn send(&mut self, line: &str, fields: &str, body: &str) {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let text = format!("{line} HTTP/1.1\r\nHost: a.example.com\r\n{fields}{length}\r\n{body}");
        self.io.write_all(text.as_bytes()).await.unwrap();
    }

    /// A GET and the status of its answer.
    async fn get(&mut self, fields: &str) -> String {
        self.request("GET /", fields, "").await
    }

    async fn request(&mut self, line: &str, fields: &str, body: &str) -> String {
        self.send(line, fields, body).await;
        self.status().await
    }

    /// Reads an answer with a length, and gives its status.
    async fn status(&mut self) -> String {
        let mut read = Vec::new();
        let (head, body) = loop {
            let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
            match text.split_once("\r\n\r\n") {
                Some((head, _)) => break (head.to_owned(), read.split_off(head.len() + 4)),
                None => assert_ne!(self.io.read_buf(&mut read).await.unwrap(), 0, "{text}"),
            }
        };
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        self.io.read_exact(&mut vec![0; length - body.len()]).await.unwrap();
        head.get(9..12).unwrap_or_default().to_owned()
    }

    /// Leaves, and waits until the edge has noticed.
    async fn leave(self) {
        drop(self.io);
        let _ = self.serving.await;
    }
}

fn ok(_: &SeenRequest, _: usize) -> String {
    OK.into()
}

/// What has to be done is done without a clock.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn visitors_share_connections_and_the_last_one_used_is_the_next() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let (release, held) = watch::channel(false);
        lab.agent(URL, Made::default(), {
            let seen = seen.clone();
            scripted(move |io| {
                let (seen, mut held) = (seen.clone(), held.clone());
                async move {
                    let _ = held.wait_for(|released| *released).await;
                    serve(seen, io, ok).await;
                }
            })
        });
        // More than any earlier limit of streams in flight or of connections for each visitor.
        let mut visitors: Vec<_> = (0..200).map(|_| Visitor::new(&lab)).collect();
        for visitor in &mut visitors {
            visitor.send("GET /", "", "").await;
        }
        settle().await;
        assert_eq!((lab.opened(), seen.requests()), (200, 0), "as wide as requests are in flight");
        release.send_replace(true);
        for visitor in &mut visitors {
            assert_eq!(visitor.status().await, "200");
        }
        for visitor in &mut visitors {
            visitor.send("GET /", "", "").await;
        }
        for visitor in &mut visitors {
            assert_eq!(visitor.status().await, "200");
        }
        for _ in 0..50 {
            assert_eq!(Visitor::new(&lab).get("").await, "200");
        }
        assert_eq!(lab.opened(), 200);
        let last: std::collections::HashSet<_> = seen.connections().into_iter().skip(400).collect();
        assert_eq!(last.len(), 1, "one after another needs one connection");
        assert_eq!(lab.counted(), Counted { opened: 200, reused: 250, idle: 200 });
        sleep(KEPT_UPSTREAM.mul_f32(1.5)).await;
        assert_eq!((lab.counted().idle, seen.open()), (0, 0), "idle connections are given back");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_behind_a_proxy_header_serves_one_visitor_connection() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let made = Made { proxy_protocol: Some(ProxyProtocol::V2), ..Made::default() };
        lab.agent(URL, made, seen.upstream(ok));
        let (mut a, mut b) = (Visitor::new(&lab), Visitor::from(&lab, "192.0.2.7:40001"));
        for _ in 0..2 {
            assert_eq!((a.get("").await, b.get("").await), ("200".into(), "200".into()));
        }
        assert_eq!(seen.connections(), [0, 1, 0, 1]);
        a.leave().await;
        settle().await;
        assert_eq!(seen.open(), 1, "the connection goes with its visitor");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_sees_client_addresses_sees_the_right_one() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        lab.agent(URL, Made { shows_client: true, ..Made::default() }, seen.upstream(ok));
        for client in
            ["192.0.2.7:40000", "192.0.2.7:40001", "192.0.2.8:40000", "[2001:db8::1]:1", "192.0.2.8:2"]
        {
            assert_eq!(Visitor::from(&lab, client).get("").await, "200");
        }
        assert_eq!(seen.connections(), [0, 0, 1, 2, 1], "one address, one connection");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_authenticated_connection_belongs_to_its_visitor() {
    local(async {
        let refused = |fields: &'static str| {
            move |request: &SeenRequest, _: usize| match request.field("authorization") {
                Some(_) => OK.into(),
                None => format!("HTTP/1.1 401 Unauthorized\r\n{fields}\r\nContent-Length: 0\r\n\r\n"),
            }
        };
        for challenge in [
            "WWW-Authenticate: NTLM",
            "www-authenticate: Basic realm=\"a\", nEGOTIATE",
            "Proxy-Authenticate: Negotiate",
        ] {
            let (lab, seen) = (Lab::default(), Seen::default());
            lab.agent(URL, Made::default(), seen.upstream(refused(challenge)));
            let (mut a, mut b) = (Visitor::new(&lab), Visitor::new(&lab));
            assert_eq!(a.get("").await, "401");
            assert_eq!(b.get("").await, "401");
            // The handshake and what follows it stay on the connection of the challenge, whatever the method.
            assert_eq!(a.request("POST /", "Authorization: NTLM a\r\n", "body").await, "200");
            assert_eq!(a.request("GET /", "Authorization: NTLM a\r\n", "").await, "200");
            assert_eq!(b.request("POST /", "Authorization: NTLM b\r\n", "").await, "200");
            assert_eq!(seen.connections(), [0, 1, 0, 0, 1], "{challenge}");
            assert_eq!(Visitor::new(&lab).get("").await, "401");
            assert_eq!(seen.connections()[5], 2, "{challenge}");
            a.leave().await;
            settle().await;
            assert_eq!(Visitor::new(&lab).get("").await, "401");
            assert!(seen.connections()[6] > 2, "{challenge}: never given to the pool again");
            assert!(seen.open() < 4, "{challenge}: it is closed with its visitor");
        }

        // A request that authenticates a connection of the pool takes it out of the pool.
        for scheme in
            ["Authorization: negotiate YII=", "Proxy-Authorization: NTLM x", "AUTHORIZATION: ntlm x"]
        {
            let (lab, seen) = (Lab::default(), Seen::default());
            lab.agent(URL, Made::default(), seen.upstream(ok));
            assert_eq!(Visitor::new(&lab).get("").await, "200");
            let mut a = Visitor::new(&lab);
            assert_eq!(a.get(&format!("{scheme}\r\n")).await, "200");
            assert_eq!(Visitor::new(&lab).get("").await, "200");
            assert_eq!(a.get("").await, "200");
            assert_eq!(seen.connections(), [0, 0, 1, 0], "{scheme}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_schemes_share() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let basic = |_: &SeenRequest, _: usize| {
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n"
                .into()
        };
        lab.agent(URL, Made::default(), seen.upstream(basic));
        for _ in 0..3 {
            assert_eq!(Visitor::new(&lab).get("Authorization: Bearer ntlm\r\n").await, "401");
        }
        assert_eq!(seen.connections(), [0, 0, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_asked_to_leave_http_is_not_used_again() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        lab.agent(URL, Made::default(), seen.upstream(ok));
        let mut a = Visitor::new(&lab);
        assert_eq!(a.get("Connection: Upgrade\r\nUpgrade: websocket\r\n").await, "200");
        assert_eq!(a.get("").await, "200");
        assert_eq!(seen.connections(), [0, 1]);
        settle().await;
        assert_eq!(seen.open(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_replaced_endpoint_gets_no_old_connection() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let endpoint = lab.agent(URL, Made::default(), seen.upstream(ok));
        assert_eq!(Visitor::new(&lab).get("").await, "200");
        lab.replace(&endpoint);
        for _ in 0..2 {
            assert_eq!(Visitor::new(&lab).get("").await, "200");
        }
        assert_eq!(seen.connections(), [0, 1, 1]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_costs_no_request_that_may_be_repeated() {
    local(async {
        for (line, body) in [("GET /", ""), ("PUT /", "whole"), ("DELETE /", ""), ("OPTIONS /", "x")] {
            let (lab, seen) = (Lab::default(), Seen::default());
            // It closes at the second request of a connection, without a word.
            let once = |_: &SeenRequest, nth: usize| if nth == 0 { OK.into() } else { String::new() };
            lab.agent(URL, Made::default(), seen.upstream(once));
            assert_eq!(Visitor::new(&lab).get("").await, "200");
            assert_eq!(Visitor::new(&lab).request(line, "", body).await, "200", "{line}");
            assert_eq!(seen.connections(), [0, 0, 1], "{line}: sent again once, on a fresh connection");
            let log = seen.0.borrow();
            assert!(
                log.requests.iter().skip(1).all(|(_, request)| request.body == body.as_bytes()),
                "{line}"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_answered_in_part_is_not_repeated() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let torn = scripted({
            let seen = seen.clone();
            move |mut io| {
                let seen = seen.clone();
                async move {
                    let mut input = Vec::new();
                    for answer in [OK, "HTTP/1.1 2"] {
                        let Ok(Some(request)) = read_strictly(&mut io, &mut input).await else { return };
                        seen.0.borrow_mut().requests.push((0, request));
                        let _ = io.write_all(answer.as_bytes()).await;
                    }
                }
            }
        });
        lab.agent(URL, Made::default(), torn);
        assert_eq!(Visitor::new(&lab).get("").await, "200");
        assert_eq!(Visitor::new(&lab).get("").await, "502");
        assert_eq!(seen.requests(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_post_goes_out_once_on_a_connection_of_its_own() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        lab.agent(URL, Made::default(), seen.upstream(ok));
        assert_eq!(Visitor::new(&lab).get("").await, "200");
        for n in 0..20 {
            assert_eq!(Visitor::new(&lab).request("POST /", "", "body").await, "200");
            assert_eq!(seen.connections().last(), Some(&(n + 1)));
        }
        settle().await;
        assert_eq!((lab.counted().idle, seen.open()), (1, 1), "each takes the place of the one before");
        assert_eq!(Visitor::new(&lab).get("").await, "200");
        assert_eq!(seen.connections().last(), Some(&20), "the next GET uses it");

        let (lab, seen) = (Lab::default(), Seen::default());
        lab.agent(URL, Made::default(), seen.upstream(|_, _| String::new()));
        assert_eq!(Visitor::new(&lab).request("POST /", "", "body").await, "502");
        assert_eq!(seen.requests(), 1, "its bytes went out, so it is not sent again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_a_response_reach_no_other_visitor() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let more =
            |_: &SeenRequest, _: usize| format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
        lab.agent(URL, Made::default(), seen.upstream(more));
        for _ in 0..3 {
            let mut visitor = Visitor::new(&lab);
            visitor.send("GET /", "Connection: close\r\n", "").await;
            let answer = read_until(&mut visitor.io, "no end").await;
            assert!(answer.ends_with("hello"), "{answer}");
        }
        assert_eq!(seen.connections(), [0, 1, 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_leaves_or_does_not_read_holds_its_own_connection_only() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let answers = |request: &SeenRequest, _: usize| match request.line.as_str() {
            "GET /large HTTP/1.1" => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000))
            }
            _ => OK.into(),
        };
        lab.agent(URL, Made::default(), seen.upstream(answers));
        let mut slow = Visitor::new(&lab);
        slow.send("GET /large", "", "").await;
        let mut upload = Visitor::new(&lab);
        let head = "POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 10\r\n\r\nhalf";
        upload.io.write_all(head.as_bytes()).await.unwrap();
        settle().await;
        let mut other = Visitor::new(&lab);
        for _ in 0..3 {
            assert_eq!(other.get("").await, "200");
        }
        assert_eq!(lab.opened(), 3);
        upload.leave().await;
        settle().await;
        assert_eq!(other.get("").await, "200");
        assert_eq!((lab.opened(), seen.open()), (3, 2), "the upload's connection is gone, no other");
        slow.leave().await;
        settle().await;
        assert_eq!((other.get("").await, lab.opened(), seen.open()), ("200".into(), 3, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_make_room_in_a_full_session_at_once() {
    local(async {
        let (lab, seen) = (Lab::default(), Seen::default());
        let made = Made { streams_max: 3, ..Made::default() };
        let first = lab.agent(URL, made, seen.upstream(ok));
        let Kind::Agent(agent) = &first.kind else { panic!("an agent's endpoint") };
        lab.agent_of(agent.session.clone(), "http://b.example.com", Made::default(), seen.upstream(ok));
        let mut visitors: Vec<_> = (0..3).map(|_| Visitor::new(&lab)).collect();
        for visitor in &mut visitors {
            visitor.send("GET /", "", "").await;
        }
        for visitor in &mut visitors {
            assert_eq!(visitor.status().await, "200");
        }
        assert_eq!((lab.counted().idle, agent.session.in_flight()), (3, 3), "the session is full");
        let started = Instant::now();
        let read = lab.talk(b"GET / HTTP/1.1\r\nHost: b.example.com\r\nConnection: close\r\n\r\n").await;
        assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
        assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
        assert_eq!((lab.counted().idle, agent.session.in_flight()), (3, 3), "one made place for the other");
        // Without an idle connection there is no room, and no wait for it either.
        let full = std::iter::from_fn(|| agent.session.slot().ok());
        assert_eq!(full.count(), 0);
    })
    .await;
}

mod http2 {
    use super::*;
    use h2::client::SendRequest;
    use http::{Request, Response};

    const URL: &str = "https://a.example.com";

    /// What an HTTP/2 upstream saw.
    #[derive(Default)]
    struct Streams {
        connections: Cell<usize>,
        open: RefCell<Vec<usize>>,
        most: Cell<usize>,
    }

    /// An upstream that takes `streams_max` streams for each connection, and answers when it is released.
    fn upstream(
        seen: &Rc<Streams>,
        streams_max: u32,
        released: &watch::Receiver<bool>,
        head: &'static [(&'static str, &'static str)],
    ) -> impl Fn(DuplexStream) + use<> + 'static {
        let (seen, released) = (seen.clone(), released.clone());
        scripted(move |io| {
            let (seen, released) = (seen.clone(), released.clone());
            async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams_max);
                let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
                let at = seen.connections.replace(seen.connections.get() + 1);
                seen.open.borrow_mut().push(0);
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (seen, mut released) = (seen.clone(), released.clone());
                    spawn_local(async move {
                        seen.open.borrow_mut()[at] += 1;
                        seen.most.set(seen.most.get().max(seen.open.borrow()[at]));
                        let mut response = Response::builder();
                        for (name, value) in head {
                            response = response.header(*name, *value);
                        }
                        let response = response.body(()).unwrap();
                        match request.uri().path() {
                            "/large" => {
                                let mut send = respond.send_response(response, false).unwrap();
                                let _ = send.send_data(Bytes::from(vec![b'x'; 4_000_000]), true);
                            }
                            // Reads nothing, as long as the stream is there.
                            "/deaf" => {
                                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                            }
                            _ => {
                                let _ = released.wait_for(|released| *released).await;
                                let _ = respond.send_response(response, true);
                            }
                        }
                        seen.open.borrow_mut()[at] -= 1;
                    });
                }
            }
        })
    }

    async fn visitor(lab: &Lab, first: &Arc<Endpoint>) -> SendRequest<Bytes> {
        let (io, _serving) = lab.visit(https_conn(first, true), Limits::default());
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(connection);
        sender.ready().await.unwrap()
    }

    fn request(path: &str) -> Request<()> {
        Request::post(format!("{URL}{path}")).body(()).unwrap()
    }

    fn made() -> Made {
        Made { http2: true, ..Made::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn visitors_share_and_the_limit_of_streams_opens_another_connection() {
        local(async {
            let lab = Lab::default();
            let (seen, (release, released)) = (Rc::<Streams>::default(), watch::channel(false));
            let first = lab.agent(URL, made(), upstream(&seen, 2, &released, &[]));
            let mut answers = Vec::new();
            for _ in 0..5 {
                let mut visitor = visitor(&lab, &first).await;
                let (answer, _) = visitor.send_request(request("/"), true).unwrap();
                answers.push((answer, visitor));
                settle().await;
            }
            assert_eq!((lab.opened(), seen.most.get()), (3, 2));
            assert_eq!(*seen.open.borrow(), [2, 2, 1]);
            release.send_replace(true);
            for (answer, _visitor) in answers {
                assert_eq!(answer.await.unwrap().status(), 200);
            }
            let mut late = visitor(&lab, &first).await;
            let (answer, _) = late.send_request(request("/"), true).unwrap();
            assert_eq!((answer.await.unwrap().status().as_u16(), lab.opened()), (200, 3));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_come_together_open_one_connection() {
        local(async {
            let lab = Lab::default();
            let (seen, (_release, released)) = (Rc::<Streams>::default(), watch::channel(true));
            let first = lab.agent(URL, made(), upstream(&seen, 100, &released, &[]));
            let mut visitors = Vec::new();
            for _ in 0..20 {
                visitors.push(visitor(&lab, &first).await);
            }
            let answers: Vec<_> =
                visitors.iter_mut().map(|v| v.send_request(request("/"), true).unwrap().0).collect();
            for answer in answers {
                assert_eq!(answer.await.unwrap().status(), 200);
            }
            assert_eq!(lab.opened(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_that_stalls_or_leaves_stalls_no_other() {
        local(async {
            let lab = Lab::default();
            let (seen, (_release, released)) = (Rc::<Streams>::default(), watch::channel(true));
            let first = lab.agent(URL, made(), upstream(&seen, 100, &released, &[]));
            // Each reads nothing of an answer that is larger than all windows on its way.
            let mut stalled = Vec::new();
            for _ in 0..20 {
                let mut visitor = visitor(&lab, &first).await;
                let (answer, _) = visitor.send_request(request("/large"), true).unwrap();
                stalled.push((answer.await.unwrap(), visitor));
                settle().await;
            }
            let mut other = visitor(&lab, &first).await;
            for _ in 0..3 {
                let (answer, _) = other.send_request(request("/"), true).unwrap();
                assert_eq!(answer.await.unwrap().status(), 200);
            }
            assert_eq!(lab.opened(), 1, "on one connection");
            drop(stalled);
            settle().await;
            let (answer, _) = other.send_request(request("/large"), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            let mut read = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                read += data.len();
            }
            assert_eq!((read, lab.opened()), (4_000_000, 1));

            // An upload that fills the window of the connection: others take another connection.
            let mut deaf = visitor(&lab, &first).await;
            let (_answer, mut upload) = deaf.send_request(request("/deaf"), false).unwrap();
            upload.send_data(Bytes::from(vec![b'x'; 500_000]), false).unwrap();
            settle().await;
            let (answer, mut upload) = other.send_request(request("/"), false).unwrap();
            upload.send_data(Bytes::from_static(b"body"), true).unwrap();
            assert_eq!((answer.await.unwrap().status().as_u16(), lab.opened()), (200, 2));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_authenticated_connection_belongs_to_its_visitor() {
        local(async {
            let lab = Lab::default();
            let (seen, (_release, released)) = (Rc::<Streams>::default(), watch::channel(true));
            let challenge = &[("www-authenticate", "Negotiate")];
            let first = lab.agent(URL, made(), upstream(&seen, 100, &released, challenge));
            let (mut a, mut b) = (visitor(&lab, &first).await, visitor(&lab, &first).await);
            for _ in 0..2 {
                a.send_request(request("/"), true).unwrap().0.await.unwrap();
                b.send_request(request("/"), true).unwrap().0.await.unwrap();
            }
            assert_eq!(lab.opened(), 4, "a connection that asks for authentication is not shared");
            let authenticated = || {
                let request = Request::post(URL).header("authorization", "Negotiate YII=");
                request.body(()).unwrap()
            };
            for _ in 0..3 {
                a.send_request(authenticated(), true).unwrap().0.await.unwrap();
                b.send_request(authenticated(), true).unwrap().0.await.unwrap();
            }
            assert_eq!(lab.opened(), 6, "one for each of them");
        })
        .await;
    }
}
