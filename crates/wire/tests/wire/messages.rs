//! Messages as the SDKs write them and must read them (wire.md §4-5).

use ebbgate_model::{Binding, EndpointUrl};
use ebbgate_wire::rpc::{
    Auth, AuthReply, AuthReplyExtra, Bind, BindError, BindReply, CarrierOffer, EdgeType, Family,
    OBJECT_BYTES_MAX, OBJECT_DEPTH_MAX, ObjectReader, PatchTunnelState, ProxyHeader, ProxyProtocol,
    Requested, RpcError, Secret, SecurityOption, StartTunnelWithLabel, StreamKind, Unbind, error_code,
    error_text,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn auth_of_every_family_is_understood() {
    let rust = json!({"Version": ["3", "2"], "ClientId": "", "Extra": {
        "OS": "linux", "Arch": "x86_64", "AuthToken": "tok", "Version": "0.19.0", "Hostname": "h",
        "UserAgent": "ngrok-rust/0.19.0 app/1", "Metadata": "m", "Cookie": "", "HeartbeatInterval": 10_000_000_000_i64,
        "HeartbeatTolerance": 15_000_000_000_i64, "UpdateUnsupportedError": null, "StopUnsupportedError": "",
        "RestartUnsupportedError": "no", "ProxyType": "none", "MutualTLS": false, "ServiceRun": false,
        "ConfigVersion": "", "CustomInterface": false, "CustomCAs": true, "ClientType": "library/official/rust"}});
    let auth = Auth::decode(rust).unwrap();
    assert_eq!((auth.family(), auth.version()), (Family::Rust, "3"));
    assert_eq!(auth.extra.authtoken.expose(), "tok");
    assert_eq!(auth.extra.heartbeat_tolerance_ns, 15_000_000_000);
    assert_eq!(auth.extra.update_unsupported, None);
    assert_eq!(auth.extra.stop_unsupported.as_deref(), Some(""));
    assert!(auth.extra.custom_cas);
    assert!(!format!("{auth:?}").contains("tok\""), "{auth:?}");

    let go = json!({"version": ["2"], "CLIENTID": "c9", "Extra": {"Authtoken": "tok", "Cookie": "ck",
        "UserAgent": "ngrok-go/2.1.1", "Fingerprint": null, "LegNumber": 1, "Metadata": null, "ProxyType": 7}});
    let auth = Auth::decode(go).unwrap();
    assert_eq!((auth.family(), auth.version(), auth.client_id.as_str()), (Family::Go, "2", "c9"));
    assert_eq!((auth.extra.authtoken.expose(), auth.extra.leg_number), ("tok", 1));

    assert_eq!(Auth::decode(json!({})).unwrap().family(), Family::Other);
    let wrong = Auth::decode(json!({"Extra": {"AuthToken": 7}})).unwrap_err();
    assert!(matches!(wrong, RpcError::Shape { message: "Auth", .. }), "{wrong}");
}

#[test]
fn our_own_auth_round_trips() {
    let mut auth = Auth { versions: vec!["3".into()], ..Auth::default() };
    auth.extra.user_agent = "ebbgate/0.1.0".into();
    auth.extra.authtoken = Secret::new("tok");
    auth.extra.stop_unsupported = Some(String::new());
    assert_eq!(Auth::decode(serde_json::to_value(&auth).unwrap()).unwrap(), auth);
    assert_eq!(auth.family(), Family::Ebbgate);
}

#[test]
fn auth_replies_have_the_spelling_and_shape_the_rust_family_needs() {
    let reply = AuthReply {
        version: "3".into(),
        client_id: "c1".into(),
        error: String::new(),
        extra: AuthReplyExtra {
            cookie: Secret::new("ck"),
            agent_session_id: "ts_1".into(),
            ..Default::default()
        },
    };
    let value = serde_json::to_value(&reply).unwrap();
    assert_eq!(
        value,
        json!({"Version": "3", "ClientId": "c1", "Error": "", "Extra": {"Version": "", "Region": "", "Cookie": "ck",
            "AccountName": "", "SessionDuration": 0, "PlanName": "", "Banner": "", "DeprecationWarning": null,
            "ConnectAddresses": null, "AgentSessionID": "ts_1"}})
    );
    assert_eq!(AuthReply::decode(value).unwrap(), reply);
    let refused = serde_json::to_value(AuthReply::refused(error_text("bad token", 107))).unwrap();
    assert_eq!(refused["Error"], "bad token\n\nERR_NGROK_107");
    assert!(refused["Extra"].is_object() && refused["Version"].is_string());
}

fn bind(proto: &str, opts: &Value, extra: &Value) -> Bind {
    let value = json!({"Id": "", "Proto": proto, "ForwardsTo": "app://x", "ForwardsProto": "", "Opts": opts, "Extra": extra});
    Bind::decode(value).unwrap()
}

fn url(text: &str) -> Requested {
    Requested::Url(text.parse().unwrap())
}

#[test]
fn the_name_is_found_where_each_family_puts_it() {
    let check = |proto: &str, opts: Value, expected: Requested| {
        assert_eq!(bind(proto, &opts, &Value::Null).requested(), Ok(expected), "{opts}");
    };
    check("https", json!({"Hostname": "a.test", "Domain": "", "Subdomain": ""}), url("https://a.test"));
    check("https", json!({"Hostname": "", "Domain": "a.test"}), url("https://a.test"));
    check("https", json!({"Domain": "https://a.test"}), url("https://a.test"));
    check("https", json!({"URL": "https://b.test", "Domain": "a.test"}), url("https://b.test"));
    check("http", json!({"Domain": "a.test:8080"}), url("http://a.test:8080"));
    check("tls", json!({"URL": "tls://db.clinic1.internal"}), url("tls://db.clinic1.internal"));
    check("tcp", json!({"Addr": "db.internal:5432"}), url("tcp://db.internal:5432"));
    check("tcp", json!({"URL": "tcp://1.tcp.test:20017", "Addr": null}), url("tcp://1.tcp.test:20017"));
    check("https", json!({"Subdomain": "me"}), Requested::Subdomain("me".into()));
    check("https", json!({"Domain": "", "Hostname": null}), Requested::Any);
    check("tcp", Value::Null, Requested::Any);
    let error = bind("https", &json!({"URL": "tcp://a.test:1"}), &Value::Null).requested().unwrap_err();
    assert!(matches!(error, BindError::SchemeMismatch { .. }), "{error}");
    let error = bind("https", &json!({"Domain": "a b"}), &Value::Null).requested().unwrap_err();
    assert!(matches!(error, BindError::Url { .. }), "{error}");
    let error = bind("ssh", &json!({}), &Value::Null).requested().unwrap_err();
    assert_eq!(error, BindError::Proto("ssh".into()));
}

#[test]
fn internal_names_are_internal_without_being_told() {
    let check = |name: &str, bindings: Value, expected: Result<Binding, ()>| {
        let name: EndpointUrl = name.parse().unwrap();
        let bind = bind("https", &json!({}), &json!({"Bindings": bindings}));
        assert_eq!(bind.binding(&name).map_err(|_| ()), expected, "{name} {bindings}");
    };
    check("https://a.internal", Value::Null, Ok(Binding::Internal));
    check("https://a.internal", json!([]), Ok(Binding::Internal));
    check("https://a.test", json!([]), Ok(Binding::Public));
    check("https://a.test", json!(["kubernetes"]), Ok(Binding::Kubernetes));
    check("https://a.test", json!(["Public"]), Ok(Binding::Public));
    check("https://a.test", json!(["public", "internal"]), Err(()));
    check("https://a.test", json!(["secret"]), Err(()));
}

#[test]
fn guarding_options_are_listed_when_present_in_any_spelling() {
    let check = |opts: Value, extra: Value, expected: &[SecurityOption]| {
        assert_eq!(bind("https", &opts, &extra).security_options(), expected, "{opts} {extra}");
    };
    let none = json!({"BasicAuth": null, "OAuth": null, "Auth": "", "IPRestriction": null, "Policy": null,
        "MutualTLSAtAgent": false, "TrafficPolicy": ""});
    check(none, json!({"IPPolicyRef": ""}), &[]);
    check(
        json!({"Auth": "u:p", "BasicAuth": {"credentials": []}}),
        Value::Null,
        &[SecurityOption::BasicAuth],
    );
    check(json!({"oauth": {}}), Value::Null, &[SecurityOption::OAuth]);
    check(
        json!({"circuitbreaker": {"error_threshold": 0.5}}),
        Value::Null,
        &[SecurityOption::CircuitBreaker],
    );
    check(json!({"IPRestriction": {"allow_cidrs": []}}), Value::Null, &[SecurityOption::IpRestriction]);
    check(json!({"OIDC": {"issuer_url": "x"}}), Value::Null, &[SecurityOption::Oidc]);
    check(json!({"MutualTLSCA": {"mutual_tls_ca": "AA=="}}), Value::Null, &[SecurityOption::MutualTls]);
    check(json!({"WebhookVerification": {}}), Value::Null, &[SecurityOption::WebhookVerification]);
    check(json!({"UserAgentFilter": {}}), Value::Null, &[SecurityOption::UserAgentFilter]);
    check(json!({"Policy": {"Inbound": []}}), Value::Null, &[SecurityOption::LegacyPolicy]);
    check(json!({"TLSTermination": {"cert": ""}}), Value::Null, &[SecurityOption::TlsTermination]);
    check(
        json!({"IPRestriction": {}}),
        json!({"IPPolicyRef": "ipp_1"}),
        &[SecurityOption::IpRestriction, SecurityOption::IpPolicy],
    );
}

#[test]
fn options_are_read_out() {
    let opts = json!({"ProxyProto": 2, "TrafficPolicy": "on_tcp_connect: []",
        "IPRestriction": {"allow_cidrs": ["10.0.0.0/8"], "deny_cidrs": null},
        "TLSTermination": {"cert": "Yw==", "key": "aw=="}, "MutualTLSAtEdge": {"mutual_tls_ca": "Q0E="}});
    let bind = bind("tls", &opts, &Value::Null);
    assert_eq!(bind.proxy_protocol(), Ok(Some(ProxyProtocol::V2)));
    assert_eq!(bind.traffic_policy(), Ok(Some("on_tcp_connect: []".into())));
    let restriction = bind.ip_restriction().unwrap().unwrap();
    assert_eq!((restriction.allow, restriction.deny), (vec!["10.0.0.0/8".to_owned()], vec![]));
    let termination = bind.tls_termination().unwrap().unwrap();
    assert_eq!((termination.cert.as_str(), termination.key.expose()), ("Yw==", "aw=="));
    assert_eq!(bind.mutual_tls_authorities(), Ok(Some(b"CA".to_vec())));
    assert!(!format!("{bind:?}").contains("aw=="), "{bind:?}");

    let bad = Bind::decode(json!({"Proto": "tls", "Opts": {"ProxyProto": 3, "TrafficPolicy": {},
        "IPRestriction": [], "MutualTLSAtEdge": {"mutual_tls_ca": "!"}}}))
    .unwrap();
    assert_eq!(bad.proxy_protocol(), Err(BindError::ProxyProtocol));
    assert_eq!(bad.traffic_policy(), Err(BindError::TrafficPolicy));
    assert_eq!(bad.mutual_tls_authorities(), Err(BindError::Option("MutualTLS")));
}

#[test]
fn the_echo_keeps_everything_and_has_what_each_family_demands() {
    let check = |proto: &str, opts: Value, name: &str, expected: Value| {
        let reply = bind(proto, &opts, &Value::Null).reply(
            "b1".into(),
            &name.parse().unwrap(),
            Secret::new("t"),
            "tn_1".into(),
        );
        let value = serde_json::to_value(&reply).unwrap();
        assert_eq!(value["Opts"], expected);
        assert_eq!((&value["Id"], &value["Error"]), (&json!("b1"), &json!("")));
        assert_eq!(value["Extra"], json!({"Token": "t", "TunnelID": "tn_1"}));
        assert_eq!(BindReply::decode(value).unwrap(), reply);
    };
    check(
        "https",
        json!({"Hostname": "", "Domain": "a.internal", "BasicAuth": {"credentials": [{"username": "u"}]}}),
        "https://a.internal",
        json!({"Hostname": "a.internal", "Domain": "a.internal", "BasicAuth": {"credentials": [{"username": "u"}]},
            "Auth": "", "Subdomain": "", "HostHeaderRewrite": false, "ProxyProto": 0}),
    );
    check(
        "tcp",
        json!({"Addr": "", "ProxyProto": 1}),
        "tcp://t.test:20001",
        json!({"Addr": "t.test:20001", "ProxyProto": 1}),
    );
    check(
        "tls",
        Value::Null,
        "tls://a.test",
        json!({"Hostname": "a.test", "Subdomain": "", "ProxyProto": 0, "MutualTLSAtAgent": false}),
    );
    check(
        "tls",
        json!({"hostname": "a.test", "Subdomain": null, "TLSTermination": {"cert": "Yw==", "key": "aw=="}}),
        "tls://a.test",
        json!({"hostname": "a.test", "Subdomain": "", "TLSTermination": {"cert": "Yw==", "key": "aw=="},
            "ProxyProto": 0, "MutualTLSAtAgent": false}),
    );
}

#[test]
fn a_reply_shows_default_ports_only_for_tcp() {
    for (proto, name) in
        [("https", "https://a.internal"), ("tcp", "tcp://a.test:1"), ("http", "http://a.test:81")]
    {
        let reply = bind(proto, &json!({}), &Value::Null).reply(
            "i".into(),
            &name.parse().unwrap(),
            Secret::default(),
            "t".into(),
        );
        assert_eq!((reply.url.as_str(), reply.proto.as_str()), (name, proto));
    }
}

#[test]
fn a_rebind_of_an_assigned_name_asks_for_it_again() {
    let first = bind("tcp", &json!({"Addr": ""}), &Value::Null);
    assert_eq!(first.requested(), Ok(Requested::Any));
    let name: EndpointUrl = "tcp://t.test:20001".parse().unwrap();
    let reply = first.reply("b".into(), &name, Secret::default(), "tn".into());
    assert_eq!(bind("tcp", &reply.opts.0, &Value::Null).requested(), Ok(Requested::Url(name)));
}

#[test]
fn labels_keep_their_case_and_small_messages_decode() {
    let label = StartTunnelWithLabel::decode(json!({"Labels": {"Edge": "X"}, "ForwardsProto": ""})).unwrap();
    assert_eq!(label.labels.get("Edge").map(String::as_str), Some("X"));
    assert_eq!(Unbind::decode(json!({"id": "b", "Extra": null})).unwrap().id, "b");
    assert!(Unbind::decode(json!({"Extra": null})).is_err());
    let patch = PatchTunnelState::decode(json!({"TunnelId": "tn_1", "TrafficPolicy": ""})).unwrap();
    assert_eq!((patch.traffic_policy.as_deref(), patch.pooling_enabled), (Some(""), None));
}

#[test]
fn error_codes_are_found_where_clients_look() {
    assert_eq!(error_code(&error_text("taken", 334)), Some(334));
    assert_eq!(error_code("ERR_NGROK_8012\n"), Some(8012));
    assert_eq!(error_code("see ERR_NGROK_1"), None);
    assert_eq!(error_code(""), None);
}

#[test]
fn a_proxy_header_is_as_published() {
    let header = ProxyHeader {
        id: "b".into(),
        client_addr: "127.0.0.1:9".into(),
        proto: "https".into(),
        edge_type: EdgeType::Undefined,
        passthrough_tls: false,
        ..ProxyHeader::default()
    };
    let json =
        br#"{"Id":"b","ClientAddr":"127.0.0.1:9","Proto":"https","EdgeType":"0","PassthroughTLS":false}"#;
    let bytes = header.encode();
    assert_eq!(bytes[..8], [u8::try_from(json.len()).unwrap(), 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[8..], json);
    assert_eq!(ProxyHeader::decode_length(bytes[..8].try_into().unwrap()).unwrap(), json.len());
    assert_eq!(ProxyHeader::decode(json).unwrap(), header);
    for length in [-1, 0, 1, 16_385, i64::MAX, i64::MIN] {
        assert!(ProxyHeader::decode_length(length.to_le_bytes()).is_err(), "{length}");
    }
}

#[test]
fn stream_kinds_round_trip() {
    for number in (0..20).chain([u32::MAX, u32::MAX - 1]) {
        let kind = StreamKind::from_number(number);
        assert_eq!(kind.number(), number);
        assert_eq!(matches!(kind, StreamKind::Unknown(_)), (11..u32::MAX).contains(&number));
    }
}

#[test]
fn an_object_ends_where_it_ends() {
    let check = |text: &str, expected: Value| {
        // Byte by byte, with what Go appends.
        let mut reader = ObjectReader::default();
        let mut found = None;
        for byte in text.bytes().chain(*b"\n") {
            found = found.or(reader.push(&[byte]).unwrap());
            if found.is_some() {
                break;
            }
        }
        assert_eq!(found, Some(expected), "{text}");
    };
    check("{}", json!({}));
    check(" \r\n\t{\"a\":{\"b\":[{}]}}", json!({"a": {"b": [{}]}}));
    check(r#"{"a":"}\"{","b":"\\"}"#, json!({"a": "}\"{", "b": "\\"}));
    check(r#"{"\u007d":"\ud83d\ude00"}"#, json!({"}": "😀"}));
}

#[test]
fn what_is_no_object_is_refused_at_once() {
    let refused = |bytes: &[u8]| ObjectReader::default().push(bytes).unwrap_err();
    for text in ["null", "[1]", "x", "}", "\"{}\""] {
        assert!(matches!(refused(text.as_bytes()), RpcError::NotAnObject), "{text}");
    }
    assert!(matches!(refused(b"{]"), RpcError::Json(_)));
    assert!(matches!(refused(b"{\"a\":\xff}"), RpcError::Json(_)));
    let deep = format!("{}{}", "{\"a\":".repeat(OBJECT_DEPTH_MAX), "{}");
    assert!(matches!(refused(deep.as_bytes()), RpcError::TooDeep(_)));
    let mut reader = ObjectReader::default();
    reader.push(b"{\"a\":\"").unwrap();
    let chunk = vec![b'x'; 65_536];
    let error = (0..17).find_map(|_| reader.push(&chunk).err()).unwrap();
    assert!(matches!(error, RpcError::TooLong(OBJECT_BYTES_MAX)));
    assert!(reader.held_bytes() <= OBJECT_BYTES_MAX);
    let mut reader = ObjectReader::new(StreamKind::Auth.request_bytes_max());
    reader.push(b"{\"a\":\"").unwrap();
    assert!(matches!(reader.push(&chunk).unwrap_err(), RpcError::TooLong(65_536)));
}

proptest! {
    #[test]
    fn any_object_survives_any_fragmentation(
        pairs in prop::collection::btree_map(".{0,12}", prop_oneof![".{0,20}".prop_map(Value::from), any::<i64>().prop_map(Value::from)], 0..8),
        cut in 1..9_usize,
    ) {
        let object = Value::Object(pairs.into_iter().collect());
        let text = serde_json::to_vec(&object).unwrap();
        let mut reader = ObjectReader::default();
        let mut found = None;
        for piece in text.chunks(cut) {
            prop_assert!(found.is_none());
            found = reader.push(piece).unwrap();
        }
        prop_assert_eq!(found, Some(object));
    }

    #[test]
    fn hostile_messages_never_panic(text in "[{}\\[\\]\":,a-zA-Z0-9\\\\ ]{0,80}") {
        if let Ok(Some(value)) = ObjectReader::default().push(text.as_bytes()) {
            let _ = Auth::decode(value.clone());
            if let Ok(bind) = Bind::decode(value) {
                let _ = (bind.requested(), bind.security_options(), bind.traffic_policy(), bind.proxy_protocol());
            }
        }
    }
}

#[test]
fn carriers_are_asked_for_and_offered_between_our_own_programs_only() {
    let mut auth = Auth::default();
    assert!(serde_json::to_value(&auth).unwrap()["Extra"].get("Carriers").is_none());
    auth.extra.carriers = vec!["link".into(), "raw".into()];
    assert_eq!(Auth::decode(serde_json::to_value(&auth).unwrap()).unwrap(), auth);
    let odd = Auth::decode(json!({"Extra": {"Carriers": 7}})).unwrap();
    assert_eq!(odd.extra.carriers, Vec::<String>::new());

    let mut reply = AuthReply::default();
    assert!(serde_json::to_value(&reply).unwrap()["Extra"].get("Carriers").is_none());
    let offer =
        CarrierOffer { ticket: Secret::new("t"), links_max: 64, quic: true, ..CarrierOffer::default() };
    reply.extra.carriers = Some(offer);
    let value = serde_json::to_value(&reply).unwrap();
    assert_eq!(value["Extra"]["Carriers"], json!({"Ticket": "t", "LinksMax": 64, "Quic": true}));
    assert_eq!(AuthReply::decode(value).unwrap(), reply);
}
