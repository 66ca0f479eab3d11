//! What a tracker was told of our list, and what it has to be told yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::limits::LIST_FRAME_BYTES;
use crate::base::{FileId, FileName};
use crate::wire::ListDigest;
use crate::wire::tracker::Listing;

/// Bytes of a list entry in a frame besides its name: id, size, flag, field names.
const ENTRY_BYTES: usize = 80;

/// The next part of the list to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Entries that are new or changed.
    Add(Vec<Listing>),
    /// Entries that are gone.
    Remove(Vec<(FileName, FileId)>),
}

/// Our list, and how much of it a tracker knows.
///
/// One name has one content in a folder, so entries are kept by name. Changes that come faster than
/// they can be told fall together: only the newest state of a name is told.
#[derive(Debug, Default)]
pub struct ToldList {
    list: BTreeMap<FileName, Listing>,
    told: BTreeMap<FileName, Listing>,
    /// Names whose told state is not the listed one.
    differ: BTreeSet<FileName>,
    digest: ListDigest,
}

impl ToldList {
    /// The tracker knows nothing (any more): everything has to be told.
    pub fn forget(&mut self) {
        self.told.clear();
        self.digest = ListDigest::default();
        self.differ = self.list.keys().cloned().collect();
    }

    /// An entry is new or changed.
    pub fn add(&mut self, listing: Listing) {
        let name = listing.name.clone();
        self.list.insert(name.clone(), listing);
        self.compare(name);
    }

    /// An entry is gone, unless another content stands under its name by now.
    pub fn remove(&mut self, name: &FileName, id: &FileId) {
        if self.list.get(name).is_some_and(|listing| listing.id == *id) {
            self.list.remove(name);
            self.compare(name.clone());
        }
    }

    fn compare(&mut self, name: FileName) {
        if self.list.get(&name) == self.told.get(&name) {
            self.differ.remove(&name);
        } else {
            self.differ.insert(name);
        }
    }

    /// Digest of what was told.
    pub fn digest(&self) -> ListDigest {
        self.digest
    }

    /// Whether the tracker knows all.
    pub fn is_told(&self) -> bool {
        self.differ.is_empty()
    }

    /// The next frame's worth of what is to be told, counted as told from here on; `None` if the
    /// tracker knows all. A name that changed its content is one entry, which replaces the old one.
    pub fn tell(&mut self) -> Option<Telling> {
        let is_removal = |list: &BTreeMap<FileName, Listing>, name: &FileName| !list.contains_key(name);
        let kind = is_removal(&self.list, self.differ.first()?);
        let mut bytes = 0;
        let names: Vec<FileName> = self
            .differ
            .iter()
            .take_while(|name| {
                bytes += name.as_str().len() + ENTRY_BYTES;
                is_removal(&self.list, name) == kind && bytes < LIST_FRAME_BYTES
            })
            .cloned()
            .collect();
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for name in names {
            self.differ.remove(&name);
            if let Some(old) = self.told.remove(&name) {
                self.digest.remove(&old);
                if kind {
                    removed.push((name.clone(), old.id));
                }
            }
            if let Some(listing) = self.list.get(&name) {
                self.digest.add(listing);
                self.told.insert(name, listing.clone());
                added.push(listing.clone());
            }
        }
        Some(if kind { Telling::Remove(removed) } else { Telling::Add(added) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(name: u8, id: u8) -> Listing {
        Listing {
            name: format!("n{name}").parse().unwrap(),
            id: FileId::from_bytes([id; 32]),
            size: 1,
            complete: true,
        }
    }

    #[test]
    fn a_long_list_is_told_in_frames_below_the_limit() {
        let mut list = ToldList::default();
        for n in 0..20_000u32 {
            let name = format!("folder/{n:0200}").parse().unwrap();
            list.add(Listing { name, id: FileId::from_bytes([1; 32]), size: u64::MAX, complete: true });
        }
        let (mut frames, mut entries) = (0, 0);
        while let Some(Telling::Add(files)) = list.tell() {
            entries += files.len();
            frames += 1;
            let message = crate::wire::tracker::ToTracker::NewFile { files };
            crate::wire::encode(&message, &mut Vec::new()).unwrap();
        }
        assert_eq!(entries, 20_000);
        assert!(frames > 5);
    }

    proptest! {
        /// A tracker that takes in what it is told has our list whenever all is told, and the digest
        /// is that of its list at every moment.
        #[test]
        fn a_tracker_that_listens_has_our_list(
            steps in prop::collection::vec((0u8..5, 0u8..6, 0u8..3), 0..60),
        ) {
            let mut ours = ToldList::default();
            let mut model = BTreeMap::new();
            let mut tracker: BTreeMap<FileName, Listing> = BTreeMap::new();
            for (kind, name, id) in steps {
                let entry = listing(name, id);
                match kind {
                    0 | 1 => {
                        model.insert(entry.name.clone(), entry.clone());
                        ours.add(entry);
                    }
                    2 => {
                        if model.get(&entry.name) == Some(&entry) {
                            model.remove(&entry.name);
                        }
                        ours.remove(&entry.name, &entry.id);
                    }
                    3 => match ours.tell() {
                        Some(Telling::Add(files)) => tracker.extend(files.into_iter().map(|l| (l.name.clone(), l))),
                        Some(Telling::Remove(files)) => for (name, id) in files {
                            prop_assert_eq!(tracker.remove(&name).unwrap().id, id);
                        },
                        None => prop_assert_eq!(&tracker, &model),
                    },
                    _ => if name == 0 {
                        tracker.clear();
                        ours.forget();
                    },
                }
                prop_assert_eq!(ours.digest(), tracker.values().collect::<ListDigest>());
                prop_assert_eq!(ours.is_told(), tracker == model);
            }
        }
    }
}
