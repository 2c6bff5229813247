//! Finds one complete JSON object in bytes that arrive in pieces: peers do not half-close their requests, so the end
//! of the object is the end of the message. Linear in the bytes, however small the pieces.

use serde_json::Value;

use super::error::RpcError;

/// Bytes of one JSON object; traffic policies travel in them.
pub const OBJECT_BYTES_MAX: usize = 1 << 20;

/// Nesting of one JSON object.
pub const OBJECT_DEPTH_MAX: usize = 32;

/// Collects one object, at most [`OBJECT_BYTES_MAX`] bytes (or fewer) and [`OBJECT_DEPTH_MAX`] levels deep.
#[derive(Debug)]
pub struct ObjectReader {
    bytes: Vec<u8>,
    bytes_max: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Default for ObjectReader {
    fn default() -> Self {
        Self::new(OBJECT_BYTES_MAX)
    }
}

impl ObjectReader {
    /// A reader of an object of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, depth: 0, in_string: false, escaped: false }
    }

    /// Takes the next bytes; the object once it is complete. What follows it is dropped (Go sends a newline).
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Value>, RpcError> {
        for (at, byte) in piece.iter().enumerate() {
            if self.step(*byte)? {
                self.keep(piece.get(..=at).unwrap_or(piece))?;
                let object = serde_json::from_slice(&self.bytes).map_err(RpcError::Json)?;
                *self = Self::new(self.bytes_max);
                return Ok(Some(object));
            }
        }
        self.keep(piece)?;
        Ok(None)
    }

    /// Bytes held so far.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn keep(&mut self, piece: &[u8]) -> Result<(), RpcError> {
        if self.bytes.len().saturating_add(piece.len()) > self.bytes_max {
            return Err(RpcError::TooLong(self.bytes_max));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Follows one byte; true when it closes the object.
    fn step(&mut self, byte: u8) -> Result<bool, RpcError> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'{' | b'[' if self.depth >= OBJECT_DEPTH_MAX => Err(RpcError::TooDeep(OBJECT_DEPTH_MAX)),
            b'{' => {
                self.depth += 1;
                Ok(false)
            }
            b' ' | b'\t' | b'\r' | b'\n' => Ok(false),
            _ if self.depth == 0 => Err(RpcError::NotAnObject),
            b'[' => {
                self.depth += 1;
                Ok(false)
            }
            b'}' | b']' => {
                self.depth -= 1;
                Ok(self.depth == 0)
            }
            b'"' => {
                self.in_string = true;
                Ok(false)
            }
            _ => Ok(false),
        }
    }
}
