//! The functions `rewrite` puts around costly places: they pay first, and then do what the plain operator would.

use std::collections::HashMap;

use cel::common::types::{CelBool, CelDouble, CelList, CelMap, CelMapKey, CelNull, CelUInt, Kind};

use super::function::{
    Answer, Args, CowVal, DYN_TYPE, DeclarationError, Env, ExecutionError, INT_TYPE, Ref, as_int, as_text,
    budget, failed, global, int_answer, no_overload, take,
};
use crate::expr::budget::Rate;
use crate::expr::value::{self, Extent, Owned};

/// Longest list `lists.range` makes.
const RANGE_MAX: i64 = 10_000;
/// Bytes that a list element costs beside its value.
const ELEMENT_BYTES: u64 = 32;
/// Units of one turn of a loop, without its body.
const TURN_UNITS: u64 = 3;
/// Pairs of elements that `distinct` compares for one unit, and bytes of them.
const COMPARISONS_PER_UNIT: u64 = 4;
const COMPARED_BYTES_PER_UNIT: u64 = 1024;
/// Largest rendering of one value by `format`, in multiples of its size, and digits of one number.
const FORMAT_GROWTH: u64 = 8;
const FORMAT_DIGITS: u64 = 128;

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let any = &DYN_TYPE;
    global(env, "@add", &[any, any, any], add)?;
    global(env, "@keep", &[any, any], keep)?;
    global(env, "@pay", &[any, any, &INT_TYPE, &INT_TYPE], pay)?;
    global(env, "@each", &[any, any, &INT_TYPE], each)?;
    global(env, "@pairs", &[any, any, &INT_TYPE], pairs)?;
    global(env, "@from_pairs", &[any], from_pairs)?;
    global(env, "@merge", &[any], merge)?;
    global(env, "@list_at", &[any, any], list_at)?;
    global(env, "@first_at", &[any, any], first_at)?;
    global(env, "@range", &[any, any], range)?;
    global(env, "@distinct", &[any, any], distinct)?;
    global(env, "@rand_double", &[any], rand_double)?;
    global(env, "@rand_int", &[any], rand_unit)?;
    global(env, "@rand_int", &[any, &INT_TYPE, &INT_TYPE], rand_int)
}

/// What copying a value holds; counting stops where the budget would anyway.
fn held(value: Ref) -> Extent {
    value::extent(value, crate::expr::HELD_BYTES_MAX)
}

fn add<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, a, b] = take(args)?;
    if matches!(a.get_type().kind(), Kind::String | Kind::Bytes | Kind::List) {
        budget(&account)?.hold_copy(held(a.as_ref()))?;
        budget(&account)?.hold_copy(held(b.as_ref()))?;
    }
    let unsupported = || {
        let types = vec![a.get_type().name().to_owned(), b.get_type().name().to_owned()];
        ExecutionError::no_such_overload("_+_", types)
    };
    // The evaluator's own `+` would append a map's keys to a list, in an order of its own each time.
    if a.get_type().kind() == Kind::List && b.get_type().kind() != Kind::List {
        return Err(unsupported());
    }
    let sum = a.as_adder().ok_or_else(unsupported)?.add(b.as_ref())?.into_owned();
    Ok(CowVal::Owned(sum))
}

fn keep<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, value] = take(args)?;
    budget(&account)?.hold_copy(held(value.as_ref()))?;
    Ok(value)
}

/// An argument of a function, read at that function's rate.
fn pay<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, value, bytes, nodes] = take(args)?;
    let price = |price: &CowVal| {
        as_int(price.as_ref()).and_then(|price| u64::try_from(price).ok()).unwrap_or(u64::MAX)
    };
    let rate = Rate::new(price(&bytes), price(&nodes));
    budget(&account)?.spend(rate.of(held(value.as_ref())))?;
    Ok(value)
}

