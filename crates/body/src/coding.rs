//! `Coding`: the content codings that bodies come in and leave in.

use std::fmt;

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, not bare RFC 1951. Bare is read too: some servers send it.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, with a window of at most 8 MiB (RFC 9659).
    Zstd,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Deflate, Self::Brotli, Self::Zstd];

    /// The registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// The coding of a name, in any case. `x-gzip` is gzip (RFC 9110 section 8.4.1.3).
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"x-gzip") {
            return Some(Self::Gzip);
        }
        Self::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name().as_bytes()))
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A `Content-Encoding` that is none of [`Coding::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the content coding `{0}` is not one of gzip, deflate, br and zstd")]
pub struct UnknownCoding(pub String);

/// The codings of all `Content-Encoding` values, first applied first. `identity` counts as none.
pub fn codings_of<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Result<Vec<Coding>, UnknownCoding> {
    let items = values.into_iter().flat_map(|value| value.split(|b| *b == b','));
    items
        .map(<[u8]>::trim_ascii)
        .filter(|item| !item.is_empty() && !item.eq_ignore_ascii_case(b"identity"))
        .map(|item| {
            Coding::of(item)
                .ok_or_else(|| UnknownCoding(item.escape_ascii().take(64).map(char::from).collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codings_of_a_head() {
        let check = |values: &[&str], expect: &[Coding]| {
            assert_eq!(
                codings_of(values.iter().map(|value| value.as_bytes())).as_deref(),
                Ok(expect),
                "{values:?}"
            );
        };
        check(&[], &[]);
        check(&["identity", ""], &[]);
        check(&["GZIP"], &[Coding::Gzip]);
        check(&[" x-gzip , br"], &[Coding::Gzip, Coding::Brotli]);
        check(&["zstd", "deflate"], &[Coding::Zstd, Coding::Deflate]);
        let unknown = codings_of([b"gzip, dc\xffb".as_slice()]);
        assert_eq!(unknown, Err(UnknownCoding("dc\\xffb".into())));
    }
}
