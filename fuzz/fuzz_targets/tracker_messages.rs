//! See `enxame_fuzz::tracker_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enxame_fuzz::tracker_messages(bytes));
