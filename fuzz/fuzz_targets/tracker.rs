//! See `enxame_fuzz::Live::tracker`.
#![no_main]

use std::sync::LazyLock;

use enxame_fuzz::Live;

static LIVE: LazyLock<Live> = LazyLock::new(Live::start);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| LIVE.tracker(bytes));
