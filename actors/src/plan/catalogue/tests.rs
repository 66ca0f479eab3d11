use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::base::limits::MAX_ANSWER_HOLDERS;
use crate::wire;
use crate::wire::tracker::{Candidate, FromTracker, Holder};

fn peer_id(n: u8) -> PeerId {
    format!("p{n:03}").parse().unwrap()
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 1000 + u16::from(n)))
}

/// Names of which some begin alike.
fn name(n: u8) -> FileName {
    ["a", "a/b", "a/c", "b", "ab"][usize::from(n) % 5].parse().unwrap()
}

/// Ids of which two begin with the same digit.
fn id(n: u8) -> FileId {
    FileId::from_bytes([[0x11, 0x12, 0x21][usize::from(n) % 3]; 32])
}

fn listing(name_n: u8, id_n: u8, size: u64, complete: bool) -> Listing {
    Listing { name: name(name_n), id: id(id_n), size, complete }
}

fn catalogue() -> Catalogue {
    Catalogue::new(CatalogueLimits::default(), fastrand::Rng::with_seed(1))
}

/// A catalogue with `n` peers, peer `i` on connection `i`.
fn catalogue_with(n: u8, start: Instant) -> Catalogue {
    let mut catalogue = catalogue();
    for i in 0..n {
        let connection = ConnectionId(u64::from(i));
        catalogue.register(&peer_id(i), u64::from(i), connection, address(i), start).unwrap();
    }
    catalogue
}

fn release_all(catalogue: &mut Catalogue) {
    while catalogue.is_releasing() {
        catalogue.release();
    }
}

/// The answer to a question, read from the frame that it was written into.
fn who_has(catalogue: &mut Catalogue, question: &Question, asker: Option<&PeerId>) -> Vec<Candidate> {
    let asker = asker.and_then(|asker| catalogue.known(asker));
    let mut frame = Vec::new();
    catalogue.who_has(question, asker, None, &mut frame);
    match wire::decode(&frame[wire::HEADER_BYTES..]).unwrap() {
        FromTracker::Candidates { candidates } => candidates,
        other => panic!("{other:?} instead of CANDIDATES"),
    }
}

// ---- against a plain list ----

/// What a catalogue is, said as plainly as can be.
#[derive(Default)]
struct Model {
    peers: Vec<ModelPeer>,
}

struct ModelPeer {
    id: PeerId,
    instance: u64,
    connection: ConnectionId,
    address: SocketAddr,
    confirmed: Instant,
    list: Vec<Listing>,
}

impl Model {
    fn on(&mut self, connection: ConnectionId) -> Option<&mut ModelPeer> {
        self.peers.iter_mut().find(|peer| peer.connection == connection)
    }

    fn register(
        &mut self,
        id: &PeerId,
        instance: u64,
        connection: ConnectionId,
        address: SocketAddr,
        now: Instant,
    ) -> Result<Registered, CatalogueError> {
        let known = self.peers.iter().find(|peer| peer.id == *id);
        let older = known.map(|peer| peer.connection);
        if let Some(peer) = known
            && peer.instance != instance
            && peer.connection != connection
        {
            return Err(CatalogueError::PeerIdTaken { peer: id.clone(), address: peer.address });
        }
        self.peers.retain(|peer| peer.id != *id && peer.connection != connection);
        let (id, list) = (id.clone(), Vec::new());
        self.peers.push(ModelPeer { id, instance, connection, address, confirmed: now, list });
        Ok(Registered { joined: older.is_none(), replaced: older.filter(|older| *older != connection) })
    }

    fn who_has(&self, question: &Question, asker: Option<&PeerId>) -> Vec<Candidate> {
        let fits = |listing: &Listing| match question {
            Question::Name { name, prefix } => {
                listing.name == *name && prefix.is_none_or(|prefix| prefix.matches(&listing.id))
            }
            Question::Prefix(prefix) => prefix.matches(&listing.id),
        };
        let all = || self.peers.iter().flat_map(|peer| peer.list.iter().map(move |entry| (peer, entry)));
        let found: BTreeSet<(FileId, u64)> =
            all().filter(|(_, entry)| fits(entry)).map(|(_, entry)| (entry.id, entry.size)).collect();
        let candidate = |(id, size)| {
            let same = || all().filter(move |(_, entry)| (entry.id, entry.size) == (id, size));
            let names: BTreeSet<FileName> = same().map(|(_, entry)| entry.name.clone()).collect();
            let mut holders: BTreeMap<PeerId, Holder> = BTreeMap::new();
            for (peer, entry) in same() {
                let (id, address) = (peer.id.clone(), peer.address);
                let holder = Holder { peer: id.clone(), address, complete: false };
                holders.entry(id).or_insert(holder).complete |= entry.complete;
            }
            Candidate {
                id,
                size,
                names: names.into_iter().collect(),
                holder_count: holders.len() as u32,
                holders: holders.into_values().filter(|holder| Some(&holder.peer) != asker).collect(),
            }
        };
        found.into_iter().map(candidate).collect()
    }

