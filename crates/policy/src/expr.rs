//! CEL behind our own small border: what the rest of the crate sees is [`Expression`], [`Template`] and their errors.
//!
//! The `cel` crate parses and evaluates. Between the two, `rewrite` turns what a policy may say into what may safely be
//! run: variables become numbered slots filled on demand, unknown names are refused, and every place where work or
//! memory can multiply is charged to a `Budget`. Nothing outside this folder names the `cel` crate.

mod address;
mod addresses;
mod budget;
#[cfg(test)]
mod catalog;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod cost;
mod datum;
mod error;
mod expression;
mod groups;
mod kind;
mod library;
mod macros;
mod names;
mod outline;
mod query;
mod reading;
mod reads;
mod rewrite;
mod slots;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod tree;
mod unavailable;
mod user_agent;
mod value;

pub use addresses::ADDRESS_NAMES;
pub use budget::HELD_BYTES_MAX;
pub use error::{EvalError, ExprError};
pub use expression::Expression;
pub(crate) use library::{PATTERN_BYTES_MAX, Pattern};
pub(crate) use names::result_members;
pub(crate) use outline::{Outline, outline};
pub(crate) use query::url as request_url;
pub use reading::SEEN_HEADER_BYTES_MAX;
pub(crate) use slots::{MadeName, Tainted};
pub use syntax::{AST_DEPTH_MAX, AST_NODES_MAX, COMPREHENSION_NESTING_MAX, SOURCE_BYTES_MAX};
pub(crate) use template::text_reads;
pub use template::{Template, ValueTemplate};
