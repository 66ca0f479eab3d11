//! Two tables in little memory: values behind `u32` handles, and small maps from handles.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use super::sorted::Entry;

/// Where a value stands in a [`Slab`].
pub(super) type Handle = u32;

/// Values behind handles of four bytes; a handle is used again after its value was removed.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<Handle>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> Handle {
        if let Some(handle) = self.free.pop() {
            self.places[handle as usize] = Some(value);
            return handle;
        }
        let handle = Handle::try_from(self.places.len()).expect("the catalogue's caps are far below 2^32");
        self.places.push(Some(value));
        handle
    }

    pub(super) fn remove(&mut self, handle: Handle) -> T {
        let value = self.places[handle as usize].take().expect("a handle that is kept names a value");
        self.free.push(handle);
        value
    }
}

impl<T> Index<Handle> for Slab<T> {
    type Output = T;
    fn index(&self, handle: Handle) -> &T {
        self.places[handle as usize].as_ref().expect("a handle that is kept names a value")
    }
}

impl<T> IndexMut<Handle> for Slab<T> {
    fn index_mut(&mut self, handle: Handle) -> &mut T {
        self.places[handle as usize].as_mut().expect("a handle that is kept names a value")
    }
}

/// A handle under a key that goes before it in the order: part of a hash.
impl Entry for (u32, Handle) {
    fn weight(&self) -> u32 {
        self.0
    }
}

/// A map from handles that mostly has one entry: 16 bytes then, and no heap.
///
/// Most names stand for one content and most contents have one name; a few have very many (the
/// empty file), so the large case is a tree, in which no operation is slow.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a bare map would make the usual case twice as large")]
pub(super) enum Few<V> {
    #[default]
    Empty,
    One(Handle, V),
    Many(Box<BTreeMap<Handle, V>>),
}

impl<V: Default> Few<V> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Few::Empty)
    }

    /// The value of `key`, made first if it is not there.
    pub(super) fn entry(&mut self, key: Handle) -> &mut V {
        match self {
            Few::Empty => *self = Few::One(key, V::default()),
            Few::One(only, value) if *only != key => {
                let first = (*only, std::mem::take(value));
                *self = Few::Many(Box::new(BTreeMap::from([first])));
            }
            Few::One(..) | Few::Many(_) => {}
        }
        match self {
            Few::Empty => unreachable!("an entry was just made"),
            Few::One(_, value) => value,
            Few::Many(map) => map.entry(key).or_default(),
        }
    }

    pub(super) fn remove(&mut self, key: Handle) {
        match self {
            Few::One(only, _) if *only == key => *self = Few::Empty,
            Few::Many(map) => {
                map.remove(&key);
                if map.len() == 1
                    && let Some((only, value)) = map.pop_first()
                {
                    *self = Few::One(only, value);
                }
            }
            Few::Empty | Few::One(..) => {}
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &V)> {
        let (one, many) = match self {
            Few::Empty => (None, None),
            Few::One(key, value) => (Some((*key, value)), None),
            Few::Many(map) => (None, Some(map.iter().map(|(key, value)| (*key, value)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_case_costs_sixteen_bytes() {
        assert_eq!(size_of::<Few<u32>>(), 16);
        assert_eq!(size_of::<Few<()>>(), 16);
    }

    proptest! {
        #[test]
        fn a_few_is_a_map(steps in prop::collection::vec((0u32..5, any::<bool>()), 0..40)) {
            let (mut few, mut map) = (Few::<u32>::default(), BTreeMap::<Handle, u32>::new());
            for (key, insert) in steps {
                if insert {
                    *few.entry(key) += 1;
                    *map.entry(key).or_default() += 1;
                } else {
                    few.remove(key);
                    map.remove(&key);
                }
                prop_assert_eq!(few.iter().map(|(k, v)| (k, *v)).collect::<Vec<_>>(), map.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(few.is_empty(), map.is_empty());
            }
        }

        #[test]
        fn a_slab_gives_back_what_was_put_in(steps in prop::collection::vec(prop::option::of(0usize..6), 0..40)) {
            let mut slab = Slab::new();
            let mut kept: Vec<(Handle, usize)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(at) if at < kept.len() => {
                        let (handle, value) = kept.remove(at);
                        prop_assert_eq!(slab.remove(handle), value);
                    }
                    _ => kept.push((slab.insert(number), number)),
                }
                prop_assert_eq!(slab.len(), kept.len());
                prop_assert!(kept.iter().all(|(handle, value)| slab[*handle] == *value));
            }
        }
    }
}
