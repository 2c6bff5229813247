//! `Report`: what a run came to.

use std::fmt;
use std::time::Duration;

use crate::settings::Settings;

/// See the module.
#[derive(Debug, Clone)]
pub struct Report {
    /// How it was made.
    pub settings: Settings,
    /// Things that happened.
    pub events: u64,
    /// Faults.
    pub faults: u64,
    /// Handshakes that edges began.
    pub handshakes: u64,
    /// Handshakes that waited for their turn.
    pub waited: u64,
    /// Handshakes that edges had no turn for.
    pub refused: u64,
    /// Most handshakes that an edge began within a second.
    pub most_in_a_second: usize,
    /// Times that an agent had no session.
    pub away: u64,
    /// The longest of these times.
    pub away_max: Duration,
    /// Messages of control to edges about others.
    pub news: u64,
    /// Moments at which everything had to agree, and did.
    pub settled: u64,
    /// Visitors.
    pub visits: u64,
    /// Visitors that reached an agent at another edge.
    pub served: u64,
}

impl Report {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            events: 0,
            faults: 0,
            handshakes: 0,
            waited: 0,
            refused: 0,
            most_in_a_second: 0,
            away: 0,
            away_max: Duration::ZERO,
            news: 0,
            settled: 0,
            visits: 0,
            served: 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { seed, days, edges, agents, handshakes_per_sec, .. } = &self.settings;
        writeln!(f, "seed {seed}: {days} days, {edges} edges, {agents} agents, {} faults", self.faults)?;
        writeln!(
            f,
            "handshakes   {} begun, {} waited, {} asked to come again; at most {} of {handshakes_per_sec} in a second",
            self.handshakes, self.waited, self.refused, self.most_in_a_second
        )?;
        writeln!(
            f,
            "agents       {} times without an edge, for {:.1} s at most",
            self.away,
            self.away_max.as_secs_f64()
        )?;
        writeln!(
            f,
            "presence     {} messages; all edges agreed each of {} times they had to",
            self.news, self.settled
        )?;
        writeln!(
            f,
            "visitors     {}, {} served by another edge's agent, none by another account's",
            self.visits, self.served
        )?;
        write!(f, "events       {}", self.events)
    }
}
