//! What a tracker knows: which peer has which content under which name.
//!
//! Peers, names and contents stand in tables and refer to each other by handles of four bytes. A
//! name that ten thousand peers share is kept once, and an entry of a peer's list costs some twenty
//! bytes beside what it shares. No operation walks a whole table: registering costs what the list
//! is long, a question what its answer is long, and the end of a peer its list. That one is taken in steps,
//! between which others are answered: a peer that has left is no holder of anything and not among the peers, but what
//! it listed stands in the tables, and in pages of names, until [`Catalogue::release`] has come to it. Meanwhile
//! a question costs what there are of holders too.
//!
//! An answer is written into its frame as it is found: see [`encode_candidates`].
//!
//! Invariants, which the tests compare with a plain list of tuples:
//! - a name stands once in a peer's list, for one content;
//! - a peer that has a content under several names is one holder, complete if any of them is;
//! - a name or a content is in the tables as long as a list mentions it, and no longer;
//! - only a peer's present connection changes its list.

mod contents;
mod names;

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Bound, Range};
use std::time::{Duration, Instant};

use self::contents::Contents;
use self::names::Names;
use super::slab::{Handle, Slab};
use super::sorted::{Entry, Sorted};
use super::texts::Text;
use crate::base::limits::{
    LIST_FRAME_BYTES, MAX_ANSWER_CANDIDATES, MAX_ANSWER_NAMES, MAX_CATALOGUE_ENTRIES,
    MAX_CATALOGUE_NAME_BYTES, MAX_FILES_PER_PEER, MAX_NAME_BYTES, MAX_PAGE_ENTRIES, MAX_PEERS,
};
use crate::base::{FileId, FileName, PeerId, Question};
use crate::wire::tracker::{ListedFile, ListedPeer, Listing};
use crate::wire::{HolderBytes, ListDigest, encode_candidates};

/// Bytes that an entry of an answer has in its frame beside its texts: an upper bound, so that an
/// answer can be cut before it is encoded.
const ANSWER_ENTRY_BYTES: usize = 128;

/// Entries of lists that are released in one step: about 3 ms.
const RELEASE_STEP: usize = 1024;

/// Peers that have left whose lists may wait for it: whoever is one more waits until one of them is released.
const MAX_LEAVING: usize = 1024;

/// Steps that are taken at once to make room: as many entries as some frames have.
const MAX_ROOM_STEPS: usize = 64;

/// Contents that the search for an id's beginning looks at, beyond those that an answer may have: nobody may be
/// left that has them.
const MAX_SEARCHED_CONTENTS: usize = MAX_ANSWER_CANDIDATES + 1024;

/// A registered peer, for as long as nobody registers or leaves.
#[derive(Clone, Copy, Debug)]
pub struct KnownPeer(Handle);

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
    /// Bytes of all names.
    pub name_bytes: usize,
}

