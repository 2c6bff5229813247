//! Feeds `ebbgate_fuzz::frames` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::frames(data));