    fn list(&self, prefix: &str) -> Vec<ListedFile> {
        let mut counts: BTreeMap<(FileName, FileId, u64), u32> = BTreeMap::new();
        for entry in self.peers.iter().flat_map(|peer| &peer.list) {
            *counts.entry((entry.name.clone(), entry.id, entry.size)).or_default() += 1;
        }
        let mut lines: Vec<ListedFile> = Vec::new();
        for ((name, id, size), holders) in counts {
            match lines.last_mut() {
                _ if !name.as_str().starts_with(prefix) => {}
                Some(last) if (&last.name, last.id) == (&name, id) => {
                    if holders > last.holders {
                        (last.size, last.holders) = (size, holders);
                    }
                }
                _ => lines.push(ListedFile { name, id, size, holders }),
            }
        }
        lines
    }

    fn counts(&self) -> Counts {
        let entries = || self.peers.iter().flat_map(|peer| &peer.list);
        Counts {
            peers: self.peers.len(),
            entries: entries().count(),
            names: entries().map(|entry| &entry.name).collect::<BTreeSet<_>>().len(),
            contents: entries().map(|entry| (entry.id, entry.size)).collect::<BTreeSet<_>>().len(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register { peer: u8, instance: u64, connection: u64 },
    Add { connection: u64, listings: Vec<Listing> },
    Remove { connection: u64, files: Vec<(FileName, FileId)> },
    Disconnect { connection: u64 },
    Confirm { connection: u64, right: bool },
    Release,
}

fn any_step() -> impl Strategy<Value = Step> {
    let connection = 0u64..6;
    let entry = (0u8..5, 0u8..3, 0u64..2, any::<bool>());
    let listings = prop::collection::vec(entry.prop_map(|(n, i, s, c)| listing(n, i, s, c)), 0..4);
    let files = prop::collection::vec((0u8..5, 0u8..3).prop_map(|(n, i)| (name(n), id(i))), 0..4);
    prop_oneof![
        2 => (0u8..4, 0u64..2, connection.clone())
            .prop_map(|(peer, instance, connection)| Step::Register { peer, instance, connection }),
        5 => (connection.clone(), listings).prop_map(|(connection, listings)| Step::Add { connection, listings }),
        2 => (connection.clone(), files).prop_map(|(connection, files)| Step::Remove { connection, files }),
        1 => connection.clone().prop_map(|connection| Step::Disconnect { connection }),
        1 => (connection, any::<bool>()).prop_map(|(connection, right)| Step::Confirm { connection, right }),
        1 => Just(Step::Release),
    ]
}

/// Takes a step in both and compares what they say to it.
fn take_step(catalogue: &mut Catalogue, model: &mut Model, step: Step, now: Instant) {
    match step {
        Step::Register { peer, instance, connection } => {
            let (id, connection) = (peer_id(peer), ConnectionId(connection));
            let address = SocketAddr::new(address(peer).ip(), connection.0 as u16);
            assert_eq!(
                catalogue.register(&id, instance, connection, address, now),
                model.register(&id, instance, connection, address, now)
            );
        }
        Step::Add { connection, listings } => {
            let connection = ConnectionId(connection);
            let added = catalogue.add(connection, &listings);
            match model.on(connection) {
                None => assert_eq!(added, Err(CatalogueError::NotRegistered)),
                Some(peer) => {
                    assert_eq!(added, Ok(()));
                    for listing in listings {
                        peer.list.retain(|entry| entry.name != listing.name);
                        peer.list.push(listing);
                    }
                }
            }
        }
        Step::Remove { connection, files } => {
            let connection = ConnectionId(connection);
            let removed = catalogue.remove(connection, &files);
            match model.on(connection) {
                None => assert_eq!(removed, Err(CatalogueError::NotRegistered)),
                Some(peer) => {
                    assert_eq!(removed, Ok(()));
                    peer.list.retain(|entry| !files.contains(&(entry.name.clone(), entry.id)));
                }
            }
        }
        Step::Disconnect { connection } => {
            let connection = ConnectionId(connection);
            let gone = model.on(connection).map(|peer| peer.id.clone());
            assert_eq!(catalogue.disconnect(connection), gone);
            model.peers.retain(|peer| peer.connection != connection);
        }
        Step::Confirm { connection, right } => {
            let connection = ConnectionId(connection);
            let Some(peer) = model.on(connection) else {
                let refused = Err(CatalogueError::NotRegistered);
                assert_eq!(catalogue.confirmed(connection, ListDigest::default(), now), refused);
                return;
            };
            let ours: ListDigest = peer.list.iter().collect();
            let mut stated = ours;
            if right {
                peer.confirmed = now;
                assert_eq!(catalogue.confirmed(connection, stated, now), Ok(Confirmation::Same));
            } else {
                stated.add(&listing(0, 0, 99, true));
                let differs = Ok(Confirmation::Differs(ours));
                assert_eq!(catalogue.confirmed(connection, stated, now), differs);
            }
        }
        Step::Release => catalogue.release(),
    }
}

/// Asks both everything that does not change by what peers that have left leave behind for a while.
fn compare_the_living(catalogue: &mut Catalogue, model: &Model) {
    assert_eq!(catalogue.counts().peers, model.peers.len());
    for prefix in ["1", "11", "2", "3"] {
        let question = Question::Prefix(prefix.parse().unwrap());
        for asker in [None, Some(peer_id(0))] {
            let mut expected = model.who_has(&question, asker.as_ref());
            let mut found = who_has(catalogue, &question, asker.as_ref());
            for (found, expected) in found.iter_mut().zip(&mut expected) {
                found.holders.sort_by_key(|h| h.peer.clone());
                // A name in a list of one that has left may be told yet.
                expected.names.iter().for_each(|name| assert!(found.names.contains(name), "{name}"));
                expected.names.clone_from(&found.names);
            }
            assert_eq!(found, expected, "{question:?} {asker:?}");
        }
    }
    for name in (0..5).map(name) {
        let question = Question::Name { name, prefix: None };
        let found = who_has(catalogue, &question, None);
        assert!(
            found.iter().all(|one| one.holder_count as usize == one.holders.len() && one.holder_count > 0)
        );
        let found: Vec<_> = found.iter().map(|one| (one.id, one.size)).collect();
        let expected = model.who_has(&question, None);
        assert!(expected.iter().all(|one| found.contains(&(one.id, one.size))), "{question:?}: {found:?}");
    }
}

/// Asks both everything.
fn compare(catalogue: &mut Catalogue, model: &mut Model, now: Instant) {
    assert_eq!(catalogue.counts(), model.counts());
    let mut questions: Vec<Question> =
        (0..5).map(|n| Question::Name { name: name(n), prefix: None }).collect();
    for prefix in ["1", "11", "2", "3"] {
        let prefix = prefix.parse().unwrap();
        questions.push(Question::Prefix(prefix));
        questions.push(Question::Name { name: name(0), prefix: Some(prefix) });
    }
    for question in &questions {
        for asker in [None, Some(peer_id(0)), Some(peer_id(9))] {
            let mut found = who_has(catalogue, question, asker.as_ref());
            found.iter_mut().for_each(|candidate| candidate.holders.sort_by_key(|h| h.peer.clone()));
            assert_eq!(found, model.who_has(question, asker.as_ref()), "{question:?} {asker:?}");
        }
    }
    for prefix in ["", "a", "a/", "b", "zz"] {
        for limit in [1, 2, 1000] {
            let (mut all, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let (page, more) = catalogue.list(prefix, after.as_ref(), limit);
                assert!(page.len() <= limit);
                pages += 1;
                after = page.last().map(|line| (line.name.clone(), line.id));
                all.extend(page);
                if !more {
                    break;
                }
            }
            assert_eq!(all, model.list(prefix), "{prefix:?} in pages of {limit}");
            assert_eq!(pages, all.len().div_ceil(limit).max(1), "no empty page at the end");
        }
    }
    model.peers.sort_by_key(|peer| peer.id.clone());
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = catalogue.peers(after.as_ref(), 2, now);
        after = page.last().map(|line| line.peer.clone());
        all.extend(page);
        if !more {
            break;
        }
    }
    let expected: Vec<ListedPeer> = model
        .peers
        .iter()
        .map(|peer| ListedPeer {
            peer: peer.id.clone(),
            address: peer.address,
            files: peer.list.len() as u32,
            confirmed_ms: (now - peer.confirmed).as_millis() as u64,
        })
        .collect();
    assert_eq!(all, expected);
    for peer in &model.peers {
        assert_eq!(catalogue.digest(peer.connection), Some(peer.list.iter().collect()));
        assert_eq!(catalogue.peer(peer.connection), Some((&peer.id, peer.address)));
    }
}

proptest! {
    #[test]
    fn it_answers_as_a_plain_list_does_and_keeps_nothing_when_all_have_left(
        released_at_once in prop_oneof![Just(1), Just(2), Just(RELEASE_STEP)],
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let start = Instant::now();
        let (mut catalogue, mut model) = (catalogue(), Model::default());
        catalogue.step = released_at_once;
        // Three peers are there from the start, so that most steps meet a list.
        let join = |n| Step::Register { peer: n, instance: 0, connection: n.into() };
        let steps = (0..3).map(join).chain(steps);
        for (second, step) in steps.into_iter().enumerate() {
            let now = start + Duration::from_secs(second as u64);
            take_step(&mut catalogue, &mut model, step, now);
            if catalogue.is_releasing() {
                compare_the_living(&mut catalogue, &model);
            } else {
                compare(&mut catalogue, &mut model, now);
            }
        }
        release_all(&mut catalogue);
        compare(&mut catalogue, &mut model, start + Duration::from_hours(1));
        (0..6).for_each(|connection| drop(catalogue.disconnect(ConnectionId(connection))));
        release_all(&mut catalogue);
        prop_assert_eq!(catalogue.counts(), Counts::default());
        prop_assert!(catalogue.names.are_gone() && catalogue.contents.are_gone());
        prop_assert!(catalogue.by_peer_id.is_empty() && catalogue.by_connection.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// A peer comes back on a new connection again and again; the ends of the old ones come in any
    /// order, before and after. Whoever registered last stays until its own end.
    #[test]
    fn a_late_end_of_an_old_connection_never_removes_a_newer_registration(
        ends in prop::collection::vec((0u64..8, 0u64..3), 0..12),
    ) {
        let now = Instant::now();
        let mut catalogue = catalogue();
        let mut living = None;
        let mut ended = BTreeSet::new();
        let mut opened = 0;
        for (end, opening) in ends {
            for _ in 0..opening {
                let connection = ConnectionId(opened);
                let registered = catalogue.register(&peer_id(1), 7, connection, address(1), now).unwrap();
                prop_assert_eq!(registered.replaced, living);
                catalogue.add(connection, &[listing(0, 0, 1, true)]).unwrap();
                living = Some(connection);
                opened += 1;
            }
            let end = ConnectionId(end);
            if end.0 < opened && ended.insert(end) {
                let left = catalogue.disconnect(end);
                prop_assert_eq!(left.is_some(), living == Some(end));
                living = living.filter(|living| *living != end);
            }
            let holders = who_has(&mut catalogue, &Question::Name { name: name(0), prefix: None }, None);
            prop_assert_eq!(holders.len(), usize::from(living.is_some()));
        }
    }
}

// ---- stories ----

#[test]
fn another_instance_is_refused_with_the_address_of_the_living_one() {
    let now = Instant::now();
    let mut catalogue = catalogue_with(1, now);
    let refused = catalogue.register(&peer_id(0), 99, ConnectionId(5), address(9), now).unwrap_err();
    assert_eq!(refused, CatalogueError::PeerIdTaken { peer: peer_id(0), address: address(0) });
    assert!(refused.to_string().contains("10.0.0.0:1000"), "{refused}");
    assert_eq!(catalogue.peer(ConnectionId(5)), None);
    assert_eq!(catalogue.disconnect(ConnectionId(0)), Some(peer_id(0)));
    assert!(catalogue.register(&peer_id(0), 99, ConnectionId(5), address(9), now).unwrap().joined);
}

#[test]
fn an_asker_is_told_of_fifty_holders_at_random_never_itself_and_of_a_complete_one() {
    let start = Instant::now();
    let mut catalogue = catalogue_with(200, start);
    for n in 0..200 {
        // Two of two hundred are complete; the asker is one of them.
        let complete = n == 17 || n == 140;
        catalogue.add(ConnectionId(n), &[listing(0, 0, 1, complete)]).unwrap();
    }
    let question = Question::Prefix(id(0).into());
    let mut seen: BTreeMap<PeerId, u32> = BTreeMap::new();
    for _ in 0..2000 {
        let [found] = who_has(&mut catalogue, &question, Some(&peer_id(17))).try_into().unwrap();
        assert_eq!(found.holder_count, 200);
        let told: BTreeSet<&PeerId> = found.holders.iter().map(|holder| &holder.peer).collect();
        assert_eq!(told.len(), MAX_ANSWER_HOLDERS, "no holder twice");
        assert!(!told.contains(&peer_id(17)));
        let complete: Vec<_> = found.holders.iter().filter(|holder| holder.complete).collect();
        assert_eq!(complete.iter().map(|holder| &holder.peer).collect::<Vec<_>>(), [&peer_id(140)]);
        found.holders.into_iter().for_each(|holder| *seen.entry(holder.peer).or_default() += 1);
    }
    // 2,000 draws of 49 out of 198: 495 each, standard deviation 19.
    seen.remove(&peer_id(140));
    assert_eq!(seen.len(), 198);
    assert!(seen.values().all(|n| (390..=600).contains(n)), "{seen:?}");
}

#[test]
fn all_complete_holders_have_the_same_chance_where_they_are_many() {
    let start = Instant::now();
    let mut catalogue = catalogue_with(100, start);
    (0..100).for_each(|n| catalogue.add(ConnectionId(n), &[listing(0, 0, 1, true)]).unwrap());
    let question = Question::Name { name: name(0), prefix: None };
    let mut seen: BTreeMap<PeerId, u32> = BTreeMap::new();
    for _ in 0..2000 {
        let [found] = who_has(&mut catalogue, &question, None).try_into().unwrap();
        found.holders.into_iter().for_each(|holder| *seen.entry(holder.peer).or_default() += 1);
    }
    assert!(seen.len() == 100 && seen.values().all(|n| (880..=1120).contains(n)), "{seen:?}");
}

#[test]
fn a_line_of_the_catalogue_has_the_size_that_most_holders_state() {
    for (sizes, expected) in [([5, 7, 7], (7, 2)), ([7, 5, 5], (5, 2)), ([7, 5, 6], (5, 1))] {
        let mut catalogue = catalogue_with(3, Instant::now());
        for (connection, size) in (0..).map(ConnectionId).zip(sizes) {
            catalogue.add(connection, &[listing(0, 0, size, true)]).unwrap();
        }
        let (page, more) = catalogue.list("", None, 10);
        let lines: Vec<_> = page.iter().map(|line| (line.size, line.holders)).collect();
        assert_eq!((lines, more), (vec![expected], false));
    }
}

#[test]
fn each_cap_takes_as_many_as_it_says_and_refuses_the_next_one_whole() {
    let now = Instant::now();
    let limits = CatalogueLimits { peers: 3, files_per_peer: 3, entries: 4, ..CatalogueLimits::default() };
    let mut catalogue = Catalogue::new(limits, fastrand::Rng::with_seed(1));
    let [first, second] = [ConnectionId(0), ConnectionId(1)];
    for n in 0..3 {
        catalogue.register(&peer_id(n), 0, ConnectionId(n.into()), address(n), now).unwrap();
    }
    let one_more = catalogue.register(&peer_id(3), 0, ConnectionId(3), address(3), now);
    assert_eq!(one_more, Err(CatalogueError::TooManyPeers(3)));
    assert!(!catalogue.register(&peer_id(2), 0, ConnectionId(4), address(2), now).unwrap().joined);

    let list = |names: std::ops::Range<u8>| names.map(|n| listing(n, 0, 1, false)).collect::<Vec<_>>();
    assert_eq!(catalogue.add(first, &list(0..4)), Err(CatalogueError::TooManyFiles(3)));
    assert_eq!(catalogue.counts().entries, 0);
    catalogue.add(first, &list(0..3)).unwrap();
    assert_eq!(catalogue.add(first, &list(2..4)), Err(CatalogueError::TooManyFiles(3)));
    catalogue.add(first, &[listing(0, 0, 1, true), listing(1, 2, 5, true)]).expect("these replace");
    assert_eq!(catalogue.add(second, &list(0..2)), Err(CatalogueError::Full(4)));
    catalogue.add(second, &list(0..1)).unwrap();
    assert_eq!(catalogue.add(second, &list(1..2)), Err(CatalogueError::Full(4)));
    catalogue.disconnect(first);
    catalogue.add(second, &list(0..2)).expect("there is room again");
    assert_eq!(catalogue.counts(), Counts { peers: 2, entries: 2, names: 2, contents: 1 });
}

#[test]
fn names_take_as_many_bytes_as_they_may_and_no_more_whatever_their_lengths_were() {
    const MIB: usize = 1 << 20;
    let limits = CatalogueLimits { name_bytes: 40 * MIB, ..CatalogueLimits::default() };
    let mut catalogue = Catalogue::new(limits, fastrand::Rng::with_seed(1));
    let us = ConnectionId(0);
    let listed = |len: usize, number: usize| {
        let name = format!("{number:0len$}").parse().unwrap();
        Listing { name, id: id(0), size: 1, complete: true }
    };
    catalogue.register(&peer_id(0), 0, us, address(0), Instant::now()).unwrap();
    // Many of one length, all but one of which go, and then of the next length.
    for len in (40..=248).step_by(8) {
        let list: Vec<Listing> = (0..30 * MIB / 8 / len * 8).map(|number| listed(len, number)).collect();
        catalogue.add(us, &list).unwrap();
        let rest: Vec<_> = list[1..].iter().map(|listing| (listing.name.clone(), listing.id)).collect();
        catalogue.remove(us, &rest).unwrap();
        assert_eq!(catalogue.counts().names, len / 8 - 4, "one of each length is left");
    }
    assert!(catalogue.names.place_bytes() <= 32 * MIB, "{}", catalogue.names.place_bytes());
    let list: Vec<Listing> = (0..39 * MIB / 248).map(|number| listed(248, number)).collect();
    catalogue.add(us, &list).unwrap();
    let more: Vec<Listing> = (0..41 * MIB / 248).map(|number| listed(248, number)).collect();
    assert_eq!(catalogue.add(us, &more), Err(CatalogueError::NamesFull(40 * MIB)));
    catalogue.add(us, &list).expect("these are there");
}

#[test]
fn a_name_that_stands_in_a_frame_twice_counts_once_against_every_cap() {
    let limits = CatalogueLimits { peers: 1, files_per_peer: 3, entries: 3, name_bytes: 24 };
    let list = |names: &[&str]| -> Vec<Listing> {
        let listed =
            |name: &&str| Listing { name: name.parse().unwrap(), id: id(0), size: 1, complete: true };
        names.iter().map(listed).collect()
    };
    let caps: [fn(&mut CatalogueLimits); 3] =
        [|limits| limits.files_per_peer = 2, |limits| limits.entries = 2, |limits| limits.name_bytes = 16];
    for cap in caps {
        let mut limits = limits;
        cap(&mut limits);
        let mut catalogue = Catalogue::new(limits, fastrand::Rng::with_seed(1));
        let us = ConnectionId(0);
        catalogue.register(&peer_id(0), 0, us, address(0), Instant::now()).unwrap();
        catalogue.add(us, &list(&["a", "a", "b", "a"])).unwrap();
        assert_eq!(catalogue.counts().names, 2);
        catalogue.add(us, &list(&["b", "b", "a"])).expect("they are there");
        assert!(catalogue.add(us, &list(&["b", "c"])).is_err(), "{limits:?}");
    }
}

#[test]
fn an_answer_has_sixteen_names_with_the_one_asked_for_among_them() {
    let mut catalogue = catalogue_with(1, Instant::now());
    let names = (0..40).map(|n| format!("n{n:02}").parse().unwrap());
    let list: Vec<Listing> = names.map(|name| Listing { name, id: id(0), size: 0, complete: true }).collect();
    catalogue.add(ConnectionId(0), &list).unwrap();
    let asked = list[39].name.clone();
    let [found] = who_has(&mut catalogue, &Question::Name { name: asked.clone(), prefix: None }, None)
        .try_into()
        .unwrap();
    assert_eq!(found.names.len(), MAX_ANSWER_NAMES);
    assert!(found.names.contains(&asked) && found.names.is_sorted());
    assert_eq!((found.holder_count, found.holders.len()), (1, 1), "one holder, however many names");
}

#[test]
fn an_answer_has_at_most_64_candidates_the_ones_with_the_smallest_ids() {
    let mut catalogue = catalogue_with(200, Instant::now());
    for n in 0..200 {
        let id = FileId::from_bytes([199 - n; 32]);
        let listing = Listing { name: name(0), id, size: 1, complete: true };
        catalogue.add(ConnectionId(u64::from(n)), &[listing]).unwrap();
    }
    let found = who_has(&mut catalogue, &Question::Name { name: name(0), prefix: None }, None);
    let ids: Vec<FileId> = found.iter().map(|candidate| candidate.id).collect();
    assert_eq!(ids, (0..64).map(|n| FileId::from_bytes([n; 32])).collect::<Vec<_>>());
}

#[test]
fn the_longest_answers_fit_into_a_frame() {
    let long = |n: usize| {
        let component = "x".repeat(249);
        format!("{n:06}{component}/{component}/{component}/{component}").parse::<FileName>().unwrap()
    };
    let long_peer = |n: usize| format!("{n:060}").parse::<PeerId>().unwrap();
    let mut catalogue = catalogue();
    for peer in 0..60 {
        let connection = ConnectionId(peer);
        let address = "[fe80:1111:2222:3333:4444:5555:6666:7777]:65535".parse().unwrap();
        catalogue.register(&long_peer(peer as usize), 0, connection, address, Instant::now()).unwrap();
        let list: Vec<Listing> = (0..1200)
            .map(|n| Listing {
                name: long(n),
                id: FileId::from_bytes([0xaa; 32]),
                size: u64::MAX - n as u64 % 100,
                complete: true,
            })
            .collect();
        catalogue.add(connection, &list).unwrap();
    }
    let question = Question::Prefix("aa".parse().unwrap());
    let found = who_has(&mut catalogue, &question, None);
    assert!(found.len() > 10 && found.iter().all(|candidate| candidate.holders.len() == 50));
    let mut frame = Vec::new();
    catalogue.who_has(&question, None, None, &mut frame);
    assert!(frame.len() <= LIST_FRAME_BYTES, "{} bytes", frame.len());

    let (files, more) = catalogue.list("", None, usize::MAX);
    assert!(more && files.len() > 400);
    wire::encode(&FromTracker::Files { files, more }, &mut Vec::new()).unwrap();
    let (peers, more) = catalogue.peers(None, usize::MAX, Instant::now());
    wire::encode(&FromTracker::Peers { peers, more }, &mut Vec::new()).unwrap();
}

/// An answer is cut by what holders have at their own addresses, and some of them are told under longer
/// ones.
#[test]
fn an_answer_of_holders_at_loopback_fits_into_a_frame_for_another_machine_too() {
    let mut catalogue = catalogue();
    for peer in 0..60u64 {
        let id = format!("{peer:064}").parse().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 5));
        catalogue.register(&id, 0, ConnectionId(peer), address, Instant::now()).unwrap();
        let sizes = 0..64;
        let listing = |size| Listing {
            name: format!("{size:0255}/{size:0255}").parse().unwrap(),
            id: FileId::from_bytes([0xaa; 32]),
            size: u64::MAX - size,
            complete: true,
        };
        catalogue.add(ConnectionId(peer), &sizes.map(listing).collect::<Vec<_>>()).unwrap();
    }
    let reached_at = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
    let mut frame = Vec::new();
    catalogue.who_has(&Question::Prefix("aa".parse().unwrap()), None, Some(reached_at), &mut frame);
    assert!(frame.len() <= LIST_FRAME_BYTES, "{} bytes", frame.len());
    let answer = wire::decode(&frame[wire::HEADER_BYTES..]).unwrap();
    let FromTracker::Candidates { candidates } = answer else { panic!("{answer:?}") };
    assert!(candidates.len() > 40, "{} candidates", candidates.len());
    let told = SocketAddr::new(reached_at, 5);
    assert!(candidates.iter().flat_map(|found| &found.holders).all(|holder| holder.address == told));
}

#[test]
fn who_has_left_with_a_long_list_is_told_to_nobody_while_it_is_released_in_steps() {
    let now = Instant::now();
    let mut catalogue = catalogue_with(2, now);
    catalogue.step = 4;
    let listing = |n: u32, byte: u8| Listing {
        name: format!("{n:03}").parse().unwrap(),
        id: FileId::from_bytes([byte; 32]),
        size: 1,
        complete: true,
    };
    let both: Vec<_> = (0..10).map(|n| listing(n, 1)).collect();
    let alone: Vec<_> = (10..20).map(|n| listing(n, 2)).collect();
    for n in 0..2 {
        catalogue.add(ConnectionId(n), &both).unwrap();
    }
    catalogue.add(ConnectionId(0), &alone).unwrap();
    assert_eq!(catalogue.disconnect(ConnectionId(0)), Some(peer_id(0)));
    // It is back before its list is released.
    catalogue.register(&peer_id(0), 7, ConnectionId(9), address(9), now).unwrap();
    let mut steps = 0;
    while catalogue.is_releasing() {
        for (byte, holders) in [(1, 1), (2, 0)] {
            let question = Question::Prefix(FileId::from_bytes([byte; 32]).into());
            let found = who_has(&mut catalogue, &question, None);
            let told: Vec<_> = found.iter().map(|one| (one.holder_count, one.holders.len())).collect();
            assert_eq!(told, vec![(1, 1); holders], "{byte} after {steps} steps");
        }
        assert_eq!(catalogue.counts().peers, 2);
        catalogue.release();
        steps += 1;
    }
    assert_eq!(steps, 4, "of twenty entries, four at once; the first ones when it left");
    assert_eq!(catalogue.counts(), Counts { peers: 2, entries: 10, names: 10, contents: 1 });
}

/// Two hundred peers have a content, and all but two of them have left with lists that are not released.
#[test]
fn who_is_told_is_drawn_among_the_living_with_the_complete_one() {
    let mut catalogue = catalogue_with(200, Instant::now());
    catalogue.step = 1;
    let long: Vec<_> = (0..5).map(|n| listing(n, 0, 1, true)).collect();
    (0..198).for_each(|n| catalogue.add(ConnectionId(n), &long).unwrap());
    catalogue.add(ConnectionId(198), &[listing(0, 0, 1, false)]).unwrap();
    catalogue.add(ConnectionId(199), &[listing(0, 0, 1, true)]).unwrap();
    (0..198).for_each(|n| drop(catalogue.disconnect(ConnectionId(n))));
    for question in [Question::Name { name: name(0), prefix: None }, Question::Prefix(id(0).into())] {
        let [found] = who_has(&mut catalogue, &question, None).try_into().unwrap();
        let told: BTreeMap<_, _> = found.holders.into_iter().map(|one| (one.peer, one.complete)).collect();
        assert_eq!(told, BTreeMap::from([(peer_id(198), false), (peer_id(199), true)]));
        assert_eq!(found.holder_count, 2);
    }
    assert_eq!(catalogue.leaving.len(), 198, "who comes behind the first waits");
}

/// What nobody has any more stands before what somebody has.
#[test]
fn the_living_contents_are_told_though_many_before_them_are_left_behind() {
    let mut catalogue = catalogue_with(2, Instant::now());
    catalogue.step = 1;
    let listing =
        |n: u8| Listing { name: format!("{n}").parse().unwrap(), id: id(0), size: n.into(), complete: true };
    catalogue.add(ConnectionId(0), &(0..100).map(listing).collect::<Vec<_>>()).unwrap();
    catalogue.add(ConnectionId(1), &[listing(100), listing(101)]).unwrap();
    catalogue.disconnect(ConnectionId(0)).unwrap();
    let found = who_has(&mut catalogue, &Question::Prefix("11".parse().unwrap()), None);
    assert_eq!(found.iter().map(|one| one.size).collect::<Vec<_>>(), [100, 101]);
}

#[test]
fn nobody_is_refused_for_what_another_has_left_behind() {
    let now = Instant::now();
    let list: Vec<_> = (0..3).map(|n| listing(n, 0, 1, true)).collect();
    let caps: [fn(&mut CatalogueLimits); 2] = [|caps| caps.entries = 4, |caps| caps.name_bytes = 24];
    for cap in caps {
        let mut limits = CatalogueLimits::default();
        cap(&mut limits);
        let mut catalogue = Catalogue::new(limits, fastrand::Rng::with_seed(1));
        catalogue.step = 1;
        catalogue.register(&peer_id(0), 7, ConnectionId(0), address(0), now).unwrap();
        catalogue.add(ConnectionId(0), &list).unwrap();
        // It returns with the same list, and then another comes in its place with other names.
        catalogue.register(&peer_id(0), 7, ConnectionId(1), address(0), now).unwrap();
        assert_eq!(catalogue.add(ConnectionId(1), &list), Ok(()), "{limits:?}");
        catalogue.disconnect(ConnectionId(1)).unwrap();
        catalogue.register(&peer_id(1), 7, ConnectionId(2), address(1), now).unwrap();
        let others: Vec<_> = [3, 4].map(|n| listing(n, 0, 1, true)).to_vec();
        assert_eq!(catalogue.add(ConnectionId(2), &others), Ok(()), "{limits:?}");
        let fill: Vec<_> = (0..3).map(|n| listing(n, 0, 1, true)).collect();
        assert!(catalogue.add(ConnectionId(2), &fill).is_err(), "it is full of the living");
        assert!(!catalogue.is_releasing());
    }
}

/// A long list waits, and whoever registers anew leaves the former list behind.
#[test]
fn few_lists_wait_to_be_released_and_the_short_ones_go_first() {
    let now = Instant::now();
    let mut catalogue = catalogue_with(2, now);
    catalogue.step = 1;
    let long: Vec<_> = (0..3)
        .map(|n| Listing { name: format!("long/{n}").parse().unwrap(), ..listing(0, 0, 1, true) })
        .collect();
    catalogue.add(ConnectionId(0), &long).unwrap();
    catalogue.disconnect(ConnectionId(0)).unwrap();
    for size in 0..5000 {
        catalogue.register(&peer_id(1), 1, ConnectionId(1), address(1), now).unwrap();
        catalogue.add(ConnectionId(1), &[listing(0, 0, size, true)]).unwrap();
        assert!(catalogue.leaving.len() <= MAX_LEAVING, "{}", catalogue.leaving.len());
        assert!(catalogue.peers.len() <= MAX_LEAVING + 1);
    }
    let found = who_has(&mut catalogue, &Question::Name { name: name(0), prefix: None }, None);
    assert_eq!(found.iter().map(|one| one.size).collect::<Vec<_>>(), [4999]);
    assert_eq!(catalogue.list("long/", None, 9).0.len(), 2, "the shorter ones were released");
    // Who lists nothing leaves nothing.
    catalogue.disconnect(ConnectionId(1)).unwrap();
    release_all(&mut catalogue);
    for connection in [0, 1] {
        catalogue.register(&peer_id(9), 1, ConnectionId(connection), address(9), now).unwrap();
        catalogue.disconnect(ConnectionId(connection)).unwrap();
        assert!(!catalogue.is_releasing() && catalogue.peers.len() == 0);
    }
}

/// Its own names go first, are new then, and some of them go in their turn.
#[test]
fn who_returns_with_nearly_the_same_names_has_room_for_them() {
    let now = Instant::now();
    let limits = CatalogueLimits { name_bytes: 32, ..CatalogueLimits::default() };
    let listed = |name: &str| Listing { name: name.parse().unwrap(), ..listing(0, 0, 1, true) };
    for gone in ["a", "b", "c", "d"] {
        let mut catalogue = Catalogue::new(limits, fastrand::Rng::with_seed(1));
        catalogue.step = 1;
        catalogue.register(&peer_id(0), 7, ConnectionId(0), address(0), now).unwrap();
        catalogue.add(ConnectionId(0), &["a", "b", "c", "d"].map(listed)).unwrap();
        catalogue.register(&peer_id(0), 7, ConnectionId(1), address(0), now).unwrap();
        let list = ["a", "b", "c", "d"].map(|name| listed(if name == gone { "new" } else { name }));
        assert_eq!(catalogue.add(ConnectionId(1), &list), Ok(()), "without {gone}");
    }
}

/// The names of who has left are those of who is there, so that nothing is won by releasing them.
#[test]
fn what_cannot_be_taken_in_is_refused_after_a_few_steps() {
    let now = Instant::now();
    let limits = CatalogueLimits { name_bytes: 2400, ..CatalogueLimits::default() };
    let mut catalogue = Catalogue::new(limits, fastrand::Rng::with_seed(1));
    catalogue.step = 1;
    let list = |names: std::ops::Range<u32>| -> Vec<Listing> {
        let listed = |n| Listing { name: format!("{n:03}").parse().unwrap(), ..listing(0, 0, 1, true) };
        names.map(listed).collect()
    };
    for n in 0..2 {
        catalogue.register(&peer_id(n), 0, ConnectionId(n.into()), address(n), now).unwrap();
        catalogue.add(ConnectionId(n.into()), &list(0..300)).unwrap();
    }
    catalogue.disconnect(ConnectionId(0)).unwrap();
    let before = catalogue.counts().entries;
    assert_eq!(catalogue.add(ConnectionId(1), &list(300..301)), Err(CatalogueError::NamesFull(2400)));
    assert_eq!(before - catalogue.counts().entries, MAX_ROOM_STEPS);
}
