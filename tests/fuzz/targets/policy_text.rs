//! Feeds `ebbgate_fuzz::policy_text` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbgate_fuzz::policy_text(data));
