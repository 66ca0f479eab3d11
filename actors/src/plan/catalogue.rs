//! What a tracker knows: which peer has which content under which name.
//!
//! Peers, names and contents stand in tables and refer to each other by handles of four bytes. A
//! name that ten thousand peers share is kept once, and an entry of a peer's list costs some twenty
//! bytes beside what it shares. No operation walks a whole table: registering costs what the list
//! is long, a question what its answer is long, and the end of a peer its list.
//!
//! Invariants, which the tests compare with a plain list of tuples:
//! - a name stands once in a peer's list, for one content;
//! - a peer that has a content under several names is one holder, complete if any of them is;
//! - a name or a content is in the tables as long as a list mentions it, and no longer;
//! - only a peer's present connection changes its list.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::slab::{Few, Handle, Slab};
use crate::base::limits::{
    LIST_FRAME_BYTES, MAX_ANSWER_CANDIDATES, MAX_ANSWER_HOLDERS, MAX_ANSWER_NAMES, MAX_CATALOGUE_ENTRIES,
    MAX_FILES_PER_PEER, MAX_PAGE_ENTRIES, MAX_PEERS,
};
use crate::base::{FileId, FileName, PeerId, Question};
use crate::wire::ListDigest;
use crate::wire::tracker::{Candidate, Holder, ListedFile, ListedPeer, Listing};

/// Bytes that an entry of an answer has in its frame beside its texts: an upper bound, so that an
/// answer can be cut before it is encoded.
pub const ANSWER_ENTRY_BYTES: usize = 128;

/// A connection of the tracker; never used twice by one tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The caps of a catalogue.
#[derive(Clone, Copy, Debug)]
pub struct CatalogueLimits {
    /// Registered peers.
    pub peers: usize,
    /// Entries of one peer's list.
    pub files_per_peer: usize,
    /// Entries of all lists.
    pub entries: usize,
}

impl Default for CatalogueLimits {
    fn default() -> CatalogueLimits {
        CatalogueLimits {
            peers: MAX_PEERS,
            files_per_peer: MAX_FILES_PER_PEER,
            entries: MAX_CATALOGUE_ENTRIES,
        }
    }
}

/// A registration that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Whether the peer was not registered until now.
    pub joined: bool,
    /// The older connection of the same process, which speaks for nobody now.
    pub replaced: Option<ConnectionId>,
}

/// Why a list was not taken in; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The connection speaks for no peer.
    #[error("this connection has not registered; REGISTER comes first")]
    NotRegistered,
    /// Another living process has the peer id.
    #[error(
        "a peer {peer} is registered from {address} already; stop that one, or give this one another peer id"
    )]
    PeerIdTaken {
        /// The id.
        peer: PeerId,
        /// Where the living one serves.
        address: SocketAddr,
    },
    /// No room for another peer.
    #[error("this tracker takes {0} peers and has as many")]
    TooManyPeers(usize),
    /// No room in the peer's list.
    #[error("a peer may list {0} files at most")]
    TooManyFiles(usize),
    /// No room in the catalogue.
    #[error("this tracker takes {0} files of all peers together and has as many")]
    Full(usize),
}

/// How much is in a catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registered peers.
    pub peers: usize,
    /// Entries of all lists.
    pub entries: usize,
    /// Different names.
    pub names: usize,
    /// Different contents.
    pub contents: usize,
}

/// What came of a digest that a peer stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Both sides have the same list.
    Same,
    /// They have not; this is ours.
    Differs(ListDigest),
}

/// Peers, their lists, and who holds what.
#[derive(Debug)]
pub struct Catalogue {
    limits: CatalogueLimits,
    rng: fastrand::Rng,
    entries: usize,
    peers: Slab<Peer>,
    by_peer_id: BTreeMap<PeerId, Handle>,
    by_connection: HashMap<ConnectionId, Handle>,
    names: Slab<Name>,
    by_name: BTreeMap<FileName, Handle>,
    contents: Slab<Content>,
    by_content: BTreeMap<(FileId, u64), Handle>,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    instance: u64,
    connection: ConnectionId,
    address: SocketAddr,
    confirmed: Instant,
    digest: ListDigest,
    /// What stands under each name.
    files: BTreeMap<Handle, Held>,
}

#[derive(Debug)]
struct Name {
    text: FileName,
    /// Each content that stands under it, and in how many lists.
    contents: Few<u32>,
}

#[derive(Debug)]
struct Content {
    id: FileId,
    size: u64,
    names: Few<()>,
    holders: Holders,
}

