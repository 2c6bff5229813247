//! Addresses and networks: `inCidrRange`, and CEL's `ip()` and `cidr()` types.

use std::net::IpAddr;

use cel::common::types::CelList;
use cel::common::value::StaticVal;
use ebbgate_model::{Prefix, canonical_ip};
use ipnet::IpNet;

use super::function::{
    Answer, Args, CowVal, DeclarationError, Env, ExecutionError, Function, LIST_TYPE, Ref, STRING_TYPE,
    as_text, bool_answer, failed, global, int_answer, method, no_overload, take, text_answer,
};
use crate::expr::address::{CIDR, Cidr, IP, Ip, text_of};

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let string = &STRING_TYPE;
    env.add_type(IP.to_owned())?;
    env.add_type(CIDR.to_owned())?;
    global(env, "inCidrRange", &[string, string], in_range)?;
    global(env, "inCidrRanges", &[string, &LIST_TYPE], in_ranges)?;
    method(env, "isPrivateIp", string, &[], is_private)?;
    global(env, "ip", &[string], |args| from_text("ip", args, |text| parse_ip(text).map(Ip)))?;
    global(env, "cidr", &[string], |args| from_text("cidr", args, |text| parse_cidr(text).map(Cidr)))?;
    global(env, "isIP", &[string], |args| ask_text("isIP", args, |text| parse_ip(text).is_ok()))?;
    global(env, "isCIDR", &[string], |args| ask_text("isCIDR", args, |text| parse_cidr(text).is_ok()))?;
    global(env, "ip.isCanonical", &[string], is_canonical)?;
    global(env, "string", &[&IP], to_text)?;
    global(env, "string", &[&CIDR], to_text)?;
    method(env, "family", &IP, &[], |args| {
        let [ip] = take(args)?;
        int_answer(if read_ip(&ip)?.is_ipv4() { 4 } else { 6 })
    })?;
    for (name, f) in QUESTIONS {
        method(env, name, &IP, &[], *f)?;
    }
    method(env, "containsIP", &CIDR, &[string], contains_ip)?;
    method(env, "containsIP", &CIDR, &[&IP], contains_ip)?;
    method(env, "containsCIDR", &CIDR, &[string], contains_cidr)?;
    method(env, "containsCIDR", &CIDR, &[&CIDR], contains_cidr)?;
    method(env, "ip", &CIDR, &[], |args| {
        let [cidr] = take(args)?;
        Ok(CowVal::owned(Ip(read_cidr(&cidr)?.addr())))
    })?;
    method(env, "masked", &CIDR, &[], |args| {
        let [cidr] = take(args)?;
        Ok(CowVal::owned(Cidr(read_cidr(&cidr)?.trunc())))
    })?;
    method(env, "prefixLength", &CIDR, &[], |args| {
        let [cidr] = take(args)?;
        int_answer(read_cidr(&cidr)?.prefix_len().into())
    })
}

const QUESTIONS: &[(&str, Function)] = &[
    ("isUnspecified", |args| ask_ip(args, |ip| ip.is_unspecified())),
    ("isLoopback", |args| ask_ip(args, |ip| ip.is_loopback())),
    ("isGlobalUnicast", |args| ask_ip(args, is_global_unicast)),
    ("isLinkLocalMulticast", |args| ask_ip(args, is_link_local_multicast)),
    ("isLinkLocalUnicast", |args| ask_ip(args, is_link_local_unicast)),
];

/// An address, canonical, for the policy's own functions; zones and other spellings are no address.
fn address(value: Ref) -> Option<IpAddr> {
    let own = value.downcast_ref::<Ip>().map(|ip| ip.0);
    own.or_else(|| as_text(value)?.parse().ok()).map(canonical_ip)
}

fn in_range<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [ip, cidr] = take(args)?;
    bool_answer(contained(ip.as_ref(), cidr.as_ref()))
}

fn in_ranges<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [ip, cidrs] = take(args)?;
    let cidrs = cidrs.downcast_ref::<CelList>().map(CelList::inner).unwrap_or_default();
    bool_answer(cidrs.iter().any(|cidr| contained(ip.as_ref(), cidr.as_ref())))
}

