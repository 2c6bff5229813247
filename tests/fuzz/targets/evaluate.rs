//! Feeds `ebbgate_fuzz::evaluate` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::evaluate(data));
