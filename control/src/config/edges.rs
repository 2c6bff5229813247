//! Flags and commands about edges of other machines.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use ebbgate_model::{EdgeId, Host};

use super::Dir;

/// Where edges of other machines connect.
#[derive(Debug, Clone, Args)]
pub struct EdgeListener {
    /// Address for edges of other machines, over mutual TLS. Without it control serves edges of its own machine alone
    #[arg(long, value_name = "ADDR")]
    pub edges: Option<SocketAddr>,
    /// Name or IP address by which those edges reach this control; that of --edges if left out
    #[arg(long, value_name = "HOST", requires = "edges")]
    pub edges_host: Option<Host>,
}

impl EdgeListener {
    /// How edges reach a listener at this address. None: the address says no more than `every`.
    pub fn host(&self, at: SocketAddr) -> Option<Host> {
        let own = || (!at.ip().is_unspecified()).then(|| at.ip().to_string().parse().ok()).flatten();
        self.edges_host.clone().or_else(own)
    }
}

/// `edge ...`
#[derive(Debug, Subcommand)]
pub enum EdgeCommand {
    /// Print the string by which one edge of another machine joins within an hour: `ebbgate-edge join STRING`
    Join {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// What the edge is called in lists
        #[arg(long, default_value = "")]
        name: String,
        /// Where the edge reaches a control; repeat it for each. The one that runs here if left out
        #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
        control: Vec<String>,
    },
    /// List edges: those that are connected, and those that have joined
    List {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
    /// Take an edge out of service: agents go to other edges, and nothing that is under way ends
    Drain {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Its id, `edge_...`
        edge: EdgeId,
        /// Put it into service again
        #[arg(long)]
        undo: bool,
    },
    /// Give an edge changes of endpoints' policies before other edges
    Canary {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Its id, `edge_...`
        edge: EdgeId,
        /// Give it changes with the others again
        #[arg(long)]
        undo: bool,
    },
    /// Make an edge's certificate useless; its feed ends within seconds
    Remove {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Its id, `edge_...`
        edge: EdgeId,
    },
}

/// `HOST:PORT` as it came, with an IPv6 address in brackets.
fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').map(|(host, port)| (host.parse::<Host>(), port.parse::<u16>()));
    match parts {
        Some((Ok(_), Ok(1..))) => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, as in control.example.com:4484 or [2001:db8::1]:4484".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_is_named_by_host_and_port() {
        for good in ["control.example.com:4484", "192.0.2.1:1", "[2001:db8::1]:4484"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["", "control.example.com", "x:", "x:0", "x:65536", ":4484", "a:1,b:2", "https://x:1"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn edges_need_a_name_that_leads_here() {
        let host = |host: Option<&str>, at: &str| {
            let edges_host = host.map(|host| host.parse().unwrap());
            EdgeListener { edges: None, edges_host }.host(at.parse().unwrap()).map(|host| host.to_string())
        };
        assert_eq!(host(Some("control.example"), "0.0.0.0:4484").as_deref(), Some("control.example"));
        assert_eq!(host(None, "192.0.2.1:4484").as_deref(), Some("192.0.2.1"));
        assert_eq!(host(None, "[2001:db8::1]:4484").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(host(None, "0.0.0.0:4484"), None);
    }
}
