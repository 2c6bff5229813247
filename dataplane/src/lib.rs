//! The edge: accepts, decides, moves bytes.
