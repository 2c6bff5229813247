//! CEL behind our own small border (first cut: constants only, until the variables arrive).

use cel::Program;
use serde_json::Value;

use crate::facts::Context;
use crate::verdict::Phase;

/// Why an expression cannot be compiled or evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(String);

impl ExprError {
    pub(crate) fn not_bool(&self) -> bool {
        false
    }
    pub(crate) fn hint(&self) -> Option<String> {
        None
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression(Program);

impl Expression {
    pub(crate) fn compile_condition(source: &str, _: Phase) -> Result<Self, ExprError> {
        Program::compile(source)
            .map(Self)
            .map_err(|e| ExprError(e.to_string()))
    }
    pub(crate) fn test(&self, _: &Context) -> Result<bool, ExprError> {
        match self.0.execute(&cel::Context::default()) {
            Ok(cel::Value::Bool(b)) => Ok(b),
            other => Err(ExprError(format!("{other:?}"))),
        }
    }
}

/// A text with `${...}`.
#[derive(Debug)]
pub struct Template(String);
impl Template {
    pub(crate) fn compile(text: &str, _: Phase) -> Result<Self, ExprError> {
        if text.contains("${") {
            return Err(ExprError("interpolation is not there yet".into()));
        }
        Ok(Self(text.to_owned()))
    }
    pub(crate) fn literal(&self) -> Option<&str> {
        Some(&self.0)
    }
    pub(crate) fn render(&self, _: &Context) -> Result<String, ExprError> {
        Ok(self.0.clone())
    }
}

/// A value with templates in it.
#[derive(Debug)]
pub struct ValueTemplate(Value);
impl ValueTemplate {
    pub(crate) fn compile(value: &Value, _: Phase) -> Result<Self, ExprError> {
        Ok(Self(value.clone()))
    }
    pub(crate) fn render(&self, _: &Context) -> Result<Value, ExprError> {
        Ok(self.0.clone())
    }
    pub(crate) fn mentions_var(&self, _: &str) -> bool {
        false
    }
}