/// A content and whether the peer has all of it, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held(u32);

impl Held {
    fn new(content: Handle, complete: bool) -> Held {
        Held(content << 1 | u32::from(complete))
    }

    fn content(self) -> Handle {
        self.0 >> 1
    }

    fn complete(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Catalogue {
    /// An empty catalogue. `rng` chooses the holders that an asker is told of.
    pub fn new(limits: CatalogueLimits, rng: fastrand::Rng) -> Catalogue {
        Catalogue {
            limits,
            rng,
            entries: 0,
            peers: Slab::new(),
            by_peer_id: BTreeMap::new(),
            by_connection: HashMap::new(),
            names: Slab::new(),
            by_name: BTreeMap::new(),
            contents: Slab::new(),
            by_content: BTreeMap::new(),
        }
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts {
            peers: self.peers.len(),
            entries: self.entries,
            names: self.names.len(),
            contents: self.contents.len(),
        }
    }

    /// The peer that a connection speaks for, and where it serves.
    pub fn peer(&self, connection: ConnectionId) -> Option<(&PeerId, SocketAddr)> {
        let peer = &self.peers[*self.by_connection.get(&connection)?];
        Some((&peer.id, peer.address))
    }

    /// Lets a connection speak for a peer, whose list is empty from then on.
    ///
    /// # Errors
    /// Another instance has the peer id, or there is no room; then nothing has changed.
    pub fn register(
        &mut self,
        peer: &PeerId,
        instance: u64,
        connection: ConnectionId,
        address: SocketAddr,
        now: Instant,
    ) -> Result<Registered, CatalogueError> {
        let known = self.by_peer_id.get(peer).copied();
        match known.map(|handle| &self.peers[handle]) {
            Some(there) if there.instance != instance && there.connection != connection => {
                return Err(CatalogueError::PeerIdTaken { peer: peer.clone(), address: there.address });
            }
            None if self.peers.len() >= self.limits.peers => {
                return Err(CatalogueError::TooManyPeers(self.limits.peers));
            }
            _ => {}
        }
        // A connection speaks for one peer: if it names another one now, the first has left.
        if self.by_connection.get(&connection).is_some_and(|handle| Some(*handle) != known) {
            self.disconnect(connection);
        }
        let Some(handle) = known else {
            let handle = self.peers.insert(Peer {
                id: peer.clone(),
                instance,
                connection,
                address,
                confirmed: now,
                digest: ListDigest::default(),
                files: BTreeMap::new(),
            });
            self.by_peer_id.insert(peer.clone(), handle);
            self.by_connection.insert(connection, handle);
            return Ok(Registered { joined: true, replaced: None });
        };
        self.clear(handle);
        let there = &mut self.peers[handle];
        let older = std::mem::replace(&mut there.connection, connection);
        (there.instance, there.address, there.confirmed) = (instance, address, now);
        self.by_connection.remove(&older);
        self.by_connection.insert(connection, handle);
        Ok(Registered { joined: false, replaced: Some(older).filter(|older| *older != connection) })
    }

    /// Ends the registration of a connection, if it has one, and says whose it was. A connection
    /// that was replaced has none, so its late end removes nobody.
    pub fn disconnect(&mut self, connection: ConnectionId) -> Option<PeerId> {
        let handle = self.by_connection.remove(&connection)?;
        self.clear(handle);
        let peer = self.peers.remove(handle);
        self.by_peer_id.remove(&peer.id);
        Some(peer.id)
    }

    /// Adds entries to the list of a connection's peer. An entry takes the place of the one under
    /// the same name: a name in a folder has one content.
    ///
    /// # Errors
    /// A connection that speaks for nobody, or a list that would be too long: then it is unchanged.
    pub fn add(&mut self, connection: ConnectionId, listings: &[Listing]) -> Result<(), CatalogueError> {
        let handle = self.registered(connection)?;
        let listed = self.peers[handle].files.len();
        // Entries that take another's place are not new; they are only looked for when it matters.
        if listed + listings.len() > self.limits.files_per_peer
            || self.entries + listings.len() > self.limits.entries
        {
            let new = listings.iter().filter(|listing| self.held(handle, &listing.name).is_none()).count();
            if listed + new > self.limits.files_per_peer {
                return Err(CatalogueError::TooManyFiles(self.limits.files_per_peer));
            }
            if self.entries + new > self.limits.entries {
                return Err(CatalogueError::Full(self.limits.entries));
            }
        }
        for listing in listings {
            if let Some((name, held)) = self.held(handle, &listing.name) {
                let content = &self.contents[held.content()];
                if (content.id, content.size, held.complete()) == (listing.id, listing.size, listing.complete)
                {
                    continue;
                }
                self.take_out(handle, name);
            }
            self.put_in(handle, listing);
        }
        Ok(())
    }

    /// Removes entries from the list of a connection's peer, and passes over those that are not in it.
    ///
    /// # Errors
    /// A connection that speaks for nobody.
    pub fn remove(
        &mut self,
        connection: ConnectionId,
        files: &[(FileName, FileId)],
    ) -> Result<(), CatalogueError> {
        let handle = self.registered(connection)?;
        for (name, id) in files {
            if let Some((name, held)) = self.held(handle, name)
                && self.contents[held.content()].id == *id
            {
                self.take_out(handle, name);
            }
        }
        Ok(())
    }

    /// The digest of the list of a connection's peer.
    pub fn digest(&self, connection: ConnectionId) -> Option<ListDigest> {
        Some(self.peers[*self.by_connection.get(&connection)?].digest)
    }

    /// Compares the digest that a peer states with the one of its list here.
    ///
    /// # Errors
    /// A connection that speaks for nobody.
    pub fn confirmed(
        &mut self,
        connection: ConnectionId,
        digest: ListDigest,
        now: Instant,
    ) -> Result<Confirmation, CatalogueError> {
        let handle = self.registered(connection)?;
        let peer = &mut self.peers[handle];
        if peer.digest != digest {
            return Ok(Confirmation::Differs(peer.digest));
        }
        peer.confirmed = now;
        Ok(Confirmation::Same)
    }

    /// The contents that fit a question, in the order of (id, size), as many as an answer may have.
    /// Each with a random sample of its holders that leaves out the asker and has a complete one if
    /// there is any; and with names, the one asked for among them.
    pub fn who_has(&mut self, question: &Question, asker: Option<&PeerId>) -> Vec<Candidate> {
        let (asked_name, mut found): (Option<Handle>, Vec<Handle>) = match question {
            Question::Name { name, prefix } => {
                let Some(name) = self.by_name.get(name).copied() else { return Vec::new() };
                let fits = |content: &Handle| {
                    prefix.is_none_or(|prefix| prefix.matches(&self.contents[*content].id))
                };
                (
                    Some(name),
                    self.names[name].contents.iter().map(|(content, _)| content).filter(fits).collect(),
                )
            }
            Question::Prefix(prefix) => {
                let first = (prefix.first_id(), 0);
                let fitting = self.by_content.range(first..).take_while(|((id, _), _)| prefix.matches(id));
                (None, fitting.map(|(_, content)| *content).take(MAX_ANSWER_CANDIDATES).collect())
            }
        };
        let key = |content: &Handle| (self.contents[*content].id, self.contents[*content].size);
        if found.len() > MAX_ANSWER_CANDIDATES {
            found.select_nth_unstable_by_key(MAX_ANSWER_CANDIDATES, key);
            found.truncate(MAX_ANSWER_CANDIDATES);
        }
        found.sort_unstable_by_key(key);
        let asker = asker.and_then(|id| self.by_peer_id.get(id).copied());
        let mut room = LIST_FRAME_BYTES;
        let mut candidates = Vec::with_capacity(found.len());
        for content in found {
            let candidate = self.candidate(content, asked_name, asker);
            let Some(rest) = room.checked_sub(candidate_bytes(&candidate)) else { break };
            room = rest;
            candidates.push(candidate);
        }
        candidates
    }

    fn candidate(&mut self, content: Handle, asked_name: Option<Handle>, asker: Option<Handle>) -> Candidate {
        let content = &self.contents[content];
        let others = content.names.iter().map(|(name, ())| name).filter(|name| Some(*name) != asked_name);
        let names = asked_name.into_iter().chain(others).take(MAX_ANSWER_NAMES);
        let mut names: Vec<FileName> = names.map(|name| self.names[name].text.clone()).collect();
        names.sort_unstable();
        let tell = |(holder, complete): (Handle, bool)| {
            let peer = &self.peers[holder];
            Holder { peer: peer.id.clone(), address: peer.address, complete }
        };
        Candidate {
            id: content.id,
            size: content.size,
            names,
            holder_count: content.holders.len() as u32,
            holders: content.holders.sample(asker, &mut self.rng).into_iter().map(tell).collect(),
        }
    }

    /// A page of names that begin with `prefix` and what stands under them, in the order of
    /// (name, id), behind `after`; and whether there is more. At most `limit` entries, and no more
    /// than a frame takes.
    ///
    /// Where peers state several sizes for one id under one name, the line has the size that most of
    /// them state: a page can only go on behind a (name, id).
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&(FileName, FileId)>,
        limit: usize,
    ) -> (Vec<ListedFile>, bool) {
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES);
        let first = after.map_or(prefix, |(name, _)| name.as_str().max(prefix));
        let names = self.by_name.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        let mut room = LIST_FRAME_BYTES;
        let mut page = Vec::new();
        for (text, name) in names.take_while(|(text, _)| text.as_str().starts_with(prefix)) {
            let mut lines: Vec<ListedFile> = self.names[*name]
                .contents
                .iter()
                .map(|(content, holders)| {
                    let content = &self.contents[content];
                    ListedFile { name: text.clone(), id: content.id, size: content.size, holders: *holders }
                })
                .collect();
            lines.retain(|line| after.is_none_or(|(name, id)| (&line.name, &line.id) > (name, id)));
            lines.sort_unstable_by_key(|line| (line.id, Reverse(line.holders), line.size));
            lines.dedup_by_key(|line| line.id);
            for line in lines {
                let rest = room.checked_sub(line.name.as_str().len() + ANSWER_ENTRY_BYTES);
                let Some(rest) = rest.filter(|_| page.len() < limit) else { return (page, true) };
                room = rest;
                page.push(line);
            }
        }
        (page, false)
    }

