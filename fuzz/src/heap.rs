//! How much memory something takes.

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Runs something, and panics if the heap grew by more than this meanwhile, by whatever thread.
pub(crate) fn within<T>(bytes: usize, run: impl FnOnce() -> T) -> T {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let done = run();
    let grown = HEAP.peak_usage().saturating_sub(before);
    assert!(grown <= bytes, "{grown} bytes of memory where {bytes} are enough");
    done
}
