//! Block and span arithmetic, all of it: no other file adds or multiplies indexes and lengths.
//!
//! A number from outside becomes a [`SpanIndex`] or a run of a file only through [`Geometry`], which
//! knows the size; so an index that exists is an index in range.

use std::fmt;
use std::ops::Range;

use super::limits::{MAX_SPANS, MIN_SPAN_BLOCKS};

/// Length of a block in bytes; the last block of a file may be shorter.
///
/// 4096 bytes are four BLAKE3 chunks, so a block is a subtree of the hash.
pub const BLOCK_LEN_BYTES: u64 = 4096;

/// The number of a span in its file, counted from 0; made by [`Geometry`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanIndex(u32);

impl SpanIndex {
    /// The first span, which every file has: an empty file has one empty span.
    pub const FIRST: SpanIndex = SpanIndex(0);

    /// The span of a bit that is set in a set of spans: such a bit was set for a span.
    pub(super) fn of_bit(bit: usize) -> SpanIndex {
        SpanIndex(bit as u32)
    }

    /// The number, for tables with one entry per span.
    pub fn get(self) -> usize {
        self.0 as usize
    }

    /// The number as it goes over the wire.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SpanIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Consecutive blocks as a message states them: not yet checked against any file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRun {
    /// Index of the first block.
    pub first: u64,
    /// Number of blocks.
    pub count: u32,
}

/// How a file of a given size falls into blocks and spans.
///
/// The span length depends on the size alone: 64 blocks (256 KiB); above 16 GiB doubled until there
/// are at most 65,536 spans. A file of zero bytes has one span of zero bytes, so that no path
/// treats it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    span_blocks: u64,
    spans: u32,
}

impl Geometry {
    /// The largest size that is served: 2^60 bytes, far above any file, far below any overflow.
    pub const MAX_SIZE: u64 = 1 << 60;

