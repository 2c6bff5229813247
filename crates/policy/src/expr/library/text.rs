//! Text functions whose own bounds matter, and those CEL's extension lacks.

use cel::common::types::{CelDuration, CelList, CelTimestamp, DURATION_TYPE, TIMESTAMP_TYPE};

use super::charged::format_size;
use super::function::{
    Answer, Args, CowVal, DYN_TYPE, DeclarationError, Env, ExecutionError, INT_TYPE, STRING_TYPE, as_int,
    as_text, bool_answer, budget, failed, global, int_answer, method, no_overload, take, text_answer,
};
use super::pattern::{PATTERN_BYTES_MAX, Pattern};
use crate::expr::value;

/// Units for each 256 bytes in which one text is searched for another.
const SEARCH_PRICE: u64 = 20;
/// Units of one match that is replaced.
const MATCH_UNITS: u64 = 1;
/// Units of one piece of a split string.
const PIECE_UNITS: u64 = 1;
/// Bytes a piece of a split string costs beside its text.
const PIECE_BYTES: u64 = 48;

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let (any, string, int) = (&DYN_TYPE, &STRING_TYPE, &INT_TYPE);
    global(env, "@matches", &[any, any, any], matches)?;
    global(env, "@replace", &[any, any, any, any], replace)?;
    global(env, "@replace", &[any, any, any, any, int], replace)?;
    global(env, "@join", &[any, any], join)?;
    global(env, "@join", &[any, any, string], join)?;
    global(env, "@split", &[any, any, string], split)?;
    global(env, "@split", &[any, any, string, int], split)?;
    global(env, "@indexOf", &[any, any, string], index_of)?;
    global(env, "@indexOf", &[any, any, string, int], index_of)?;
    global(env, "@lastIndexOf", &[any, any, string], last_index_of)?;
    global(env, "@lastIndexOf", &[any, any, string, int], last_index_of)?;
    global(env, "@format_arguments", &[any, any], format_arguments)?;
    global(env, "@milliseconds", &[&DURATION_TYPE], milliseconds)?;
    global(env, "@milliseconds", &[&TIMESTAMP_TYPE], milliseconds)?;
    method(env, "lower", string, &[], |args| map_text("lower", args, str::to_lowercase))?;
    method(env, "upper", string, &[], |args| map_text("upper", args, str::to_uppercase))
}

fn map_text<'b, 'v>(function: &str, args: Args<'b, 'v>, f: fn(&str) -> String) -> Answer<'b, 'v> {
    let [text] = take(args)?;
    match as_text(text.as_ref()) {
        Some(text) => text_answer(f(text)),
        None => Err(no_overload(function, &[text])),
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn matches<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, text, pattern] = take(args)?;
    let Some(string) = as_text(text.as_ref()) else { return Err(no_overload("matches", &[text, pattern])) };
    let account = budget(&account)?;
    if let Some(pattern) = pattern.downcast_ref::<Pattern>() {
        account.spend(pattern.search_units(string.len()))?;
        return bool_answer(pattern.regex().is_match(string));
    }
    let Some(source) = as_text(pattern.as_ref()) else {
        return Err(no_overload("matches", &[text, pattern]));
    };
    account.spend(Pattern::compile_units(source))?;
    match Pattern::compile(source, PATTERN_BYTES_MAX) {
        Ok(pattern) => {
            account.spend(pattern.search_units(string.len()))?;
            bool_answer(pattern.regex().is_match(string))
        }
        Err(message) => failed("matches", message),
    }
}

fn replace<'b, 'v>(mut args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let limit = if args.len() == 5 { args.pop().and_then(|limit| as_int(limit.as_ref())) } else { None };
    let [account, text, from, to] = take(args)?;
    let parts = (as_text(text.as_ref()), as_text(from.as_ref()), as_text(to.as_ref()));
    let (Some(string), Some(from_text), Some(to_text)) = parts else {
        return Err(no_overload("replace", &[text, from, to]));
    };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let account = budget(&account)?;
    account.spend_bytes(string.len(), SEARCH_PRICE)?;
    let found = string.matches(from_text).take(limit.min(account.affordable(MATCH_UNITS))).count();
    account.spend_each(found, MATCH_UNITS)?;
    let growth = u64::try_from(found).unwrap_or(u64::MAX).saturating_mul(length(to_text));
    account.hold(length(string).saturating_add(growth))?;
    text_answer(string.replacen(from_text, to_text, limit))
}

fn join<'b, 'v>(mut args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let separator = if args.len() == 3 { args.pop() } else { None };
    let separator = separator.as_ref().and_then(|s| as_text(s.as_ref())).unwrap_or_default().to_owned();
    let [account, list] = take(args)?;
    let Some(elements) = list.downcast_ref::<CelList>() else { return Err(no_overload("join", &[list])) };
    let mut parts = Vec::with_capacity(elements.inner().len());
    let mut total = 0_u64;
    for element in elements.inner() {
        let Some(part) = as_text(element.as_ref()) else { return failed("join", "takes a list of strings") };
        total = total.saturating_add(length(part)).saturating_add(length(&separator));
        parts.push(part);
    }
    budget(&account)?.hold(total)?;
    text_answer(parts.join(&separator))
}

