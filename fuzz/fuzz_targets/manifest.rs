//! See `enxame_fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enxame_fuzz::manifest(bytes));
