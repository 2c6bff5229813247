//! The files and variables that a configuration is read from, as arguments.

use std::io;
use std::path::Path;

/// Largest agent file in bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The world outside, as arguments: files and environment variables.
pub struct Source<'a> {
    /// Reads a whole text file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Reads an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}
