//! Links: the program on an interface, pinned. Attaches, takes over what a process before left, and tells whether a link
//! still stands. Knows nothing of maps, and of interfaces only their index.

use std::io;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{ProgramError, Xdp, XdpMode};

use super::pins::{LinkPin, Pins, PinsError};
use super::settings::Mode;

/// Why an interface is not guarded.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Another program is there.
    #[error("another XDP program is on {0}; take it off with `ip link set dev {0} xdp off` or its own tool")]
    Foreign(String),
    /// No mode that was asked for works there.
    #[error("{interface} takes no XDP program in {modes} mode: {reason}")]
    Unsupported {
        /// Which interface.
        interface: String,
        /// What was tried.
        modes: String,
        /// What the kernel said to the last.
        reason: String,
    },
    /// A pin.
    #[error(transparent)]
    Pin(#[from] PinsError),
}

/// What became of a link that was made or taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is in place.
    Yes,
    /// Its interface is gone, or the link was ended.
    Ended,
    /// Its pin was removed: the program was detached on purpose.
    Unpinned,
}

/// Puts the program on an interface in the first of `modes` that works. A pinned link is taken over and its program
/// replaced in one step.
pub fn attach(
    program: &mut Xdp,
    pins: &Pins,
    (interface, netns, ifindex): (&str, u64, u32),
    modes: &[Mode],
) -> Result<Mode, LinkError> {
    for mode in Mode::ALL {
        let pin = pins.link(netns, ifindex, mode);
        if !pin.path.exists() {
            continue;
        }
        if modes.contains(&mode) && replace(program, &pin).is_ok() {
            return Ok(mode);
        }
        pin.remove()?;
    }
    let mut reason = String::new();
    for mode in modes {
        let kernel_mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        match program.attach_to_if_index(ifindex, kernel_mode) {
            Ok(id) => {
                let pin = pins.link(netns, ifindex, *mode);
                let pinned = program.take_link(id).and_then(|link| {
                    let link: FdLink = link.try_into().map_err(|_| no_link_support())?;
                    link.pin(&pin.path).map(drop).map_err(|e| wrapped(io::Error::other(e)))
                });
                let failed = |error: ProgramError| PinsError::Io {
                    path: pin.path.clone(),
                    source: io::Error::other(told(&error)),
                };
                pinned.map_err(failed)?;
                return Ok(*mode);
            }
            // Another link says EBUSY, a program without a link EEXIST or EBUSY.
            Err(error) if matches!(errno(&error), Some(libc::EBUSY | libc::EEXIST)) => {
                return Err(LinkError::Foreign(interface.to_owned()));
            }
            Err(error) => reason = told(&error),
        }
    }
    let modes = modes.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(" or ");
    Err(LinkError::Unsupported { interface: interface.to_owned(), modes, reason })
}

/// Whether a link is still in place, with this program in it.
pub fn look(program: &mut Xdp, pin: &LinkPin) -> Held {
    if !pin.path.exists() {
        return Held::Unpinned;
    }
    // Putting in the program that is there already changes nothing, and fails for a link whose interface is gone.
    match replace(program, pin) {
        Ok(()) => Held::Yes,
        Err(_) => Held::Ended,
    }
}

/// Puts the program into a pinned link; the pin keeps the link when ours is closed.
fn replace(program: &mut Xdp, pin: &LinkPin) -> Result<(), ProgramError> {
    let link = PinnedLink::from_pin(&pin.path).map_err(|e| wrapped(io::Error::other(e)))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|e| wrapped(io::Error::other(e)))?;
    let id = program.attach_to_link(link)?;
    program.take_link(id).map(drop)
}

fn wrapped(error: io::Error) -> ProgramError {
    ProgramError::IOError(error)
}

fn no_link_support() -> ProgramError {
    wrapped(io::Error::new(io::ErrorKind::Unsupported, "the kernel has no BPF links for XDP; Linux 5.9 has"))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(_)) => Some(libc::EBUSY),
        ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// An error with its causes, in one line.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}
