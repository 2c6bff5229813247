//! Leaves a connection whose edge is being drained: what is under way there goes on beside the next connection.

use std::pin::pin;
use std::time::Duration;

use ebbgate_tunnel::driver::{self, Incoming};
use ebbgate_wire::mux::Code;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::actor::Actor;
use super::ask::ask_unbind;
use super::connection::{Tasks, came_beside, next_beside, open};

/// Time that streams of a connection get which the edge asked the agent to leave, in seconds.
const LEAVE_SECS_MAX: u64 = 3600;
/// Connections kept for processes of edges that have handed over; one more is given up.
const STAYING_MAX: usize = 32;

impl Actor {
    /// Lets connections that are being left know once every endpoint is online on this one.
    pub(super) fn plan_settled(&mut self) {
        if self.plan.is_settled() {
            for left in self.leaving.elsewhere.drain(..) {
                // One that has ended needs no word.
                let _ = left.send(());
            }
        }
    }

    /// Keeps a connection for what it carries and for new streams, until the edge ends it: another process of the edge serves, and
    /// visitors of the one before still come this way.
    pub(super) fn stay(&mut self, mut tasks: Tasks, mut incoming: Incoming) {
        drop(std::mem::take(&mut self.routes));
        while self.leaving.tasks.try_join_next().is_some() {}
        if self.leaving.tasks.len() >= STAYING_MAX {
            return;
        }
        // The edge gets no new links for this session; those under way end with their visitors.
        tasks.park_no_more();
        let stop_allowed = self.settings.remote_management;
        self.leaving.tasks.spawn(async move {
            loop {
                tokio::select! {
                    stream = incoming.accept() => match stream {
                        Some(stream) => open(&tasks, stream, stop_allowed),
                        None => return,
                    },
                    // What the edge has to say goes to the next connection.
                    Some(_) = tasks.events.recv() => {}
                    proxied = next_beside(&mut tasks.beside) => came_beside(&mut tasks, proxied),
                    Some(_) = tasks.unbinds.join_next() => {}
                    _ = &mut tasks.heartbeat => return,
                }
            }
        });
    }

    /// Leaves a connection as it is: streams under way go on there, beside the next connection.
    pub(super) fn leave(&mut self, mut tasks: Tasks, mut incoming: Incoming) {
        // What the next connection serves has other ids.
        drop(std::mem::take(&mut self.routes));
        let (served, stop_allowed) = (self.plan.served(), self.settings.remote_management);
        self.plan.part();
        let (elsewhere, mut is_elsewhere) = oneshot::channel();
        self.leaving.elsewhere.push(elsewhere);
        while self.leaving.tasks.try_join_next().is_some() {}
        self.leaving.tasks.spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(LEAVE_SECS_MAX);
            let dispatcher = tasks.dispatcher.clone();
            let mut is_unbound = false;
            loop {
                let mut quiet = pin!(dispatcher.quiet());
                tokio::select! {
                    // An error means that the session is over: then this task is too.
                    _ = &mut is_elsewhere, if !is_unbound => {
                        is_unbound = true;
                        for id in &served {
                            tasks.unbinds.spawn(ask_unbind(tasks.session.clone(), id.clone()));
                        }
                    }
                    () = sleep_until(deadline) => break,
                    stream = incoming.accept() => match stream {
                        Some(stream) => open(&tasks, stream, stop_allowed),
                        None => return,
                    },
                    // What the edge has to say goes to the next connection.
                    Some(_) = tasks.events.recv() => {}
                    proxied = next_beside(&mut tasks.beside) => came_beside(&mut tasks, proxied),
                    Some(_) = tasks.unbinds.join_next() => {}
                    _ = &mut tasks.heartbeat => return,
                    () = quiet.as_mut(), if is_unbound && tasks.unbinds.is_empty() => break,
                }
            }
            tasks.session.goaway(Code::NONE, "the agent went elsewhere");
            let _ = timeout(Duration::from_secs(driver::CLOSE_SECS_MAX), &mut tasks.driver.0).await;
        });
    }
}
