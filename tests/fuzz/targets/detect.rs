//! Feeds `ebbgate_fuzz::detect` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::detect(data));
