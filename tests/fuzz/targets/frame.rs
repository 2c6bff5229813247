//! Feeds `ebbgate_fuzz::frame` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::frame(data));