    /// A page of the peers in the order of their ids, behind `after`; and whether there is more.
    pub fn peers(&self, after: Option<&PeerId>, limit: usize, now: Instant) -> (Vec<ListedPeer>, bool) {
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.by_peer_id.range((from, Bound::Unbounded));
        let tell = |(id, handle): (&PeerId, &Handle)| {
            let peer = &self.peers[*handle];
            ListedPeer {
                peer: id.clone(),
                address: peer.address,
                files: peer.files.len() as u32,
                confirmed_ms: millis(now.saturating_duration_since(peer.confirmed)),
            }
        };
        let page = behind.by_ref().take(limit).map(tell).collect();
        (page, behind.next().is_some())
    }

    fn registered(&self, connection: ConnectionId) -> Result<Handle, CatalogueError> {
        self.by_connection.get(&connection).copied().ok_or(CatalogueError::NotRegistered)
    }

    /// What a peer lists under a name.
    fn held(&self, peer: Handle, name: &FileName) -> Option<(Handle, Held)> {
        let name = *self.by_name.get(name)?;
        Some((name, *self.peers[peer].files.get(&name)?))
    }

    fn put_in(&mut self, peer: Handle, listing: &Listing) {
        let name = match self.by_name.get(&listing.name) {
            Some(name) => *name,
            None => {
                let name = self.names.insert(Name { text: listing.name.clone(), contents: Few::default() });
                self.by_name.insert(listing.name.clone(), name);
                name
            }
        };
        let content = *self.by_content.entry((listing.id, listing.size)).or_insert_with(|| {
            let (id, size) = (listing.id, listing.size);
            self.contents.insert(Content { id, size, names: Few::default(), holders: Holders::default() })
        });
        *self.names[name].contents.entry(content) += 1;
        let there = &mut self.contents[content];
        there.names.entry(name);
        there.holders.add(peer, listing.complete);
        let peer = &mut self.peers[peer];
        peer.files.insert(name, Held::new(content, listing.complete));
        peer.digest.add(listing);
        self.entries += 1;
    }

