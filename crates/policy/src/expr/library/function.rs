//! How a function of ours is declared, how it takes its arguments, and how it answers.

pub(super) use cel::common::types::{
    BYTES_TYPE, CelBool, CelBytes, CelInt, CelString, DYN_TYPE, INT_TYPE, LIST_TYPE, MAP_TYPE, STRING_TYPE,
    Type,
};
pub(super) use cel::common::value::CowVal;
pub(super) use cel::{DeclarationError, Env, ExecutionError};

use crate::expr::budget::Budget;
pub(super) use crate::expr::value::Ref;

pub(super) type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;

pub(super) type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

pub(super) type Function = for<'b, 'v> fn(Args<'b, 'v>) -> Answer<'b, 'v>;

/// Declares a global function.
pub(super) fn global(env: &mut Env, name: &str, args: &[&Type], f: Function) -> Result<(), DeclarationError> {
    let id = format!("{name}({})", args.iter().map(|t| t.name()).collect::<Vec<_>>().join(","));
    env.add_overload(name, &id, args.iter().map(|t| (*t).to_owned()).collect(), f)
}

/// Declares a function called on its first argument.
pub(super) fn method(
    env: &mut Env,
    name: &str,
    target: &Type,
    args: &[&Type],
    f: Function,
) -> Result<(), DeclarationError> {
    let id =
        format!("{}.{name}({})", target.name(), args.iter().map(|t| t.name()).collect::<Vec<_>>().join(","));
    env.add_member_overload(name, &id, target.to_owned(), args.iter().map(|t| (*t).to_owned()).collect(), f)
}

pub(super) fn no_overload(function: &str, args: &[CowVal]) -> ExecutionError {
    let types = args.iter().map(|arg| arg.get_type().name().to_owned()).collect();
    ExecutionError::no_such_overload(function.trim_start_matches('@'), types)
}

pub(super) fn failed<T>(function: &str, message: impl Into<String>) -> Result<T, ExecutionError> {
    Err(ExecutionError::function_error(function, message.into()))
}

/// The arguments as a fixed number.
pub(super) fn take<'b, 'v, const N: usize>(
    args: Args<'b, 'v>,
) -> Result<[CowVal<'b, 'v>; N], ExecutionError> {
    args.try_into().map_err(|args: Args| ExecutionError::invalid_argument_count(N, args.len()))
}

pub(super) fn as_text<'a>(value: Ref<'a, '_>) -> Option<&'a str> {
    value.downcast_ref::<CelString>().map(CelString::inner)
}

pub(super) fn as_bytes<'a>(value: Ref<'a, '_>) -> Option<&'a [u8]> {
    value.downcast_ref::<CelBytes>().map(CelBytes::inner)
}

pub(super) fn as_int(value: Ref) -> Option<i64> {
    value.downcast_ref::<CelInt>().map(|number| *number.inner())
}

pub(super) fn budget<'a>(value: &'a CowVal) -> Result<&'a Budget, ExecutionError> {
    value
        .downcast_ref::<Budget>()
        .ok_or_else(|| ExecutionError::InternalError("the budget is missing".into()))
}

#[expect(clippy::unnecessary_wraps, reason = "a function's last word is an answer")]
pub(super) fn text_answer<'b, 'v>(text: impl Into<String>) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelString::from(text.into())))
}

#[expect(clippy::unnecessary_wraps, reason = "a function's last word is an answer")]
pub(super) fn bool_answer<'b, 'v>(b: bool) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelBool::from(b)))
}

#[expect(clippy::unnecessary_wraps, reason = "a function's last word is an answer")]
pub(super) fn int_answer<'b, 'v>(number: i64) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelInt::from(number)))
}
