//! Copies of the sockets that shards accept on: a process that takes over is given every socket, and with it the connections
//! that wait there.
//!
//! A copy keeps a socket open, so whoever closes a listener forgets its copies first.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entrance::Entrance;
use crate::net::listen::{Claim, Listener};

/// What is listened on now.
#[derive(Default)]
pub struct ListeningCopies(Mutex<HashMap<Entrance, Copies>>);

/// The sockets of one listener.
struct Copies {
    sockets: io::Result<Vec<TcpListener>>,
    claim: Arc<Claim>,
}

/// The sockets of one listener, for another process.
pub struct Listened {
    /// What they are for.
    pub entrance: Entrance,
    /// All of them.
    pub sockets: Vec<TcpListener>,
    /// The claim of the address.
    pub claim: Arc<Claim>,
}

impl ListeningCopies {
    pub(super) fn note(&self, entrance: &Entrance, listeners: &[Listener]) {
        let Some(first) = listeners.first() else { return };
        let sockets = listeners.iter().map(|listener| listener.socket.try_clone()).collect();
        let copies = Copies { sockets, claim: Arc::clone(&first.claim) };
        self.lock().insert(entrance.clone(), copies);
    }

    pub(super) fn forget(&self, port: u16) {
        self.lock().retain(|entrance, _| !matches!(entrance, Entrance::Tcp { port: of, .. } if *of == port));
    }

    /// Forgets all: nothing is accepted any more.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Further copies of all.
    ///
    /// # Errors
    /// There are not enough descriptors, now or when a listener was opened.
    pub fn all(&self) -> io::Result<Vec<Listened>> {
        let listened = |(entrance, copies): (&Entrance, &Copies)| {
            let sockets = copies.sockets.as_ref().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("the listener {} could not be copied: {error}", entrance.name()),
                )
            })?;
            let sockets = sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
            Ok(Listened { entrance: entrance.clone(), sockets, claim: Arc::clone(&copies.claim) })
        };
        self.lock().iter().map(listened).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Entrance, Copies>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
