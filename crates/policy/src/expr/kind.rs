//! What kind of value an expression gives, where that is plain from its form. `None` means only running it tells.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};

use super::datum::Kind;
use super::slots::{self, Slot};

/// The kind of a rewritten expression.
pub(super) fn of(expr: &IdedExpr, slots: &[Slot]) -> Option<Kind> {
    match &expr.expr {
        Expr::Literal(literal) => Some(match literal {
            LiteralValue::Boolean(_) => Kind::Bool,
            LiteralValue::Bytes(_) => Kind::Bytes,
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
            LiteralValue::Null => Kind::Null,
            LiteralValue::String(_) => Kind::Text,
        }),
        Expr::List(_) => Some(Kind::List),
        Expr::Map(_) => Some(Kind::Map),
        Expr::Ident(name) => {
            slots::index(name).and_then(|at| slots.get(at)).and_then(|slot| slot.source.kind())
        }
        Expr::Select(select) => select.test.then_some(Kind::Bool),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            ("_?_:_", [_, a, b]) => of(a, slots).filter(|kind| of(b, slots) == Some(*kind)),
            ("@keep", [_, inner]) | ("@pay", [_, inner, ..]) => of(inner, slots),
            ("@add", [_, a, b]) => of(a, slots).or_else(|| of(b, slots)).filter(|kind| *kind != Kind::Time),
            (name, _) => returns(name),
        },
        Expr::Comprehension(_) | Expr::Struct(_) | Expr::Unspecified => None,
    }
}

/// What a function gives whatever its arguments.
fn returns(function: &str) -> Option<Kind> {
    Some(match function {
        "!_" | "_&&_" | "_||_" | "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "@in" | "@matches"
        | "@has" | "bool" | "contains" | "endsWith" | "hasValue" | "inCidrRange" | "inCidrRanges"
        | "isIP" | "isJson" | "isPrivateIp" | "isQueryString" | "isURL" | "startsWith" => Kind::Bool,
        "_*_" | "_/_" | "_%_" | "double" | "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear"
        | "getFullYear" | "getHours" | "@milliseconds" | "getMinutes" | "getMonth" | "getSeconds"
        | "@indexOf" | "int" | "@lastIndexOf" | "@rand_double" | "@rand_int" | "size" | "uint" => {
            Kind::Number
        }
        "basic_auth.encode" | "charAt" | "decodeBase64" | "encodeBase64" | "encodeJson"
        | "encodeQueryString" | "escapeUrl" | "format" | "@join" | "lower" | "lowerAscii" | "md5"
        | "@replace" | "sha1" | "sha256" | "sha512" | "string" | "substring" | "trim" | "unescapeUrl"
        | "upper" | "upperAscii" => Kind::Text,
        "@split" | "@list_at" | "@range" | "slice" | "@distinct" | "@flatten" | "sort" => Kind::List,
        "base64.decode" | "bytes" => Kind::Bytes,
        "timestamp" | "duration" => Kind::Time,
        _ => return None,
    })
}
