//! Small entries in an order that their owner knows: each has its place, and costs hardly more than
//! itself.

use std::cmp::Ordering;

/// Entries of one chunk at most. What is moved for one more is half of this on average; what all
/// chunks cost beside their entries is an eighth.
const CHUNK_ENTRIES: usize = 256;

/// An entry of four or eight bytes.
pub(super) trait Entry: Copy {
    /// A number that never falls from an entry to the next. A search begins where this says that the
    /// entry should be if the numbers are spread evenly, as hashes are. If they are not, it takes longer.
    fn weight(&self) -> u32;
}

/// Entries in order, in chunks.
///
/// An entry may be a handle, whose order only the table behind it knows. So every search is given
/// a function that says how an entry stands to what is sought. A tree of the standard library has its
/// order in its keys, and would have to hold them.
#[derive(Debug)]
pub(super) struct Sorted<E> {
    /// The first entry of each chunk: a search passes over chunks without looking into them.
    firsts: Vec<E>,
    /// None of them is empty.
    chunks: Vec<Vec<E>>,
    len: usize,
}

impl<E: Entry> Sorted<E> {
    pub(super) const fn new() -> Sorted<E> {
        Sorted { firsts: Vec::new(), chunks: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry that is equal to what is sought; `weight` is that of such an entry.
    pub(super) fn get(&self, weight: u32, order: impl Fn(&E) -> Ordering) -> Option<E> {
        let (number, at) = self.place(weight, &order);
        let entry = self.chunks.get(number)?.get(at).or_else(|| self.firsts.get(number + 1))?;
        Some(*entry).filter(|entry| order(entry).is_eq())
    }

    /// The entries from the first one on that is not less than what is sought.
    pub(super) fn from(&self, weight: u32, order: impl Fn(&E) -> Ordering) -> impl Iterator<Item = E> {
        let (number, at) = self.place(weight, &order);
        self.chunks[number.min(self.chunks.len())..].iter().flatten().copied().skip(at)
    }

    /// Puts an entry in its place. One that is equal to it must not be there.
    pub(super) fn insert(&mut self, entry: E, order: impl Fn(&E) -> Ordering) {
        self.len += 1;
        let (number, at) = self.place(entry.weight(), &order);
        let Some(chunk) = self.chunks.get_mut(number) else {
            return self.insert_chunk(number, vec![entry]);
        };
        if chunk.len() < CHUNK_ENTRIES {
            self.insert_into(number, at, entry);
        } else if at == CHUNK_ENTRIES {
            // Entries that come in order leave full chunks behind.
            self.insert_chunk(number + 1, vec![entry]);
        } else {
            let mut behind = Vec::with_capacity(CHUNK_ENTRIES);
            behind.extend(chunk.drain(CHUNK_ENTRIES / 2..));
            self.insert_chunk(number + 1, behind);
            match at.checked_sub(CHUNK_ENTRIES / 2) {
                Some(at) if at > 0 => self.insert_into(number + 1, at, entry),
                _ => self.insert_into(number, at, entry),
            }
        }
    }

    fn insert_chunk(&mut self, number: usize, chunk: Vec<E>) {
        self.firsts.insert(number, chunk[0]);
        self.chunks.insert(number, chunk);
    }

    fn insert_into(&mut self, number: usize, at: usize, entry: E) {
        self.chunks[number].insert(at, entry);
        self.firsts[number] = self.chunks[number][0];
    }

    /// Takes out the entry that is equal to what is sought; `weight` is that of such an entry.
    pub(super) fn remove(&mut self, weight: u32, order: impl Fn(&E) -> Ordering) -> Option<E> {
        let (mut number, mut at) = self.place(weight, &order);
        if self.chunks.get(number)?.len() == at {
            (number, at) = (number + 1, 0);
        }
        let chunk = self.chunks.get_mut(number)?;
        let entry = chunk.get(at).copied().filter(|entry| order(entry).is_eq())?;
        chunk.remove(at);
        self.len -= 1;
        if let Some(first) = chunk.first() {
            self.firsts[number] = *first;
            self.join_with_next(number);
        } else {
            self.remove_chunk(number);
        }
        Some(entry)
    }

    /// Takes out the last entry.
    pub(super) fn pop(&mut self) -> Option<E> {
        let chunk = self.chunks.last_mut()?;
        let entry = chunk.pop()?;
        self.len -= 1;
        if chunk.is_empty() {
            self.remove_chunk(self.chunks.len() - 1);
        }
        Some(entry)
    }

    /// Joins a chunk with the one behind it if they are half a chunk together, so that what many have
    /// left does not stay as many chunks of little.
    fn join_with_next(&mut self, number: usize) {
        let Some([chunk, next]) = self.chunks.get_mut(number..number + 2) else { return };
        if chunk.len() + next.len() <= CHUNK_ENTRIES / 2 {
            chunk.append(next);
            self.remove_chunk(number + 1);
        }
    }

    fn remove_chunk(&mut self, number: usize) {
        self.firsts.remove(number);
        self.chunks.remove(number);
    }

    /// Where the first entry stands that is not less than what is sought, or where it would: a chunk,
    /// and a place in it or behind its end.
    fn place(&self, weight: u32, order: &impl Fn(&E) -> Ordering) -> (usize, usize) {
        let behind = self.firsts.partition_point(|first| order(first).is_lt());
        let Some(number) = behind.checked_sub(1) else { return (0, 0) };
        (number, place_in(&self.chunks[number], weight, order))
    }
}

/// Where the first entry stands that is not less than what is sought. Looks where it should be, and
/// goes from there in steps that double: most searches look at one or two lines of a cache.
fn place_in<E: Entry>(entries: &[E], weight: u32, order: &impl Fn(&E) -> Ordering) -> usize {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return 0 };
    let (first, last) = (u64::from(first.weight()), u64::from(last.weight()));
    let from_first = u64::from(weight).saturating_sub(first).min(last - first);
    let guess = (from_first * entries.len() as u64 / (last - first + 1)) as usize;
    let is_before = |entry: &E| order(entry).is_lt();
    let mut step = 1;
    if is_before(&entries[guess]) {
        let mut start = guess + 1;
        while start + step <= entries.len() && is_before(&entries[start + step - 1]) {
            start += step;
            step *= 2;
        }
        let end = entries.len().min(start + step);
        start + entries[start..end].partition_point(is_before)
    } else {
        let mut end = guess;
        while end >= step && !is_before(&entries[end - step]) {
            end -= step;
            step *= 2;
        }
        let start = end.saturating_sub(step);
        start + entries[start..end].partition_point(is_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    impl Entry for u32 {
        fn weight(&self) -> u32 {
            // Equal for neighbours, so that the order decides.
            *self / 4
        }
    }

    fn by(key: u32) -> impl Fn(&u32) -> Ordering {
        move |entry| entry.cmp(&key)
    }

    fn check(sorted: &Sorted<u32>, set: &BTreeSet<u32>) {
        assert_eq!(sorted.chunks.concat(), set.iter().copied().collect::<Vec<_>>());
        assert_eq!(sorted.len(), set.len());
        let firsts: Vec<u32> = sorted.chunks.iter().map(|chunk| chunk[0]).collect();
        assert_eq!(sorted.firsts, firsts, "and no chunk is empty");
        assert!(sorted.chunks.iter().all(|chunk| chunk.capacity() <= CHUNK_ENTRIES));
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
        all.iter().skip(200).for_each(|n| assert_eq!(sorted.remove(n / 4, by(*n)), Some(*n)));
        assert!(sorted.chunks.len() <= full / 10, "{} of {full}", sorted.chunks.len());
        all.iter().take(200).for_each(|n| assert_eq!(sorted.remove(n / 4, by(*n)), Some(*n)));
        assert!(sorted.chunks.is_empty());
    }

    proptest! {
        /// More steps than a chunk takes entries, over numbers that are close together, so that chunks are
        /// split, emptied and joined. Some numbers are far away, so that a search begins in a wrong place.
        #[test]
        fn it_is_an_ordered_set(
            start in prop::collection::btree_set(0u32..3000, 0..1500),
            far in prop::collection::btree_set(any::<u32>(), 0..3),
            steps in prop::collection::vec((0u32..3000, 0u8..4), 0..1500),
        ) {
            let start = &start | &far;
            let (mut sorted, mut set) = (Sorted::new(), start.clone());
            start.into_iter().for_each(|n| sorted.insert(n, by(n)));
            check(&sorted, &set);
            for (number, kind) in steps {
                prop_assert_eq!(sorted.get(number / 4, by(number)), set.get(&number).copied());
                let behind: Vec<u32> = sorted.from(number / 4, by(number)).take(3).collect();
                prop_assert_eq!(behind, set.range(number..).take(3).copied().collect::<Vec<_>>());
                if kind == 0 {
                    if set.insert(number) {
                        sorted.insert(number, by(number));
                    }
                } else {
                    // Neighbours leave together.
                    for number in number..number + u32::from(kind) * 20 {
                        prop_assert_eq!(sorted.remove(number / 4, by(number)), set.take(&number));
                    }
                }
            }
            check(&sorted, &set);
            for _ in 0..300 {
                prop_assert_eq!(sorted.pop(), set.pop_last());
            }
            check(&sorted, &set);
        }
    }
}
