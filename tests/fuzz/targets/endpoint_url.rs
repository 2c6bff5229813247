//! Feeds `ebbgate_fuzz::endpoint_url` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::endpoint_url(data));
