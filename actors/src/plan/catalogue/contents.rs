//! The contents that stand in any list, and who holds them.

use std::cmp::Ordering;
use std::ops::{Index, IndexMut};

use crate::base::limits::MAX_ANSWER_HOLDERS;
use crate::base::{FileId, IdPrefix};
use crate::plan::links::{First, Links};
use crate::plan::slab::{Handle, Slab};
use crate::plan::sorted::Sorted;

/// All contents.
#[derive(Debug)]
pub(super) struct Contents {
    contents: Slab<Content>,
    /// From contents to their names.
    names: Links<()>,
    /// In the order of (id, size), each with the first bytes of its id: they settle a search, but for
    /// its last step, without a look at the contents.
    by_id: Sorted<(u32, Handle)>,
}

/// What is known of a content: an id, and a size that holders state for it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) id: FileId,
    pub(super) size: u64,
    name: First<()>,
    pub(super) holders: Holders,
}

impl Contents {
    pub(super) const fn new() -> Contents {
        Contents { contents: Slab::new(), names: Links::new(), by_id: Sorted::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.contents.len()
    }

    #[cfg(test)]
    pub(super) fn are_gone(&self) -> bool {
        self.len() == 0 && self.by_id.len() == 0 && self.names.is_empty()
    }

    /// The content with this id and size, with no holder if it was not there.
    pub(super) fn get_or_insert(&mut self, id: FileId, size: u64) -> Handle {
        if let Some((_, content)) = self.by_id.get(start(&id), by_id(&self.contents, id, size)) {
            return content;
        }
        let content = Content { id, size, name: First::default(), holders: Holders::default() };
        let content = self.contents.insert(content);
        self.by_id.insert((start(&id), content), by_id(&self.contents, id, size));
        content
    }

    /// Forgets a content that nobody holds.
    pub(super) fn remove(&mut self, content: Handle) {
        let Content { id, size, .. } = self.contents[content];
        self.by_id.remove(start(&id), by_id(&self.contents, id, size));
        self.contents.remove(content);
    }

    /// The names of a content.
    pub(super) fn names(&self, content: Handle) -> impl Iterator<Item = Handle> {
        self.names.iter(content, &self.contents[content].name).map(|(name, ())| name)
    }

    /// A content stands under this name.
    pub(super) fn add_name(&mut self, content: Handle, name: Handle) {
        self.names.entry(content, &mut self.contents[content].name, name);
    }

    /// A content stands under this name no more.
    pub(super) fn remove_name(&mut self, content: Handle, name: Handle) {
        self.names.remove(content, &mut self.contents[content].name, name);
    }

    /// The contents whose ids begin so, in the order of (id, size).
    pub(super) fn beginning(&self, prefix: IdPrefix) -> impl Iterator<Item = Handle> {
        let first = prefix.first_id();
        let all = self.by_id.from(start(&first), by_id(&self.contents, first, 0));
        all.map(|(_, content)| content).take_while(move |content| prefix.matches(&self[*content].id))
    }
}

impl Index<Handle> for Contents {
    type Output = Content;
    fn index(&self, content: Handle) -> &Content {
        &self.contents[content]
    }
}

impl IndexMut<Handle> for Contents {
    fn index_mut(&mut self, content: Handle) -> &mut Content {
        &mut self.contents[content]
    }
}

/// The first bytes of an id, ordered as the ids are.
fn start(id: &FileId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// How an entry stands to a content, by (id, size).
fn by_id(contents: &Slab<Content>, id: FileId, size: u64) -> impl Fn(&(u32, Handle)) -> Ordering {
    let start = start(&id);
    move |(other, content)| {
        other.cmp(&start).then_with(|| {
            let content = &contents[*content];
            (content.id, content.size).cmp(&(id, size))
        })
    }
}

/// The holders of a content: the complete ones in front, each part in the order of the handles.
///
/// Most contents have one holder, which needs no heap. The others have one sorted `Vec` instead of a
/// map: twelve bytes per holder, found by halving, drawn by index.
#[derive(Debug, Default)]
pub(super) enum Holders {
    #[default]
    None,
    One(HolderEntry),
    Many(Vec<HolderEntry>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct HolderEntry {
    peer: Handle,
    /// Under how many names the peer lists the content.
    names: u32,
    /// Of those, how many say that it has all of it.
    complete: u32,
}

impl Holders {
    fn entries(&self) -> &[HolderEntry] {
        match self {
            Holders::None => &[],
            Holders::One(entry) => std::slice::from_ref(entry),
            Holders::Many(entries) => entries,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    /// The peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = Handle> {
        self.entries().iter().map(|entry| entry.peer)
    }

    /// Those of them alone.
    pub(super) fn only(&self, which: impl Fn(Handle) -> bool) -> Holders {
        Holders::Many(self.entries().iter().filter(|entry| which(entry.peer)).copied().collect())
    }

    /// How many of them are complete.
    fn complete(&self) -> usize {
        self.entries().partition_point(|entry| entry.complete > 0)
    }

    /// Where a peer stands among the complete or the partial ones, or where it would.
    fn place(&self, peer: Handle, complete: bool) -> Result<usize, usize> {
        let (front, back) = self.entries().split_at(self.complete());
        if complete {
            front.binary_search_by_key(&peer, |entry| entry.peer)
        } else {
            let in_back = back.binary_search_by_key(&peer, |entry| entry.peer);
            in_back.map(|at| at + front.len()).map_err(|at| at + front.len())
        }
    }

    fn find(&self, peer: Handle) -> Option<usize> {
        self.place(peer, true).or_else(|_| self.place(peer, false)).ok()
    }

    pub(super) fn has(&self, peer: Handle) -> bool {
        self.find(peer).is_some()
    }

    /// The peer lists the content under one more name.
    pub(super) fn add(&mut self, peer: Handle, complete: bool) {
        self.change(peer, |entry| {
            entry.names += 1;
            entry.complete += u32::from(complete);
        });
    }

    /// The peer lists the content under one name less.
    pub(super) fn remove(&mut self, peer: Handle, complete: bool) {
        self.change(peer, |entry| {
            entry.names -= 1;
            entry.complete -= u32::from(complete);
        });
    }

    fn change(&mut self, peer: Handle, change: impl FnOnce(&mut HolderEntry)) {
        let at = self.find(peer);
        let mut entry = at.map_or(HolderEntry { peer, names: 0, complete: 0 }, |at| self.entries()[at]);
        change(&mut entry);
        if let Some(at) = at {
            self.take_out(at);
        }
        if entry.names > 0 {
            let at = self.place(peer, entry.complete > 0).unwrap_or_else(|at| at);
            self.put_in(at, entry);
        }
    }

    fn put_in(&mut self, at: usize, entry: HolderEntry) {
        match self {
            Holders::None => *self = Holders::One(entry),
            Holders::One(first) => {
                let mut entries = Vec::with_capacity(2);
                entries.push(*first);
                entries.insert(at, entry);
                *self = Holders::Many(entries);
            }
            Holders::Many(entries) => {
                // Most of them are few: growing in doubles would cost as much again.
                if entries.len() == entries.capacity() {
                    entries.reserve_exact(1 + entries.len() / 2);
                }
                entries.insert(at, entry);
            }
        }
    }

    fn take_out(&mut self, at: usize) {
        let Holders::Many(entries) = self else {
            *self = Holders::None;
            return;
        };
        entries.remove(at);
        if let [only] = entries[..] {
            *self = Holders::One(only);
        } else if entries.len() < entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2);
        }
    }

    /// Appends distinct holders in random order to `told`, each with whether it is complete: all of
    /// them if they fit, without `asker`, and with a complete one if there is any.
    pub(super) fn sample(
        &self,
        asker: Option<Handle>,
        rng: &mut fastrand::Rng,
        told: &mut Vec<(Handle, bool)>,
    ) {
        let (entries, complete) = (self.entries(), self.complete());
        let left_out = asker.and_then(|asker| self.find(asker));
        let others = entries.len() - usize::from(left_out.is_some());
        let tell = |at: usize| (entries[at].peer, at < complete);
        let first = told.len();
        if others <= MAX_ANSWER_HOLDERS {
            told.extend((0..entries.len()).filter(|at| Some(*at) != left_out).map(tell));
        } else {
            let mut drawn = [0; MAX_ANSWER_HOLDERS];
            draw(&mut drawn, others, rng);
            let others_complete = complete - usize::from(left_out.is_some_and(|at| at < complete));
            if others_complete > 0 && drawn.iter().all(|index| *index >= others_complete) {
                drawn[0] = rng.usize(..others_complete);
            }
            let past_asker = |index| index + usize::from(left_out.is_some_and(|at| index >= at));
            told.extend(drawn.into_iter().map(past_asker).map(tell));
        }
        rng.shuffle(&mut told[first..]);
    }
}

/// Draws distinct numbers below `of`, at least as many as are drawn. Floyd's sampling: it draws each
/// subset alike, in the time of the subset.
fn draw(drawn: &mut [usize], of: usize, rng: &mut fastrand::Rng) {
    for (at, last) in (of - drawn.len()..of).enumerate() {
        let number = rng.usize(..=last);
        drawn[at] = if drawn[..at].contains(&number) { last } else { number };
    }
}
