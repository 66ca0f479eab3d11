//! What holds for any bytes from outside, for those that were found to matter: each file of `fuzz/corpus`
//! and `fuzz/regressions` is given to the function of its folder.
//!
//! One test, for it measures the memory of the process.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use enxame_fuzz::{Live, TARGETS};

/// The files for a target, in order; there are some for each.
fn inputs(target: &str) -> Vec<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut files: Vec<PathBuf> = ["corpus", "regressions"]
        .into_iter()
        .filter_map(|folder| fs::read_dir(fuzz.join(folder).join(target)).ok())
        .flatten()
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "nothing for {target}");
    files
}

fn holds_for_all(target: &str, run: impl Fn(&[u8])) {
    for file in inputs(target) {
        let bytes = fs::read(&file).expect("it is there");
        let held = catch_unwind(AssertUnwindSafe(|| run(&bytes)));
        assert!(held.is_ok(), "{target} fails for {}", file.display());
    }
}

#[test]
fn what_holds_for_any_bytes_holds_for_those_that_once_mattered() {
    for (target, run) in TARGETS {
        holds_for_all(target, run);
    }
    let live = Live::start();
    holds_for_all("block_server", |bytes| live.block_server(bytes));
    holds_for_all("tracker", |bytes| live.tracker(bytes));
}
