//! Small entries in an order that their owner knows: each has its place, and costs hardly more than
//! itself.

use std::cmp::Ordering;

/// Entries of one chunk at most. What is moved for one more is half of this on average; what all
/// chunks cost beside their entries is an eighth.
const CHUNK_ENTRIES: usize = 256;

/// Entries in order, in chunks.
///
/// An entry may be a handle, whose order only the table behind it knows. So every search is given
/// a function that says how an entry stands to what is sought. A tree of the standard library has its
/// order in its keys, and would have to hold them.
#[derive(Debug)]
pub(super) struct Sorted<E> {
    chunks: Vec<Chunk<E>>,
    len: usize,
}

/// Some entries, at least one.
#[derive(Debug)]
struct Chunk<E> {
    /// The first one again: a search passes over chunks without looking into them.
    first: E,
    entries: Vec<E>,
}

impl<E: Copy> Sorted<E> {
    pub(super) const fn new() -> Sorted<E> {
        Sorted { chunks: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry that is equal to what is sought.
    pub(super) fn get(&self, order: impl Fn(&E) -> Ordering) -> Option<E> {
        let (chunk, at) = self.place(&order);
        self.at(chunk, at).filter(|entry| order(entry).is_eq())
    }

    /// The entries from the first one on that is not less than what is sought.
    pub(super) fn from(&self, order: impl Fn(&E) -> Ordering) -> impl Iterator<Item = E> {
        let (chunk, at) = self.place(&order);
        let chunks = self.chunks.get(chunk..).unwrap_or_default();
        chunks.iter().flat_map(|chunk| &chunk.entries).copied().skip(at)
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = E> {
        self.chunks.iter().flat_map(|chunk| &chunk.entries).copied()
    }

    /// Puts an entry in its place. One that is equal to it must not be there.
    pub(super) fn insert(&mut self, entry: E, order: impl Fn(&E) -> Ordering) {
        self.len += 1;
        let (number, at) = self.place(&order);
        let Some(chunk) = self.chunks.get_mut(number) else {
            self.chunks.push(Chunk { first: entry, entries: vec![entry] });
            return;
        };
        if chunk.entries.len() < CHUNK_ENTRIES {
            chunk.insert(at, entry);
        } else if at == CHUNK_ENTRIES {
            // Entries that come in order leave full chunks behind.
            self.chunks.insert(number + 1, Chunk { first: entry, entries: vec![entry] });
        } else {
            let mut behind = Vec::with_capacity(CHUNK_ENTRIES);
            behind.extend(chunk.entries.drain(CHUNK_ENTRIES / 2..));
            let mut behind = Chunk { first: behind[0], entries: behind };
            match at.checked_sub(CHUNK_ENTRIES / 2) {
                Some(at) if at > 0 => behind.insert(at, entry),
                _ => chunk.insert(at, entry),
            }
            self.chunks.insert(number + 1, behind);
        }
    }

    /// Takes out the entry that is equal to what is sought.
    pub(super) fn remove(&mut self, order: impl Fn(&E) -> Ordering) -> Option<E> {
        let (mut number, mut at) = self.place(&order);
        if self.chunks.get(number)?.entries.len() == at {
            (number, at) = (number + 1, 0);
        }
        let chunk = self.chunks.get_mut(number)?;
        let entry = chunk.entries.get(at).copied().filter(|entry| order(entry).is_eq())?;
        chunk.entries.remove(at);
        self.len -= 1;
        if let Some(first) = chunk.entries.first() {
            chunk.first = *first;
        } else {
            self.chunks.remove(number);
        }
        self.join_with_next(number);
        Some(entry)
    }

    /// Joins a chunk with the one behind it if they are half a chunk together, so that what many have
    /// left does not stay as many chunks of little.
    fn join_with_next(&mut self, number: usize) {
        let Some([chunk, next]) = self.chunks.get_mut(number..number + 2) else { return };
        if chunk.entries.len() + next.entries.len() <= CHUNK_ENTRIES / 2 {
            chunk.entries.append(&mut next.entries);
            self.chunks.remove(number + 1);
        }
    }

    /// Where the first entry stands that is not less than what is sought, or where it would: a chunk,
    /// and a place in it or behind its end.
    fn place(&self, order: &impl Fn(&E) -> Ordering) -> (usize, usize) {
        let behind = self.chunks.partition_point(|chunk| order(&chunk.first).is_lt());
        let Some(number) = behind.checked_sub(1) else { return (0, 0) };
        (number, self.chunks[number].entries.partition_point(|entry| order(entry).is_lt()))
    }

    fn at(&self, number: usize, at: usize) -> Option<E> {
        let chunk = self.chunks.get(number)?;
        chunk.entries.get(at).copied().or_else(|| self.chunks.get(number + 1).map(|next| next.first))
    }
}

impl<E: Copy> Chunk<E> {
    fn insert(&mut self, at: usize, entry: E) {
        self.entries.insert(at, entry);
        if at == 0 {
            self.first = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    /// An entry whose key is the number itself.
    fn by(key: u32) -> impl Fn(&u32) -> Ordering {
        move |entry| entry.cmp(&key)
    }

    fn check(sorted: &Sorted<u32>, set: &BTreeSet<u32>) {
        assert_eq!(sorted.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
        assert_eq!(sorted.len(), set.len());
        for chunk in &sorted.chunks {
            assert_eq!(chunk.entries.first(), Some(&chunk.first), "no chunk is empty");
            assert!(chunk.entries.len() <= CHUNK_ENTRIES && chunk.entries.capacity() <= CHUNK_ENTRIES);
        }
        for pair in sorted.chunks.windows(2) {
            assert!(pair[0].entries.last() < pair[1].entries.first());
        }
    }

    #[test]
    fn entries_that_come_in_order_fill_their_chunks() {
        let mut sorted = Sorted::new();
        (0..1000).for_each(|n| sorted.insert(n, by(n)));
        assert_eq!(sorted.chunks.len(), 1000usize.div_ceil(CHUNK_ENTRIES));
    }

    #[test]
    fn few_entries_that_many_have_left_are_in_few_chunks() {
        let mut sorted = Sorted::new();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut all: Vec<u32> = (0..20_000).collect();
        rng.shuffle(&mut all);
        all.iter().for_each(|n| sorted.insert(*n, by(*n)));
        let full = sorted.chunks.len();
        assert!(full < 20_000 * 2 / CHUNK_ENTRIES, "{full}");
        all.iter().skip(200).for_each(|n| assert_eq!(sorted.remove(by(*n)), Some(*n)));
        assert!(sorted.chunks.len() <= full / 10, "{} of {full}", sorted.chunks.len());
        all.iter().take(200).for_each(|n| assert_eq!(sorted.remove(by(*n)), Some(*n)));
        assert!(sorted.chunks.is_empty());
    }

    proptest! {
        /// More steps than a chunk takes entries, over numbers that are close together, so that chunks are
        /// split, emptied and joined.
        #[test]
        fn it_is_an_ordered_set(
            start in prop::collection::btree_set(0u32..3000, 0..1500),
            steps in prop::collection::vec((0u32..3000, 0u8..4), 0..1500),
        ) {
            let (mut sorted, mut set) = (Sorted::new(), start.clone());
            start.into_iter().for_each(|n| sorted.insert(n, by(n)));
            check(&sorted, &set);
            for (number, kind) in steps {
                prop_assert_eq!(sorted.get(by(number)), set.get(&number).copied());
                let behind: Vec<u32> = sorted.from(by(number)).take(3).collect();
                prop_assert_eq!(behind, set.range(number..).take(3).copied().collect::<Vec<_>>());
                if kind == 0 {
                    if set.insert(number) {
                        sorted.insert(number, by(number));
                    }
                } else {
                    // Neighbours leave together.
                    for number in number..number + u32::from(kind) * 20 {
                        prop_assert_eq!(sorted.remove(by(number)), set.take(&number));
                    }
                }
            }
            check(&sorted, &set);
        }
    }
}
