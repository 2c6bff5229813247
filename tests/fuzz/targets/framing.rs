//! Feeds `ebbgate_fuzz::framing` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::framing(data));
