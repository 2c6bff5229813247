//! Feeds `ebbgate_fuzz::body` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::body(data));
