//! Pages of a list: newest first, `limit` objects at a time.
//!
//! Pure: knows query parameters and order, not where objects come from.

use super::failure::ApiError;
use super::query::Query;

/// Most objects of one page, and how many there are when `limit` is absent.
pub(super) const LIMIT_MAX: usize = 100;

/// Query parameters every list takes. `beforeId` is what the Node client sends: ignoring it would make that client
/// read the first page for ever.
pub(super) const PAGE_PARAMETERS: [&str; 4] = ["limit", "before_id", "beforeId", "filter"];

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page<I> {
    /// Most objects, 1 to [`LIMIT_MAX`].
    pub(super) limit: usize,
    /// Only objects older than this one, which need not exist.
    pub(super) before: Option<I>,
}

impl<I> Page<I> {
    /// Reads `limit` and `before_id`; `parse` knows the prefix of the list's ids.
    pub(super) fn parse(
        query: &Query,
        parse: impl Fn(&str) -> Result<I, ApiError>,
    ) -> Result<Self, ApiError> {
        let before = query.one("before_id").or_else(|| query.one("beforeId")).map(parse).transpose()?;
        Ok(Self { limit: query.one("limit").map_or(Ok(LIMIT_MAX), parse_limit)?, before })
    }
}

impl<I: Ord + Copy> Page<I> {
    /// Cuts the page out of all objects, and names the last one's id when more follow.
    pub(super) fn cut<T>(self, mut all: Vec<T>, id: impl Fn(&T) -> I) -> (Vec<T>, Option<I>) {
        if let Some(before) = self.before {
            all.retain(|item| id(item) < before);
        }
        all.sort_unstable_by_key(|item| std::cmp::Reverse(id(item)));
        let more = all.len() > self.limit;
        all.truncate(self.limit);
        let last = all.last().map(id).filter(|_| more);
        (all, last)
    }
}

fn parse_limit(text: &str) -> Result<usize, ApiError> {
    let not_a_number =
        |_| ApiError::bad(244, format!("`limit` is `{text}`, which is not a number from 1 to {LIMIT_MAX}"));
    let number: usize = text.parse().map_err(not_a_number)?;
    if (1..=LIMIT_MAX).contains(&number) {
        return Ok(number);
    }
    Err(ApiError::bad(233, format!("`limit` is {number}; it must be 1 to {LIMIT_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{ErrorCode, Ksuid};
    use proptest::prelude::*;

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000 + u64::from(n), [n; 16])
    }

    fn page(text: &str) -> Result<Page<Ksuid>, Option<u32>> {
        let query = Query::parse(text, &PAGE_PARAMETERS, &[]).unwrap();
        Page::parse(&query, |id| id.parse().map_err(|_| ApiError::bad(227, "id")))
            .map_err(|e| e.code().map(ErrorCode::number))
    }

    #[test]
    fn reads_the_parameters() {
        assert_eq!(page(""), Ok(Page { limit: 100, before: None }));
        assert_eq!(page("limit=1"), Ok(Page { limit: 1, before: None }));
        for name in ["before_id", "beforeId"] {
            let expect = Page { limit: 100, before: Some(ksuid(3)) };
            assert_eq!(page(&format!("{name}={}", ksuid(3))), Ok(expect));
        }
        for (text, code) in
            [("limit=0", 233), ("limit=101", 233), ("limit=x", 244), ("limit=-1", 244), ("before_id=x", 227)]
        {
            assert_eq!(page(text), Err(Some(code)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn walking_the_pages_sees_everything_once_newest_first(count in 0u8..40, limit in 1usize..12) {
            let all: Vec<Ksuid> = (0..count).map(ksuid).collect();
            let (mut seen, mut before) = (Vec::<Ksuid>::new(), None);
            loop {
                let (items, next) = Page { limit, before }.cut(all.clone(), |k| *k);
                seen.extend(&items);
                before = next;
                if next.is_none() { break }
            }
            let newest_first: Vec<Ksuid> = all.into_iter().rev().collect();
            prop_assert_eq!(seen, newest_first);
        }
    }
}
