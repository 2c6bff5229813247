//! Which coding a client is sent: `Accept-Encoding` (RFC 9110 section 12.5.3) against what is offered.

use crate::Coding;

/// The offered coding that the client likes best; of those that it likes alike, the one that is offered first. None: the body
/// goes as it is, because the client takes none of them or likes `identity` better.
pub fn negotiate<'v>(
    accepted: impl IntoIterator<Item = &'v [u8]>,
    offered: impl IntoIterator<Item = Coding>,
) -> Option<Coding> {
    let items = accepted.into_iter().flat_map(|value| value.split(|b| *b == b','));
    let items: Vec<(&[u8], u16)> = items.filter_map(item).collect();
    let named = |names: &dyn Fn(&[u8]) -> bool| {
        items.iter().filter(|(name, _)| names(name)).map(|(_, weight)| *weight).max()
    };
    let any = named(&|name| name == b"*");
    let weight = |coding: Coding| named(&|name| Coding::of(name) == Some(coding)).or(any).unwrap_or(0);
    // Unless it is named, plain text is what is left.
    let plain = named(&|name| name.eq_ignore_ascii_case(b"identity")).unwrap_or(0);
    let mut best: Option<(Coding, u16)> = None;
    for coding in offered {
        let weight = weight(coding);
        if weight > best.map_or(0, |(_, best)| best) {
            best = Some((coding, weight));
        }
    }
    best.filter(|(_, weight)| *weight >= plain).map(|(coding, _)| coding)
}

/// One item: its name, and its weight in thousandths. What cannot be read is not there.
fn item(item: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = item.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut weight = 1_000;
    for part in parts {
        let (key, value) = part.split_at_checked(2)?;
        if key.eq_ignore_ascii_case(b"q=") {
            weight = thousandths(value)?;
        }
    }
    Some((name, weight))
}

/// A weight (RFC 9110 section 12.4.2): `0`, `1`, or with at most three digits behind the point.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, digits) = text.split_first()?;
    let digits = match digits.split_first() {
        None => digits,
        Some((b'.', digits)) if digits.len() <= 3 => digits,
        Some(_) => return None,
    };
    let mut weight = match whole {
        b'0' => 0,
        b'1' => 1,
        _ => return None,
    };
    for place in 0..3 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        weight = weight * 10 + u16::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    (weight <= 1_000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Coding::{Brotli, Deflate, Gzip, Zstd};

    #[test]
    fn the_client_s_weights_decide_and_then_the_order_of_the_offer() {
        let check = |accepted: &[&str], expect: Option<Coding>| {
            let offered = [Gzip, Deflate, Brotli];
            let accepted_bytes = accepted.iter().map(|value| value.as_bytes());
            assert_eq!(negotiate(accepted_bytes, offered), expect, "{accepted:?}");
        };
        check(&[], None);
        check(&[""], None);
        check(&["gzip"], Some(Gzip));
        check(&["GZIP;Q=0.5"], Some(Gzip));
        check(&["x-gzip"], Some(Gzip));
        check(&["br, gzip"], Some(Gzip));
        check(&["br;q=1.0, gzip;q=0.8, *;q=0.1"], Some(Brotli));
        check(&["gzip;q=0.001", "br;q=0.002"], Some(Brotli));
        check(&["*"], Some(Gzip));
        check(&["*;q=0.5, gzip;q=0"], Some(Deflate));
        check(&["gzip;q=0"], None);
        check(&["*;q=0"], None);
        check(&["identity"], None);
        check(&["identity, gzip;q=0.5"], None);
        check(&["identity;q=0.5, gzip;q=0.5"], Some(Gzip));
        check(&["identity;q=0, gzip;q=0.1"], Some(Gzip));
        check(&["zstd"], None);
        check(&["zstd, deflate;q=0.3"], Some(Deflate));
        check(&["gzip;q=1.001"], None);
        check(&["gzip;q=2", "br;q=abc", "deflate;q=0.1234"], None);
        check(&["gzip;q=", ";q=1", ",,"], None);
        check(&["gzip ; q=0.5 , br ; q=0.6"], Some(Brotli));
        assert_eq!(negotiate([b"gzip, zstd".as_slice()], [Zstd, Gzip]), Some(Zstd));
        assert_eq!(negotiate([b"gzip".as_slice()], []), None);
    }
}
