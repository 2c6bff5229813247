//! One way from a visitor to the sink: where it begins, what is charged, and how a load is sent along it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use ebbgate_lab::wait;

use super::load::{Kind, Load, Table};
use super::sink::Served;
use super::{https, tcp};
use crate::meter::{Meter, Sample};

/// Seconds until a chain must carry its first connection.
const ONLINE_SECS_MAX: u64 = 15;
/// Chains of ours with links opened ahead. Our agent keeps as many links as visitors came lately, so it meets a burst as
/// large as the load before the clock runs; what others keep is fixed in their configuration.
const PRE_OPENED: [&str; 4] = ["ebbgate link", "ebbgate link across", "ebbgate raw", "ebbgate raw across"];

/// A chain of one table.
pub(super) struct Route {
    pub(super) table: Table,
    pub(super) name: &'static str,
    /// How it is set up, for the report.
    pub(super) note: String,
    pub(super) front: Front,
    /// Processes by part of the chain; those they start are charged with them.
    pub(super) parts: Vec<(&'static str, u32)>,
    /// Most silent connections that it is asked to hold.
    pub(super) idle_max: u32,
}

/// Where it begins.
#[derive(Clone)]
pub(super) enum Front {
    Tcp(tcp::Front),
    Https(https::Front),
}

impl Route {
    /// Waits until the chain carries its first connection.
    pub(super) fn wait_online(&self) -> Result<()> {
        let mut last = None;
        let what = format!("{} to carry connections", self.name);
        let waited = wait::until(Duration::from_secs(ONLINE_SECS_MAX), &what, || {
            last = self.try_once().err();
            Ok(last.is_none().then_some(()))
        });
        match (waited, last) {
            (Err(error), Some(last)) => Err(last.context(error)),
            (waited, _) => waited,
        }
    }

    fn try_once(&self) -> Result<()> {
        match &self.front {
            Front::Tcp(front) => {
                tcp::one_echo(front.small, &front.preface)?;
                tcp::one_echo(front.bulk, &front.preface)
            }
            Front::Https(front) => https::one_request(front),
        }
    }

    /// What is charged, with the processes that run by now.
    pub(super) fn meter(&self) -> Result<Meter> {
        Meter::of(&self.parts)
    }

    /// Runs a load of its table.
    pub(super) fn run(&self, load: &Load, served: &Served, dir: &Path) -> Result<Sample> {
        let meter = self.meter()?;
        match &self.front {
            Front::Tcp(front) => {
                if PRE_OPENED.contains(&self.name) && load.kind != Kind::Connections {
                    tcp::burst(front, load.connections)?;
                }
                tcp::run(front, load, &meter)
            }
            Front::Https(front) => https::run(front, load, &meter, served, dir),
        }
    }
}
