//! Feeds `ebbgate_fuzz::rpc` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::rpc(data));
