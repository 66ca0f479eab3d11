//! See `enxame_fuzz::part_recovery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enxame_fuzz::part_recovery(bytes));
