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

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ebbgate_ebpf as shared;
use ebbgate_model::Prefix;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use compile::{CompileError, Guarded, Tables, Write};

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
    /// The object cannot be loaded: usually no `CAP_BPF` and `CAP_NET_ADMIN`, or a kernel without BPF.
    #[error(
        "the XDP program cannot be loaded (needs CAP_BPF, CAP_NET_ADMIN and a BPF file system at {pins})"
    )]
    Load {
        /// Where maps and links are pinned.
        pins: PathBuf,
        /// What the kernel said.
        source: Box<EbpfError>,
    },
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
    /// A map could not be read or written.
    #[error("kernel map {map} could not be used")]
    Map {
        /// Which map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
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

/// Packets counted for one port's policy and one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Policy number; 0 for what belongs to no policy.
    pub policy: u32,
    /// Why they passed or were dropped.
    pub reason: shared::Reason,
    /// How many.
    pub packets: u64,
}

/// The program and its maps.
pub struct Admit {
    ebpf: Ebpf,
    pins: PathBuf,
    ports: Array<MapData, u32>,
    prefixes: LpmTrie<MapData, [u8; 20], u32>,
    config: Array<MapData, [u32; 6]>,
    counters: PerCpuArray<MapData, u64>,
    tables: Tables,
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
        let mut loader = EbpfLoader::new();
        for name in [
            shared::PORTS,
            shared::GUARDS,
            shared::PREFIXES,
            shared::COUNTERS,
            shared::CONFIG,
            shared::BUCKETS,
        ] {
            loader.map_pin_path(name, maps.join(name));
        }
        let load = |source| AdmitError::Load { pins: pins.to_owned(), source: Box::new(source) };
        let mut ebpf = loader.load(object).map_err(load)?;
        let ports = take(&mut ebpf, shared::PORTS)?;
        let prefixes = take(&mut ebpf, shared::PREFIXES)?;
        let config = take(&mut ebpf, shared::CONFIG)?;
        let counters = take(&mut ebpf, shared::COUNTERS)?;
        let tables = adopt(&ports, &prefixes)?;
        program(&mut ebpf)?.load()?;
        Ok(Self {
            ebpf,
            pins: pins.to_owned(),
            ports,
            prefixes,
            config,
            counters,
            tables,
            attached: BTreeMap::new(),
        })
    }

    /// Makes the maps equal to what these listeners need. On error the maps keep what they had, or stop between two
    /// writes, where every source has its old or its new verdict; the next call goes on from there.
    pub fn apply(&mut self, guarded: &[Guarded]) -> Result<(), AdmitError> {
        let wanted = compile::compile(&self.tables, guarded)?;
        if !wanted.ports.is_empty() {
            self.set_guarding(true)?;
        }
        for write in compile::writes(&self.tables, &wanted) {
            self.write(write)?;
        }
        if wanted.ports.is_empty() {
            self.set_guarding(false)?;
        }
        self.tables = wanted;
        Ok(())
    }

    fn set_guarding(&mut self, guarding: bool) -> Result<(), AdmitError> {
        let failed = |source| AdmitError::Map { map: shared::CONFIG, source };
        let mut config = self.config.get(&0, 0).map_err(failed)?;
        let [flag, ..] = &mut config;
        *flag = u32::from(guarding);
        self.config.set(0, config, 0).map_err(failed)
    }

    fn write(&mut self, write: Write) -> Result<(), AdmitError> {
        let failed = |map| move |source| AdmitError::Map { map, source };
        match write {
            Write::Port { index, policy } => {
                self.ports.set(index, policy, 0).map_err(failed(shared::PORTS))?;
                match policy {
                    shared::PORT_OPEN => drop(self.tables.ports.remove(&index)),
                    _ => drop(self.tables.ports.insert(index, policy)),
                }
            }
            Write::Put { policy, prefix, verdict } => {
                self.prefixes.insert(&key(policy, prefix), verdict, 0).map_err(failed(shared::PREFIXES))?;
                self.tables.prefixes.insert((policy, prefix), verdict);
            }
            Write::Remove { policy, prefix } => {
                self.prefixes.remove(&key(policy, prefix)).map_err(failed(shared::PREFIXES))?;
                self.tables.prefixes.remove(&(policy, prefix));
            }
        }
        Ok(())
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

    /// The policy number of a guarded TCP port.
    pub fn policy_of(&self, port: u16) -> Option<u32> {
        self.tables.ports.get(&shared::port_index(false, port)).copied()
    }

    /// Every counter that is not zero, summed over the CPUs.
    pub fn counts(&self) -> Result<Vec<Count>, AdmitError> {
        let policies = std::iter::once(0).chain(self.tables.ports.values().copied());
        let mut counts = Vec::new();
        for policy in policies {
            for reason in shared::Reason::ALL {
                let index = shared::counter_index(policy, reason);
                let values = self.counters.get(&index, 0);
                let values = values.map_err(|source| AdmitError::Map { map: shared::COUNTERS, source })?;
                let packets = values.iter().sum();
                if packets != 0 {
                    counts.push(Count { policy, reason, packets });
                }
            }
        }
        Ok(counts)
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

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, AdmitError> {
    let map = ebpf.take_map(name).ok_or(AdmitError::Missing(name))?;
    map.try_into().map_err(|source| AdmitError::Map { map: name, source })
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, AdmitError> {
    let program = ebpf.program_mut(shared::PROGRAM).ok_or(AdmitError::Missing(shared::PROGRAM))?;
    Ok(program.try_into()?)
}

/// What the maps of an edge before hold.
fn adopt(
    ports: &Array<MapData, u32>,
    prefixes: &LpmTrie<MapData, [u8; 20], u32>,
) -> Result<Tables, AdmitError> {
    let mut tables = Tables::default();
    for (index, policy) in (0..shared::PORTS_ENTRIES).zip(ports.iter()) {
        let policy = policy.map_err(|source| AdmitError::Map { map: shared::PORTS, source })?;
        if policy != shared::PORT_OPEN {
            tables.ports.insert(index, policy);
        }
    }
    for entry in prefixes {
        let (key, verdict) = entry.map_err(|source| AdmitError::Map { map: shared::PREFIXES, source })?;
        if let Some(key) = read_key(&key) {
            tables.prefixes.insert(key, verdict);
        }
    }
    Ok(tables)
}

/// The trie's key of a prefix: policy, then the address with IPv4 as `::ffff:a.b.c.d`.
fn key(policy: u32, prefix: Prefix) -> Key<[u8; 20]> {
    let net = prefix.net();
    let (front, address) = match net.network() {
        IpAddr::V4(v4) => (shared::PREFIX_BITS_V4, v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => (shared::PREFIX_BITS_V6, v6),
    };
    let mut data = [0; 20];
    let (number, bytes) = data.split_at_mut(4);
    number.copy_from_slice(&policy.to_ne_bytes());
    bytes.copy_from_slice(&address.octets());
    Key::new(front + u32::from(net.prefix_len()), data)
}

/// The policy and prefix of a key, if this program wrote it.
fn read_key(key: &Key<[u8; 20]>) -> Option<(u32, Prefix)> {
    let data = key.data();
    let (policy, address) = data.split_first_chunk::<4>()?;
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?);
    let bits = key.prefix_len();
    let net = match (address.to_ipv4_mapped(), bits.checked_sub(shared::PREFIX_BITS_V4)) {
        (Some(v4), Some(bits)) => IpNet::V4(Ipv4Net::new(v4, bits.try_into().ok()?).ok()?),
        _ => {
            IpNet::V6(Ipv6Net::new(address, bits.checked_sub(shared::PREFIX_BITS_V6)?.try_into().ok()?).ok()?)
        }
    };
    Some((u32::from_ne_bytes(*policy), net.to_string().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for text in ["203.0.113.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0", "::1/128"] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(read_key(&key(7, prefix)), Some((7, prefix)), "{text}");
        }
        assert_eq!(key(1, "203.0.113.0/24".parse().unwrap()).prefix_len(), 32 + 96 + 24);
    }
}
