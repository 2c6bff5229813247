//! What must hold for any bytes a peer can send, one function per parser. libFuzzer calls these with inputs it invents,
//! `tests/it` with the inputs kept in `corpus/`.
//!
//! A function returns when the property holds and panics when it does not; it never asserts that an input is *good*.

mod body;
mod codec;
mod evaluate;
mod frame;
mod records;

use bytes::BytesMut;
use ebbgate_edge::net::detect::{Detected, HELLO_BYTES_MAX, detect as look};
use ebbgate_edge::net::proxy_protocol::{HEADER_BYTES_MAX, parse};
use ebbgate_model::{Acl, Binding, EndpointUrl, Prefix, Program, Scheme};
use ebbgate_policy::{CheckContext, Engine, Owner, References, check};
use ebbgate_wire::link::{CLAIM_BYTES_MAX, DATA_BYTES_MAX, Frame, Phase};
use ebbgate_wire::mux::{Limits, Mux, MuxEvent, Readable, Role};
use ebbgate_wire::rpc::{Auth, Bind, ObjectReader};

pub use body::body;
pub use codec::framing;
pub use evaluate::evaluate;
pub use frame::frame;
pub use records::records;

/// What must hold for an input.
pub type Property = fn(&[u8]);

/// Name and function of every target, for replaying corpora.
pub const TARGETS: [(&str, Property); 13] = [
    ("detect", detect),
    ("frames", frames),
    ("link", link),
    ("rpc", rpc),
    ("policy_text", policy_text),
    ("endpoint_url", endpoint_url),
    ("framing", framing),
    ("program_diff", program_diff),
    ("frame", frame),
    ("records", records),
    ("body", body),
    ("evaluate", evaluate),
    ("proxy_protocol", proxy_protocol),
];

/// Detection never changes its mind: once it has decided, more bytes decide the same, and it decides within its limit.
pub fn detect(data: &[u8]) {
    let whole = look(data);
    if data.len() > HELLO_BYTES_MAX + 64 * 1024 {
        assert_ne!(whole, Detected::NeedMore, "asks for more than its limit");
    }
    let mut decided = None;
    for end in (0..=data.len()).step_by(1 + data.len() / 64) {
        let now = look(data.get(..end).unwrap_or(data));
        match &decided {
            None if now != Detected::NeedMore => decided = Some(now),
            Some(before) => assert_eq!(&now, before, "changed its mind at {end}"),
            None => {}
        }
    }
}

/// A PROXY header is decided within its bounds, more bytes change nothing, and it never reaches beyond what was received.
pub fn proxy_protocol(data: &[u8]) {
    let mut decided = None;
    for end in 0..=data.len().min(HEADER_BYTES_MAX + 16) {
        let now = parse(data.get(..end).unwrap_or(data));
        if let Ok(Some(header)) = now {
            assert!(header.bytes <= end, "takes {} of {end} bytes", header.bytes);
        }
        match decided {
            None if now != Ok(None) => decided = Some(now),
            Some(before) => assert_eq!(now, before, "changed its mind at {end}"),
            None => assert!(end < HEADER_BYTES_MAX, "asks for more than its limit"),
        }
    }
}

/// A multiplexer fed anything, in any pieces, holds no more than its limits and never speaks after its end.
pub fn frames(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (role, limits) =
        if first & 1 == 0 { (Role::Server, Limits::EDGE) } else { (Role::Client, Limits::AGENT) };
    let mut mux = Mux::new(role, limits);
    let mut out = BytesMut::new();
    for (now_ms, piece) in (0u64..).zip(data.chunks(1 + usize::from(first >> 1))) {
        let ended = mux.receive(now_ms, piece).is_err();
        while let Some(event) = mux.poll_event() {
            serve(&mut mux, &event);
        }
        while mux.poll_transmit(&mut out) {
            out.clear();
        }
        out.clear();
        assert!(mux.unread_bytes() <= limits.unread_bytes_max, "holds {} unread bytes", mux.unread_bytes());
        if ended {
            return;
        }
    }
}