fn split<'b, 'v>(mut args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let limit = if args.len() == 4 { args.pop().and_then(|limit| as_int(limit.as_ref())) } else { None };
    let [account, text, separator] = take(args)?;
    let (Some(string), Some(mark)) = (as_text(text.as_ref()), as_text(separator.as_ref())) else {
        return Err(no_overload("split", &[text, separator]));
    };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    let account = budget(&account)?;
    let pieces = match (limit, mark.is_empty()) {
        (Some(0), _) => Vec::new(),
        (_, true) => {
            account.spend_each(string.len(), PIECE_UNITS)?;
            account.hold(length(string).saturating_mul(PIECE_BYTES))?;
            characters(string, limit.unwrap_or(usize::MAX))
        }
        (limit, false) => {
            let limit = limit.unwrap_or(usize::MAX);
            account.spend_bytes(string.len(), SEARCH_PRICE)?;
            let marks = string.matches(mark).take(limit.min(account.affordable(PIECE_UNITS))).count();
            account.spend_each(marks + 1, PIECE_UNITS)?;
            let pieces = u64::try_from(marks).unwrap_or(u64::MAX).saturating_add(1);
            account.hold(pieces.saturating_mul(PIECE_BYTES).saturating_add(length(string)))?;
            string.splitn(limit, mark).collect()
        }
    };
    Ok(CowVal::Owned(value::list(pieces.into_iter().map(value::text).collect())))
}

/// A text in characters; beyond `limit` the rest stays together.
fn characters(text: &str, limit: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next().filter(|_| pieces.len() + 1 < limit) {
        let (head, tail) = rest.split_at(first.len_utf8());
        pieces.push(head);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// Text, needle and offset of a search; offsets count characters.
struct Search {
    text: String,
    needle: String,
    offset: Option<i64>,
}

impl Search {
    fn read(function: &str, mut args: Args) -> Result<Self, ExecutionError> {
        let offset =
            if args.len() == 4 { args.pop().and_then(|offset| as_int(offset.as_ref())) } else { None };
        let [account, text, needle] = take(args)?;
        let (Some(string), Some(mark)) = (as_text(text.as_ref()), as_text(needle.as_ref())) else {
            return Err(no_overload(function, &[text, needle]));
        };
        budget(&account)?.spend_bytes(string.len(), SEARCH_PRICE)?;
        let characters = i64::try_from(string.chars().count()).unwrap_or(i64::MAX);
        if let Some(offset) =
            offset.filter(|offset| *offset < 0 || (!mark.is_empty() && *offset >= characters))
        {
            return failed(function, format!("index out of range: {offset}"));
        }
        Ok(Self { text: string.to_owned(), needle: mark.to_owned(), offset })
    }

    /// Byte position of a character offset.
    fn byte(&self, offset: i64) -> usize {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.text.char_indices().nth(offset).map_or(self.text.len(), |(at, _)| at)
    }

    fn character(&self, byte: usize) -> i64 {
        let count = self.text.get(..byte).unwrap_or_default().chars().count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

fn index_of<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let search = Search::read("indexOf", args)?;
    let start = search.byte(search.offset.unwrap_or(0));
    let found = search.text.get(start..).and_then(|rest| rest.find(&search.needle));
    int_answer(found.map_or(-1, |at| search.character(start + at)))
}

fn last_index_of<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let search = Search::read("lastIndexOf", args)?;
    let end = match search.offset {
        Some(offset) => search.byte(offset).saturating_add(search.needle.len()).min(search.text.len()),
        None => search.text.len(),
    };
    // No occurrence ends inside a character.
    let end = search.text.floor_char_boundary(end);
    let found = search.text.get(..end).and_then(|head| head.rfind(&search.needle));
    int_answer(found.map_or(-1, |at| search.character(at)))
}

/// The arguments of CEL's own `format`, paid for beforehand.
fn format_arguments<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, arguments] = take(args)?;
    budget(&account)?.hold(format_size(arguments.as_ref()))?;
    Ok(arguments)
}

/// The milliseconds of the second, of a time or of a duration. CEL's own function gives a duration's whole length.
fn milliseconds<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [value] = take(args)?;
    if let Some(duration) = value.downcast_ref::<CelDuration>() {
        return int_answer(i64::from(duration.inner().subsec_nanos() / 1_000_000));
    }
    match value.downcast_ref::<CelTimestamp>() {
        Some(time) => int_answer(i64::from(time.inner().timestamp_subsec_millis())),
        None => Err(no_overload("getMilliseconds", &[value])),
    }
}
