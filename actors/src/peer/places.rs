//! Which file of a job goes where: two must not meet at one place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::limits::MAX_TREE_FILES;
use crate::base::{FileId, FileName};
use crate::content::folder::Folder;
use crate::peer::assembler::Place;
use crate::peer::events::JobError;
use crate::plan::FileIndex;

/// What is the same for places that are one on other systems, in few bytes: a hash of it.
type Key = [u8; 16];

/// A path of a file, and the last attempt that went there. A job may have millions, so it is little.
struct Way {
    folder: Arc<Folder>,
    name: FileName,
    attempt: FileIndex,
}

impl Way {
    fn new(place: &Place, attempt: FileIndex) -> Way {
        Way { folder: Arc::clone(&place.folder), name: place.name.clone(), attempt }
    }

    fn path(&self) -> PathBuf {
        self.folder.path_of(&self.name)
    }
}

/// The file that has a place.
struct Taken {
    id: FileId,
    /// What was typed for it.
    what: Box<str>,
    /// The last attempt that went to any of its paths.
    attempt: FileIndex,
    way: Way,
    /// Further paths of the same file that would be this place elsewhere.
    variants: BTreeMap<PathBuf, Way>,
}

impl Taken {
    fn new(place: &Place, id: FileId, attempt: FileIndex, what: &str) -> Taken {
        Taken { id, what: what.into(), attempt, way: Way::new(place, attempt), variants: BTreeMap::new() }
    }
}

/// The places of a job's files.
pub(super) struct Places {
    taken: BTreeMap<Key, Taken>,
    /// Paths in all, and how many it may be.
    paths: usize,
    most: usize,
}

impl Places {
    pub(super) fn new() -> Places {
        Places { taken: BTreeMap::new(), paths: 0, most: MAX_TREE_FILES }
    }

    /// Gives the place to an attempt at a file; false if it has it already. Fails if another file has it, and
    /// the attempt by which that one has got it is alive.
    pub(super) fn take(
        &mut self,
        place: &Place,
        id: FileId,
        attempt: FileIndex,
        what: &str,
        is_alive: impl Fn(&FileId, FileIndex) -> bool,
    ) -> Result<bool, JobError> {
        let key = key_of(place);
        let Some(taken) = self.taken.get_mut(&key) else {
            self.taken.insert(key, Taken::new(place, id, attempt, what));
            self.paths += 1;
            return Ok(true);
        };
        let path = place.path();
        if taken.id == id {
            taken.attempt = attempt;
            let is_first = taken.way.path() == path;
            let there = if is_first { Some(&mut taken.way) } else { taken.variants.get_mut(&path) };
            if let Some(way) = there {
                return Ok(std::mem::replace(&mut way.attempt, attempt) != attempt);
            }
            taken.variants.insert(path, Way::new(place, attempt));
            self.paths += 1;
            return Ok(true);
        }
        if is_alive(&taken.id, taken.attempt) {
            return Err(JobError::SamePlace { path, there: taken.way.path(), other: taken.what.to_string() });
        }
        self.paths -= taken.variants.len();
        *taken = Taken::new(place, id, attempt, what);
        Ok(true)
    }

    /// What went to this place has failed, and may take it again. Another path of it keeps the place.
    pub(super) fn give_back(&mut self, place: &Place) {
        let (key, path) = (key_of(place), place.path());
        let Some(taken) = self.taken.get_mut(&key) else { return };
        if taken.variants.remove(&path).is_none() {
            if taken.way.path() != path {
                return;
            }
            match taken.variants.pop_first() {
                Some((_, variant)) => taken.way = variant,
                None => {
                    self.taken.remove(&key);
                    self.paths -= 1;
                    return;
                }
            }
        }
        self.paths -= 1;
        let variants = taken.variants.values().map(|way| way.attempt);
        taken.attempt = variants.fold(taken.way.attempt, FileIndex::max);
    }

    /// Whether there are as many as a job takes: [`MAX_TREE_FILES`].
    pub(super) fn is_full(&self) -> bool {
        self.paths >= self.most
    }

    /// Whether this one is among them.
    pub(super) fn has(&self, place: &Place) -> bool {
        let path = place.path();
        let taken = self.taken.get(&key_of(place));
        taken.is_some_and(|taken| taken.way.path() == path || taken.variants.contains_key(&path))
    }
}