/// A sequence of link headers is followed or refused, and what is followed can be said again in the same bytes.
pub fn link(data: &[u8]) {
    let mut phase = Phase::Idle;
    let mut rest = data;
    while let Some((header, after)) = rest.split_first_chunk() {
        let Ok(frame) = Frame::decode(*header) else { return };
        assert_eq!(&frame.encode(), header);
        let Ok(next) = phase.receive(frame) else { return };
        assert!(phase != Phase::Void && (phase != Phase::Idle || next == Phase::Open));
        let length = match frame {
            Frame::Data(length) | Frame::Claim(length) => length,
            Frame::Fin | Frame::Reset(_) | Frame::Taken | Frame::Free => 0,
        };
        assert!(length <= DATA_BYTES_MAX.max(CLAIM_BYTES_MAX));
        rest = after.get(length..).unwrap_or_default();
        phase = next;
    }
}

/// Reads what is readable and echoes a little, as an owner of the multiplexer would.
fn serve(mux: &mut Mux, event: &MuxEvent) {
    match *event {
        MuxEvent::Opened => {
            if let Some(id) = mux.accept() {
                serve(mux, &MuxEvent::Readable(id));
            }
        }
        MuxEvent::Readable(id) => {
            let read = match mux.readable(id) {
                Ok(Readable::Bytes(bytes)) => bytes.len(),
                Ok(Readable::Empty) => return,
                Ok(Readable::Finished) | Err(_) => return mux.finish(id),
            };
            mux.consume(id, read);
            let _ = mux.write(id, &[0x5a; 16]);
        }
        _ => {}
    }
}

/// The object reader finds the same object however its bytes are split, and the messages decode or refuse.
pub fn rpc(data: &[u8]) {
    let whole = ObjectReader::default().push(data);
    let mut reader = ObjectReader::default();
    let mut pieced = Ok(None);
    for byte in data {
        pieced = reader.push(std::slice::from_ref(byte));
        if !matches!(pieced, Ok(None)) {
            break;
        }
    }
    let whole = whole.ok();
    assert_eq!(whole, pieced.ok(), "splitting changed the message");
    let Some(object) = whole.flatten() else { return };
    let _ = Auth::decode(object.clone());
    if let Ok(bind) = Bind::decode(object) {
        let _ = (bind.requested(), bind.traffic_policy(), bind.proxy_protocol(), bind.security_options());
        let _ = (bind.ip_restriction(), bind.tls_termination(), bind.mutual_tls_authorities());
    }
}

/// A policy that passes its check compiles, and means the same after a round trip through its canonical form.
pub fn policy_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for scheme in [Scheme::Https, Scheme::Tls, Scheme::Tcp] {
        for owner in [Owner::Cloud, Owner::Agent] {
            let context = CheckContext { scheme, binding: Binding::Public, owner };
            let Ok(checked) = check(text, &context) else { continue };
            let canonical = serde_json::to_string(&checked.policy).expect("a policy is plain data");
            let again = check(&canonical, &context).expect("the canonical form of a good policy is good");
            assert_eq!(checked.policy, again.policy);
            if checked.authorities().is_empty() && checked.ip_policies().is_empty() {
                Engine::compile(&checked.policy, &References::default()).expect("what is checked compiles");
            }
        }
    }
}

/// URLs, access rules and prefixes have one canonical text each.
pub fn endpoint_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = text.parse::<EndpointUrl>() {
        assert_eq!(url.to_string().parse::<EndpointUrl>().as_ref(), Ok(&url));
        if let Ok(acl) = Acl::parse(&[format!("bind:{}", url.host())]) {
            assert!(acl.permits(&url), "a rule for the very host does not permit it");
        }
    }
    if let Ok(prefix) = Prefix::parse_lenient(text) {
        assert_eq!(prefix.to_string().parse::<Prefix>().as_ref(), Ok(&prefix));
        assert!(prefix.contains(prefix.net().network()));
    }
}

/// Changes that decode apply and keep the digests right, and a Program that decodes survives its own text.
pub fn program_diff(data: &[u8]) {
    if let Ok(changes) = serde_json::from_slice::<ebbgate_model::Changes>(data) {
        let mut program = Program::default();
        let mut digests = program.digests();
        program.apply(&changes, &mut digests);
        assert_eq!(digests, program.digests(), "digests follow any changes");
    }
    if let Ok(program) = serde_json::from_slice::<Program>(data) {
        let text = serde_json::to_vec(&program).expect("a Program is plain data");
        assert_eq!(serde_json::from_slice::<Program>(&text).ok().as_ref(), Some(&program));
    }
}
