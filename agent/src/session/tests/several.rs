//! An agent with sessions at several edges.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;
use crate::config::{ConnectAddress, parse_addresses};
use crate::edges_dialer::{Dialers, EdgesDialer};

/// Edges in the same process, by address.
struct Fleet(BTreeMap<String, Arc<MemoryDialer>>);

impl Dialers for Fleet {
    fn dialer(&self, edge: ConnectAddress, _: Option<SocketAddr>) -> Result<Arc<dyn Dial>, DialError> {
        let dialer = self.0.get(&edge.to_string()).expect("an edge of the test");
        Ok(Arc::clone(dialer) as Arc<dyn Dial>)
    }
}

struct Lab {
    fleet: Arc<Fleet>,
    session: Session,
    events: Events,
}

impl Lab {
    /// Edges `a:1`, `b:1` and so on, an agent with two sessions and this `connect_url`.
    fn new(edges: &[&str], connect: &str) -> Self {
        let of = |name: &&str| {
            let edge = Edge::default();
            edge.book().id = format!("edge_{name}");
            (format!("{name}:1"), MemoryDialer::new(&edge))
        };
        let fleet = Arc::new(Fleet(edges.iter().map(of).collect()));
        let dialers: Arc<dyn Dialers> = fleet.clone();
        let dialers = EdgesDialer::of(&dialers, parse_addresses(connect).unwrap(), 2);
        let (first, events) = settings(Arc::new(()));
        let settings = dialers.into_iter().map(|dialer| Settings {
            dialer: Arc::new(dialer),
            hello: first.hello.clone(),
            random: first.random.clone(),
            observer: first.observer.clone(),
            health: first.health.clone(),
            ..first
        });
        Self { fleet, session: Session::start_all(settings), events }
    }

    fn edge(&self, name: &str) -> &Edge {
        &self.fleet.0[&format!("{name}:1")].edge
    }

    /// Until an edge serves these URLs and no others.
    async fn serves(&self, name: &str, urls: &[&str]) {
        let wait = async {
            while self.edge(name).book().served.keys().map(String::as_str).ne(urls.iter().copied()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let told = || format!("{name} serves {:?}", self.edge(name).book().served);
        tokio::time::timeout(Duration::from_mins(1), wait).await.unwrap_or_else(|_| panic!("{}", told()));
    }
}

/// Dials nothing.
impl Dial for () {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(std::future::pending())
    }

    fn target(&self) -> String {
        String::new()
    }
}

/// Says something and gets it back by the program's end of a connection.
async fn echoed(visitor: &mut ebbgate_tunnel::driver::Stream, program: &mut Accepted) {
    let mut read = [0; 4];
    visitor.write_all(b"ping").await.unwrap();
    program.stream.read_exact(&mut read).await.unwrap();
    program.stream.write_all(&read).await.unwrap();
    program.stream.flush().await.unwrap();
    visitor.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test(start_paused = true)]
async fn two_edges_serve_every_endpoint_and_the_end_of_one_leaves_the_other_alone() {
    let mut lab = Lab::new(&["a", "b"], "a:1,b:1");
    let mut accepted = serve(&lab.session, "a", A);
    lab.events.endpoint_online("a").await;
    lab.serves("a", &[A]).await;
    lab.serves("b", &[A]).await;
    let mut visitor = lab.edge("b").visit(A).await;
    let mut program = accepted.recv().await.unwrap();
    echoed(&mut visitor, &mut program).await;
    lab.fleet.0["a:1"].cut(true);
    lab.events.wait(|event| matches!(event, Event::SessionOffline { .. }).then_some(())).await;
    echoed(&mut visitor, &mut program).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(lab.edge("b").book().auths.len(), 1, "the first session does not crowd the second edge");
    lab.fleet.0["a:1"].up();
    lab.serves("a", &[A]).await;
    echoed(&mut visitor, &mut program).await;
    lab.session.close().await;
    for name in ["a", "b"] {
        assert_eq!(lab.edge(name).book().unbinds.len(), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_name_that_the_first_edge_chooses_is_asked_for_at_the_second() {
    let lab = Lab::new(&["a", "b"], "a:1,b:1");
    let delivery = || Delivery::Accept(mpsc::channel(1).0, Inbound::default());
    let added = lab.session.add("random", bind(""), RetryPolicy::UntilRefused, delivery()).await;
    let (key, url) = added.unwrap();
    lab.serves("b", &[url.to_string().as_str()]).await;
    lab.session.remove(key).await;
    lab.serves("a", &[]).await;
    lab.serves("b", &[]).await;
    for (name, code) in [("a", 334), ("b", 311)] {
        lab.edge(name).book().refuse_bind.insert(A.into(), [code].into());
    }
    let refused = lab.session.add("a", bind(A), RetryPolicy::UntilRefused, delivery()).await;
    assert!(matches!(&refused, Err(BindError::Refused(refusal)) if refusal.code.unwrap().number() == 334));
    tokio::time::sleep(Duration::from_mins(5)).await;
    lab.serves("b", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_names_the_second_one_and_two_names_of_one_edge_are_one() {
    let mut lab = Lab::new(&["a", "b", "c"], "a:1");
    lab.edge("b").book().id = "edge_a".into();
    let _accepted = serve(&lab.session, "a", A);
    lab.events.endpoint_online("a").await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(lab.edge("b").book().auths.is_empty());
    lab.edge("a").tell_of(&["b:1"], false).await;
    let further = |event: &Event| match event {
        Event::Further(event) => match &**event {
            Event::SessionOffline { reason, .. } => Some(reason.clone()),
            _ => None,
        },
        _ => None,
    };
    let reason = lab.events.wait(further).await;
    assert_eq!(reason, "`b:1` is an edge that this agent is at already");
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(lab.edge("b").book().auths.len(), 1, "once is enough");
    lab.edge("a").tell_of(&["b:1", "c:1"], false).await;
    lab.serves("c", &[A]).await;
    // Edges name each other at the start, too.
    lab.edge("c").book().others = vec!["a:1".into()];
    lab.fleet.0["c:1"].cut(false);
    lab.serves("c", &[A]).await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_is_being_drained_keeps_its_session_for_what_it_carries() {
    let mut lab = Lab::new(&["a", "b", "c"], "a:1,b:1,c:1");
    let mut accepted = serve(&lab.session, "a", A);
    lab.events.endpoint_online("a").await;
    lab.serves("b", &[A]).await;
    let mut visitor = lab.edge("a").visit(A).await;
    let mut program = accepted.recv().await.unwrap();
    echoed(&mut visitor, &mut program).await;
    lab.edge("a").tell_of(&["b:1", "c:1"], true).await;
    lab.serves("c", &[A]).await;
    // Streams under way go on, and the old session serves new ones too.
    echoed(&mut visitor, &mut program).await;
    let mut late = lab.edge("a").visit(A).await;
    let mut second = accepted.recv().await.unwrap();
    echoed(&mut late, &mut second).await;
    tokio::time::sleep(Duration::from_mins(30)).await;
    echoed(&mut visitor, &mut program).await;
    assert!(lab.edge("a").book().unbinds.is_empty());
    lab.fleet.0["a:1"].cut(false);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(lab.edge("a").book().auths.len(), 1, "nobody dials it again");
    let auths = lab.edge("c").book().auths.clone();
    assert_eq!((auths.len(), auths[0].client_id.as_str()), (1, ""), "another session");
}
