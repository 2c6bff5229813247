//! What the operator asked of the kernel's filter.

use std::path::PathBuf;

use super::interfaces::Interfaces;
use super::maps::Rates;

/// The XDP object that this edge was built with: made by `cargo xtask ebpf`, committed, and read by nothing else.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/admit.o");

/// Where maps and links are pinned unless the operator says otherwise.
pub const PINS: &str = "/sys/fs/bpf/ebbgate";

/// How the program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// In the generic receive path, for drivers without support.
    Generic,
}

impl Mode {
    /// Both, the better first.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The word used in logs, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The XDP object.
    pub object: &'static [u8],
    /// Which interfaces.
    pub interfaces: Interfaces,
    /// Modes that may be tried, in this order.
    pub modes: Vec<Mode>,
    /// Folder of pins, of this edge alone.
    pub pins: PathBuf,
    /// Limits and sampling.
    pub rates: Rates,
    /// File of networks that no listener serves.
    pub blocklist: Option<PathBuf>,
    /// Where the edge notes which pins it uses, so that a later start without XDP can take the filter away.
    pub note: Option<PathBuf>,
    /// Whether another process has the filter until this one takes over.
    pub follows: bool,
}

impl Default for Settings {
    /// Nothing in the kernel, no blocklist.
    fn default() -> Self {
        Self {
            object: &[],
            interfaces: Interfaces::Off,
            modes: Mode::ALL.to_vec(),
            pins: PINS.into(),
            rates: Rates::default(),
            blocklist: None,
            note: None,
            follows: false,
        }
    }
}
