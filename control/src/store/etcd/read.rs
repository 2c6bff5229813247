//! Reads of many keys: page by page where one answer would be too long, all of them as of one revision.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Code, Status};

use super::cluster::{Cluster, Failure};
use super::index::Index;
use super::keys::{Keys, end_of};
use super::wire::{RangeRequest, RangeResponse, SORT_DESCEND, path};
use crate::store::{Item, Page, Range, StoreError};

/// Keys asked for at once in the beginning. Their values must fit one answer, or fewer are asked for.
const PAGE_KEYS: i64 = 256;
/// Keys asked for at once at most.
const PAGE_KEYS_MAX: i64 = 1_024;

/// Keys of etcd to read, from the first to the one beyond the last.
#[derive(Debug, Clone)]
pub(super) struct Span {
    from: Bytes,
    end: Bytes,
    limit: Option<usize>,
    reverse: bool,
    /// As of which revision of etcd; 0: the newest.
    at: i64,
}

impl Span {
    pub(super) fn of(keys: &Keys, range: &Range) -> Self {
        let from = keys.of(&range.prefix);
        let end = end_of(&from);
        let before = range.before.as_ref().map(|before| keys.of(before));
        let end = before.map_or(end.clone(), |before| before.min(end));
        Self { from, end, limit: range.limit, reverse: range.reverse, at: 0 }
    }
}

/// Reads a span at its revision, or that of its first page. Gives whether the limit cut something off, and etcd's revision.
pub(super) async fn pages(
    cluster: &Cluster,
    keys: &Keys,
    span: Span,
    take: &mut (dyn FnMut(Item) + Send),
) -> Result<(bool, i64), StoreError> {
    let mut request =
        RangeRequest { key: span.from, range_end: span.end, revision: span.at, ..RangeRequest::default() };
    request.sort_order = if span.reverse { SORT_DESCEND } else { 0 };
    let mut left = span.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let mut size = PAGE_KEYS;
    loop {
        if request.key >= request.range_end {
            return Ok((
                false,
                if request.revision == 0 { revision(cluster, keys).await? } else { request.revision },
            ));
        }
        request.count_only = left == Some(0);
        request.limit = if request.count_only { 0 } else { left.map_or(size, |left| left.min(size)) };
        let answer: RangeResponse = match cluster.call(path::RANGE, &request).await.0 {
            Ok(answer) => answer,
            Err(Failure::Refused(status)) if is_too_long(&status) && request.limit > 1 => {
                size = (request.limit / 4).max(1);
                continue;
            }
            Err(failure) => return Err(cluster.error(failure, false)),
        };
        if request.revision == 0 {
            request.revision = answer.header.as_ref().map_or(0, |header| header.revision);
        }
        if request.count_only {
            return Ok((answer.count > 0, request.revision));
        }
        if let Some(left) = &mut left {
            *left -= i64::try_from(answer.kvs.len()).unwrap_or(*left);
        }
        answer.kvs.iter().for_each(|kv| take(keys.item(kv)));
        let Some(last) = answer.kvs.last().filter(|_| answer.more) else {
            return Ok((false, request.revision));
        };
        if left == Some(0) {
            return Ok((true, request.revision));
        }
        if span.reverse {
            request.range_end = last.key.clone();
        } else {
            request.key = [&last.key[..], b"\0"].concat().into();
        }
        size = (size * 2).min(PAGE_KEYS_MAX);
    }
}

fn is_too_long(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("length too large")
}

/// etcd's revision now.
pub(super) async fn revision(cluster: &Cluster, keys: &Keys) -> Result<i64, StoreError> {
    let request = RangeRequest { key: keys.own("meta"), keys_only: true, ..RangeRequest::default() };
    let (answer, _) = cluster.call::<_, RangeResponse>(path::RANGE, &request).await;
    let answer = answer.map_err(|failure| cluster.error(failure, false))?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Many keys, as of one revision. `index`: where to look how far back the last keys begin.
pub(super) async fn range(
    cluster: &Cluster,
    keys: &Keys,
    range: &Range,
    index: Option<&Index>,
) -> Result<Page, StoreError> {
    if let (Some(index), true, Some(limit @ 1..)) = (index, range.reverse, range.limit)
        && let Some(page) = last_keys(cluster, keys, range, index, limit).await?
    {
        return Ok(page);
    }
    read(cluster, keys, Span::of(keys, range)).await
}

async fn read(cluster: &Cluster, keys: &Keys, span: Span) -> Result<Page, StoreError> {
    let mut items = Vec::new();
    let (more, revision) = pages(cluster, keys, span, &mut |item| items.push(item)).await?;
    Ok(Page { items, more, revision: keys.revision(revision) })
}

/// The last keys of a range. etcd sorts all of a range to give its last few, so it is asked for the end of it alone: the
/// index tells where that begins, and etcd what is there. None: the index knows of fewer keys.
async fn last_keys(
    cluster: &Cluster,
    keys: &Keys,
    range: &Range,
    index: &Index,
    limit: usize,
) -> Result<Option<Page>, StoreError> {
    let end = format!("{}\u{10FFFF}", range.prefix);
    let before = range.before.as_ref().unwrap_or(&end).min(&end);
    let mut wanted = limit.saturating_add(1);
    while let Some(from) = index.back_from(&range.prefix, before, wanted) {
        let span = Span { from: keys.of(&from), limit: None, ..Span::of(keys, range) };
        let mut page = read(cluster, keys, span).await?;
        if page.items.len() > limit {
            page.items.truncate(limit);
            page.more = true;
            return Ok(Some(page));
        }
        // Some of them are gone by now: further back.
        wanted = wanted.saturating_mul(2);
    }
    Ok(None)
}

/// Where a scan is.
pub(super) struct Scanning {
    cluster: Arc<Cluster>,
    keys: Keys,
    span: Span,
}

impl Scanning {
    /// Everything below a prefix, in pages of so many keys.
    pub(super) fn new(cluster: Arc<Cluster>, keys: Keys, prefix: &str, page: usize) -> Self {
        let all = Range::all(prefix);
        let span = Span { limit: Some(page.max(1)), ..Span::of(&keys, &all) };
        Self { cluster, keys, span }
    }

    /// The next page, and what follows it.
    pub(super) async fn next(mut self) -> (Result<Page, StoreError>, Option<Self>) {
        let mut items = Vec::new();
        let read = pages(&self.cluster, &self.keys, self.span.clone(), &mut |item| items.push(item)).await;
        let (more, at) = match read {
            Ok(read) => read,
            Err(error) => return (Err(error), None),
        };
        self.span.at = at;
        let revision = self.keys.revision(at);
        // Of a key that is no text the name says something else than etcd's key: what follows is behind it all the same.
        let next =
            items.last().filter(|_| more).map(|last: &Item| [&self.keys.of(&last.key)[..], b"\0"].concat());
        let rest = next.map(|from| Self { span: Span { from: from.into(), ..self.span.clone() }, ..self });
        (Ok(Page { items, more, revision }), rest)
    }
}
