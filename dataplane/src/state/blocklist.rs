//! The blocklist of the whole edge: a file of networks that no listener of the edge serves, one a line, `#` begins a
//! comment. Read whole or refused whole; the look-up in user space.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ebbgate_model::{Prefix, PrefixError};
use ipnet::IpNet;

/// Most networks in the file.
pub const BLOCKLIST_ENTRIES_MAX: usize = 1_000_000;
/// Most bytes of the file.
pub const BLOCKLIST_BYTES_MAX: u64 = 128 << 20;

/// Why a blocklist is not taken; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum BlocklistError {
    /// The file.
    #[error("cannot read the blocklist {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line that is no network.
    #[error("blocklist {path} line {line}: {source}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: PrefixError,
    },
    /// More networks than [`BLOCKLIST_ENTRIES_MAX`].
    #[error("blocklist {path} has {found} networks; the limit is {BLOCKLIST_ENTRIES_MAX}")]
    TooMany {
        /// Which file.
        path: PathBuf,
        /// How many.
        found: usize,
    },
    /// More bytes than [`BLOCKLIST_BYTES_MAX`].
    #[error("blocklist {0} is longer than {BLOCKLIST_BYTES_MAX} bytes")]
    TooLong(PathBuf),
}

/// Networks refused, in both forms that are needed of them.
#[derive(Debug, Default)]
pub struct Blocklist {
    prefixes: Vec<Prefix>,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Blocklist {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, BlocklistError> {
        let failed = |source| BlocklistError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(failed)?;
        file.take(BLOCKLIST_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > BLOCKLIST_BYTES_MAX {
            return Err(BlocklistError::TooLong(path.to_owned()));
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, BlocklistError> {
        let mut prefixes = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            // An address alone is itself; host bits after a length are a slip that must not be guessed at.
            let parsed = if entry.contains('/') { entry.parse() } else { Prefix::parse_lenient(entry) };
            let prefix = parsed.map_err(|source| BlocklistError::Line {
                path: path.to_owned(),
                line: n + 1,
                source,
            })?;
            prefixes.push(prefix);
        }
        if prefixes.len() > BLOCKLIST_ENTRIES_MAX {
            return Err(BlocklistError::TooMany { path: path.to_owned(), found: prefixes.len() });
        }
        Ok(Self::new(prefixes))
    }

    fn new(mut prefixes: Vec<Prefix>) -> Self {
        prefixes.sort_unstable();
        prefixes.dedup();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in &prefixes {
            match prefix.net() {
                IpNet::V4(net) => merge(&mut v4, net.network().to_bits(), net.broadcast().to_bits()),
                IpNet::V6(net) => merge(&mut v6, net.network().to_bits(), net.broadcast().to_bits()),
            }
        }
        Self { prefixes, v4, v6 }
    }

    /// Whether a source is refused.
    pub fn contains(&self, source: IpAddr) -> bool {
        match source.to_canonical() {
            IpAddr::V4(ip) => covers(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => covers(&self.v6, ip.to_bits()),
        }
    }

    /// The networks, sorted, each once.
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }
}

/// Adds a range to sorted ones that do not overlap; it begins no earlier than the last.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>, first: T, last: T) {
    match ranges.last_mut() {
        Some((_, end)) if *end >= first => *end = (*end).max(last),
        _ => ranges.push((first, last)),
    }
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let before = ranges.partition_point(|(first, _)| *first <= address);
    let range = before.checked_sub(1).and_then(|index| ranges.get(index));
    range.is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn parse(text: &str) -> Result<Blocklist, BlocklistError> {
        Blocklist::parse(Path::new("list"), text)
    }

    #[test]
    fn reads_lines_with_comments() {
        let list =
            parse("# ours\n\n192.0.2.7\n198.51.100.0/24 # a net\r\n2001:db8::/32\n192.0.2.7/32\n").unwrap();
        assert_eq!(list.prefixes().len(), 3);
        for (source, blocked) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.8", false),
            ("198.51.100.255", true),
            ("198.51.101.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(list.contains(source.parse().unwrap()), blocked, "{source}");
        }
        assert!(!parse("").unwrap().contains("192.0.2.7".parse().unwrap()));
        assert!(parse("0.0.0.0/0").unwrap().contains("255.255.255.255".parse().unwrap()));
        assert!(!parse("0.0.0.0/0").unwrap().contains("::1".parse().unwrap()));
    }

    #[test]
    fn refuses_the_whole_file_by_its_line() {
        for (text, expect) in [
            ("10.0.0.1\nten\n", "blocklist list line 2: `ten`"),
            ("\n\n10.0.0.1/8", "blocklist list line 3: `10.0.0.1/8` has bits set after"),
            ("10.0.0.0/33", "line 1"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(expect), "{message}");
        }
        let many: Vec<String> = (0..=1_000_000).map(|n| Ipv4Addr::from_bits(n).to_string()).collect();
        let message = parse(&many.join("\n")).unwrap_err().to_string();
        assert!(message.contains("1000001") && message.contains("1000000"), "{message}");
    }

    proptest! {
        #[test]
        fn ranges_say_what_the_networks_say(nets in proptest::collection::vec((any::<u8>(), 24u8..=32), 0..12), n in any::<u8>()) {
            let prefix = |(n, len): &(u8, u8)| Prefix::parse_lenient(&format!("10.0.0.{n}/{len}")).unwrap();
            let prefixes: Vec<Prefix> = nets.iter().map(prefix).collect();
            let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
            let expect = prefixes.iter().any(|prefix| prefix.contains(source));
            prop_assert_eq!(Blocklist::new(prefixes).contains(source), expect);
        }
    }
}