    fn take_out(&mut self, peer: Handle, name: Handle) {
        let Some(held) = self.peers[peer].files.remove(&name) else { return };
        let content = &self.contents[held.content()];
        self.peers[peer].digest.remove(&Listing {
            name: self.names[name].text.clone(),
            id: content.id,
            size: content.size,
            complete: held.complete(),
        });
        self.release(peer, name, held);
    }

    /// Empties a peer's list.
    fn clear(&mut self, peer: Handle) {
        self.peers[peer].digest = ListDigest::default();
        for (name, held) in std::mem::take(&mut self.peers[peer].files) {
            self.release(peer, name, held);
        }
    }

    /// Takes an entry, which the peer's list has lost, out of the other tables.
    fn release(&mut self, peer: Handle, name: Handle, held: Held) {
        self.entries -= 1;
        let content = held.content();
        let there = &mut self.contents[content];
        there.holders.remove(peer, held.complete());
        let standing = self.names[name].contents.entry(content);
        *standing -= 1;
        if *standing == 0 {
            self.names[name].contents.remove(content);
            there.names.remove(name);
        }
        if there.holders.len() == 0 {
            let content = self.contents.remove(content);
            self.by_content.remove(&(content.id, content.size));
        }
        if self.names[name].contents.is_empty() {
            let name = self.names.remove(name);
            self.by_name.remove(&name.text);
        }
    }
}

