//! The attacks on JWT validation that are known, each by name, and the good tokens that must get through.

#![expect(clippy::needless_pass_by_value, reason = "tables read better with values than with borrows")]

use bytes::Bytes;
use serde_json::{Value, json};

use crate::facts::Context;
use crate::facts::Phase;
use crate::facts::tests::request;
use crate::testing::{MINT, Mint, World, encode, engine};
use crate::verdict::{BodyError, Verdict};

const ISSUER: &str = "https://example.com/issuer";
const AUDIENCE: &str = "urn:example:api";
const JWKS_URL: &str = "https://example.com/issuer/jku";
const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// The seed's action, with one token in a header.
fn config() -> Value {
    json!({
        "issuer": {"allow_list": [{"value": ISSUER}]},
        "audience": {"allow_list": [{"value": AUDIENCE}]},
        "http": {"tokens": [{"type": "access_token", "method": "header", "name": "Authorization", "prefix": "Bearer "}]},
        "jws": {"allowed_algorithms": ALGORITHMS, "keys": {"sources": {"additional_jkus": [JWKS_URL]}}},
    })
}

fn policy(config: &Value) -> Value {
    json!({"on_http_request": [{"actions": [{"type": "jwt-validation", "config": config}]}]})
}

fn now() -> i64 {
    request("/", &[]).now_unix_ms / 1000
}

fn header(algorithm: &str) -> Value {
    json!({"alg": algorithm, "kid": Mint::kid(algorithm), "typ": "JWT"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "doctor", "exp": now() + 300})
}

/// An object with members replaced; `null` removes.
fn with(mut object: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            object[name] = value.clone();
        }
    }
    object
}

/// A token signed with the RSA key by RS256, with header and claims changed.
fn token(header_changes: Value, claim_changes: Value) -> String {
    MINT.compact(
        with(header("RS256"), header_changes).to_string(),
        with(claims(), claim_changes).to_string(),
        "RS256",
    )
}

fn good(algorithm: &str) -> String {
    MINT.compact(header(algorithm).to_string(), claims().to_string(), algorithm)
}

/// A good token with one of its three parts changed as text.
fn edited(part: usize, edit: impl Fn(&str) -> String) -> String {
    let token = good("RS256");
    let parts: Vec<String> = token
        .split('.')
        .enumerate()
        .map(|(at, text)| if at == part { edit(text) } else { text.to_owned() })
        .collect();
    parts.join(".")
}

/// HS256 over a good token's parts, keyed with what an attacker can know.
fn hmac_confusion(algorithm: &str, key: &[u8]) -> String {
    use aws_lc_rs::hmac;
    let message = format!(
        "{}.{}",
        encode(with(header("RS256"), json!({"alg": algorithm})).to_string()),
        encode(claims().to_string())
    );
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
    format!("{message}.{}", encode(tag.as_ref()))
}

/// A good ES256 token with its 64 signature bytes replaced.
fn ecdsa_signature(change: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let token = good("ES256");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature = crate::jwks::decode(signature).unwrap();
    format!("{message}.{}", encode(change(&signature)))
}

/// Minimal DER of an ECDSA signature.
fn der(raw: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let trimmed: Vec<u8> = number.iter().copied().skip_while(|b| *b == 0).collect();
        let padded = if trimmed.first().is_some_and(|b| b & 0x80 != 0) {
            [vec![0], trimmed].concat()
        } else {
            trimmed
        };
        [vec![2, u8::try_from(padded.len()).unwrap()], padded].concat()
    };
    let body = [integer(&raw[..32]), integer(&raw[32..])].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

/// What comes of a request whose `Authorization` is `Bearer <token>`: `ok`, or status and code; and the URLs asked for.
fn judge(config: &Value, token: &str) -> (String, Vec<String>) {
    let value = format!("Bearer {token}");
    let mut cx = request("/", &[]);
    // Some tokens here are no legal header value: a gateway refuses those before any policy.
    let Ok(value) = http::HeaderValue::from_str(&value) else { return ("not a header".into(), Vec::new()) };
    cx.request.as_mut().unwrap().headers.insert("authorization", value);
    judge_request(config, &mut cx, World::default())
}

fn judge_request(config: &Value, cx: &mut Context, mut world: World) -> (String, Vec<String>) {
    world.keys.entry(JWKS_URL.into()).or_insert_with(|| MINT.jwks());
    let verdict = world.run(&engine(policy(config)), Phase::HttpRequest, cx);
    let outcome = match verdict {
        Verdict::Continue => "ok".to_owned(),
        Verdict::Respond(reply) => format!("{} {}", reply.status.as_u16(), reply.code.unwrap().number()),
        other => format!("{other:?}"),
    };
    (outcome, world.asked)
}

