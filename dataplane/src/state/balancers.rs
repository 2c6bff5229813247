//! Load balancers before this edge: for each listener, the networks from which a PROXY header is required and believed.
//!
//! Knows no sockets. An empty list is a listener without a balancer, as all are unless the operator says otherwise.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ebbgate_model::Prefix;

use crate::state::mailbox::Entrance;

/// Most networks of all listeners: every connection is compared with each of its listener's.
pub const BALANCER_NETWORKS_MAX: usize = 256;

/// A listener that may stand behind a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// `--http`.
    Http,
    /// `--https`.
    Https,
    /// `--connect`, over TCP.
    Connect,
    /// Every reserved TCP address.
    Tcp,
}

impl Listener {
    const ALL: [Self; 4] = [Self::Http, Self::Https, Self::Connect, Self::Tcp];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Connect => "connect",
            Self::Tcp => "tcp",
        }
    }

    /// One address for visitors and agents is the `https` listener.
    /// None: a listener that no balancer stands before.
    fn of(entrance: &Entrance) -> Option<Self> {
        Some(match entrance {
            Entrance::Peers => return None,
            Entrance::Http => Self::Http,
            Entrance::Tls | Entrance::Shared => Self::Https,
            Entrance::Connect => Self::Connect,
            Entrance::Tcp { .. } => Self::Tcp,
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One `LISTENER=CIDR,...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// Where they connect to.
    pub listener: Listener,
    /// The balancers' networks.
    pub networks: Vec<Prefix>,
}

impl FromStr for Trusted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            "write LISTENER=CIDR, as in https=192.0.2.0/28; listeners are http, https, connect and tcp";
        let (listener, networks) = text.split_once('=').ok_or(form)?;
        let listener = Listener::ALL
            .into_iter()
            .find(|known| known.name() == listener)
            .ok_or_else(|| format!("`{listener}` is no listener: {form}"))?;
        let networks = networks.split(',').map(|network| {
            // An address alone is itself; host bits behind a length are a slip that must not be guessed at.
            let is_network = network.contains('/');
            let parsed = if is_network { network.parse() } else { Prefix::parse_lenient(network) };
            let prefix = parsed.map_err(|error| error.to_string())?;
            if prefix.net().prefix_len() == 0 {
                return Err(format!(
                    "`{network}` is everybody: each visitor could then name any address as its own"
                ));
            }
            Ok(prefix)
        });
        Ok(Self { listener, networks: networks.collect::<Result<_, String>>()? })
    }
}

/// The balancers' networks, by listener.
#[derive(Debug, Clone, Default)]
pub struct Balancers {
    http: Vec<Prefix>,
    https: Vec<Prefix>,
    connect: Vec<Prefix>,
    tcp: Vec<Prefix>,
}

impl Balancers {
    /// Those of the flags. `shared`: agents come to the `https` listener.
    pub fn new(flags: &[Trusted], shared: bool) -> Result<Self, String> {
        let mut all = Self::default();
        for Trusted { listener, networks } in flags {
            if shared && *listener == Listener::Connect {
                return Err(
                    "--connect has the address of --https: name its balancers as https=CIDR".to_owned()
                );
            }
            match listener {
                Listener::Http => &mut all.http,
                Listener::Https => &mut all.https,
                Listener::Connect => &mut all.connect,
                Listener::Tcp => &mut all.tcp,
            }
            .extend(networks);
        }
        match Listener::ALL.into_iter().map(|listener| all.of(listener).len()).sum::<usize>() {
            0..=BALANCER_NETWORKS_MAX => Ok(all),
            found => Err(format!("{found} networks of balancers; the limit is {BALANCER_NETWORKS_MAX}")),
        }
    }

    /// Whether connections of this listener may come through a balancer.
    pub fn are_before(&self, entrance: &Entrance) -> bool {
        Listener::of(entrance).is_some_and(|listener| !self.of(listener).is_empty())
    }

    /// Whether connections to reserved TCP addresses come through balancers.
    pub fn are_before_tcp(&self) -> bool {
        !self.of(Listener::Tcp).is_empty()
    }

    /// Whether the peer of a connection to this listener is a balancer.
    pub fn include(&self, entrance: &Entrance, peer: IpAddr) -> bool {
        let networks = Listener::of(entrance).map(|listener| self.of(listener)).unwrap_or_default();
        networks.iter().any(|network| network.contains(peer))
    }

    fn of(&self, listener: Listener) -> &[Prefix] {
        match listener {
            Listener::Http => &self.http,
            Listener::Https => &self.https,
            Listener::Connect => &self.connect,
            Listener::Tcp => &self.tcp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(text: &str) -> Trusted {
        text.parse().unwrap()
    }

    #[test]
    fn each_listener_has_its_own_balancers() {
        let flags =
            [flag("https=192.0.2.0/28,2001:db8::5"), flag("tcp=10.0.0.1"), flag("https=198.51.100.7/32")];
        let balancers = Balancers::new(&flags, true).unwrap();
        let tcp = Entrance::Tcp { host: "t.example.com".parse().unwrap(), port: 20_000 };
        for (entrance, peer, expect) in [
            (Entrance::Tls, "192.0.2.15", true),
            (Entrance::Tls, "::ffff:192.0.2.15", true),
            (Entrance::Shared, "198.51.100.7", true),
            (Entrance::Tls, "2001:db8::5", true),
            (Entrance::Tls, "192.0.2.16", false),
            (Entrance::Tls, "10.0.0.1", false),
            (Entrance::Http, "192.0.2.15", false),
            (Entrance::Connect, "192.0.2.15", false),
            (tcp.clone(), "10.0.0.1", true),
            (tcp.clone(), "10.0.0.2", false),
        ] {
            assert_eq!(balancers.include(&entrance, peer.parse().unwrap()), expect, "{entrance:?} {peer}");
        }
        assert!(balancers.are_before(&tcp) && balancers.are_before_tcp());
        assert!(balancers.are_before(&Entrance::Shared) && !balancers.are_before(&Entrance::Http));
        assert!(!Balancers::default().are_before_tcp());
    }

    #[test]
    fn slips_are_refused_with_the_way_out() {
        for (text, expect) in [
            ("192.0.2.0/28", "write LISTENER=CIDR"),
            ("tls=192.0.2.0/28", "`tls` is no listener"),
            ("https=192.0.2.1/28", "the network is 192.0.2.0/28"),
            ("https=", "is not an IP address or CIDR"),
            ("https=192.0.2.1,", "is not an IP address or CIDR"),
            ("https=balancer.example.com", "is not an IP address or CIDR"),
            ("https=0.0.0.0/0", "is everybody"),
            ("tcp=::/0", "is everybody"),
        ] {
            let message = text.parse::<Trusted>().unwrap_err();
            assert!(message.contains(expect), "{text}: {message}");
        }
        let connect = [flag("connect=192.0.2.1")];
        assert!(Balancers::new(&connect, false).is_ok());
        assert!(Balancers::new(&connect, true).unwrap_err().contains("https=CIDR"));
        let many = vec![flag("http=192.0.2.1"); BALANCER_NETWORKS_MAX + 1];
        assert!(Balancers::new(&many, false).unwrap_err().contains("257"));
    }
}
