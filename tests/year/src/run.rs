//! Runs a fleet from its first moment to its last.

use std::time::Duration;

use anyhow::Result;

use crate::checks::VISIT_SECS;
use crate::report::Report;
use crate::settings::Settings;
use crate::world::{Event, World};

/// Milliseconds within which agents and edges start.
const START_MS: u64 = 2_000;

/// A rule did not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed that shows it again.
    pub seed: u64,
    /// Time since the beginning.
    pub at: Duration,
    /// What was found.
    pub what: String,
    /// What happened last, a line each.
    pub trace: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, at, what, trace } = self;
        write!(f, "{trace}seed {seed}, after {:.3} s: {what}", at.as_secs_f64())
    }
}

impl std::error::Error for Violation {}

/// Runs a fleet. Err: a rule did not hold.
pub fn run(settings: &Settings) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(async {
        let mut world = World::new(settings)?;
        match live(&mut world).await {
            Ok(()) => Ok(world.report),
            Err(error) => Err(Violation {
                seed: settings.seed,
                at: world.now,
                what: format!("{error:#}"),
                trace: world.traced(),
            }
            .into()),
        }
    })
}

async fn live(world: &mut World) -> Result<()> {
    for slot in 0..world.settings.slots() {
        world.within_ms(START_MS, Event::Dial { slot, attempt: 0 });
    }
    for edge in 0..world.settings.edges {
        world.within_ms(START_MS, Event::Connect { edge });
    }
    world.after(Duration::from_secs(VISIT_SECS), Event::Visit);
    world.next_fault();
    let mut clock = Duration::ZERO;
    while let Some(event) = world.next() {
        if world.now >= world.settings.length() {
            break;
        }
        // What edges wait for by themselves.
        if world.now > clock {
            tokio::time::advance(world.now.saturating_sub(clock)).await;
            clock = world.now;
        }
        world.report.events += 1;
        happen(world, event)?;
        world.tell()?;
    }
    world.report.faults = world.faults;
    Ok(())
}

fn happen(world: &mut World, event: Event) -> Result<()> {
    match event {
        Event::Dial { slot, attempt } => {
            if world.session(slot).attempt == attempt {
                world.dial(slot);
            }
        }
        Event::Failed { slot, attempt, busy } => world.failed(slot, attempt, busy),
        Event::Begins { slot, attempt, edge, incarnation } => {
            world.begins(slot, attempt, edge, incarnation);
            world.check_capacity(edge)?;
        }
        Event::Done { slot, attempt, edge, incarnation } => {
            world.check_capacity(edge)?;
            world.done(slot, attempt, edge, incarnation)?;
        }
        Event::Lost { slot, life } => world.lost(slot, life),
        Event::Silent { slot, life, since } => world.silent(slot, life, since),
        Event::Move { slot, life } => world.move_on(slot, life),
        Event::Leave { slot, life } => world.leave(slot, life),
        Event::Connect { edge } => world.connect(edge),
        Event::FeedSilent { edge, since } => world.feed_silent(edge, since),
        Event::LeaseEnds { edge, broken } => world.lease_ends(edge, broken),
        Event::Break => world.fail()?,
        Event::Heal(fault) => world.heal(fault),
        Event::Visit => {
            world.after(Duration::from_secs(VISIT_SECS), Event::Visit);
            world.visit()?;
        }
        Event::BackBy { agent, since } => world.back_by(agent, since)?,
        Event::Settled { faults } => world.settled(faults)?,
    }
    Ok(())
}
