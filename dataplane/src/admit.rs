//! Owner of the kernel side of `restrict-ips`: the XDP program `admit`, its maps and its links.
//!
//! Keeps the maps equal to what [`compile`] asks for, and the program attached to the interfaces it was given. It knows no
//! endpoint and no policy, and it is never the authority: without privilege, or where the kernel refuses, the edge serves
//! the same verdicts from user space.
//!
//! Maps and links are pinned, so the filter outlives the process: a new one adopts the maps as they are, makes them
//! equal to its own Program, and replaces the program in each link in one step.

pub mod compile;
pub mod lists;
pub mod maps;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use ebbgate_ebpf as shared;
use ebbgate_model::Prefix;

use compile::{CompileError, Guarded};
use maps::{Count, Counters, Maps, MapsError};

/// How the program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// In the generic receive path, for drivers without support.
    Generic,
}

impl Mode {
    /// The word used in logs, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Why the kernel does not enforce.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The maps cannot be used.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The program was refused.
    #[error("the kernel refused the XDP program")]
    Program(#[source] Box<ProgramError>),
    /// An interface took the program in no mode.
    #[error("the XDP program cannot be attached to {interface}; is another XDP program there?")]
    Attach {
        /// Which interface.
        interface: String,
        /// What the kernel said to the generic mode.
        source: Box<ProgramError>,
    },
    /// The object does not hold what this edge was built for.
    #[error("the XDP object has no {0}; build it again with `cargo xtask ebpf`")]
    Missing(&'static str),
    /// A pin could not be made or removed.
    #[error("pin {path} cannot be used")]
    Pin {
        /// Which pin.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The lists do not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// The program and its maps.
pub struct Admit {
    ebpf: Ebpf,
    pins: PathBuf,
    maps: Maps,
    attached: BTreeMap<String, Mode>,
}

impl From<ProgramError> for AdmitError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

impl Admit {
    /// Loads the program from `object` over the maps pinned below `pins`, adopting what they hold.
    ///
    /// Nothing is attached yet: call [`Admit::apply`] first, so that no interface is ever guarded by half a list.
    pub fn open(object: &[u8], pins: &Path) -> Result<Self, AdmitError> {
        let maps = pins.join(format!("layout-{}", shared::LAYOUT));
        fs::create_dir_all(&maps).map_err(|source| AdmitError::Pin { path: maps.clone(), source })?;
        let mut ebpf = maps::load(object, Some(&maps))?;
        let maps = Maps::adopt(&mut ebpf)?;
        program(&mut ebpf)?.load()?;
        Ok(Self { ebpf, pins: pins.to_owned(), maps, attached: BTreeMap::new() })
    }

    /// Makes the maps equal to what these listeners need. On error the maps keep what they had, or stop between two
    /// writes, where every source has its old or its new verdict; the next call goes on from there.
    pub fn apply(&mut self, guarded: &[Guarded], blocklist: &[Prefix]) -> Result<(), AdmitError> {
        let wanted = compile::compile(self.maps.tables(), guarded, blocklist)?;
        Ok(self.maps.apply(wanted)?)
    }

    /// Attaches to an interface: in the driver if it can, else in the generic path. A link pinned by an edge before is
    /// taken over and its program replaced, without a moment in between.
    pub fn attach(&mut self, interface: &str) -> Result<Mode, AdmitError> {
        let native = self.pins.join(format!("link-{interface}-native"));
        let generic = self.pins.join(format!("link-{interface}-generic"));
        for (path, mode) in [(&native, Mode::Native), (&generic, Mode::Generic)] {
            if path.exists() && self.take_over(path).is_ok() {
                self.attached.insert(interface.to_owned(), mode);
                return Ok(mode);
            }
        }
        let program = program(&mut self.ebpf)?;
        let (id, mode, path) = match program.attach(interface, XdpMode::Driver) {
            Ok(id) => (id, Mode::Native, native),
            Err(_) => match program.attach(interface, XdpMode::Skb) {
                Ok(id) => (id, Mode::Generic, generic),
                Err(source) => {
                    return Err(AdmitError::Attach {
                        interface: interface.to_owned(),
                        source: Box::new(source),
                    });
                }
            },
        };
        let link: FdLink =
            program.take_link(id)?.try_into().map_err(|_| AdmitError::Missing("BPF link support"))?;
        link.pin(&path).map_err(|e| AdmitError::Pin { path, source: io::Error::other(e) })?;
        self.attached.insert(interface.to_owned(), mode);
        Ok(mode)
    }

    /// Puts this program into a pinned link. The pin keeps the link when this process ends.
    fn take_over(&mut self, path: &Path) -> Result<(), AdmitError> {
        let pin = |source| AdmitError::Pin { path: path.to_owned(), source };
        let link = PinnedLink::from_pin(path).map_err(|e| pin(io::Error::other(e)))?;
        let link = XdpLink::try_from(FdLink::from(link)).map_err(|e| pin(io::Error::other(e)))?;
        program(&mut self.ebpf)?.attach_to_link(link)?;
        Ok(())
    }

    /// The interfaces guarded, and how.
    pub fn attached(&self) -> &BTreeMap<String, Mode> {
        &self.attached
    }

    /// The counters, to be read beside this.
    pub fn counters(&self) -> Result<Counters, AdmitError> {
        Ok(self.maps.counters()?)
    }

    /// Every counter of the policies in force that is not zero.
    pub fn counts(&self) -> Result<Vec<Count>, AdmitError> {
        let policies = self.maps.tables().policies().into_iter().filter(|policy| *policy != 0);
        Ok(self.counters()?.read(std::iter::once(0).chain(policies))?)
    }
}

/// Removes links, maps and their folder: the host is as it was before the first edge.
pub fn unload(pins: &Path) -> Result<(), AdmitError> {
    let pin = |source| AdmitError::Pin { path: pins.to_owned(), source };
    match fs::remove_dir_all(pins) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(pin(e)),
        _ => Ok(()),
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, AdmitError> {
    let program = ebpf.program_mut(shared::PROGRAM).ok_or(AdmitError::Missing(shared::PROGRAM))?;
    Ok(program.try_into()?)
}
