//! Feeds `ebbgate_fuzz::records` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::records(data));
