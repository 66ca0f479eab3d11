//! From each of very many owners to the few others that it goes with: mostly to one.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::slab::Handle;

/// The links of all owners of a table, but for the first of each, which stands with the owner.
///
/// Most names stand for one content and most contents have one name: that takes four bytes and the
/// value. A few have very many (the empty file), so the others are in a tree, in which no operation
/// is slow.
#[derive(Debug)]
pub(super) struct Links<V> {
    further: BTreeMap<(Handle, Handle), V>,
}

/// An owner's first link, if it has any.
#[derive(Clone, Copy, Debug)]
pub(super) struct First<V> {
    /// What it goes to and whether there are further ones, see [`First::new`].
    link: NonZeroU32,
    value: V,
}

/// The link of an owner that has none.
const NONE: NonZeroU32 = NonZeroU32::MAX;

impl<V: Default> Default for First<V> {
    fn default() -> First<V> {
        First { link: NONE, value: V::default() }
    }
}

impl<V> First<V> {
    /// Not zero, so that an owner that is not there takes no more room than one that is.
    fn new(to: Handle, has_further: bool, value: V) -> First<V> {
        let link = (to << 1 | u32::from(has_further)) + 1;
        First { link: NonZeroU32::new(link).expect("handles are below 2^31"), value }
    }

    pub(super) fn is_none(&self) -> bool {
        self.link == NONE
    }

    fn to(&self) -> Option<Handle> {
        (!self.is_none()).then(|| (self.link.get() - 1) >> 1)
    }

    fn has_further(&self) -> bool {
        !self.is_none() && (self.link.get() - 1) & 1 == 1
    }
}

impl<V: Copy + Default> Links<V> {
    pub(super) const fn new() -> Links<V> {
        Links { further: BTreeMap::new() }
    }

    /// The value of an owner's link, which is made if it is not there.
    pub(super) fn entry<'v>(&'v mut self, owner: Handle, first: &'v mut First<V>, to: Handle) -> &'v mut V {
        match first.to() {
            None => *first = First::new(to, false, V::default()),
            Some(only) if only == to => {}
            Some(other) => {
                *first = First::new(other, true, first.value);
                return self.further.entry((owner, to)).or_default();
            }
        }
        &mut first.value
    }

    pub(super) fn remove(&mut self, owner: Handle, first: &mut First<V>, to: Handle) {
        let Some(stands_first) = first.to() else { return };
        if stands_first != to {
            self.further.remove(&(owner, to));
            *first = First::new(stands_first, self.further(owner).next().is_some(), first.value);
            return;
        }
        let next = if first.has_further() { self.further(owner).next() } else { None };
        *first = match next {
            None => First::default(),
            Some((to, value)) => {
                self.further.remove(&(owner, to));
                First::new(to, self.further(owner).next().is_some(), value)
            }
        };
    }

    /// All links of an owner.
    pub(super) fn iter(&self, owner: Handle, first: &First<V>) -> impl Iterator<Item = (Handle, V)> {
        let further = first.has_further().then(|| self.further(owner));
        first.to().map(|to| (to, first.value)).into_iter().chain(further.into_iter().flatten())
    }

    fn further(&self, owner: Handle) -> impl Iterator<Item = (Handle, V)> {
        self.further.range((owner, 0)..=(owner, Handle::MAX)).map(|((_, to), value)| (*to, *value))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.further.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_case_costs_four_bytes_and_the_value() {
        assert_eq!((size_of::<First<()>>(), size_of::<First<u32>>()), (4, 8));
        assert_eq!(size_of::<Option<First<u32>>>(), 8, "also where the owner may not be there");
    }

    proptest! {
        #[test]
        fn the_links_of_each_owner_are_a_map(
            steps in prop::collection::vec((0usize..3, 0u32..5, any::<bool>()), 0..80),
        ) {
            let mut links = Links::<u32>::new();
            let mut firsts = [First::<u32>::default(); 3];
            let mut maps: [BTreeMap<Handle, u32>; 3] = Default::default();
            for (owner, to, insert) in steps {
                if insert {
                    *links.entry(owner as Handle, &mut firsts[owner], to) += 1;
                    *maps[owner].entry(to).or_default() += 1;
                } else {
                    links.remove(owner as Handle, &mut firsts[owner], to);
                    maps[owner].remove(&to);
                }
                for (owner, (first, map)) in firsts.iter().zip(&maps).enumerate() {
                    let mut all: Vec<(Handle, u32)> = links.iter(owner as Handle, first).collect();
                    all.sort_unstable();
                    prop_assert_eq!(all, map.clone().into_iter().collect::<Vec<_>>());
                    prop_assert_eq!(first.is_none(), map.is_empty());
                }
                prop_assert_eq!(links.is_empty(), maps.iter().all(|map| map.len() < 2));
            }
        }
    }
}
