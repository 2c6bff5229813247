//! What the process that runs the rules may not do, however it is broken.
//!
//! Before the rules are read: no core dump (traffic is in memory), no new privileges, no capability, a bound on memory, and
//! an end with the edge's. Once they are read: no new descriptor, so no file and no socket but the one to the edge.

use std::io;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// Address space of the process in bytes. The Core Rule Set takes a fifth of it.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Before the rules are read, and before the process has opened anything.
pub fn begin() -> io::Result<()> {
    close_inherited()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    limit(Resource::Core, 0)?;
    limit(Resource::As, MEMORY_BYTES_MAX)?;
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Once the rules are read.
pub fn seal() -> io::Result<()> {
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, 0)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let now = getrlimit(resource);
    let most = now.maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Descriptors that the edge inherited and would hand on: all but the three standard ones.
#[expect(unsafe_code, reason = "std closes only what it opened")]
fn close_inherited() -> io::Result<()> {
    // SAFETY: no object of this process owns a descriptor above 2 yet, as the contract of `begin` says.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
