//! See `enxame_fuzz::index_cache`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enxame_fuzz::index_cache(bytes));