/// Length and copy size of a loop's range.
fn charge_loop(account: &CowVal, range: Ref, weight: Ref) -> Result<(), ExecutionError> {
    let turns = match (range.downcast_ref::<CelList>(), range.downcast_ref::<CelMap>()) {
        (Some(list), _) => list.inner().len(),
        (_, Some(map)) => map.inner().len(),
        _ => return Ok(()),
    };
    let weight = as_int(weight).and_then(|weight| u64::try_from(weight).ok()).unwrap_or(u64::MAX);
    let account = budget(account)?;
    account.hold_copy(held(range))?;
    account.spend_each(turns, weight.saturating_add(TURN_UNITS))
}

/// A loop's range: lists as they are, maps as their keys in order, so that a run is the same every time.
fn each<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, range, weight] = take(args)?;
    charge_loop(&account, range.as_ref(), weight.as_ref())?;
    let Some(map) = range.downcast_ref::<CelMap>() else { return Ok(range) };
    let keys = sorted(map).into_iter().map(|(key, _)| value::key_value(key)).collect();
    Ok(CowVal::Owned(value::list(keys)))
}

/// The range of a two-variable loop: `[index, element]` of a list, `[key, value]` of a map.
fn pairs<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, range, weight] = take(args)?;
    charge_loop(&account, range.as_ref(), weight.as_ref())?;
    let pair = |key: Owned<'v>, value: Owned<'v>| -> Owned<'v> { value::list(vec![key, value]) };
    let pairs: Vec<Owned<'v>> = if let Some(map) = range.downcast_ref::<CelMap>() {
        sorted(map).into_iter().map(|(key, element)| pair(value::key_value(key), element.clone())).collect()
    } else if let Some(list) = range.downcast_ref::<CelList>() {
        (0..).zip(list.inner()).map(|(index, element)| pair(value::int(index), element.clone())).collect()
    } else {
        return Err(no_overload("loop", &[range]));
    };
    Ok(CowVal::Owned(value::list(pairs)))
}

fn sorted<'m, 'v>(map: &'m CelMap<'v>) -> Vec<(&'m CelMapKey<'v>, &'m Owned<'v>)> {
    let rank = |key: &CelMapKey| match key {
        CelMapKey::Bool(b) => (0, i128::from(*b.inner()), String::new()),
        CelMapKey::Int(number) => (1, i128::from(*number.inner()), String::new()),
        CelMapKey::UInt(number) => (1, i128::from(*number.inner()), String::new()),
        CelMapKey::String(text) => (2, 0, text.inner().to_owned()),
    };
    let mut entries: Vec<_> = map.inner().iter().collect();
    entries.sort_by_cached_key(|(key, _)| rank(key));
    entries
}

fn to_key<'v>(value: Ref) -> Result<CelMapKey<'v>, ExecutionError> {
    if let Some(text) = as_text(value) {
        return Ok(CelMapKey::String(text.to_owned().into()));
    }
    if let Some(number) = as_int(value) {
        return Ok(CelMapKey::Int(number.into()));
    }
    if let Some(number) = value.downcast_ref::<CelUInt>() {
        return Ok(CelMapKey::UInt((*number.inner()).into()));
    }
    match value::as_bool(value) {
        Some(b) => Ok(CelMapKey::Bool(CelBool::from(b))),
        None => failed("map", format!("a {} cannot be a key", value.get_type().name())),
    }
}

fn insert<'v>(
    map: &mut HashMap<CelMapKey<'v>, Owned<'v>>,
    key: CelMapKey<'v>,
    value: Owned<'v>,
) -> Result<(), ExecutionError> {
    let text = value::key_text(&key);
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => failed("map", format!("the key `{text}` is made twice")),
    }
}

/// `[[key, value], ...]` as a map.
fn from_pairs<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [pairs] = take(args)?;
    let mut map = HashMap::new();
    for pair in pairs.downcast_ref::<CelList>().map(CelList::inner).unwrap_or_default() {
        let parts = pair.downcast_ref::<CelList>().map(CelList::inner).unwrap_or_default();
        let [key, value] = parts else { return failed("map", "an entry is not a pair") };
        insert(&mut map, to_key(key.as_ref())?, value.clone())?;
    }
    Ok(CowVal::owned(CelMap::from(map)))
}

