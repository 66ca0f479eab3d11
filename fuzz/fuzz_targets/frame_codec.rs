//! See `enxame_fuzz::frame_codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enxame_fuzz::frame_codec(bytes));
