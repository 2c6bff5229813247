//! The desync corpus.