/// A list of maps as one map.
fn merge<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [maps] = take(args)?;
    let mut merged = HashMap::new();
    for map in maps.downcast_ref::<CelList>().map(CelList::inner).unwrap_or_default() {
        let Some(map) = map.downcast_ref::<CelMap>() else {
            return failed("transformMapEntry", "an entry is not a map");
        };
        for (key, value) in map.inner() {
            insert(&mut merged, key.clone(), value.clone())?;
        }
    }
    Ok(CowVal::owned(CelMap::from(merged)))
}

fn entry<'m, 'v>(map: Ref<'m, 'v>, key: Ref) -> Option<&'m Owned<'v>> {
    let key = value::key_of(as_text(key)?.to_owned());
    map.downcast_ref::<CelMap>()?.inner().get(&key)
}

/// A map's entry, or an empty list.
fn list_at<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [map, key] = take(args)?;
    Ok(CowVal::Owned(entry(map.as_ref(), key.as_ref()).cloned().unwrap_or_else(|| value::list(Vec::new()))))
}

/// The first element of a map's entry, or null.
fn first_at<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [map, key] = take(args)?;
    let list = entry(map.as_ref(), key.as_ref()).and_then(|list| list.downcast_ref::<CelList>());
    let first = list.and_then(|list| list.inner().first()).cloned();
    Ok(CowVal::Owned(first.unwrap_or_else(|| Box::new(CelNull))))
}

fn range<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, length] = take(args)?;
    let Some(length) = as_int(length.as_ref()) else { return Err(no_overload("lists.range", &[length])) };
    if !(0..=RANGE_MAX).contains(&length) {
        return failed("lists.range", format!("{length} is not between 0 and {RANGE_MAX}"));
    }
    budget(&account)?.hold(length.unsigned_abs().saturating_mul(ELEMENT_BYTES))?;
    budget(&account)?.spend(length.unsigned_abs())?;
    Ok(CowVal::Owned(value::list((0..length).map(value::int).collect())))
}

/// Every element is compared with all before it.
fn distinct<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, list] = take(args)?;
    let Some(elements) = list.downcast_ref::<CelList>() else { return Err(no_overload("distinct", &[list])) };
    let account = budget(&account)?;
    let length = elements.inner().len();
    let extent = held(list.as_ref());
    // Every element is compared with those before it, and may be read as often.
    let count = u64::try_from(length).unwrap_or(u64::MAX);
    account.spend(count.saturating_mul(count) / COMPARISONS_PER_UNIT)?;
    account.spend(count.saturating_mul(extent.bytes) / COMPARED_BYTES_PER_UNIT)?;
    account.hold_copy(extent)?;
    let mut unique: Vec<Owned<'v>> = Vec::new();
    for element in elements.inner() {
        if !unique.iter().any(|seen| element.equals(seen.as_ref())) {
            unique.push(element.clone());
        }
    }
    Ok(CowVal::Owned(value::list(unique)))
}

/// What `format` may write for its arguments.
pub(super) fn format_size(arguments: Ref) -> u64 {
    let count = arguments.downcast_ref::<CelList>().map_or(0, |list| list.inner().len());
    let numbers = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(FORMAT_DIGITS);
    held(arguments).bytes.saturating_mul(FORMAT_GROWTH).saturating_add(numbers)
}

fn rand_double<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account] = take(args)?;
    // 53 bits fill a double's significand.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in a double")]
    let unit = (budget(&account)?.random() >> 11) as f64 / (1_u64 << 53) as f64;
    Ok(CowVal::owned(CelDouble::from(unit)))
}

/// `rand.int()`: 0 or 1.
fn rand_unit<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account] = take(args)?;
    int_answer(i64::from(budget(&account)?.random() & 1 == 1))
}

/// Both ends included.
fn rand_int<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, low, high] = take(args)?;
    let (Some(low), Some(high)) = (as_int(low.as_ref()), as_int(high.as_ref())) else {
        return failed("rand.int", "takes two ints");
    };
    if low < 0 || low > high {
        return failed("rand.int", format!("{low} to {high} is not a range of positive numbers"));
    }
    let width = high.abs_diff(low).saturating_add(1);
    let drawn = (u128::from(budget(&account)?.random()) * u128::from(width)) >> 64;
    int_answer(low.saturating_add(i64::try_from(drawn).unwrap_or(0)))
}
