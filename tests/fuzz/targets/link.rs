//! Feeds `ebbgate_fuzz::link` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::link(data));
