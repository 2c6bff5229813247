//! `Tables`: what control told this edge, made ready to serve: certificates parsed, policies compiled, names indexed.
//!
//! A clone shares everything, and a change costs what it changes (`tables::apply`): readers of the Tables before go on
//! undisturbed, and what did not change keeps its identity, and with it cached TLS configurations.
//!
//! An object of which a new version cannot be served keeps the version before in use. Where there is none, or what it needs
//! was taken away, it is closed: an endpoint has no policy and answers as offline, a name has no certificate and is
//! refused. [`Tables::unserved`] says so of each. All others are served.
//!
//! Pure; `feed` gets the objects and puts Tables in force.

mod apply;
mod data;
mod effects;
mod hosts;
mod load;
mod names;
mod policies;

use std::sync::Arc;

use ebbgate_model::{Changes, Digests, Program};

pub use data::{Listed, Tables};
pub use effects::{Effects, Name};
pub use hosts::{ConnectName, ConnectNames};
pub use policies::{Policy, is_enforced};

impl Tables {
    /// Makes a whole Program ready; what did not change since `last` is taken over.
    pub fn compile(program: &Program, last: &Tables) -> (Tables, Effects) {
        let mut told = Program::default().diff(program);
        told.settings = Some(Arc::new(program.settings.clone()));
        last.with(&last.objects.replaced(None, told), program.generation, None)
    }

    /// These Tables after some changes; see [`Tables::apply`].
    pub fn with(
        &self,
        changes: &Changes,
        generation: u64,
        digests: Option<&mut Digests>,
    ) -> (Tables, Effects) {
        let mut next = self.clone();
        let effects = next.apply(changes, digests);
        next.generation = generation;
        (next, effects)
    }
}

#[cfg(test)]
mod tests;