    /// The geometry of a file of `size` bytes; `None` above [`Geometry::MAX_SIZE`].
    pub fn new(size: u64) -> Option<Geometry> {
        if size > Geometry::MAX_SIZE {
            return None;
        }
        let mut span_blocks = MIN_SPAN_BLOCKS;
        while size.div_ceil(span_blocks * BLOCK_LEN_BYTES) > MAX_SPANS {
            span_blocks *= 2;
        }
        let spans = size.div_ceil(span_blocks * BLOCK_LEN_BYTES).max(1) as u32;
        Some(Geometry { size, span_blocks, spans })
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of spans: 1 to 65,536.
    pub fn spans(&self) -> usize {
        self.spans as usize
    }

    /// Whether the file is one span, so that its id alone proves it and it needs no manifest.
    pub fn is_single(&self) -> bool {
        self.spans == 1
    }

    /// Length in bytes of every span but the last.
    pub fn span_len_bytes(&self) -> u64 {
        self.span_blocks * BLOCK_LEN_BYTES
    }

    /// The span with this number, if the file has one.
    pub fn span(&self, number: u64) -> Option<SpanIndex> {
        (number < u64::from(self.spans)).then_some(SpanIndex(number as u32))
    }

    /// The last span: the only one that may be shorter, and the one that proves the size.
    pub fn last_span(&self) -> SpanIndex {
        SpanIndex(self.spans - 1)
    }

    /// All spans in order.
    pub fn all_spans(&self) -> impl DoubleEndedIterator<Item = SpanIndex> + use<> {
        (0..self.spans).map(SpanIndex)
    }

    /// Offset of the first byte of a span. `span` must be of this file.
    pub fn offset(&self, span: SpanIndex) -> u64 {
        u64::from(span.0) * self.span_len_bytes()
    }

    /// Length of a span in bytes: the full length, less for the last one, 0 only in an empty file.
    pub fn len_bytes(&self, span: SpanIndex) -> usize {
        (self.size - self.offset(span)).min(self.span_len_bytes()) as usize
    }

    /// Index of the first block of a span.
    pub fn first_block(&self, span: SpanIndex) -> u64 {
        u64::from(span.0) * self.span_blocks
    }

    /// The run of blocks that a request for these spans states. `spans` must not be empty.
    ///
    /// Runs are counted in whole spans even where the file ends inside the last one: an answer is
    /// clipped to the end of the file.
    pub fn run(&self, spans: &Range<u32>) -> BlockRun {
        BlockRun {
            first: u64::from(spans.start) * self.span_blocks,
            count: ((spans.end - spans.start) as u64 * self.span_blocks).min(u64::from(u32::MAX)) as u32,
        }
    }

    /// The spans that a run from the wire means: `None` unless it begins at a span, covers whole
    /// spans (the last may end with the file) and at least one of them lies in the file.
    pub fn spans_of_run(&self, run: BlockRun) -> Option<Range<u32>> {
        let count = u64::from(run.count);
        let end = run.first.checked_add(count)?;
        if count == 0 || !run.first.is_multiple_of(self.span_blocks) {
            return None;
        }
        let file_end = self.size.div_ceil(BLOCK_LEN_BYTES);
        if !end.is_multiple_of(self.span_blocks) && end != file_end {
            return None;
        }
        let first = self.span(run.first / self.span_blocks)?;
        let end = end.div_ceil(self.span_blocks).min(u64::from(self.spans));
        Some(first.0..end as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: u64 = MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES;

    #[test]
    fn sizes_at_the_edges_fall_into_the_spans_of_the_design() {
        let gib = 1u64 << 30;
        // size, spans, span length: edges of block, span, and of the doubling above 16 GiB
        for (size, spans, span_len) in [
            (0, 1, SPAN),
            (1, 1, SPAN),
            (BLOCK_LEN_BYTES, 1, SPAN),
            (SPAN - 1, 1, SPAN),
            (SPAN, 1, SPAN),
            (SPAN + 1, 2, SPAN),
            (16 * gib, 65_536, SPAN),
            (16 * gib + 1, 32_769, 2 * SPAN),
            (32 * gib, 65_536, 2 * SPAN),
            (Geometry::MAX_SIZE, 65_536, 1 << 44),
        ] {
            let geometry = Geometry::new(size).unwrap();
            assert_eq!((geometry.spans(), geometry.span_len_bytes()), (spans, span_len), "size {size}");
        }
        for size in [Geometry::MAX_SIZE + 1, 1 << 63, u64::MAX] {
            assert_eq!(Geometry::new(size), None);
        }
    }

    #[test]
    fn a_run_that_is_no_whole_number_of_spans_is_refused() {
        let geometry = Geometry::new(3 * SPAN + 5000).unwrap();
        let spans = |first, count| geometry.spans_of_run(BlockRun { first, count });
        assert_eq!(spans(0, 64), Some(0..1));
        assert_eq!(spans(64, 128), Some(1..3));
        assert_eq!(spans(192, 64), Some(3..4), "past the end, by whole spans: clipped");
        assert_eq!(spans(192, 2), Some(3..4), "exactly to the end");
        assert_eq!(spans(0, !63), Some(0..4));
        assert_eq!(spans(0, 0), None, "empty");
        assert_eq!(spans(1, 64), None, "begins inside a span");
        assert_eq!(spans(0, 63), None, "ends inside a span");
        assert_eq!(spans(256, 64), None, "begins past the end");
        assert_eq!(spans(u64::MAX - 63, 64), None, "overflows");
        assert_eq!(spans(1 << 63, 64), None, "far");
    }

    /// Numbers at and beside those at which arithmetic goes wrong.
    fn edge() -> impl Strategy<Value = u64> {
        let at = [
            0,
            1,
            MIN_SPAN_BLOCKS,
            BLOCK_LEN_BYTES,
            SPAN,
            MAX_SPANS,
            MAX_SPANS * SPAN,
            1 << 32,
            Geometry::MAX_SIZE,
            1 << 63,
            u64::MAX,
        ];
        (prop::sample::select(at.to_vec()), 0u64..4, any::<bool>())
            .prop_map(|(at, by, is_more)| if is_more { at.saturating_add(by) } else { at.saturating_sub(by) })
    }

    proptest! {
        /// Row 9 of SECURITY.md: against the same in numbers that have room for everything.
        #[test]
        fn at_every_edge_a_run_is_what_wider_arithmetic_says(
            size in prop_oneof![edge(), any::<u64>()], first in prop_oneof![edge(), any::<u64>()], count in edge(),
        ) {
            let Some(geometry) = Geometry::new(size) else {
                prop_assert!(size > Geometry::MAX_SIZE);
                return Ok(());
            };
            let run = BlockRun { first, count: count as u32 };
            let (first, end) = (u128::from(first), u128::from(first) + u128::from(run.count));
            let blocks = u128::from(geometry.span_len_bytes() / BLOCK_LEN_BYTES);
            let spans = geometry.spans() as u128;
            let ends = end.is_multiple_of(blocks) || end == u128::from(size.div_ceil(BLOCK_LEN_BYTES));
            let fits = run.count > 0 && first.is_multiple_of(blocks) && ends && first / blocks < spans;
            let is_number = end <= u128::from(u64::MAX);
            let expected = (fits && is_number)
                .then(|| (first / blocks) as u32..end.div_ceil(blocks).min(spans) as u32);
            prop_assert_eq!(geometry.spans_of_run(run), expected);
            let last = geometry.last_span();
            prop_assert_eq!(geometry.offset(last) + geometry.len_bytes(last) as u64, size);
            prop_assert!(geometry.span(geometry.spans() as u64).is_none());
            prop_assert_eq!(geometry.first_block(last) * BLOCK_LEN_BYTES, geometry.offset(last));
        }

        #[test]
        fn spans_tile_the_file(size in prop_oneof![0..4 * SPAN, 0..=Geometry::MAX_SIZE]) {
            let geometry = Geometry::new(size).unwrap();
            prop_assert!(geometry.spans() <= MAX_SPANS as usize);
            let last = geometry.last_span();
            prop_assert_eq!(geometry.offset(last) + geometry.len_bytes(last) as u64, size);
            let first = geometry.span(0).unwrap();
            prop_assert_eq!(geometry.offset(first), 0);
            if !geometry.is_single() {
                prop_assert_eq!(geometry.len_bytes(first) as u64, geometry.span_len_bytes());
                prop_assert!(geometry.len_bytes(last) > 0);
            }
        }

        #[test]
        fn a_run_of_spans_reads_back(size in 0u64..1 << 40, a in any::<u32>(), b in any::<u32>()) {
            let geometry = Geometry::new(size).unwrap();
            let spans = geometry.spans() as u32;
            let start = a % spans;
            // at most 16 spans: what one request may state
            let end = start + 1 + b % (spans - start).min(16);
            prop_assert_eq!(geometry.spans_of_run(geometry.run(&(start..end))), Some(start..end));
        }

        #[test]
        fn no_run_from_the_wire_panics_or_leaves_the_file(size in any::<u64>(), first in any::<u64>(), count in any::<u32>()) {
            let Some(geometry) = Geometry::new(size) else { return Ok(()) };
            if let Some(spans) = geometry.spans_of_run(BlockRun { first, count }) {
                prop_assert!(spans.start < spans.end && spans.end as usize <= geometry.spans());
            }
        }
    }
}
