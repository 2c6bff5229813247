//! Forms of logs and metrics that the three programs share. Text in, text out: knows no socket, no file and no program.

pub mod exposition;
pub mod logfmt;

pub use exposition::Exposition;
pub use logfmt::{LogFormat, Logfmt};
