//! Base64, JSON, query strings, URLs, basic-auth headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::function::{
    Answer, Args, CowVal, DYN_TYPE, DeclarationError, Env, ExecutionError, LIST_TYPE, MAP_TYPE, STRING_TYPE,
    as_text, bool_answer, budget, failed, global, method, no_overload, take, text_answer,
};
use crate::expr::{query, value};

/// Units of one part of a text that is taken apart: a JSON value, a query parameter.
const PART_UNITS: u64 = 4;
/// Bytes that one such part holds beside its text.
const PART_BYTES: u64 = 64;
/// Unreserved characters stay (RFC 3986 section 2.3).
const QUERY_ESCAPE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let (any, string, map, list) = (&DYN_TYPE, &STRING_TYPE, &MAP_TYPE, &LIST_TYPE);
    global(env, "base64.encode", &[string], |args| {
        text("base64.encode", args, |text| Ok(STANDARD.encode(text)))
    })?;
    global(env, "basic_auth.encode", &[string, string], basic_auth)?;
    method(env, "encodeBase64", string, &[], |args| {
        text("encodeBase64", args, |text| Ok(STANDARD.encode(text)))
    })?;
    method(env, "decodeBase64", string, &[], |args| text("decodeBase64", args, decode_base64))?;
    global(env, "json.encode", &[&DYN_TYPE], encode_json)?;
    method(env, "encodeJson", map, &[], encode_json)?;
    method(env, "encodeJson", list, &[], encode_json)?;
    method(env, "encodeJson", string, &[], encode_json)?;
    global(env, "@json_decode", &[any, any], decode_json)?;
    global(env, "@json_is", &[any, any], is_json)?;
    global(env, "queryString.encode", &[map], encode_query)?;
    method(env, "encodeQueryString", map, &[], encode_query)?;
    global(env, "@query_decode", &[any, any], decode_query)?;
    method(env, "isQueryString", string, &[], |args| ask("isQueryString", args, is_query))?;
    global(env, "url.escape", &[string], escape_url)?;
    global(env, "url.unescape", &[string], unescape_url)?;
    global(env, "@url_parse", &[any, any], parse_url)?;
    method(env, "escapeUrl", string, &[], escape_url)?;
    method(env, "unescapeUrl", string, &[], unescape_url)?;
    method(env, "isURL", string, &[], |args| ask("isURL", args, |text| split_url(text).is_ok()))
}

/// A function from text to text.
fn text<'b, 'v>(function: &str, args: Args<'b, 'v>, f: fn(&str) -> Result<String, String>) -> Answer<'b, 'v> {
    let [argument] = take(args)?;
    let Some(string) = as_text(argument.as_ref()) else { return Err(no_overload(function, &[argument])) };
    match f(string) {
        Ok(text) => text_answer(text),
        Err(message) => failed(function, message),
    }
}

/// A question about text.
fn ask<'b, 'v>(function: &str, args: Args<'b, 'v>, f: fn(&str) -> bool) -> Answer<'b, 'v> {
    let [argument] = take(args)?;
    match as_text(argument.as_ref()) {
        Some(text) => bool_answer(f(text)),
        None => Err(no_overload(function, &[argument])),
    }
}

fn basic_auth<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [user, password] = take(args)?;
    match (as_text(user.as_ref()), as_text(password.as_ref())) {
        (Some(user), Some(password)) => {
            text_answer(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        }
        _ => Err(no_overload("basic_auth.encode", &[user, password])),
    }
}

fn decode_base64(text: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map_err(|_| "the decoded bytes are not UTF-8 text; use base64.decode".to_owned())
}

fn encode_json<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [argument] = take(args)?;
    text_answer(value::to_json(argument.as_ref()).to_string())
}