/// An invalid address or network contains nothing.
fn contained(ip: Ref, cidr: Ref) -> bool {
    let prefix = as_text(cidr).and_then(|text| Prefix::parse_lenient(text).ok());
    prefix.zip(address(ip)).is_some_and(|(prefix, ip)| prefix.contains(ip))
}

fn is_private<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [ip] = take(args)?;
    bool_answer(match address(ip.as_ref()) {
        Some(IpAddr::V4(ip)) => ip.is_private(),
        Some(IpAddr::V6(ip)) => ip.is_unique_local(),
        None => false,
    })
}

fn from_text<'b, 'v, T: StaticVal>(
    function: &str,
    args: Args<'b, 'v>,
    f: fn(&str) -> Result<T, String>,
) -> Answer<'b, 'v> {
    let [text] = take(args)?;
    let Some(string) = as_text(text.as_ref()) else { return Err(no_overload(function, &[text])) };
    match f(string) {
        Ok(value) => Ok(CowVal::owned(value)),
        Err(message) => failed(function, message),
    }
}

fn ask_text<'b, 'v>(function: &str, args: Args<'b, 'v>, f: fn(&str) -> bool) -> Answer<'b, 'v> {
    let [text] = take(args)?;
    match as_text(text.as_ref()) {
        Some(text) => bool_answer(f(text)),
        None => Err(no_overload(function, &[text])),
    }
}

fn ask_ip<'b, 'v>(args: Args<'b, 'v>, f: fn(IpAddr) -> bool) -> Answer<'b, 'v> {
    let [ip] = take(args)?;
    bool_answer(f(read_ip(&ip)?))
}

fn read_ip(value: &CowVal) -> Result<IpAddr, ExecutionError> {
    value
        .downcast_ref::<Ip>()
        .map(|ip| ip.0)
        .ok_or_else(|| ExecutionError::no_such_overload("ip", Vec::new()))
}

fn read_cidr(value: &CowVal) -> Result<IpNet, ExecutionError> {
    value
        .downcast_ref::<Cidr>()
        .map(|cidr| cidr.0)
        .ok_or_else(|| ExecutionError::no_such_overload("cidr", Vec::new()))
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("`{text}`: an IP address with a zone is not allowed"));
    }
    if text.starts_with("::ffff:") && text.contains('.') {
        return Err(format!("`{text}`: an IPv4-mapped IPv6 address is not allowed; write the IPv4 address"));
    }
    text.parse().map(canonical_ip).map_err(|_| format!("`{text}` is not an IP address"))
}

fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("`{text}` is not a CIDR");
    let (ip, length) = text.split_once('/').ok_or_else(wrong)?;
    let ip = parse_ip(ip)?;
    let length =
        length.parse().ok().filter(|_| length.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
    IpNet::new(ip, length).map_err(|_| wrong())
}

fn is_canonical<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [text] = take(args)?;
    let Some(string) = as_text(text.as_ref()) else { return Err(no_overload("ip.isCanonical", &[text])) };
    match parse_ip(string) {
        Ok(ip) => bool_answer(ip.to_string() == string),
        Err(message) => failed("ip.isCanonical", message),
    }
}

fn to_text<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [value] = take(args)?;
    text_answer(text_of(value.as_ref()).unwrap_or_default())
}

fn contains_ip<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [cidr, ip] = take(args)?;
    let ip = match as_text(ip.as_ref()) {
        Some(text) => match parse_ip(text) {
            Ok(ip) => ip,
            Err(message) => return failed("containsIP", message),
        },
        None => read_ip(&ip)?,
    };
    bool_answer(read_cidr(&cidr)?.contains(&ip))
}

fn contains_cidr<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let [outer, inner] = take(args)?;
    let inner = match as_text(inner.as_ref()) {
        Some(text) => match parse_cidr(text) {
            Ok(net) => net,
            Err(message) => return failed("containsCIDR", message),
        },
        None => read_cidr(&inner)?,
    };
    bool_answer(read_cidr(&outer)?.trunc().contains(&inner.trunc()))
}

/// Neither unspecified, loopback, multicast, link-local nor broadcast; private addresses count.
fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip))
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [224, 0, 0, _]),
        IpAddr::V6(ip) => ip.segments().first().is_some_and(|first| first & 0xff0f == 0xff02),
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