impl Default for CatalogueLimits {
    fn default() -> CatalogueLimits {
        CatalogueLimits {
            peers: MAX_PEERS,
            files_per_peer: MAX_FILES_PER_PEER,
            entries: MAX_CATALOGUE_ENTRIES,
            name_bytes: MAX_CATALOGUE_NAME_BYTES,
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
    /// No room for further names.
    #[error("this tracker takes names of {0} bytes in all and has as many")]
    NamesFull(usize),
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
    /// Those among them that have left, by what is not released of their lists.
    leaving: BTreeSet<(usize, Handle)>,
    /// [`RELEASE_STEP`]; less in tests.
    step: usize,
    /// How each peer is told as a holder, by its handle.
    told: Vec<HolderBytes>,
    by_peer_id: BTreeMap<PeerId, Handle>,
    by_connection: HashMap<ConnectionId, Handle>,
    names: Names,
    contents: Contents,
    /// What an answer is made of; kept for its room.
    found: Found,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    has_left: bool,
    instance: u64,
    connection: ConnectionId,
    address: SocketAddr,
    confirmed: Instant,
    digest: ListDigest,
    /// What stands under each name.
    files: Sorted<(Handle, Held)>,
}

/// A content and whether the peer has all of it, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held(u32);

/// What stands under a name in a peer's list: names come to a peer's list in the order of their handles
/// where they are new, and are spread over them where others have them.
impl Entry for (Handle, Held) {
    fn weight(&self) -> u32 {
        self.0
    }
}

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

/// Contents that fit a question.
#[derive(Debug, Default)]
struct Found {
    contents: Vec<FoundContent>,
    names: Vec<Text>,
    holders: Vec<(Handle, bool)>,
}

/// One of them, and what is told of it.
#[derive(Debug)]
struct FoundContent {
    content: Handle,
    names: Range<usize>,
    holders: Range<usize>,
    /// How many peers hold it.
    live: usize,
}

/// How an entry of a peer's list stands to the one under this name.
fn by_name(name: Handle) -> impl Fn(&(Handle, Held)) -> Ordering {
    move |(other, _)| other.cmp(&name)
}

impl Catalogue {
    /// An empty catalogue. `rng` chooses the holders that an asker is told of.
    pub fn new(limits: CatalogueLimits, rng: fastrand::Rng) -> Catalogue {
        Catalogue {
            limits,
            rng,
            entries: 0,
            peers: Slab::new(),
            leaving: BTreeSet::new(),
            step: RELEASE_STEP,
            told: Vec::new(),
            by_peer_id: BTreeMap::new(),
            by_connection: HashMap::new(),
            names: Names::new(),
            contents: Contents::new(),
            found: Found::default(),
        }
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts {
            peers: self.by_peer_id.len(),
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

    /// The registered peer with this id, as an asker.
    pub fn known(&self, peer: &PeerId) -> Option<KnownPeer> {
        self.by_peer_id.get(peer).copied().map(KnownPeer)
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
            None if self.by_peer_id.len() >= self.limits.peers => {
                return Err(CatalogueError::TooManyPeers(self.limits.peers));
            }
            _ => {}
        }
        // A connection speaks for one peer: if it names another one now, the first has left.
        if self.by_connection.get(&connection).is_some_and(|handle| Some(*handle) != known) {
            self.disconnect(connection);
        }
        let older = known.map(|handle| self.peers[handle].connection);
        older.and_then(|older| self.disconnect(older));
        let handle = self.peers.insert(Peer {
            id: peer.clone(),
            has_left: false,
            instance,
            connection,
            address,
            confirmed: now,
            digest: ListDigest::default(),
            files: Sorted::new(),
        });
        self.tell_as(handle, peer, address);
        self.by_peer_id.insert(peer.clone(), handle);
        self.by_connection.insert(connection, handle);
        Ok(Registered { joined: older.is_none(), replaced: older.filter(|older| *older != connection) })
    }

    /// Says how a peer is told as a holder.
    fn tell_as(&mut self, handle: Handle, peer: &PeerId, address: SocketAddr) {
        let told = HolderBytes::new(peer.clone(), address);
        match self.told.get_mut(handle as usize) {
            Some(before) => *before = told,
            // A new handle is the next number.
            None => self.told.push(told),
        }
    }

    /// Ends the registration of a connection, if it has one, and says whose it was. A connection
    /// that was replaced has none, so its late end removes nobody.
    pub fn disconnect(&mut self, connection: ConnectionId) -> Option<PeerId> {
        let handle = self.by_connection.remove(&connection)?;
        let peer = &mut self.peers[handle];
        peer.has_left = true;
        let (id, listed) = (peer.id.clone(), peer.files.len());
        self.by_peer_id.remove(&id);
        if listed == 0 {
            self.peers.remove(handle);
            return Some(id);
        }
        self.leaving.insert((listed, handle));
        // A short list goes at once, but not the lists of a thousand peers that leave together.
        if self.leaving.len() == 1 {
            self.release();
        }
        while self.leaving.len() > MAX_LEAVING {
            self.release();
        }
        Some(id)
    }

    /// Whether something of peers that have left is not released.
    pub fn is_releasing(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Releases some of what peers listed that have left: one step's worth, the shortest lists first.
    pub fn release(&mut self) {
        let mut left = self.step;
        while left > 0
            && let Some((_, peer)) = self.leaving.pop_first()
        {
            while left > 0
                && let Some((name, held)) = self.peers[peer].files.pop()
            {
                self.release_entry(peer, name, held);
                left -= 1;
            }
            match self.peers[peer].files.len() {
                0 => drop(self.peers.remove(peer)),
                listed => drop(self.leaving.insert((listed, peer))),
            }
        }
    }

    fn has_left(&self, peer: Handle) -> bool {
        self.peers[peer].has_left
    }

    /// How many peers hold a content that have not left.
    fn live_holders(&self, content: Handle) -> usize {
        let holders = &self.contents[content].holders;
        let left = if self.leaving.len() < holders.len() {
            self.leaving.iter().filter(|(_, peer)| holders.has(*peer)).count()
        } else {
            holders.peers().filter(|peer| self.has_left(*peer)).count()
        };
        holders.len() - left
    }

    /// Adds entries to the list of a connection's peer. An entry takes the place of the one under
    /// the same name: a name in a folder has one content.
    ///
    /// # Errors
    /// A connection that speaks for nobody, or a list that would be too long: then it is unchanged.
    pub fn add(&mut self, connection: ConnectionId, listings: &[Listing]) -> Result<(), CatalogueError> {
        let handle = self.registered(connection)?;
        self.make_room(handle, listings)?;
        for listing in listings {
            let mut name = self.names.get(&listing.name);
            if let Some(there) = name
                && let Some(held) = self.held(handle, there)
            {
                let content = &self.contents[held.content()];
                if (content.id, content.size, held.complete()) == (listing.id, listing.size, listing.complete)
                {
                    continue;
                }
                self.take_out(handle, there, held);
                // With its last entry a name goes too.
                name = self.names.get(&listing.name);
            }
            let name = name.unwrap_or_else(|| self.names.insert(&listing.name));
            self.put_in(handle, name, listing);
        }
        Ok(())
    }

    /// Sees to it that there is room for further entries of a peer's list. What peers have left behind counts
    /// until it is released, and is no reason to refuse somebody: as much of it goes now as has to.
    fn make_room(&mut self, peer: Handle, listings: &[Listing]) -> Result<(), CatalogueError> {
        let CatalogueLimits { files_per_peer, entries, name_bytes, .. } = self.limits;
        let mut steps = MAX_ROOM_STEPS;
        let listed = self.peers[peer].files.len();
        // Entries that take another's place are not new; they are only looked for when it matters.
        if listed + listings.len() > files_per_peer || self.entries + listings.len() > entries {
            let is_new = |name: &&FileName| self.listed(peer, name).is_none();
            // A name that stands in it twice is one entry.
            let new =
                listings.iter().map(|listing| &listing.name).filter(is_new).collect::<BTreeSet<_>>().len();
            if listed + new > files_per_peer {
                return Err(CatalogueError::TooManyFiles(files_per_peer));
            }
            if !self.release_until(&mut steps, |catalogue| catalogue.entries + new <= entries) {
                return Err(CatalogueError::Full(entries));
            }
        }
        if self.names.text_bytes() + listings.len() * MAX_NAME_BYTES > name_bytes {
            loop {
                let new_bytes = self.names.new_text_bytes(listings.iter().map(|listing| &listing.name));
                let fits = |catalogue: &Catalogue| catalogue.names.text_bytes() + new_bytes <= name_bytes;
                if fits(self) {
                    break;
                }
                // Names of this list may be released too, and are new then: they are counted again.
                if !self.release_until(&mut steps, fits) {
                    return Err(CatalogueError::NamesFull(name_bytes));
                }
            }
        }
        Ok(())
    }

    /// Releases what peers have left behind until something is so; whether it is, after so many steps at most.
    fn release_until(&mut self, steps: &mut usize, is_so: impl Fn(&Catalogue) -> bool) -> bool {
        while !is_so(self) && self.is_releasing() && *steps > 0 {
            self.release();
            *steps -= 1;
        }
        is_so(self)
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
            if let Some((name, held)) = self.listed(handle, name)
                && self.contents[held.content()].id == *id
            {
                self.take_out(handle, name, held);
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

    /// Appends to `out` the frame that answers a question: the contents that fit it, in the order of
    /// (id, size), as many as an answer may have. Each with a random sample of its holders that leaves
    /// out the asker and has a complete one if there is any; and with names, the one asked for among
    /// them. A holder at a loopback address is told under `in_place_of_loopback`, if that is stated.
    pub fn who_has(
        &mut self,
        question: &Question,
        asker: Option<KnownPeer>,
        in_place_of_loopback: Option<IpAddr>,
        out: &mut Vec<u8>,
    ) {
        let mut found = std::mem::take(&mut self.found);
        self.find(question, asker, &mut found);
        let told = |(holder, complete): &(Handle, bool)| {
            let told = &self.told[*holder as usize];
            let told = match in_place_of_loopback {
                Some(ip) if told.is_at_loopback() => {
                    let peer = &self.peers[*holder];
                    let address = SocketAddr::new(ip, peer.address.port());
                    Cow::Owned(HolderBytes::new(peer.id.clone(), address))
                }
                _ => Cow::Borrowed(told),
            };
            (told, *complete)
        };
        encode_candidates(found.contents.len(), out, |answer| {
            for FoundContent { content, names, holders, live } in &found.contents {
                let content = &self.contents[*content];
                let names = found.names[names.clone()].iter().map(|name| self.names.text(*name));
                let holders = found.holders[holders.clone()].iter().map(told);
                answer.candidate(&content.id, content.size, names, *live as u32, holders);
            }
        })
        .expect("a frame has room for what was found, which was counted");
        self.found = found;
    }

    /// What an answer is made of, no more than a frame has room for.
    fn find(&mut self, question: &Question, asker: Option<KnownPeer>, found: &mut Found) {
        found.contents.clear();
        found.names.clear();
        found.holders.clear();
        let place =
            |content| FoundContent { content, names: 0..0, holders: 0..0, live: self.live_holders(content) };
        let asked_name = match question {
            Question::Name { name, prefix } => {
                let Some(name) = self.names.get(name) else { return };
                let fits = |content: &Handle| {
                    prefix.is_none_or(|prefix| prefix.matches(&self.contents[*content].id))
                };
                let under_it = self.names.contents(name).map(|(content, _)| content);
                let fitting = under_it.filter(fits).map(place);
                found.contents.extend(fitting.filter(|content| content.live > 0));
                Some(name)
            }
            Question::Prefix(prefix) => {
                let fitting = self.contents.beginning(*prefix).take(MAX_SEARCHED_CONTENTS).map(place);
                let living = fitting.filter(|content| content.live > 0);
                found.contents.extend(living.take(MAX_ANSWER_CANDIDATES));
                None
            }
        };
        let key = |found: &FoundContent| {
            let content = &self.contents[found.content];
            (content.id, content.size)
        };
        if found.contents.len() > MAX_ANSWER_CANDIDATES {
            found.contents.select_nth_unstable_by_key(MAX_ANSWER_CANDIDATES, key);
            found.contents.truncate(MAX_ANSWER_CANDIDATES);
        }
        found.contents.sort_unstable_by_key(key);
        let mut room = LIST_FRAME_BYTES;
        for number in 0..found.contents.len() {
            match room.checked_sub(self.tell(number, asked_name, asker, found)) {
                Some(rest) => room = rest,
                None => return found.contents.truncate(number),
            }
        }
    }

    /// Chooses what is told of a content that was found; how many bytes that is at most.
    fn tell(
        &mut self,
        number: usize,
        asked_name: Option<Handle>,
        asker: Option<KnownPeer>,
        found: &mut Found,
    ) -> usize {
        let there = &mut found.contents[number];
        let content = &self.contents[there.content];
        let others = self.contents.names(there.content).filter(|name| Some(*name) != asked_name);
        let names = asked_name.into_iter().chain(others).take(MAX_ANSWER_NAMES);
        there.names.start = found.names.len();
        found.names.extend(names.map(|name| self.names.place(name)));
        there.names.end = found.names.len();
        let names = &mut found.names[there.names.clone()];
        names.sort_unstable_by_key(|name| self.names.text(*name));
        there.holders.start = found.holders.len();
        let living;
        let holders = if there.live == content.holders.len() {
            &content.holders
        } else {
            living = content.holders.only(|peer| !self.has_left(peer));
            &living
        };
        holders.sample(asker.map(|KnownPeer(asker)| asker), &mut self.rng, &mut found.holders);
        there.holders.end = found.holders.len();
        let holders = &found.holders[there.holders.clone()];
        let holder_bytes = |holder: Handle| self.told[holder as usize].max_len_bytes();
        ANSWER_ENTRY_BYTES
            + names.iter().map(|name| name.len_bytes() + 3).sum::<usize>()
            + holders.iter().map(|(holder, _)| holder_bytes(*holder)).sum::<usize>()
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
        let names = self.names.from(first).map(|name| (self.names.file_name(name), name));
        let mut room = LIST_FRAME_BYTES;
        let mut page = Vec::new();
        for (text, name) in names.take_while(|(text, _)| text.as_str().starts_with(prefix)) {
            let mut lines: Vec<ListedFile> = self
                .names
                .contents(name)
                .map(|(content, holders)| {
                    let content = &self.contents[content];
                    ListedFile { name: text.clone(), id: content.id, size: content.size, holders }
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

    /// A name, if it stands in a peer's list, and what the peer lists under it.
    fn listed(&self, peer: Handle, name: &FileName) -> Option<(Handle, Held)> {
        let name = self.names.get(name)?;
        Some((name, self.held(peer, name)?))
    }

    /// What a peer lists under a name.
    fn held(&self, peer: Handle, name: Handle) -> Option<Held> {
        self.peers[peer].files.get(name, by_name(name)).map(|(_, held)| held)
    }

    fn put_in(&mut self, peer: Handle, name: Handle, listing: &Listing) {
        let content = self.contents.get_or_insert(listing.id, listing.size);
        self.names.add(name, content);
        self.contents.add_name(content, name);
        self.contents[content].holders.add(peer, listing.complete);
        let peer = &mut self.peers[peer];
        peer.files.insert((name, Held::new(content, listing.complete)), by_name(name));
        peer.digest.add(listing);
        self.entries += 1;
    }

    /// Takes what a peer lists under a name out of its list, and the list's digest.
    fn take_out(&mut self, peer: Handle, name: Handle, held: Held) {
        let there = &mut self.peers[peer];
        there.files.remove(name, by_name(name));
        let content = &self.contents[held.content()];
        there.digest.remove(&Listing {
            name: self.names.file_name(name),
            id: content.id,
            size: content.size,
            complete: held.complete(),
        });
        self.release_entry(peer, name, held);
    }

    /// Takes an entry, which the peer's list has lost, out of the other tables.
    fn release_entry(&mut self, peer: Handle, name: Handle, held: Held) {
        self.entries -= 1;
        let content = held.content();
        if self.names.take(name, content) {
            self.contents.remove_name(content, name);
        }
        let holders = &mut self.contents[content].holders;
        holders.remove(peer, held.complete());
        if holders.len() == 0 {
            self.contents.remove(content);
        }
        if self.names.is_bare(name) {
            self.names.remove(name);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