/// `serde_json` bounds the nesting.
fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// Pays for the parts that a text may be taken apart into: one more than it has marks.
fn pay_parts(account: &CowVal, text: &str, is_mark: fn(u8) -> bool) -> Result<(), ExecutionError> {
    let account = budget(account)?;
    let parts = 1 + text.bytes().filter(|byte| is_mark(*byte)).count();
    account.spend_each(parts, PART_UNITS)?;
    let bytes = u64::try_from(parts).unwrap_or(u64::MAX).saturating_mul(PART_BYTES);
    account.hold(bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX)))
}

/// Every value of a JSON text but the first stands behind one of these.
fn is_json_mark(byte: u8) -> bool {
    matches!(byte, b',' | b':' | b'[' | b'{')
}

fn decode_json<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, argument] = take(args)?;
    let Some(text) = as_text(argument.as_ref()) else { return Err(no_overload("json.decode", &[argument])) };
    pay_parts(&account, text, is_json_mark)?;
    match parse_json(text) {
        Ok(json) => Ok(CowVal::Owned(value::from_json(&json))),
        Err(message) => failed("json.decode", message),
    }
}

fn is_json<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, argument] = take(args)?;
    let Some(text) = as_text(argument.as_ref()) else { return Err(no_overload("isJson", &[argument])) };
    pay_parts(&account, text, is_json_mark)?;
    bool_answer(parse_json(text).is_ok())
}

fn encode_query<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [argument] = take(args)?;
    match value::to_json(argument.as_ref()) {
        Value::Object(map) => text_answer(query::encode_parameters(&map)),
        _ => Err(no_overload("queryString.encode", &[argument])),
    }
}

fn decode_query<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, argument] = take(args)?;
    let Some(text) = as_text(argument.as_ref()) else {
        return Err(no_overload("queryString.decode", &[argument]));
    };
    pay_parts(&account, text, |byte| byte == b'&')?;
    Ok(CowVal::Owned(value::from_json(&query::parameters(text))))
}

/// Only characters a query may hold (RFC 3986 section 3.4), and whole percent escapes.
fn is_query(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(&b);
    text.bytes().all(allowed) && escapes_are_whole(text)
}

fn escapes_are_whole(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|rest| rest.get(..2).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())))
}

fn escape_url<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    text("url.escape", args, |text| {
        Ok(utf8_percent_encode(text, QUERY_ESCAPE).to_string().replace("%20", "+"))
    })
}

fn unescape_url<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    text("url.unescape", args, |text| {
        if !escapes_are_whole(text) {
            return Err("a percent escape is not whole".to_owned());
        }
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| "the decoded bytes are not UTF-8 text".to_owned())
    })
}

fn split_url(text: &str) -> Result<http::Uri, String> {
    let uri: http::Uri = text
        .split('#')
        .next()
        .unwrap_or_default()
        .parse()
        .map_err(|e: http::uri::InvalidUri| e.to_string())?;
    if uri.scheme().is_none() || uri.host().is_none_or(str::is_empty) {
        return Err("an absolute URL is needed".to_owned());
    }
    Ok(uri)
}

fn parse_url<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [account, argument] = take(args)?;
    let Some(text) = as_text(argument.as_ref()) else { return Err(no_overload("url.parse", &[argument])) };
    pay_parts(&account, text, |byte| byte == b'&')?;
    let uri = match split_url(text) {
        Ok(uri) => uri,
        Err(message) => return failed("url.parse", message),
    };
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let (user, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
    let parts = json!({
        "authority": authority,
        "fragment": text.split_once('#').map_or("", |(_, fragment)| fragment),
        "host": uri.host().unwrap_or_default(),
        "path": percent_decode_str(uri.path()).decode_utf8_lossy(),
        "port": uri.port_u16().map_or_else(String::new, |port| port.to_string()),
        "query": uri.query().unwrap_or_default(),
        "query_params": query::parameters(uri.query().unwrap_or_default()),
        "raw": text,
        "raw_path": uri.path(),
        "scheme": uri.scheme_str().unwrap_or_default(),
        "user_password": user,
    });
    Ok(CowVal::Owned(value::from_json(&parts)))
}