/// Bytes that a candidate has in its frame: an upper bound.
pub fn candidate_bytes(candidate: &Candidate) -> usize {
    let names = candidate.names.iter().map(|name| name.as_str().len() + 3);
    let holders = candidate.holders.iter().map(|holder| holder.peer.as_str().len() + ANSWER_ENTRY_BYTES);
    ANSWER_ENTRY_BYTES + names.sum::<usize>() + holders.sum::<usize>()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The holders of a content: the complete ones in front, each part in the order of the handles.
///
/// One sorted `Vec` instead of a map: twelve bytes per holder, found by halving, drawn by index.
#[derive(Debug, Default)]
struct Holders {
    entries: Vec<HolderEntry>,
    complete: u32,
}

#[derive(Clone, Copy, Debug)]
struct HolderEntry {
    peer: Handle,
    /// Under how many names the peer lists the content.
    names: u32,
    /// Of those, how many say that it has all of it.
    complete: u32,
}

impl Holders {
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where a peer stands among the complete or the partial ones, or where it would.
    fn place(&self, peer: Handle, complete: bool) -> Result<usize, usize> {
        let (front, back) = self.entries.split_at(self.complete as usize);
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

    fn add(&mut self, peer: Handle, complete: bool) {
        self.change(peer, |entry| {
            entry.names += 1;
            entry.complete += u32::from(complete);
        });
    }

    fn remove(&mut self, peer: Handle, complete: bool) {
        self.change(peer, |entry| {
            entry.names -= 1;
            entry.complete -= u32::from(complete);
        });
    }

    fn change(&mut self, peer: Handle, change: impl FnOnce(&mut HolderEntry)) {
        let at = self.find(peer);
        let mut entry = at.map_or(HolderEntry { peer, names: 0, complete: 0 }, |at| self.entries[at]);
        let was_complete = entry.complete > 0;
        change(&mut entry);
        let is_complete = entry.complete > 0;
        if let Some(at) = at {
            if entry.names > 0 && was_complete == is_complete {
                self.entries[at] = entry;
                return;
            }
            self.entries.remove(at);
            self.complete -= u32::from(was_complete);
            if self.entries.len() < self.entries.capacity() / 4 {
                self.entries.shrink_to(self.entries.len() * 2);
            }
        }
        if entry.names > 0 {
            let at = self.place(peer, is_complete).unwrap_or_else(|at| at);
            // Most contents have one or two holders: growing in fours would double their cost.
            if self.entries.len() == self.entries.capacity() {
                self.entries.reserve_exact(1 + self.entries.len() / 2);
            }
            self.entries.insert(at, entry);
            self.complete += u32::from(is_complete);
        }
    }

    /// Distinct holders in random order, each with whether it is complete: all of them if they fit,
    /// without `asker`, and with a complete one if there is any.
    fn sample(&self, asker: Option<Handle>, rng: &mut fastrand::Rng) -> Vec<(Handle, bool)> {
        let complete = self.complete as usize;
        let left_out = asker.and_then(|asker| self.find(asker));
        let past_asker = |index: usize| index + usize::from(left_out.is_some_and(|at| index >= at));
        let others = self.len() - usize::from(left_out.is_some());
        // Floyd's sampling: draws each subset alike, in the time of the subset.
        let mut drawn: Vec<usize> = Vec::with_capacity(others.min(MAX_ANSWER_HOLDERS));
        for last in others.saturating_sub(MAX_ANSWER_HOLDERS)..others {
            let index = rng.usize(..=last);
            drawn.push(if drawn.contains(&index) { last } else { index });
        }
        let others_complete = complete - usize::from(left_out.is_some_and(|at| at < complete));
        if others_complete > 0
            && drawn.iter().all(|index| *index >= others_complete)
            && let Some(first) = drawn.first_mut()
        {
            *first = rng.usize(..others_complete);
        }
        rng.shuffle(&mut drawn);
        drawn.into_iter().map(past_asker).map(|at| (self.entries[at].peer, at < complete)).collect()
    }
}

#[cfg(test)]
mod tests;
