//! Which file of a job goes where: two must not meet at one place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::base::FileId;
use crate::base::limits::MAX_TREE_FILES;
use crate::peer::assembler::Place;
use crate::peer::events::JobError;

/// The file that has a place.
struct Taken {
    id: FileId,
    /// What was typed for it.
    what: String,
    path: PathBuf,
    /// Further paths of the same file that would be this place elsewhere.
    variants: BTreeSet<PathBuf>,
}

/// The places of a job's files, by what is the same for places that are one on other systems.
pub(super) struct Places {
    taken: BTreeMap<String, Taken>,
    /// Paths in all, and how many it may be.
    paths: usize,
    most: usize,
}

impl Places {
    pub(super) fn new() -> Places {
        Places { taken: BTreeMap::new(), paths: 0, most: MAX_TREE_FILES }
    }

    /// Gives the place to a file. Fails if another file has it, and that one is alive.
    pub(super) fn take(
        &mut self,
        place: &Place,
        id: FileId,
        what: &str,
        is_alive: impl Fn(&FileId) -> bool,
    ) -> Result<(), JobError> {
        let (path, key) = (place.path(), place.clash_key());
        let Some(taken) = self.taken.get_mut(&key) else {
            self.taken.insert(key, Taken { id, what: what.to_owned(), path, variants: BTreeSet::new() });
            self.paths += 1;
            return Ok(());
        };
        if taken.id == id {
            self.paths += usize::from(taken.path != path && taken.variants.insert(path));
            return Ok(());
        }
        if is_alive(&taken.id) {
            return Err(JobError::SamePlace { path, there: taken.path.clone(), other: taken.what.clone() });
        }
        self.paths -= taken.variants.len();
        *taken = Taken { id, what: what.to_owned(), path, variants: BTreeSet::new() };
        Ok(())
    }

    /// Whether there are as many as a job takes: [`MAX_TREE_FILES`].
    pub(super) fn is_full(&self) -> bool {
        self.paths >= self.most
    }

    /// Whether this one is among them.
    pub(super) fn has(&self, place: &Place) -> bool {
        let path = place.path();
        let taken = self.taken.get(&place.clash_key());
        taken.is_some_and(|taken| taken.path == path || taken.variants.contains(&path))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::content::folder::Folder;

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
            (!is_full).then(|| places.take(&place, id, name, |_| is_alive).is_ok())
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
}
