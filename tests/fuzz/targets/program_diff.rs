//! Feeds `ebbgate_fuzz::program_diff` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::program_diff(data));
