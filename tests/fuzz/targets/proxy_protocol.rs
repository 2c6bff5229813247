//! Feeds `ebbgate_fuzz::proxy_protocol` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::proxy_protocol(data));
