//! The published CEL conformance suite, run through our own border: parser limits, rewriting and charges included.
//!
//! Left out are cases that need protobuf messages or a type checker, neither of which a policy has, and `block_ext`,
//! which is a form that optimizers write and people do not.

use std::collections::{BTreeMap, HashMap};

use cel::common::types::{
    CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelMapKey, CelNull, CelTimestamp, CelType,
    CelUInt,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use serde_json::Value;

use super::budget::Budget;
use super::names::Names;
use super::slots::Resolver;
use super::value::{self, Owned};
use super::{library, rewrite, syntax};
use crate::reference::{SUITE_CORE, SUITE_EXTENSIONS, SUITE_WRONG};

/// Files that are left out whole.
const FILES_LEFT_OUT: [&str; 7] =
    ["block_ext", "dynamic", "enums", "proto2", "proto2_ext", "proto3", "wrappers"];
/// Files of extensions.
const EXTENSION_FILES: [&str; 7] =
    ["bindings_ext", "encoders_ext", "macros2", "math_ext", "network_ext", "optionals", "string_ext"];

/// The suite's bindings in front of our own slots.
struct Bindings<'c> {
    values: HashMap<String, Owned<'static>>,
    own: Resolver<'c>,
}

impl VariableResolver for Bindings<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        match self.values.get(name) {
            Some(value) => Some(CowVal::Borrowed(value.as_ref())),
            None => self.own.resolve(name),
        }
    }
}

fn is_left_out(case: &Value) -> bool {
    let file = case["file"].as_str().unwrap();
    let text = case.to_string();
    FILES_LEFT_OUT.contains(&file)
        || ["google.protobuf", "TestAllTypes", "conformance.proto", "\"object\""]
            .iter()
            .any(|mark| text.contains(mark))
}

fn number<T: std::str::FromStr>(json: &Value) -> T {
    json.as_str().unwrap().parse().ok().unwrap()
}

fn nanos(json: &Value) -> (i64, u32) {
    (number(&json["s"]), u32::try_from(json["n"].as_i64().unwrap()).unwrap())
}

fn expected(json: &Value) -> Owned<'static> {
    let v = &json["v"];
    match json["t"].as_str().unwrap() {
        "bool" => value::from_json(v),
        "string" => value::text(v.as_str().unwrap()),
        "int" => Box::new(CelInt::from(number::<i64>(v))),
        "uint" => Box::new(CelUInt::from(number::<u64>(v))),
        "double" => Box::new(CelDouble::from(v.as_f64().unwrap_or_else(|| number(v)))),
        "bytes" => {
            let hex = v.as_str().unwrap().as_bytes();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            Box::new(CelBytes::from(hex.chunks(2).map(byte).collect::<Vec<u8>>()))
        }
        "null" => Box::new(CelNull),
        "type" => Box::new(CelType::new(v.as_str().unwrap())),
        "list" => Box::new(CelList::from(v.as_array().unwrap().iter().map(expected).collect::<Vec<_>>())),
        "map" => {
            let entries = v.as_array().unwrap().iter().map(|pair| {
                let key: CelMapKey = CowVal::Owned(expected(&pair[0])).try_into().unwrap();
                (key, expected(&pair[1]))
            });
            Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
        }
        "duration" => {
            let (secs, nanos) = nanos(json);
            Box::new(CelDuration::from(
                chrono::Duration::seconds(secs) + chrono::Duration::nanoseconds(nanos.into()),
            ))
        }
        "timestamp" => {
            let (secs, nanos) = nanos(json);
            Box::new(CelTimestamp::from(
                chrono::DateTime::from_timestamp(secs, nanos).unwrap().fixed_offset(),
            ))
        }
        other => panic!("unknown type {other}"),
    }
}

fn same(a: &dyn Val, b: &dyn Val) -> bool {
    let double = |v: &dyn Val| v.downcast_ref::<CelDouble>().map(|d| *d.inner());
    // serde_json reads the suite's own doubles with an error of up to one unit in the last place.
    let near = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || a.to_bits().abs_diff(b.to_bits()) <= 1;
    a.get_type().name() == b.get_type().name()
        && (a.equals(b) || double(a).zip(double(b)).is_some_and(|(a, b)| near(a, b)))
}

/// Runs a case; the error says how it differs.
fn run(case: &Value) -> Result<(), String> {
    let mut env = library::environment();
    env.set_container(case["container"].as_str().unwrap()).unwrap();
    let bindings = case["bindings"].as_object().unwrap();
    let want_error = case["want"]["t"] == "error";
    let rewritten =
        syntax::parse(case["expr"].as_str().unwrap()).and_then(|ast| rewrite::rewrite(ast, Names::Open));
    let rewritten = match rewritten {
        Ok(rewritten) => rewritten,
        Err(_) if want_error => return Ok(()),
        Err(error) => return Err(format!("does not compile: {error}")),
    };
    let budget = Budget::new(crate::work::Work::default(), 0);
    let cx = crate::facts::tests::context();
    let values = bindings.iter().map(|(name, json)| (name.clone(), expected(json))).collect();
    let resolver = Bindings { values, own: Resolver::new(&rewritten.slots, &cx, &budget) };
    let mut scope = cel::Context::with_env(std::sync::Arc::new(env));
    scope.set_variable_resolver(&resolver);
    let got = cel::Value::resolve_val(&rewritten.ast, &scope);
    budget.verdict().map_err(|error| error.to_string())?;
    match (got, want_error) {
        (Err(_), true) => Ok(()),
        (Ok(value), false) if same(value.as_ref(), expected(&case["want"]).as_ref()) => Ok(()),
        (got, _) => Err(format!("got {got:?}, want {}", case["want"])),
    }
}

#[test]
fn the_published_suite() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance/cel-conformance.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    // Per file: passed and run.
    let mut files: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let mut gaps = Vec::new();
    for case in cases.iter().filter(|case| case["check_only"] == false && !is_left_out(case)) {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let name = format!("{}/{}/{}", text("file"), text("section"), text("name"));
        let count = files.entry(text("file")).or_default();
        count.1 += 1;
        match run(case) {
            Ok(()) => count.0 += 1,
            Err(difference) => gaps.push((name, text("expr"), difference)),
        }
    }
    for (name, expr, difference) in &gaps {
        println!("gap: {name}: {expr}: {difference}");
    }
    println!("{files:#?}");
    let sum = |extension: bool| {
        let chosen = files.iter().filter(|(file, _)| EXTENSION_FILES.contains(&file.as_str()) == extension);
        chosen.fold((0, 0), |(passed, all), (_, count)| (passed + count.0, all + count.1))
    };
    println!("core {:?}, extensions {:?}", sum(false), sum(true));
    assert_eq!(gaps.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), SUITE_WRONG);
    assert_eq!((sum(false), sum(true)), ((1100, 1102), (597, 597)));
    // As the page says it.
    let told = |(passed, all): (u32, u32)| format!("{passed} of {all}");
    assert_eq!(told(sum(false)), SUITE_CORE.replace(',', ""));
    assert_eq!(told(sum(true)), SUITE_EXTENSIONS.replace(',', ""));
}