const UNSIGNED: &str = "401 3401";
const MALFORMED: &str = "401 3416";
const FORBIDDEN: &str = "403 3403";

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one line for each case")]
fn the_negative_corpus() {
    let attacker_jwk = MINT.jwk("stranger");
    let by_stranger = |header_changes: Value| {
        MINT.compact(with(header("RS256"), header_changes).to_string(), claims().to_string(), "stranger")
    };
    let unsigned = |algorithm: Value| {
        format!(
            "{}.{}.",
            encode(with(header("RS256"), json!({"alg": algorithm})).to_string()),
            encode(claims().to_string())
        )
    };
    let resigned = |algorithm: &str, by: &str| {
        MINT.compact(with(header(by), json!({"alg": algorithm})).to_string(), claims().to_string(), by)
    };
    let payload = |raw: &[u8]| MINT.compact(header("RS256").to_string(), raw, "RS256");
    let raw_header = |raw: &str| MINT.compact(raw, claims().to_string(), "RS256");
    let n = now();
    let public_n = MINT.jwk("RS256")["n"].as_str().unwrap().to_owned();
    let cases: Vec<(&str, String, &str)> = vec![
        // Unsigned tokens.
        ("alg none, no signature", unsigned(json!("none")), MALFORMED),
        ("alg None", unsigned(json!("None")), MALFORMED),
        ("alg NONE", unsigned(json!("NONE")), MALFORMED),
        ("alg none over a real signature", resigned("none", "RS256"), UNSIGNED),
        ("alg nOnE over a real signature", resigned("nOnE", "RS256"), UNSIGNED),
        ("alg missing", token(json!({"alg": null}), json!({})), MALFORMED),
        ("alg a number", token(json!({"alg": 256}), json!({})), MALFORMED),
        ("alg a list", token(json!({"alg": ["RS256"]}), json!({})), MALFORMED),
        ("alg empty", token(json!({"alg": ""}), json!({})), UNSIGNED),
        ("alg in lower case", token(json!({"alg": "rs256"}), json!({})), UNSIGNED),
        ("alg with a space", token(json!({"alg": "RS256 "}), json!({})), UNSIGNED),
        ("good claims, signature removed", edited(2, |_| String::new()), MALFORMED),
        // Confusion of algorithms.
        ("HS256 keyed with the public modulus", hmac_confusion("HS256", public_n.as_bytes()), UNSIGNED),
        (
            "HS384 keyed with the key set",
            hmac_confusion("HS384", MINT.jwks().to_string().as_bytes()),
            UNSIGNED,
        ),
        ("HS512 keyed with nothing", hmac_confusion("HS512", b""), UNSIGNED),
        ("PS256 over a PKCS#1 signature", resigned("PS256", "RS256"), UNSIGNED),
        ("RS256 over a PSS signature", resigned("RS256", "PS256"), UNSIGNED),
        ("RS512 over a SHA-256 signature", resigned("RS512", "RS256"), UNSIGNED),
        ("ES256 naming the RSA key", token(json!({"alg": "ES256"}), json!({})), UNSIGNED),
        ("RS256 naming the P-256 key", token(json!({"kid": "p256"}), json!({})), UNSIGNED),
        ("ES256 over a P-384 signature", resigned("ES256", "ES384"), UNSIGNED),
        ("EdDSA naming the P-256 key", resigned("EdDSA", "ES256"), UNSIGNED),
        ("ES256K", resigned("ES256K", "ES256"), UNSIGNED),
        ("an encryption algorithm", token(json!({"alg": "dir", "enc": "A256GCM"}), json!({})), UNSIGNED),
        ("enc in a signed token", token(json!({"enc": "A256GCM"}), json!({})), UNSIGNED),
        ("zip in a signed token", token(json!({"zip": "DEF"}), json!({})), UNSIGNED),
        // Key ids.
        ("unknown kid", token(json!({"kid": "nobody"}), json!({})), UNSIGNED),
        ("kid of another key of the set", token(json!({"kid": "ed"}), json!({})), UNSIGNED),
        ("kid as a path", token(json!({"kid": "../../../dev/null"}), json!({})), UNSIGNED),
        ("kid as a query", token(json!({"kid": "x' UNION SELECT 'k"}), json!({})), UNSIGNED),
        ("kid as a URL", token(json!({"kid": "https://attacker.example/key"}), json!({})), UNSIGNED),
        ("kid empty", token(json!({"kid": ""}), json!({})), UNSIGNED),
        ("kid a number", token(json!({"kid": 1}), json!({})), MALFORMED),
        ("kid too long", token(json!({"kid": "k".repeat(600)}), json!({})), MALFORMED),
        // Keys that the token brings.
        ("signed by a stranger", by_stranger(json!({})), UNSIGNED),
        ("embedded jwk", by_stranger(json!({"jwk": attacker_jwk.clone()})), UNSIGNED),
        (
            "embedded jwk and its kid",
            by_stranger(json!({"jwk": attacker_jwk.clone(), "kid": "stranger"})),
            UNSIGNED,
        ),
        (
            "jku of the attacker",
            by_stranger(json!({"jku": "https://attacker.example/jwks", "kid": "stranger"})),
            UNSIGNED,
        ),
        (
            "jku that looks like ours",
            by_stranger(json!({"jku": format!("{JWKS_URL}@attacker.example/")})),
            UNSIGNED,
        ),
        ("x5u of the attacker", by_stranger(json!({"x5u": "https://attacker.example/cert"})), UNSIGNED),
        ("x5c of the attacker", by_stranger(json!({"x5c": ["TUlJQw=="], "x5t": "AAAA"})), UNSIGNED),
        ("stranger without kid", by_stranger(json!({"kid": null})), UNSIGNED),
        // Critical extensions.
        ("crit with an unknown name", token(json!({"crit": ["exp"], "exp": 1}), json!({})), MALFORMED),
        ("crit with b64", token(json!({"crit": ["b64"], "b64": false}), json!({})), MALFORMED),
        ("crit empty", token(json!({"crit": []}), json!({})), MALFORMED),
        ("crit not a list", token(json!({"crit": "exp"}), json!({})), MALFORMED),
        ("b64 false without crit", token(json!({"b64": false}), json!({})), MALFORMED),
        // Shape.
        ("empty", String::new(), MALFORMED),
        ("one part", "abc".into(), MALFORMED),
        ("two parts", edited(2, |_| String::new()).trim_end_matches('.').into(), MALFORMED),
        ("four parts", good("RS256") + ".AAAA", MALFORMED),
        ("five parts", good("RS256") + ".AAAA.AAAA", MALFORMED),
        ("only dots", "..".into(), MALFORMED),
        ("empty payload", edited(1, |_| String::new()), MALFORMED),
        ("empty header", edited(0, |_| String::new()), MALFORMED),
        ("dot at the end", good("RS256") + ".", MALFORMED),
        (
            "JSON serialization",
            json!({"payload": encode(claims().to_string()), "signatures": []}).to_string(),
            MALFORMED,
        ),
        ("two tokens and a comma", format!("{0},{0}", good("RS256")), MALFORMED),
        ("a space in front", format!(" {}", good("RS256")), MALFORMED),
        ("17 KiB", token(json!({}), json!({"x": "y".repeat(13_000)})), MALFORMED),
        // Encoding.
        ("padded header", edited(0, |text| format!("{text}=")), MALFORMED),
        ("padded signature", edited(2, |text| format!("{text}==")), MALFORMED),
        ("standard alphabet", edited(2, |text| text.replace(['-', '_'], "+") + "+/"), MALFORMED),
        ("stray bits in the signature", edited(2, stray_bits), MALFORMED),
        (
            "line break in the payload",
            edited(1, |text| format!("{}\n{}", &text[..4], &text[4..])),
            "not a header",
        ),
        ("one character too many", edited(1, |text| format!("{text}A")), MALFORMED),
        // Signatures.
        ("signature cut", edited(2, |text| text[..text.len() - 4].to_owned()), "401 3416 or 3401"),
        ("signature extended", edited(2, |text| format!("{text}AAAA")), "401 3416 or 3401"),
        (
            "signature of another token",
            edited(2, |_| token(json!({}), json!({"sub": "x"})).rsplit('.').next().unwrap().to_owned()),
            UNSIGNED,
        ),
        (
            "payload exchanged",
            edited(1, |_| encode(with(claims(), json!({"sub": "admin"})).to_string())),
            UNSIGNED,
        ),
        (
            "header exchanged",
            edited(0, |_| encode(with(header("RS256"), json!({"x": 1})).to_string())),
            UNSIGNED,
        ),
        ("ECDSA all zero", ecdsa_signature(|_| vec![0; 64]), UNSIGNED),
        ("ECDSA r zero", ecdsa_signature(|raw| [vec![0; 32], raw[32..].to_vec()].concat()), UNSIGNED),
        ("ECDSA s zero", ecdsa_signature(|raw| [raw[..32].to_vec(), vec![0; 32]].concat()), UNSIGNED),
        ("ECDSA r and s all ones", ecdsa_signature(|_| vec![0xff; 64]), UNSIGNED),
        ("ECDSA in DER", ecdsa_signature(der), UNSIGNED),
        ("ECDSA 63 bytes", ecdsa_signature(|raw| raw[..63].to_vec()), UNSIGNED),
        ("ECDSA 65 bytes", ecdsa_signature(|raw| [raw, &[0]].concat()), UNSIGNED),
        ("ECDSA swapped halves", ecdsa_signature(|raw| [&raw[32..], &raw[..32]].concat()), UNSIGNED),
        ("ECDSA empty", ecdsa_signature(|_| Vec::new()), MALFORMED),
        // Payloads.
        ("payload not JSON", payload(b"hello"), MALFORMED),
        ("payload a list", payload(b"[]"), MALFORMED),
        ("payload a string", payload(b"\"x\""), MALFORMED),
        ("payload null", payload(b"null"), MALFORMED),
        ("payload not UTF-8", payload(b"{\"iss\":\"\xff\"}"), MALFORMED),
        ("payload with a byte order mark", payload(format!("\u{feff}{}", claims()).as_bytes()), MALFORMED),
        ("payload with trailing text", payload(format!("{} x", claims()).as_bytes()), MALFORMED),
        ("payload nested 5,000 deep", payload("[".repeat(5000).as_bytes()), MALFORMED),
        (
            "issuer twice, ours last",
            payload(
                claims().to_string().replacen('{', "{\"iss\":\"https://attacker.example\",", 1).as_bytes(),
            ),
            MALFORMED,
        ),
        (
            "expiry twice",
            payload(claims().to_string().replacen('{', &format!("{{\"exp\":{},", n - 9999), 1).as_bytes()),
            MALFORMED,
        ),
        ("alg twice in the header", raw_header(r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#), MALFORMED),
        ("header a list", raw_header("[]"), MALFORMED),
        ("header not JSON", raw_header("alg=RS256"), MALFORMED),
        ("empty claims", payload(b"{}"), MALFORMED),
        // Times.
        ("expired", token(json!({}), json!({"exp": n - 31})), UNSIGNED),
        ("expired in 1970", token(json!({}), json!({"exp": 0})), UNSIGNED),
        ("expiry as text", token(json!({}), json!({"exp": format!("{}", n + 300)})), MALFORMED),
        ("expiry negative", token(json!({}), json!({"exp": -1})), MALFORMED),
        ("expiry a list", token(json!({}), json!({"exp": [n + 300]})), MALFORMED),
        ("expiry true", token(json!({}), json!({"exp": true})), MALFORMED),
        ("expiry beyond all time", token(json!({}), json!({"exp": 1e300})), MALFORMED),
        ("no expiry", token(json!({}), json!({"exp": null})), MALFORMED),
        ("not yet valid", token(json!({}), json!({"nbf": n + 31})), UNSIGNED),
        ("nbf as text", token(json!({}), json!({"nbf": "0"})), MALFORMED),
        ("iat as text", token(json!({}), json!({"iat": "now"})), MALFORMED),
        // Issuers.
        ("no issuer", token(json!({}), json!({"iss": null})), MALFORMED),
        (
            "issuer with our name in front",
            token(json!({}), json!({"iss": format!("{ISSUER}.attacker.example")})),
            FORBIDDEN,
        ),
        ("issuer with a slash more", token(json!({}), json!({"iss": format!("{ISSUER}/")})), FORBIDDEN),
        ("issuer shorter", token(json!({}), json!({"iss": "https://example.com"})), FORBIDDEN),
        ("issuer in other case", token(json!({}), json!({"iss": ISSUER.to_uppercase()})), FORBIDDEN),
        ("issuer a list", token(json!({}), json!({"iss": [ISSUER]})), MALFORMED),
        // Audiences.
        ("no audience", token(json!({}), json!({"aud": null})), MALFORMED),
        ("other audience", token(json!({}), json!({"aud": "urn:example:other"})), FORBIDDEN),
        ("audience list without ours", token(json!({}), json!({"aud": ["a", "b"]})), FORBIDDEN),
        ("audience list empty", token(json!({}), json!({"aud": []})), MALFORMED),
        (
            "audience with ours inside",
            token(json!({}), json!({"aud": format!("{AUDIENCE}:admin")})),
            FORBIDDEN,
        ),
        ("audience a number", token(json!({}), json!({"aud": 1})), MALFORMED),
        ("audience list with a number", token(json!({}), json!({"aud": [AUDIENCE, 1]})), MALFORMED),
        ("audience an object", token(json!({}), json!({"aud": {"a": AUDIENCE}})), MALFORMED),
        // Types.
        ("an event token", token(json!({"typ": "secevent+jwt"}), json!({})), MALFORMED),
        ("a proof-of-possession token", token(json!({"typ": "dpop+jwt"}), json!({})), MALFORMED),
        ("an identity token", token(json!({"typ": "it+jwt"}), json!({})), MALFORMED),
        ("typ a number", token(json!({"typ": 1}), json!({})), MALFORMED),
    ];
    assert!(cases.len() >= 79, "{}", cases.len());
    for (name, token, expect) in &cases {
        let (outcome, asked) = judge(&config(), token);
        assert!(
            expect.split(" or ").any(|one| outcome.ends_with(one)) || outcome == *expect,
            "{name}: {outcome}, expected {expect}"
        );
        assert!(asked.iter().all(|url| url == JWKS_URL), "{name}: asked {asked:?}");
    }
}

/// The last character's unused bits set.
fn stray_bits(text: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = ALPHABET.find(text.chars().last().unwrap()).unwrap();
    format!("{}{}", &text[..text.len() - 1], ALPHABET.chars().nth(last | 1).unwrap())
}

#[test]
fn good_tokens_get_through() {
    let n = now();
    let mut cases: Vec<(String, String)> =
        ALGORITHMS.map(|algorithm| (algorithm.to_owned(), good(algorithm))).to_vec();
    let mut case = |name: &str, token: String| cases.push((name.to_owned(), token));
    case("audience in a list", token(json!({}), json!({"aud": ["a", AUDIENCE]})));
    case("fraction of a second", token(json!({}), json!({"exp": 1_767_323_345.5, "nbf": 1.5})));
    case("expired within the leeway", token(json!({}), json!({"exp": n - 29})));
    case("valid within the leeway", token(json!({}), json!({"nbf": n + 30})));
    case("no kid", token(json!({"kid": null}), json!({})));
    case("no typ", token(json!({"typ": null}), json!({})));
    case("typ at+jwt", token(json!({"typ": "at+jwt"}), json!({})));
    case("typ application/at+jwt", token(json!({"typ": "application/AT+JWT"}), json!({})));
    case("b64 true", token(json!({"b64": true}), json!({})));
    case(
        "foreign keys in the header change nothing",
        token(
            json!({"jku": "https://attacker.example/", "jwk": MINT.jwk("stranger"), "x5u": "https://attacker.example/"}),
            json!({}),
        ),
    );
    case(
        "white space in the parts",
        MINT.compact(format!(" {} ", header("RS256")), format!("\n{}", claims()), "RS256"),
    );
    for (name, token) in cases {
        let (outcome, asked) = judge(&config(), &token);
        assert_eq!((outcome.as_str(), asked.as_slice()), ("ok", &[JWKS_URL.to_owned()][..]), "{name}");
    }
}

#[test]
fn tokens_that_no_key_could_save_cost_no_fetch() {
    for token in [token(json!({}), json!({"exp": 0})), token(json!({}), json!({"iss": "x"})), "a.b.c".into()]
    {
        assert_eq!(judge(&config(), &token).1, Vec::<String>::new());
    }
}

#[test]
fn only_allowed_algorithms() {
    let mut config = config();
    config["jws"]["allowed_algorithms"] = json!(["RS256", "ES256"]);
    for (algorithm, expect) in
        [("RS256", "ok"), ("ES256", "ok"), ("ES384", UNSIGNED), ("PS256", UNSIGNED), ("EdDSA", UNSIGNED)]
    {
        assert_eq!(judge(&config, &good(algorithm)).0, expect, "{algorithm}");
    }
}

#[test]
fn a_keys_own_algorithm_binds() {
    let mut cx = request("/", &[("authorization", &format!("Bearer {}", good("PS256")))]);
    let mut key = MINT.jwk("RS256");
    key["alg"] = "RS256".into();
    let world = World { keys: [(JWKS_URL.to_owned(), json!({"keys": [key]}))].into(), ..World::default() };
    assert_eq!(judge_request(&config(), &mut cx, world).0, UNSIGNED);
}

#[test]
fn key_sets_are_tried_in_order() {
    let (first, second) = ("https://a.example/jwks", "https://b.example/jwks");
    let mut config = config();
    config["jws"]["keys"]["sources"]["additional_jkus"] = json!([first, second]);
    let run = |sets: Vec<(&str, Value)>| {
        let mut cx = request("/", &[("authorization", &format!("Bearer {}", good("RS256")))]);
        let keys = sets.into_iter().map(|(url, set)| (url.to_owned(), set)).collect();
        judge_request(&config, &mut cx, World { keys, ..World::default() })
    };
    let (ours, others) = (|| MINT.jwks(), || json!({"keys": [MINT.jwk("ES256")]}));
    assert_eq!(run(vec![(first, ours()), (second, others())]), ("ok".into(), vec![first.into()]));
    assert_eq!(
        run(vec![(first, others()), (second, ours())]),
        ("ok".into(), vec![first.into(), second.into()])
    );
    assert_eq!(run(vec![(second, ours())]), ("ok".into(), vec![first.into(), second.into()]));
    assert_eq!(run(vec![(first, others())]).0, "500 3422");
    assert_eq!(run(vec![]).0, "500 3422");
    assert_eq!(run(vec![(first, others()), (second, json!({"keys": []}))]).0, UNSIGNED);
    // The same id on keys of two types is no conflict; a stranger's key under our id is refused, not skipped.
    let mut twin = MINT.jwk("ES256");
    twin["kid"] = "rsa".into();
    assert_eq!(run(vec![(first, json!({"keys": [twin, MINT.jwk("RS256")]}))]).0, "ok");
    let mut impostor = MINT.jwk("stranger");
    impostor["kid"] = "rsa".into();
    assert_eq!(run(vec![(first, json!({"keys": [impostor]})), (second, ours())]).0, UNSIGNED);
}

#[test]
fn where_a_token_stands_in_headers() {
    let token = good("RS256");
    let check = |headers: &[(&str, &str)], expect: &str| {
        let mut cx = request("/", headers);
        assert_eq!(
            judge_request(&config(), &mut cx, World::default()).0,
            expect,
            "{:?}",
            headers.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    };
    let bearer = |prefix: &str| format!("{prefix}{token}");
    check(&[("AUTHORIZATION", &bearer("Bearer "))], "ok");
    check(&[("authorization", &bearer("bearer "))], "ok");
    check(&[], "401 3408");
    check(&[("x-authorization", &bearer("Bearer "))], "401 3408");
    check(&[("authorization", &token)], "401 3413");
    check(&[("authorization", &bearer("Basic "))], "401 3413");
    check(&[("authorization", &bearer("Bearer  "))], MALFORMED);
    check(&[("authorization", &bearer("Bearer")), ("x", "y")], "401 3413");
    check(&[("authorization", &bearer("Bearer ")), ("authorization", &bearer("Bearer "))], MALFORMED);
    check(&[("authorization", "Bearer ")], MALFORMED);
    check(&[("authorization", "")], "401 3413");
}

/// The seed's second token: an identity token in the body (appendix B, 10: every GET is refused).
#[test]
fn where_a_token_stands_in_bodies() {
    let mut config = config();
    config["http"]["tokens"] = json!([{"type": "it+jwt", "method": "body", "name": "_id_token"}]);
    let token = good("ES256");
    let check = |method: &str, content_type: &str, body: Result<String, BodyError>, expect: &str| {
        let mut cx = request("/", &[("content-type", content_type)]);
        cx.request.as_mut().unwrap().method = method.parse().unwrap();
        let world = World { body: Some(body.clone().map(Bytes::from)), ..World::default() };
        assert_eq!(judge_request(&config, &mut cx, world).0, expect, "{method} {content_type} {body:?}");
    };
    let json_body = || Ok(json!({"_id_token": token, "x": 1}).to_string());
    check("POST", "application/json", json_body(), "ok");
    check("PUT", "application/JSON; charset=utf-8", json_body(), "ok");
    check("PATCH", "application/vnd.api+json", json_body(), "ok");
    check("POST", "application/json", Ok(json!({"_ID_Token": token}).to_string()), "ok");
    check("POST", "application/x-www-form-urlencoded", Ok(format!("a=1&_id_token={token}")), "ok");
    check("GET", "application/json", json_body(), "401 3415");
    check("DELETE", "application/json", json_body(), "401 3415");
    check("POST", "text/plain", json_body(), "401 3414");
    check("POST", "multipart/form-data", json_body(), "401 3414");
    check("POST", "application/json", Ok("{".into()), "401 3412");
    check("POST", "application/json", Ok("[]".into()), "401 3412");
    check("POST", "application/json", Ok("{}".into()), "401 3406");
    check("POST", "application/json", Ok("{\"_id_token\": 7}".into()), "401 3406");
    check(
        "POST",
        "application/json",
        Ok(format!("{{\"_id_token\": \"{token}\", \"_ID_TOKEN\": \"x\"}}")),
        MALFORMED,
    );
    check(
        "POST",
        "application/json",
        Ok(format!("{{\"_id_token\": \"{token}\", \"_id_token\": \"x\"}}")),
        "401 3412",
    );
    check(
        "POST",
        "application/x-www-form-urlencoded",
        Ok(format!("_id_token={token}&_id_token=x")),
        MALFORMED,
    );
    check("POST", "application/json", Err(BodyError::TooLong { bytes_max: 1 }), "413 3411");
    check("POST", "application/json", Err(BodyError::Incomplete), "401 3411");
}

#[test]
fn every_listed_token_is_needed() {
    let mut config = config();
    config["http"]["tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "it+jwt", "method": "body", "name": "_id_token"}));
    let run = |first: &str, second: &str| {
        let mut cx = request(
            "/",
            &[("content-type", "application/json"), ("authorization", &format!("Bearer {first}"))],
        );
        cx.request.as_mut().unwrap().method = http::Method::POST;
        let body = Some(Ok(Bytes::from(json!({"_id_token": second}).to_string())));
        let outcome = judge_request(&config, &mut cx, World { body, ..World::default() }).0;
        (outcome, cx.result("jwt_validation").cloned().unwrap())
    };
    let (outcome, result) = run(&good("RS256"), &good("ES256"));
    assert_eq!(outcome, "ok");
    assert_eq!(result["tokens"][1]["location"], "body");
    assert_eq!(result["tokens"][0]["payload"]["sub"], "doctor");
    assert_eq!(result["tokens"][0]["location_property"], "authorization");
    let (outcome, result) = run(&good("RS256"), &token(json!({}), json!({"exp": 0})));
    assert_eq!(outcome, UNSIGNED);
    assert_eq!(result["error"]["code"], "ERR_NGROK_3401");
    assert_eq!(run("x", &good("ES256")).0, MALFORMED);
}

#[test]
fn types_of_tokens() {
    let check = |kind: &str, typ: Value, claim_changes: Value, expect: &str| {
        let mut config = config();
        config["http"]["tokens"][0]["type"] = kind.into();
        assert_eq!(judge(&config, &token(json!({"typ": typ}), claim_changes)).0, expect, "{kind} {typ}");
    };
    check("at+jwt", json!("at+jwt"), json!({}), "ok");
    check("at+jwt", json!("JWT"), json!({}), MALFORMED);
    check("at+jwt", json!(null), json!({}), MALFORMED);
    check("id_token", json!("JWT"), json!({}), "ok");
    check("id_token", json!("at+jwt"), json!({}), MALFORMED);
    check("it+jwt", json!("it+jwt"), json!({}), "ok");
    check("jwt", json!("JWT"), json!({"exp": null}), "ok");
    check("jwt", json!("at+jwt"), json!({}), MALFORMED);
    check("plain", json!("anything"), json!({"exp": null}), "ok");
}

/// A key that was published since the set was cached is found at once; a key nobody publishes costs one refresh a set.
#[test]
fn a_rotated_key_is_found() {
    let run = |before: Value, after: Option<Value>, kid: Value| {
        let token = token(json!({"kid": kid}), json!({}));
        let mut cx = request("/", &[("authorization", &format!("Bearer {token}"))]);
        let one = |set: Value| [(JWKS_URL.to_owned(), set)].into();
        let mut world =
            World { keys: one(before), rotated: after.map(one).unwrap_or_default(), ..World::default() };
        let verdict = world.run(&engine(policy(&config())), Phase::HttpRequest, &mut cx);
        (matches!(verdict, Verdict::Continue), world.refreshed)
    };
    let old = || json!({"keys": [MINT.jwk("ES256")]});
    assert_eq!(run(MINT.jwks(), None, json!("rsa")), (true, 0));
    assert_eq!(run(old(), Some(MINT.jwks()), json!("rsa")), (true, 1));
    assert_eq!(run(old(), None, json!("rsa")), (false, 1));
    assert_eq!(run(old(), Some(json!({"keys": []})), json!("rsa")), (false, 1));
    // Without a key id nothing says that a key is missing.
    assert_eq!(run(old(), Some(MINT.jwks()), json!(null)), (false, 0));
}

/// The key set with thumbprints: the RSA key's own, and the other keys'.
fn with_thumbprints() -> Value {
    let mut set = MINT.jwks();
    for (at, key) in set["keys"].as_array_mut().unwrap().iter_mut().enumerate() {
        key["x5t"] = json!(format!("sha1-{at}"));
        key["x5t#S256"] = json!(format!("sha256-{at}"));
    }
    set
}

#[test]
fn a_key_is_told_by_the_first_listed_member_that_the_token_has() {
    let judged = |names: Value, header_changes: Value, set: &Value| {
        let mut config = config();
        config["jws"]["keys"]["identification"] = json!({ "token_claims": names });
        let value = format!("Bearer {}", token(header_changes, json!({})));
        let mut cx = request("/", &[("authorization", &value)]);
        let world = World { keys: [(JWKS_URL.to_owned(), set.clone())].into(), ..World::default() };
        judge_request(&config, &mut cx, world).0
    };
    let set = with_thumbprints();
    let cases = [
        (json!(["x5t"]), json!({"x5t": "sha1-0"}), "ok"),
        (json!(["x5t#S256"]), json!({"x5t#S256": "sha256-0"}), "ok"),
        // Another key's, nobody's, and what is no text.
        (json!(["x5t"]), json!({"x5t": "sha1-1"}), UNSIGNED),
        (json!(["x5t"]), json!({"x5t": "sha256-0"}), UNSIGNED),
        (json!(["x5t"]), json!({"x5t": 7}), MALFORMED),
        (json!(["x5t"]), json!({"x5t": ["sha1-0"]}), MALFORMED),
        (json!(["x5t"]), json!({"x5t": "x".repeat(512)}), UNSIGNED),
        (json!(["x5t"]), json!({"x5t": "x".repeat(513)}), MALFORMED),
        // Without any of them every key of the set is tried.
        (json!(["x5t"]), json!({}), "ok"),
        (json!(["x5t"]), json!({"kid": null}), "ok"),
        // What is not listed tells nothing, right, wrong or no text.
        (json!(["x5t"]), json!({"x5t": "sha1-0", "kid": "nobody"}), "ok"),
        (json!(["kid"]), json!({"x5t": "nobody"}), "ok"),
        (json!(["kid"]), json!({"x5t": 7}), "ok"),
        // The first that is there decides.
        (json!(["x5t", "kid"]), json!({"x5t": "nobody"}), UNSIGNED),
        (json!(["x5t", "kid"]), json!({}), "ok"),
        (json!(["x5t", "kid"]), json!({"kid": "nobody"}), UNSIGNED),
        (json!(["kid", "x5t", "x5t#S256"]), json!({"kid": null, "x5t#S256": "sha256-0"}), "ok"),
        (json!(["kid", "x5t", "x5t#S256"]), json!({"kid": null, "x5t#S256": "sha256-2"}), UNSIGNED),
    ];
    for (names, changes, expected) in cases {
        assert_eq!(judged(names.clone(), changes.clone(), &set), expected, "{names} {changes}");
    }
    // A set with thumbprints that are no text still has its keys.
    let mut odd = MINT.jwks();
    odd["keys"][0]["x5t"] = json!(7);
    assert_eq!(judged(json!(["kid"]), json!({}), &odd), "ok");
    assert_eq!(judged(json!(["x5t"]), json!({"x5t": "7"}), &odd), UNSIGNED);
}

#[test]
fn each_entry_of_keys_has_its_own_identification() {
    let other = "https://example.com/other/jku";
    let mut config = config();
    config["jws"]["keys"] = json!([
        { "identification": { "token_claims": ["x5t"] }, "sources": { "additional_jkus": [other] } },
        { "sources": [{ "additional_jkus": [JWKS_URL] }] },
    ]);
    // The first set has the RSA key by another thumbprint; the second has it by its id.
    let mut first = MINT.jwks();
    first["keys"][0]["x5t"] = json!("another");
    let keys = [(other.to_owned(), first), (JWKS_URL.to_owned(), MINT.jwks())];
    let judged = |header_changes: Value| {
        let value = format!("Bearer {}", token(header_changes, json!({})));
        let mut cx = request("/", &[("authorization", &value)]);
        judge_request(&config, &mut cx, World { keys: keys.clone().into(), ..World::default() })
    };
    assert_eq!(judged(json!({"x5t": "mine"})), ("ok".into(), vec![other.into(), JWKS_URL.into()]));
    assert_eq!(judged(json!({"x5t": "mine", "kid": "nobody"})).0, UNSIGNED);
}

#[test]
fn what_tells_a_key_is_checked_when_a_policy_is_saved() {
    let problems = |names: Value| {
        let mut config = config();
        config["jws"]["keys"]["identification"] = json!({ "token_claims": names });
        let policy = serde_json::from_value(policy(&config)).unwrap();
        match crate::Engine::compile(&policy, &crate::References::default()) {
            Ok(_) => String::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        }
    };
    for good in [json!(["kid"]), json!(["x5t"]), json!(["x5t#S256", "x5t", "kid"])] {
        assert_eq!(problems(good), "");
    }
    for (bad, code) in [
        (json!(["sub"]), "2204"),
        (json!(["KID"]), "2204"),
        (json!(["kid", "kid"]), "2231"),
        (json!([]), "2223"),
        (json!([7]), "2222"),
        (json!("kid"), "2222"),
        (json!(["kid", "x5t", "x5t#S256", "kid"]), "2218"),
    ] {
        let told = problems(bad.clone());
        assert!(
            told.contains(&format!("ERR_NGROK_{code}")) && told.contains("token_claims"),
            "{bad}: {told}"
        );
    }
}
