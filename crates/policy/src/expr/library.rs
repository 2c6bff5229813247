//! The functions an expression may call (surface.md section 5.4), and the environment that holds them.
//!
//! Names that begin with `@` cannot be written in a source: `rewrite` puts them in place of functions whose result can
//! be much larger than their arguments, with the budget as first argument.

use cel::{DeclarationError, Env, extensions};

use super::error::ExprError;
use crate::diagnostic::nearest;

mod charged;
mod digest;
mod encoding;
mod function;
mod network;
mod pattern;
mod rates;
mod text;

pub(crate) use pattern::{PATTERN_BYTES_MAX, Pattern};
pub(super) use rates::rate;

/// All functions, ready to be called.
pub(super) fn environment() -> Env {
    declare().expect("every function is declared once: a test builds this environment")
}

fn declare() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)?;
    env.add_extension(extensions::lists)?;
    env.add_extension(extensions::math)?;
    env.add_extension(extensions::encoders)?;
    charged::declare(&mut env)?;
    text::declare(&mut env)?;
    encoding::declare(&mut env)?;
    digest::declare(&mut env)?;
    network::declare(&mut env)?;
    Ok(env)
}

/// The charged form of a function, called with budget, target and arguments.
pub(super) fn bounded(function: &str, is_member: bool) -> Option<&'static str> {
    Some(match (function, is_member) {
        ("replace", true) => "@replace",
        ("join", true) => "@join",
        ("split", true) => "@split",
        ("indexOf", true) => "@indexOf",
        ("lastIndexOf", true) => "@lastIndexOf",
        ("distinct", true) => "@distinct",
        ("lists.range", false) => "@range",
        ("rand.double", false) => "@rand_double",
        ("rand.int", false) => "@rand_int",
        ("json.decode", false) | ("decodeJson", true) => "@json_decode",
        ("isJson", true) => "@json_is",
        ("queryString.decode", false) | ("decodeQueryString", true) => "@query_decode",
        ("url.parse", false) | ("parseUrl", true) => "@url_parse",
        _ => return None,
    })
}

/// Whether a function's result is a new value that counts as held.
pub(super) fn builds(function: &str) -> bool {
    let opens_optional = matches!(function, "value" | "orValue" | "or");
    let small = matches!(function, "type" | "dyn" | "optional.none" | "hasValue" | "family" | "prefixLength");
    opens_optional || !(small || function.starts_with('@') && function != "@sortByAssociatedKeys")
}

const MEMBERS: &[&str] = &[
    "charAt",
    "contains",
    "containsCIDR",
    "containsIP",
    "crc32",
    "crc64",
    "decodeBase64",
    "decodeJson",
    "decodeQueryString",
    "distinct",
    "encodeBase64",
    "encodeJson",
    "encodeQueryString",
    "endsWith",
    "escapeUrl",
    "family",
    "flatten",
    "format",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "indexOf",
    "ip",
    "isGlobalUnicast",
    "isJson",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isPrivateIp",
    "isQueryString",
    "isURL",
    "isUnspecified",
    "join",
    "lastIndexOf",
    "lower",
    "lowerAscii",
    "masked",
    "matches",
    "md5",
    "or",
    "orValue",
    "parseUrl",
    "prefixLength",
    "replace",
    "reverse",
    "sha1",
    "sha256",
    "sha512",
    "size",
    "slice",
    "sort",
    "split",
    "startsWith",
    "substring",
    "trim",
    "unescapeUrl",
    "upper",
    "upperAscii",
    "value",
    "xxhash64",
];

const GLOBALS: &[&str] = &[
    "base64.decode",
    "base64.encode",
    "basic_auth.encode",
    "bool",
    "bytes",
    "cidr",
    "double",
    "duration",
    "dyn",
    "getQueryParam",
    "getReqCookie",
    "getReqHeader",
    "getResCookie",
    "getResHeader",
    "hasQueryParam",
    "hasReqCookie",
    "hasReqHeader",
    "hasResCookie",
    "hasResHeader",
    "hash.crc32",
    "hash.crc64",
    "hash.md5",
    "hash.sha1",
    "hash.sha256",
    "hash.sha512",
    "hash.xxhash64",
    "inCidrRange",
    "inCidrRanges",
    "int",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isIP",
    "json.decode",
    "json.encode",
    "lists.range",
    "math.abs",
    "math.bitAnd",
    "math.bitNot",
    "math.bitOr",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.bitXor",
    "math.ceil",
    "math.floor",
    "math.isFinite",
    "math.isInf",
    "math.isNaN",
    "math.round",
    "math.sign",
    "math.sqrt",
    "math.trunc",
    "matches",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "queryString.decode",
    "queryString.encode",
    "rand.double",
    "rand.int",
    "size",
    "string",
    "strings.quote",
    "timestamp",
    "type",
    "uint",
    "url.escape",
    "url.parse",
    "url.unescape",
];

/// Macros that were expanded before a name is checked; known for suggestions.
const MACROS: &[&str] = &[
    "all",
    "exists",
    "existsOne",
    "exists_one",
    "filter",
    "has",
    "map",
    "optFlatMap",
    "optMap",
    "sortBy",
    "transformList",
    "transformMap",
    "transformMapEntry",
];

pub(super) fn is_global(name: &str) -> bool {
    GLOBALS.contains(&name) || name.starts_with("math.@") || name == "strings.quote"
}

/// Types that an expression may name, as in `type(x) == int`.
pub(super) fn is_type(name: &str) -> bool {
    matches!(
        name,
        "bool"
            | "bytes"
            | "double"
            | "google.protobuf.Duration"
            | "google.protobuf.Timestamp"
            | "int"
            | "list"
            | "map"
            | "net.CIDR"
            | "net.IP"
            | "null_type"
            | "optional_type"
            | "string"
            | "type"
            | "uint"
    )
}

/// Refuses a function that does not exist.
pub(super) fn check_function(name: &str, is_member: bool) -> Result<(), ExprError> {
    let first = name.chars().next().unwrap_or('@');
    if !first.is_ascii_alphabetic() {
        return Ok(());
    }
    let known = if is_member { MEMBERS } else { GLOBALS };
    if known.contains(&name) || name.starts_with("math.@") {
        return Ok(());
    }
    let error = ExprError::new(format!("there is no function `{name}`"));
    let other = if is_member { GLOBALS } else { MEMBERS };
    if other.contains(&name) {
        let way =
            if is_member { format!("write `{name}(...)`") } else { format!("write `value.{name}(...)`") };
        return Err(error.with_hint(way));
    }
    match nearest(name, known.iter().chain(MACROS).chain(other).copied()) {
        Some(near) => Err(error.with_hint(format!("did you mean `{near}`?"))),
        None => Err(error),
    }
}

/// Every function a policy can call.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MEMBERS.iter().chain(GLOBALS).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_be_built() {
        assert!(declare().is_ok());
    }

    #[test]
    fn unknown_functions_come_with_a_way_out() {
        let check = |name: &str, is_member: bool, expect: &str| {
            let error = check_function(name, is_member).unwrap_err();
            assert_eq!(error.hint().unwrap_or_default(), expect, "{name}");
        };
        check("hasReqHeaders", false, "did you mean `hasReqHeader`?");
        check("startswith", true, "did you mean `startsWith`?");
        check("lower", false, "write `value.lower(...)`");
        check("inCidrRange", true, "write `inCidrRange(...)`");
        check("frobnicate", false, "");
        assert!(check_function("_+_", false).is_ok());
    }
}
