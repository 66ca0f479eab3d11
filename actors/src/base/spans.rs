//! A set of spans of one file: which ones somebody has.

use super::geometry::{Geometry, SpanIndex};

/// A bit set over the spans of one file, with its count kept.
#[derive(Clone, PartialEq, Eq)]
pub struct SpanSet {
    words: Box<[u64]>,
    spans: usize,
    count: usize,
}

impl SpanSet {
    /// The empty set for a file of this geometry.
    pub fn empty(geometry: &Geometry) -> SpanSet {
        SpanSet { words: vec![0; geometry.spans().div_ceil(64)].into(), spans: geometry.spans(), count: 0 }
    }

    /// The set of all spans.
    pub fn full(geometry: &Geometry) -> SpanSet {
        let mut set = SpanSet::empty(geometry);
        geometry.all_spans().for_each(|span| {
            set.insert(span);
        });
        set
    }

    /// The set of these bits, 64 spans in a word, the lowest bit first.
    ///
    /// # Panics
    /// If there are not as many words as the file's spans need.
    pub(crate) fn of_words(geometry: &Geometry, words: impl Iterator<Item = u64>) -> SpanSet {
        let mut set = SpanSet { words: words.collect(), ..SpanSet::empty(geometry) };
        assert_eq!(set.words.len(), set.spans.div_ceil(64), "of a file of {} spans", set.spans);
        set.count = set.words.iter().map(|word| word.count_ones() as usize).sum();
        set
    }

    /// Reads the form of [`SpanSet::to_bytes`]; `None` unless it is exactly as long as the file's
    /// spans need and no bit behind the last span is set.
    pub fn from_bytes(geometry: &Geometry, bytes: &[u8]) -> Option<SpanSet> {
        let mut set = SpanSet::empty(geometry);
        if bytes.len() != set.spans.div_ceil(8) {
            return None;
        }
        for (number, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                set.insert(geometry.span(number as u64 * 8 + bit)?);
            }
        }
        Some(set)
    }

    /// One bit per span, lowest bit first, in as few bytes as hold them: at most 8 KiB.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.spans.div_ceil(8));
        bytes
    }

    /// Whether the set has this span.
    pub fn contains(&self, span: SpanIndex) -> bool {
        self.words[span.get() / 64] >> (span.get() % 64) & 1 == 1
    }

    /// Adds a span; whether it was new.
    pub fn insert(&mut self, span: SpanIndex) -> bool {
        let new = !self.contains(span);
        self.words[span.get() / 64] |= 1 << (span.get() % 64);
        self.count += usize::from(new);
        new
    }

    /// Takes a span out; whether it was there.
    pub fn remove(&mut self, span: SpanIndex) -> bool {
        let had = self.contains(span);
        self.words[span.get() / 64] &= !(1 << (span.get() % 64));
        self.count -= usize::from(had);
        had
    }

    /// Adds all spans of another set over the same file.
    ///
    /// # Panics
    /// If the other set is over a file of more spans.
    pub fn add_all(&mut self, other: &SpanSet) {
        for (number, word) in other.words.iter().enumerate() {
            self.words[number] |= word;
        }
        self.count = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// The spans from `from` on that this set has and `also` has too, if it is given, and that none of
    /// `not` has; in order. All sets are over the same file. Looks at 64 spans in one step.
    pub fn from<'a>(
        &'a self,
        from: u32,
        also: Option<&'a SpanSet>,
        not: [Option<&'a SpanSet>; 2],
    ) -> impl Iterator<Item = SpanIndex> + 'a {
        let first = from as usize / 64;
        (first..self.words.len()).flat_map(move |number| {
            let mut word = self.words[number];
            if number == first {
                word &= u64::MAX << (from % 64);
            }
            word &= also.map_or(u64::MAX, |set| set.words[number]);
            for set in not.into_iter().flatten() {
                word &= !set.words[number];
            }
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                // Bits behind the last span are never set.
                Some(SpanIndex::of_bit(number * 64 + bit as usize))
            })
        })
    }

    /// How many spans the set has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether it has every span of the file.
    pub fn is_full(&self) -> bool {
        self.count == self.spans
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes of the file its spans hold.
    pub fn len_bytes(&self, geometry: &Geometry) -> u64 {
        let missing_in_last = geometry.span_len_bytes() - geometry.len_bytes(geometry.last_span()) as u64;
        let last = if self.contains(geometry.last_span()) { missing_in_last } else { 0 };
        self.count as u64 * geometry.span_len_bytes() - last
    }
}

impl std::fmt::Debug for SpanSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpanSet({} of {})", self.count, self.spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_as_a_plain_set(spans in 1u64..300, rest in 1u64..262_144, steps in prop::collection::vec((any::<bool>(), 0u64..300), 0..200)) {
            let geometry = Geometry::new((spans - 1) * 262_144 + rest).unwrap();
            let mut set = SpanSet::empty(&geometry);
            let mut model = BTreeSet::new();
            for (add, number) in steps {
                let Some(span) = geometry.span(number) else { continue };
                if add {
                    prop_assert_eq!(set.insert(span), model.insert(span));
                } else {
                    prop_assert_eq!(set.remove(span), model.remove(&span));
                }
            }
            prop_assert_eq!(set.count(), model.len());
            prop_assert_eq!(set.len_bytes(&geometry), model.iter().map(|s| geometry.len_bytes(*s) as u64).sum::<u64>());
            prop_assert!(geometry.all_spans().all(|span| set.contains(span) == model.contains(&span)));
            prop_assert_eq!(SpanSet::from_bytes(&geometry, &set.to_bytes()), Some(set.clone()));
            prop_assert_eq!(set.is_full(), model.len() == geometry.spans());
            let mut half = SpanSet::empty(&geometry);
            geometry.all_spans().filter(|span| span.number() % 2 == 0).for_each(|span| { half.insert(span); });
            let from = rest as u32 % 400;
            let found: Vec<u32> = set.from(from, Some(&half), [None, None]).map(|span| span.number()).collect();
            let both: Vec<u32> = model.iter().map(|s| s.number()).filter(|n| *n >= from && n % 2 == 0).collect();
            prop_assert_eq!(found, both);
            let found: Vec<u32> = set.from(from, None, [None, Some(&half)]).map(|span| span.number()).collect();
            let odd: Vec<u32> = model.iter().map(|s| s.number()).filter(|n| *n >= from && n % 2 == 1).collect();
            prop_assert_eq!(found, odd);
            half.add_all(&set);
            prop_assert!(geometry.all_spans().all(|span| half.contains(span) == (span.number() % 2 == 0 || set.contains(span))));
            prop_assert_eq!(half.count(), geometry.all_spans().filter(|span| half.contains(*span)).count());
        }
    }

    #[test]
    fn bits_behind_the_last_span_and_wrong_lengths_are_refused() {
        let geometry = Geometry::new(9 * 262_144).unwrap();
        assert!(SpanSet::from_bytes(&geometry, &[0xff, 0x01]).unwrap().is_full());
        assert_eq!(SpanSet::from_bytes(&geometry, &[0xff, 0x02]), None);
        assert_eq!(SpanSet::from_bytes(&geometry, &[0xff]), None);
        assert_eq!(SpanSet::from_bytes(&geometry, &[0, 0, 0]), None);
        assert!(SpanSet::full(&geometry).is_full());
    }
}
