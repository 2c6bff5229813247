//! `Balancing`: which members of a pool get the traffic that a `forward-internal` hands on, how much of it, and how one is
//! chosen.
//!
//! The choice itself is the edge's; here is what the policy says, and the cookie of a sticky choice. Does not know pools.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::expr::Expression;
use crate::facts::{ConnFacts, Context, EndpointFacts};
use crate::work::Work;

/// Largest weight of a member.
pub const WEIGHT_MAX: u32 = 1_000;
/// Weight of a member that no entry of `endpoint_weights` names.
const WEIGHT_DEFAULT: u32 = 1;
/// Cookies of one name that are looked at in a request.
const COOKIES_READ_MAX: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct Balancing {
    /// A member gets traffic if all of these hold of it.
    pub(crate) selectors: Vec<Expression>,
    /// The first that holds of a member gives its weight.
    pub(crate) weights: Vec<(Expression, u32)>,
    pub(crate) strategy: Strategy,
}

/// How a member is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Members take turns, each as often as its weight says.
    #[default]
    RoundRobin,
    /// The member with the fewest connections and requests for its weight.
    LeastConnections,
    /// A client's address has its member for as long as the member is there.
    StickyClientAddress,
    /// A cookie names the member that answered before. A visitor without it gets the next in turn.
    StickyCookie(StickyCookie),
}

/// The cookie of [`Strategy::StickyCookie`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name, a token (RFC 6265 section 4.1.1).
    pub(crate) name: String,
    /// How long the client keeps it. None: until it ends its session.
    pub(crate) max_age: Option<Duration>,
}

/// The connection of an expression that reads none.
static NO_CONNECTION: LazyLock<Arc<ConnFacts>> = LazyLock::new(|| {
    let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    Arc::new(ConnFacts {
        client: nowhere,
        server: nowhere,
        region: String::new(),
        start_unix_ms: 0,
        tls: None,
        traffic: None,
    })
});

impl Balancing {
    /// How a member is chosen.
    #[must_use]
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// The weight of a member, 0 if it gets no traffic. None: the work allows no answer. An expression that fails does not
    /// hold.
    #[must_use]
    pub fn weight(&self, member: &Arc<EndpointFacts>, work: &Work) -> Option<u32> {
        let mut cx = Context::new(Arc::clone(&NO_CONNECTION), Arc::clone(member), 0);
        cx.work = work.clone();
        for selector in &self.selectors {
            if !holds(selector, &cx)? {
                return Some(0);
            }
        }
        for (selector, weight) in &self.weights {
            if holds(selector, &cx)? {
                return Some(*weight);
            }
        }
        Some(WEIGHT_DEFAULT)
    }
}

/// None: there was no work left for it.
fn holds(selector: &Expression, cx: &Context) -> Option<bool> {
    cx.work.begin_evaluation();
    let holds = selector.test(cx).unwrap_or(false);
    (cx.work.left() > 0).then_some(holds)
}

impl StickyCookie {
    /// The values of the cookie in a request, as many as are looked at.
    pub fn values<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
        let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == self.name).map(|(_, value)| value).take(COOKIES_READ_MAX)
    }

    /// The `set-cookie` header that gives the cookie a value of token characters. `secure`: the client came by TLS.
    #[must_use]
    pub fn header(&self, value: &str, secure: bool) -> Option<HeaderValue> {
        let age = self.max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
        let secure = if secure { "; Secure" } else { "" };
        let text = format!("{}={value}; Path=/{age}; HttpOnly; SameSite=Lax{secure}", self.name);
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::MemberFacts;

    fn member(name: &str, metadata: &str) -> Arc<EndpointFacts> {
        let mut facts = EndpointFacts::new("ep_1".into(), "https://a.internal".parse().unwrap());
        let labels = MemberFacts { name: name.into(), metadata: metadata.into(), ..MemberFacts::default() };
        facts.member = Some(Box::new(labels));
        Arc::new(facts)
    }

    fn selector(text: &str) -> Expression {
        Expression::compile_selector(text).unwrap()
    }

    #[test]
    fn all_selectors_must_hold_and_the_first_weight_that_holds_counts() {
        let balancing = Balancing {
            selectors: vec![selector("endpoint.name != 'c'"), selector("endpoint.metadata.contains('x')")],
            weights: vec![(selector("endpoint.name == 'a'"), 5), (selector("endpoint.type == 'agent'"), 0)],
            strategy: Strategy::RoundRobin,
        };
        let weight = |name, metadata| balancing.weight(&member(name, metadata), &Work::default());
        assert_eq!(weight("a", "x"), Some(5));
        assert_eq!(weight("b", "x"), Some(0), "the second entry is of all agents");
        assert_eq!(weight("c", "x"), Some(0));
        assert_eq!(weight("a", "y"), Some(0));
        let cloud = EndpointFacts::new("ep_2".into(), "https://a.internal".parse().unwrap());
        let all = Balancing { selectors: vec![selector("!has(endpoint.agent)")], ..plain() };
        assert_eq!(all.weight(&Arc::new(cloud), &Work::default()), Some(WEIGHT_DEFAULT));
        assert_eq!(all.weight(&member("a", ""), &Work::default()), Some(0));
    }

    fn plain() -> Balancing {
        Balancing { selectors: Vec::new(), weights: Vec::new(), strategy: Strategy::RoundRobin }
    }

    #[test]
    fn an_expression_that_fails_selects_nobody_and_one_without_work_says_nothing() {
        let failing = selector("json.decode(endpoint.metadata).zone == 'a'");
        let balancing = Balancing { selectors: vec![failing], ..plain() };
        assert_eq!(balancing.weight(&member("a", "no json"), &Work::default()), Some(0));
        assert_eq!(balancing.weight(&member("a", r#"{"zone":"a"}"#), &Work::default()), Some(1));
        assert_eq!(balancing.weight(&member("a", r#"{"zone":"a"}"#), &Work::exhausted()), None);
    }

    #[test]
    fn the_cookie_is_read_by_its_name_and_written_for_the_whole_site() {
        let cookie = StickyCookie { name: "site".into(), max_age: Some(Duration::from_mins(1)) };
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; site=one;xsite=2"));
        headers.append(COOKIE, HeaderValue::from_static("site=two"));
        assert_eq!(cookie.values(&headers).collect::<Vec<_>>(), ["one", "two"]);
        let many = "site=x; ".repeat(COOKIES_READ_MAX + 1);
        headers.insert(COOKIE, HeaderValue::try_from(many).unwrap());
        assert_eq!(cookie.values(&headers).count(), COOKIES_READ_MAX);
        let header = cookie.header("0a", true).unwrap();
        assert_eq!(header, "site=0a; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
        let session = StickyCookie { max_age: None, ..cookie };
        assert_eq!(session.header("0a", false).unwrap(), "site=0a; Path=/; HttpOnly; SameSite=Lax");
    }
}