fn key_of(place: &Place) -> Key {
    let hash = blake3::hash(place.clash_key().as_bytes());
    let (key, _) = hash.as_bytes().split_first_chunk().expect("a hash is longer");
    *key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Arc<Folder>, name: &str) -> Place {
        let name = name.parse().unwrap();
        Place { folder: Arc::clone(folder), name, overwrite: false, is_noted: false, namesake: None }
    }

    #[test]
    fn what_is_found_again_takes_no_room_and_all_folders_share_it() {
        let folder = Arc::new(Folder::open(std::path::Path::new("/")).unwrap());
        let [a, b, c] = [1, 2, 3].map(|byte| FileId::from_bytes([byte; 32]));
        let mut places = Places { most: 4, ..Places::new() };
        let mut take = |name: &str, id, is_alive: bool| {
            let place = place(&folder, name);
            let is_full = places.is_full() && !places.has(&place);
            (!is_full).then(|| places.take(&place, id, FileIndex(1), name, |_, _| is_alive).is_ok())
        };
        // A folder is listed, fails, and is listed again.
        for _ in 0..3 {
            assert_eq!(take("one/x", a, true), Some(true));
            assert_eq!(take("one/y", b, true), Some(true));
        }
        assert_eq!(take("ONE/Y", b, true), Some(true), "another path, here");
        assert_eq!(take("One/y", c, true), Some(false), "another file, elsewhere at the same place");
        assert_eq!(take("two/x", a, true), Some(true), "a second folder");
        assert_eq!(take("two/y", a, true), None, "there is no room");
        for known in ["one/x", "one/y", "ONE/Y", "two/x"] {
            assert_eq!(take(known, if known.ends_with('x') { a } else { b }, true), Some(true), "{known}");
        }
        assert_eq!(take("one/y", c, false), Some(true), "in the place of one that has failed");
        assert_eq!(take("two/y", a, true), Some(true), "its other path is free");
        assert_eq!(take("two/z", a, true), None);
    }

    #[test]
    fn the_same_wish_again_is_known_until_there_is_another_attempt() {
        let folder = Arc::new(Folder::open(std::path::Path::new("/")).unwrap());
        let id = FileId::from_bytes([1; 32]);
        let mut places = Places::new();
        let mut take = |name: &str, attempt| {
            places.take(&place(&folder, name), id, FileIndex(attempt), name, |_, _| true).unwrap()
        };
        for attempt in [3, 8] {
            assert!(take("x", attempt) && take("X", attempt) && take("y", attempt));
            assert!(!take("x", attempt) && !take("X", attempt) && !take("y", attempt));
        }
        // One path is given back; the other one of the place keeps it.
        for (given_back, kept) in [("x", "X"), ("X", "x")] {
            places.give_back(&place(&folder, given_back));
            assert_eq!(places.paths, 2);
            assert!(!places.has(&place(&folder, given_back)) && places.has(&place(&folder, kept)));
            let other = FileId::from_bytes([2; 32]);
            let taken = places.take(&place(&folder, "x"), other, FileIndex(9), "other", |_, _| true);
            assert!(matches!(taken, Err(JobError::SamePlace { there, .. }) if there.ends_with(kept)));
            assert!(places.take(&place(&folder, given_back), id, FileIndex(8), "x", |_, _| true).unwrap());
        }
        // The attempt that lives goes elsewhere: this place is free for another file.
        let other = FileId::from_bytes([2; 32]);
        let mut take = |id, name: &str, attempt| {
            let lives = |_: &FileId, attempt| attempt == FileIndex(11);
            places.take(&place(&folder, name), id, FileIndex(attempt), name, lives).is_ok()
        };
        assert!(take(id, "v", 10) && take(id, "V", 11) && !take(other, "v", 12));
        places.give_back(&place(&folder, "V"));
        assert!(
            places
                .take(&place(&folder, "v"), other, FileIndex(12), "v", |_, attempt| attempt == FileIndex(11))
                .is_ok()
        );
        ["X", "y", "x", "z", "x", "v"].iter().for_each(|name| places.give_back(&place(&folder, name)));
        assert!(places.paths == 0 && places.taken.is_empty());
    }
}
