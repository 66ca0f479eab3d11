//! A table in little memory: values behind `u32` handles.

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

    /// All values.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
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
