//! Contents of a job that have come, and further places for them: a content is fetched once, and copied.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::{FileId, FileName, What};
use crate::content::folder::Folder;
use crate::peer::assembler::Place;
use crate::plan::FileIndex;

/// A further place for a content.
#[derive(Clone)]
pub(super) struct Further {
    /// What was asked for there, as it was typed.
    pub what: What,
    pub name: FileName,
    pub place: Place,
}

/// Where a content stands, which is little: a job may have a million.
struct Standing {
    attempt: FileIndex,
    folder: Arc<Folder>,
    name: FileName,
}

/// The further places of a content.
#[derive(Default)]
struct Wanted {
    places: VecDeque<Further>,
    /// Whether the copy to the first of them is being made.
    is_copying: bool,
}

/// The contents of a job that stand somewhere, and the copies of contents that are wanted.
#[derive(Default)]
pub(super) struct Copies {
    standing: BTreeMap<FileId, Standing>,
    wanted: BTreeMap<FileId, Wanted>,
    /// Copies that wait or are being made.
    count: usize,
}

impl Copies {
    /// A content stands at this place now.
    pub(super) fn stands(&mut self, id: FileId, attempt: FileIndex, place: &Place) {
        let (folder, name) = (Arc::clone(&place.folder), place.name.clone());
        self.standing.insert(id, Standing { attempt, folder, name });
    }

    /// The attempt by which a content has come, if it has.
    pub(super) fn attempt(&self, id: &FileId) -> Option<FileIndex> {
        self.standing.get(id).map(|standing| standing.attempt)
    }

    /// A content that is being fetched, or has come, is wanted at this place too.
    pub(super) fn want(&mut self, id: FileId, further: Further) {
        self.count += 1;
        self.wanted.entry(id).or_default().places.push_back(further);
    }

    /// Begins the next copy of a content that has come: where from, and where to. One at a time, for two in one
    /// folder would have the same part file: [`Copies::made`] has to be told its end.
    pub(super) fn begin_next(&mut self, id: &FileId) -> Option<(Arc<Folder>, FileName, Place)> {
        let standing = self.standing.get(id)?;
        let wanted = self.wanted.get_mut(id).filter(|wanted| !wanted.is_copying)?;
        wanted.is_copying = true;
        let to = wanted.places.front()?.place.clone();
        Some((Arc::clone(&standing.folder), standing.name.clone(), to))
    }

    /// The copy is made, or cannot be: the place it was for.
    pub(super) fn made(&mut self, id: &FileId) -> Option<Further> {
        let wanted = self.wanted.get_mut(id)?;
        wanted.is_copying = false;
        let further = wanted.places.pop_front()?;
        if wanted.places.is_empty() {
            self.wanted.remove(id);
        }
        self.count -= 1;
        Some(further)
    }

    /// What stood where a content had come is not there any more, or not what it was: the places at which the
    /// content was wanted, which have to be fetched for.
    pub(super) fn is_gone(&mut self, id: &FileId) -> VecDeque<Further> {
        self.standing.remove(id);
        self.give_up(id)
    }

    /// A content does not come: the places at which it was wanted, except for a copy that is being made.
    pub(super) fn give_up(&mut self, id: &FileId) -> VecDeque<Further> {
        let Some(wanted) = self.wanted.get_mut(id) else { return VecDeque::new() };
        let given_up = wanted.places.split_off(usize::from(wanted.is_copying));
        if wanted.places.is_empty() {
            self.wanted.remove(id);
        }
        self.count -= given_up.len();
        given_up
    }

    /// [`Copies::give_up`] of all contents.
    pub(super) fn give_up_all(&mut self) -> Vec<Further> {
        let ids: Vec<FileId> = self.wanted.keys().copied().collect();
        ids.iter().flat_map(|id| self.give_up(id)).collect()
    }

    /// All places for which there is no copy yet.
    pub(super) fn places(&self) -> impl Iterator<Item = &Further> {
        self.wanted.values().flat_map(|wanted| &wanted.places)
    }

    /// How many copies wait or are being made.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        Place {
            folder: Arc::new(Folder::open(std::path::Path::new("/")).unwrap()),
            name: name.parse().unwrap(),
            overwrite: false,
            is_noted: false,
            namesake: None,
        }
    }

    fn further(name: &str) -> Further {
        Further { what: name.parse().unwrap(), name: name.parse().unwrap(), place: place(name) }
    }

    #[test]
    fn copies_of_a_content_are_made_one_after_the_other_once_it_has_come_and_all_are_counted() {
        let [id, other] = [1, 2].map(|byte| FileId::from_bytes([byte; 32]));
        let mut copies = Copies::default();
        ["b", "c", "d"].into_iter().for_each(|name| copies.want(id, further(name)));
        copies.want(other, further("x"));
        assert!(copies.begin_next(&id).is_none(), "it has not come");
        copies.stands(id, FileIndex(7), &place("a"));
        assert_eq!((copies.attempt(&id), copies.attempt(&other)), (Some(FileIndex(7)), None));
        let (_, from, to) = copies.begin_next(&id).unwrap();
        assert_eq!((from.as_str(), to.name.as_str()), ("a", "b"));
        assert_eq!(copies.places().count(), 4);
        assert!(copies.begin_next(&id).is_none(), "one is being made");
        assert_eq!(copies.count(), 4);
        assert_eq!(copies.made(&id).map(|made| made.name.to_string()), Some("b".into()));
        assert_eq!(copies.begin_next(&id).map(|(_, _, to)| to.name.to_string()), Some("c".into()));
        assert_eq!(copies.give_up_all().len(), 2);
        assert_eq!(copies.count(), 1);
        assert_eq!(copies.made(&id).map(|made| made.name.to_string()), Some("c".into()));
        assert_eq!(copies.count(), 0);
        assert!(copies.wanted.is_empty() && copies.give_up(&id).is_empty());
    }

    #[test]
    fn of_a_content_that_is_gone_no_copy_is_begun_until_it_has_come_again() {
        let id = FileId::from_bytes([1; 32]);
        let mut copies = Copies::default();
        copies.stands(id, FileIndex(7), &place("a"));
        ["b", "c", "d"].into_iter().for_each(|name| copies.want(id, further(name)));
        copies.begin_next(&id).unwrap();
        assert_eq!(copies.made(&id).map(|made| made.name.to_string()), Some("b".into()));
        let open: Vec<_> = copies.is_gone(&id).into_iter().map(|further| further.name.to_string()).collect();
        assert_eq!(open, ["c", "d"]);
        assert_eq!((copies.attempt(&id), copies.count()), (None, 0));
        copies.want(id, further("b"));
        assert!(copies.begin_next(&id).is_none());
        copies.stands(id, FileIndex(9), &place("c"));
        assert!(copies.begin_next(&id).is_some());
    }
}
