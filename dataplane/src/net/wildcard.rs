//! Names with a wildcard in front, and the one that a name falls under: exact before the longest wildcard.

use ebbgate_model::Host;

use crate::persistent::Map;

/// The name itself, then the wildcards that cover it, longest first.
pub fn candidates(host: &Host) -> impl Iterator<Item = Host> {
    let exact = host.clone();
    let name = host.wildcard_suffix().unwrap_or(host.as_str()).to_owned();
    let is_address = host.ip().is_some();
    let dots: Vec<usize> = name.match_indices('.').map(|(dot, _)| dot + 1).filter(|_| !is_address).collect();
    let wildcards = dots.into_iter().filter_map(move |from| format!("*.{}", name.get(from..)?).parse().ok());
    std::iter::once(exact).chain(wildcards)
}

/// Values by name, exact or wildcard. A clone shares them.
#[derive(Debug, Clone)]
pub struct WildcardMap<V>(Map<Host, V>);

impl<V> Default for WildcardMap<V> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<V: Clone> WildcardMap<V> {
    /// Sets the value of a name.
    pub fn insert(&mut self, name: Host, value: V) {
        self.0.insert(name, value);
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &Host) {
        self.0.remove(name);
    }

    /// The value of this very name.
    pub fn get(&self, name: &Host) -> Option<&V> {
        self.0.get(name)
    }

    /// The value of the name itself, else of the longest wildcard that covers it.
    pub fn find(&self, name: &Host) -> Option<&V> {
        self.0.get(name).or_else(|| candidates(name).skip(1).find_map(|wildcard| self.0.get(&wildcard)))
    }
}

impl<V: Clone> FromIterator<(Host, V)> for WildcardMap<V> {
    fn from_iter<I: IntoIterator<Item = (Host, V)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_itself_is_found_before_the_longest_wildcard() {
        let host = |name: &str| Host::requested(name).unwrap();
        let names = ["a.b.example.com", "*.b.example.com", "*.example.com"];
        let map: WildcardMap<&str> = names.into_iter().map(|name| (name.parse().unwrap(), name)).collect();
        let find = |name: &str| map.find(&host(name)).copied();
        assert_eq!(find("a.b.example.com"), Some("a.b.example.com"));
        assert_eq!(find("x.b.example.com"), Some("*.b.example.com"));
        assert_eq!(find("x_y.x.b.example.com"), Some("*.b.example.com"));
        assert_eq!(find("b.example.com"), Some("*.example.com"));
        assert_eq!(map.find(&"*.x.example.com".parse().unwrap()).copied(), Some("*.example.com"));
        assert_eq!((find("example.com"), find("com")), (None, None));
    }
}
