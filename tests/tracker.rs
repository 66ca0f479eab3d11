//! The tracker on real loopback sockets, verb by verb: what it takes, what it refuses, and how it ends.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(unreachable_pub, reason = "the rig is private to this file, and its parts are public in it")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enxame_actors::base::limits::{
    MAX_AGENT_BYTES, MAX_PEERS, MAX_REFUSING_CONNECTIONS, MAX_TRACKER_CONNECTIONS,
    MAX_TRACKER_CONNECTIONS_PER_ADDRESS,
};
use enxame_actors::base::{FileId, FileName, PeerId, Question, What};
use enxame_actors::net::{ControlLink, LinkError, TrackerAddress};
use enxame_actors::peer::tracker_client::{AskError, TrackerClients};
use enxame_actors::plan::catalogue::CatalogueLimits;
use enxame_actors::tracker::{
    self, LeaveReason, TrackerConfig, TrackerError, TrackerEvent, TrackerHandle, TrackerLimits,
};
use enxame_actors::wire::tracker::{Candidate, FromTracker, Listing, ToTracker};
use enxame_actors::wire::{Hello, ListDigest, Refusal, VERSION};
use rig::{Speaker, Swarm, hear_all, refusal, story};
use tokio::net::TcpSocket;

/// An interval in which no test meets a CONFIRM that it does not expect.
const NEVER: Duration = Duration::from_secs(3600);

mod support;

/// What the tests stand on: a system, a tracker in it, and peers that say what a test wants.
mod rig {
    use super::support::system_test;
    use super::*;
    use actix::{Actor, Context, Handler, Recipient};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    /// How long a test waits for something that has to come.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Runs a test in an actix system of its own: it fails if anything panicked or is left.
    pub fn story<F: Future<Output = ()> + 'static>(body: impl FnOnce() -> F + Send + 'static) {
        system_test(|_| body());
    }

    struct Probe(mpsc::Sender<TrackerEvent>);

    impl Actor for Probe {
        type Context = Context<Probe>;
    }

    impl Handler<TrackerEvent> for Probe {
        type Result = ();
        fn handle(&mut self, event: TrackerEvent, _: &mut Context<Probe>) {
            self.0.try_send(event).expect("a test that looks at its events");
        }
    }

    /// A recipient of events, and the events. They end when the last recipient is gone.
    pub fn probe() -> (Recipient<TrackerEvent>, mpsc::Receiver<TrackerEvent>) {
        let (seen, events) = mpsc::channel(10_000);
        (Probe(seen).start().recipient(), events)
    }

    /// A tracker and what it reports.
    pub struct Swarm {
        pub tracker: TrackerHandle,
        events: mpsc::Receiver<TrackerEvent>,
    }

    impl Swarm {
        pub fn start(refresh_interval: Duration) -> Swarm {
            Swarm::start_with(refresh_interval, TrackerLimits::default())
        }

        pub fn start_with(refresh_interval: Duration, limits: TrackerLimits) -> Swarm {
            let (recipient, events) = probe();
            let config = TrackerConfig { listen: "127.0.0.1:0".parse().unwrap(), refresh_interval };
            Swarm { tracker: tracker::start_with(config, limits, recipient).unwrap(), events }
        }

        pub async fn event(&mut self) -> TrackerEvent {
            timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a living tracker")
        }

        pub async fn connect(&self) -> Speaker {
            Speaker { link: ControlLink::new(TcpStream::connect(self.tracker.address).await.unwrap()) }
        }

        /// A connection that has greeted.
        pub async fn greet(&self, peer: &str) -> Speaker {
            let mut speaker = self.connect().await;
            speaker.say(ToTracker::Hello(Hello::new(peer.parse().unwrap()))).await;
            let answer = speaker.hear().await;
            assert!(matches!(answer, FromTracker::Hello(_)), "{answer:?}");
            speaker.link.hello_is_done();
            speaker
        }

        /// A peer that is registered with `files`; its join has been reported.
        pub async fn join(&mut self, peer: &str, instance: u64, port: u16, files: Vec<Listing>) -> Speaker {
            let mut speaker = self.greet(peer).await;
            let answer = speaker.ask(ToTracker::Register { instance, port, files }).await;
            assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
            let event = self.event().await;
            assert!(
                matches!(event, TrackerEvent::PeerJoined { .. } | TrackerEvent::PeerReturned { .. }),
                "{event:?}"
            );
            speaker
        }

        /// Stops the tracker; nothing of it may be left that could still report something.
        pub async fn end(mut self) {
            timeout(PATIENCE, self.tracker.stop()).await.expect("a stop in time");
            while timeout(PATIENCE, self.events.recv()).await.expect("all actors end").is_some() {}
        }
    }

    /// One end of a connection to the tracker.
    pub struct Speaker {
        pub link: ControlLink<TcpStream>,
    }

    impl Speaker {
        pub async fn say(&mut self, message: ToTracker) {
            self.link.write(&[message]).await.unwrap();
        }

        pub async fn hear(&mut self) -> FromTracker {
            timeout(PATIENCE, self.link.read()).await.expect("an answer in time").expect("an answer")
        }

        pub async fn ask(&mut self, message: ToTracker) -> FromTracker {
            self.say(message).await;
            self.hear().await
        }

        pub async fn who_has(&mut self, question: Question) -> Vec<Candidate> {
            match self.ask(ToTracker::WhoHas { question }).await {
                FromTracker::Candidates { candidates } => candidates,
                other => panic!("{other:?} instead of CANDIDATES"),
            }
        }

        /// The refusal that a message meets.
        pub async fn refused(&mut self, message: ToTracker) -> (Refusal, String) {
            refusal(self.ask(message).await)
        }

        /// Waits for the end of the connection; nothing may come before it.
        pub async fn closed(&mut self) {
            let end = timeout(PATIENCE, self.link.read::<FromTracker>()).await.expect("an end in time");
            assert!(matches!(end, Err(LinkError::Closed | LinkError::Io(_))), "{end:?}");
        }

        /// Sends bytes as they are.
        pub async fn send_bytes(self, bytes: &[u8]) -> Speaker {
            let (mut stream, _) = self.link.into_parts();
            stream.write_all(bytes).await.unwrap();
            Speaker { link: ControlLink::new(stream) }
        }
    }

    pub fn refusal(answer: FromTracker) -> (Refusal, String) {
        match answer {
            FromTracker::Refused { refusal, why } => (refusal, why),
            other => panic!("{other:?} instead of REFUSED"),
        }
    }

    /// All pages of one of the client's reads.
    pub fn hear_all<T>() -> (std::rc::Rc<std::cell::RefCell<Vec<T>>>, impl FnMut(T)) {
        let all = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let into = all.clone();
        (all, move |entry| into.borrow_mut().push(entry))
    }
}

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

fn id(byte: u8) -> FileId {
    FileId::from_bytes([byte; 32])
}

fn listing(text: &str, byte: u8, complete: bool) -> Listing {
    Listing { name: name(text), id: id(byte), size: 10, complete }
}

fn named(text: &str) -> Question {
    Question::Name { name: name(text), prefix: None }
}

/// Who holds the only candidate, and whether completely.
fn holders(candidates: &[Candidate]) -> Vec<(String, bool)> {
    let [candidate] = candidates else { panic!("{} candidates", candidates.len()) };
    let mut holders: Vec<_> =
        candidate.holders.iter().map(|holder| (holder.peer.to_string(), holder.complete)).collect();
    holders.sort();
    holders
}

fn left(peer: &str, reason: LeaveReason) -> TrackerEvent {
    TrackerEvent::PeerLeft { peer: peer.parse().unwrap(), reason }
}

fn peer_id(text: &str) -> PeerId {
    text.parse().unwrap()
}

// ---- HELLO ----

#[test]
fn a_greeting_is_answered_with_the_trackers_own() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let mut speaker = swarm.connect().await;
        let answer = speaker.ask(ToTracker::Hello(Hello::new(peer_id("p1")))).await;
        assert_eq!(answer, FromTracker::Hello(Hello::new(peer_id("tracker"))));
        swarm.end().await;
    });
}

#[test]
fn another_version_is_refused_with_both_versions_named() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let other = Hello { version: VERSION + 8, ..Hello::new(peer_id("p1")) };
        let mut speaker = swarm.connect().await;
        let answer = speaker.ask(ToTracker::Hello(other.clone())).await;
        assert!(matches!(answer, FromTracker::Hello(Hello { version: VERSION, .. })), "{answer:?}");
        let (refusal, why) = rig::refusal(speaker.hear().await);
        assert_eq!(refusal, Refusal::Version);
        assert!(why.contains("version 2,") && why.contains("version 10;"), "{why}");
        speaker.closed().await;

        let address = TrackerAddress::from(swarm.tracker.address);
        let trackers = TrackerClients::connect(std::slice::from_ref(&address), &other).await;
        let [(_, error)] = trackers.failures() else { panic!("it is not refused") };
        assert!(matches!(error, AskError::Refused { refusal: Refusal::Version, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains(&why), "{text}");
        swarm.end().await;
    });
}

#[test]
fn whoever_does_not_greet_first_is_refused_and_changes_nothing() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let mut speaker = swarm.connect().await;
        let files = vec![listing("a", 1, true)];
        let answer = speaker.ask(ToTracker::Register { instance: 1, port: 9, files }).await;
        assert!(matches!(answer, FromTracker::Hello(_)), "{answer:?}");
        assert_eq!(rig::refusal(speaker.hear().await).0, Refusal::Protocol);
        speaker.closed().await;
        assert_eq!(swarm.greet("asker").await.who_has(named("a")).await, []);
        swarm.end().await;
    });
}

#[test]
fn a_second_greeting_ends_the_connection() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut peer = swarm.join("p1", 1, 9, vec![]).await;
        let (refusal, why) = peer.refused(ToTracker::Hello(Hello::new(peer_id("p2")))).await;
        assert_eq!(refusal, Refusal::Protocol);
        assert!(why.contains("second HELLO"), "{why}");
        peer.closed().await;
        assert!(matches!(swarm.event().await, TrackerEvent::PeerLeft { .. }));
        swarm.end().await;
    });
}

#[test]
fn bytes_that_are_no_message_are_refused_and_the_tracker_lives_on() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let table: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff, 0xff, 0xff, 0xff, 0],
            &[0, 0, 0, 1, 7, 0],
            &[0, 0, 0, 3, 0, 0xc1, 0xc1, 0xc1],
            &[0, 0, 0, 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ];
        for bytes in table {
            let mut stranger = swarm.connect().await.send_bytes(bytes).await;
            assert!(matches!(stranger.hear().await, FromTracker::Hello(_)), "{bytes:?}");
            assert_eq!(rig::refusal(stranger.hear().await).0, Refusal::Protocol, "{bytes:?}");
            stranger.closed().await;

            let mut greeted = swarm.greet("p1").await.send_bytes(bytes).await;
            assert_eq!(rig::refusal(greeted.hear().await).0, Refusal::Protocol, "{bytes:?}");
            greeted.closed().await;
        }
        assert_eq!(swarm.greet("p1").await.who_has(named("a")).await, []);
        swarm.end().await;
    });
}

// ---- REGISTER ----

#[test]
fn a_registration_is_told_its_lease_and_the_peer_is_found_at_its_stated_port() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut peer = swarm.greet("p1").await;
        let files = vec![listing("a", 1, true), listing("b", 2, false)];
        let answer = peer.ask(ToTracker::Register { instance: 1, port: 4711, files }).await;
        let [lease_ms, refresh_interval_ms] = [7_200_000, 3_600_000];
        assert_eq!(answer, FromTracker::Registered { lease_ms, refresh_interval_ms });
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let joined = TrackerEvent::PeerJoined { peer: peer_id("p1"), address, files: 2 };
        assert_eq!(swarm.event().await, joined);

        let found = swarm.greet("asker").await.who_has(named("a")).await;
        assert_eq!(holders(&found), [("p1".into(), true)]);
        assert_eq!((found[0].id, found[0].size, found[0].holders[0].address), (id(1), 10, address));
        swarm.end().await;
    });
}

#[test]
fn port_0_is_refused_and_the_connection_lives() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let mut peer = swarm.greet("p1").await;
        let refused = peer.refused(ToTracker::Register { instance: 1, port: 0, files: vec![] }).await;
        assert_eq!(refused.0, Refusal::Protocol);
        let answer = peer.ask(ToTracker::Register { instance: 1, port: 9, files: vec![] }).await;
        assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
        swarm.end().await;
    });
}

#[test]
fn a_second_process_with_a_living_peer_id_is_refused_until_the_first_has_left() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let first = swarm.join("p1", 1, 1111, vec![listing("a", 1, true)]).await;
        let mut second = swarm.greet("p1").await;
        let register = ToTracker::Register { instance: 2, port: 2222, files: vec![listing("b", 2, true)] };
        let (refusal, why) = second.refused(register.clone()).await;
        assert_eq!(refusal, Refusal::PeerIdTaken);
        assert!(why.contains("127.0.0.1:1111"), "{why}");
        let mut asker = swarm.greet("asker").await;
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true)]);
        assert_eq!(asker.who_has(named("b")).await, []);

        drop(first);
        let reason = LeaveReason::ConnectionEnded("the connection was closed".into());
        assert_eq!(swarm.event().await, left("p1", reason));
        let answer = second.ask(register).await;
        assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
        assert_eq!(holders(&asker.who_has(named("b")).await), [("p1".into(), true)]);
        swarm.end().await;
    });
}

#[test]
fn the_same_process_replaces_its_old_connection_whose_late_end_removes_nothing() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut older = swarm.join("p1", 1, 1111, vec![listing("a", 1, true)]).await;
        let mut newer = swarm.greet("p1").await;
        let files = vec![listing("b", 2, true)];
        let answer = newer.ask(ToTracker::Register { instance: 1, port: 2222, files }).await;
        assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
        let address = "127.0.0.1:2222".parse().unwrap();
        let returned = TrackerEvent::PeerReturned { peer: peer_id("p1"), address, files: 1 };
        assert_eq!(swarm.event().await, returned);
        older.closed().await;
        drop(older);

        // Whoever comes later sees what the end of the older one has left.
        let other = swarm.join("p2", 7, 3333, vec![]).await;
        let mut asker = swarm.greet("asker").await;
        assert_eq!(asker.who_has(named("a")).await, [], "a new registration begins the list anew");
        assert_eq!(holders(&asker.who_has(named("b")).await), [("p1".into(), true)]);
        drop(newer);
        assert!(matches!(swarm.event().await, TrackerEvent::PeerLeft { .. }));
        assert_eq!(asker.who_has(named("b")).await, []);
        drop(other);
        swarm.end().await;
    });
}

#[test]
fn a_second_registration_on_one_connection_begins_the_list_anew() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut peer = swarm.join("p1", 1, 9, vec![listing("a", 1, true)]).await;
        let files = vec![listing("b", 2, true)];
        let answer = peer.ask(ToTracker::Register { instance: 1, port: 9, files }).await;
        assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
        let mut asker = swarm.greet("asker").await;
        assert_eq!(asker.who_has(named("a")).await, []);
        assert_eq!(holders(&asker.who_has(named("b")).await), [("p1".into(), true)]);
        swarm.end().await;
    });
}

#[test]
fn caps_of_the_catalogue_are_refusals_and_the_connection_lives() {
    story(|| async {
        let catalogue =
            CatalogueLimits { peers: 1, files_per_peer: 2, entries: 2, ..CatalogueLimits::default() };
        let mut swarm = Swarm::start_with(NEVER, TrackerLimits { catalogue, ..TrackerLimits::default() });
        let mut first = swarm.join("p1", 1, 9, vec![listing("a", 1, true), listing("b", 1, true)]).await;
        let new = ToTracker::NewFile { files: vec![listing("c", 1, true)] };
        assert_eq!(first.refused(new).await.0, Refusal::Limit);
        assert_eq!(first.who_has(named("c")).await, []);

        let mut second = swarm.greet("p2").await;
        let register = ToTracker::Register { instance: 2, port: 9, files: vec![] };
        assert_eq!(second.refused(register.clone()).await.0, Refusal::Limit);
        first.say(ToTracker::Disconnect).await;
        assert_eq!(swarm.event().await, left("p1", LeaveReason::Disconnected));

        let too_long = ["a", "b", "c"].map(|text| listing(text, 1, true)).to_vec();
        let register_too_long = ToTracker::Register { instance: 2, port: 9, files: too_long };
        assert_eq!(second.refused(register_too_long).await.0, Refusal::Limit);
        assert_eq!(second.who_has(named("a")).await, [], "a refused list is not taken in half");
        let answer = second.ask(register).await;
        assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
        swarm.end().await;
    });
}

// ---- NEW_FILE, REMOVE_FILE ----

#[test]
fn new_files_are_found_and_an_entry_takes_the_place_of_the_older_one() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut peer = swarm.join("p1", 1, 9, vec![]).await;
        let mut asker = swarm.greet("asker").await;
        let partial = ToTracker::NewFile { files: vec![listing("a", 1, false)] };
        assert_eq!(peer.ask(partial).await, FromTracker::Noted);
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), false)]);
        let complete = ToTracker::NewFile { files: vec![listing("a", 1, true)] };
        assert_eq!(peer.ask(complete).await, FromTracker::Noted);
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true)]);
        let other = ToTracker::NewFile { files: vec![listing("a", 2, true)] };
        assert_eq!(peer.ask(other).await, FromTracker::Noted);
        assert_eq!(asker.who_has(named("a")).await[0].id, id(2));
        assert_eq!(asker.who_has(Question::Prefix(id(1).into())).await, []);
        swarm.end().await;
    });
}

#[test]
fn removed_files_are_not_found_and_what_is_not_listed_is_passed_over() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut peer = swarm.join("p1", 1, 9, vec![listing("a", 1, true), listing("b", 1, true)]).await;
        let mut asker = swarm.greet("asker").await;
        let files = vec![(name("b"), id(9)), (name("zz"), id(1)), (name("a"), id(1))];
        assert_eq!(peer.ask(ToTracker::RemoveFile { files }).await, FromTracker::Noted);
        assert_eq!(asker.who_has(named("a")).await, []);
        assert_eq!(holders(&asker.who_has(named("b")).await), [("p1".into(), true)]);
        swarm.end().await;
    });
}

#[test]
fn only_a_registered_connection_changes_a_list() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let peer = swarm.join("p1", 1, 9, vec![listing("a", 1, true)]).await;
        // The same peer id on another connection, not registered there.
        let mut other = swarm.greet("p1").await;
        let new = ToTracker::NewFile { files: vec![listing("b", 2, true)] };
        assert_eq!(other.refused(new).await.0, Refusal::NotRegistered);
        let remove = ToTracker::RemoveFile { files: vec![(name("a"), id(1))] };
        assert_eq!(other.refused(remove).await.0, Refusal::NotRegistered);
        let mut asker = swarm.greet("asker").await;
        assert_eq!(asker.who_has(named("b")).await, []);
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true)]);
        assert_eq!(other.who_has(named("b")).await, [], "the refused connection lives");
        drop(peer);
        swarm.end().await;
    });
}

// ---- DISCONNECT ----

#[test]
fn who_disconnects_is_out_at_once_and_nobody_else() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut first = swarm.join("p1", 1, 9, vec![listing("a", 1, true)]).await;
        let second = swarm.join("p2", 2, 9, vec![listing("a", 1, false)]).await;
        let mut asker = swarm.greet("asker").await;
        // A connection that did not register has nothing to end, whatever its peer id.
        let mut stranger = swarm.greet("p2").await;
        stranger.say(ToTracker::Disconnect).await;
        stranger.closed().await;
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true), ("p2".into(), false)]);
        first.say(ToTracker::Disconnect).await;
        first.closed().await;
        assert_eq!(swarm.event().await, left("p1", LeaveReason::Disconnected));
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p2".into(), false)]);
        drop(second);
        swarm.end().await;
    });
}

// ---- WHO_HAS, LIST, PEERS ----

#[test]
fn who_has_answers_by_name_id_and_prefix_and_never_names_the_asker() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut first = swarm.join("p1", 1, 9, vec![listing("a", 0x11, true)]).await;
        let second = swarm.join("p2", 2, 9, vec![listing("b", 0x11, false), listing("a", 0x12, true)]).await;
        let both = [("p1".into(), true), ("p2".into(), false)];
        let mut asker = swarm.greet("asker").await;
        assert_eq!(holders(&asker.who_has(Question::Prefix(id(0x11).into())).await), both);
        assert_eq!(holders(&asker.who_has(Question::Prefix("1111".parse().unwrap())).await), both);
        assert_eq!(asker.who_has(Question::Prefix("1".parse().unwrap())).await.len(), 2);
        assert_eq!(asker.who_has(named("a")).await.len(), 2, "two contents under one name");
        let chosen = Question::Name { name: name("a"), prefix: Some("12".parse().unwrap()) };
        assert_eq!(holders(&asker.who_has(chosen).await), [("p2".into(), true)]);
        assert_eq!(asker.who_has(named("nothing")).await, []);

        let found = first.who_has(Question::Prefix(id(0x11).into())).await;
        assert_eq!(holders(&found), [("p2".into(), false)]);
        assert_eq!(found[0].holder_count, 2, "the asker is counted");
        drop(second);
        swarm.end().await;
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_however_many_and_however_long_the_answers() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let mut peer = swarm.join("p1", 1, 9, vec![]).await;
        let component = "x".repeat(200);
        for part in 0..4 {
            let long =
                |n: usize| listing(&format!("{part}{n:03}{component}/{component}/{component}"), 1, true);
            let files = (0..250).map(long).collect();
            assert_eq!(peer.ask(ToTracker::NewFile { files }).await, FromTracker::Noted);
        }
        let few = |n: u32| ToTracker::List { prefix: String::new(), after: None, limit: n };
        // Each page is half a megabyte: together far more than one connection may have in memory.
        let requests: Vec<ToTracker> =
            (0..600).map(|n| few(if n % 100 == 0 { 700 } else { n % 100 })).collect();
        peer.link.write(&requests).await.unwrap();
        for n in 0..600 {
            let expected = if n % 100 == 0 { 700 } else { n % 100 };
            match peer.hear().await {
                FromTracker::Files { files, more: true } => assert_eq!(files.len(), expected, "answer {n}"),
                other => panic!("{other:?}"),
            }
        }
        swarm.end().await;
    });
}

#[test]
fn the_client_reads_all_pages_of_names_and_peers() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let files = (0..2500).map(|n| listing(&format!("many/{n:04}"), 1, true)).collect();
        let first = swarm.join("p1", 1, 1111, files).await;
        let second =
            swarm.join("p2", 2, 2222, vec![listing("many/0000", 1, true), listing("x", 2, true)]).await;
        let address = TrackerAddress::from(swarm.tracker.address);
        let mut client = TrackerClients::connect(&[address], &Hello::new(peer_id("asker"))).await;

        let (files, each) = hear_all();
        client.list("many/", each).await;
        let files = files.take();
        assert_eq!(files.len(), 2500);
        assert!(files.is_sorted_by_key(|file| file.name.clone()));
        assert_eq!((files[0].holders, files[1].holders, files[0].size, files[0].id), (2, 1, 10, id(1)));
        let (files, each) = hear_all();
        client.list("nothing", each).await;
        assert_eq!(files.take(), []);

        let (peers, each) = hear_all();
        client.peers(each).await;
        let peers: Vec<_> =
            peers.take().into_iter().map(|p| (p.peer.to_string(), p.address.port(), p.files)).collect();
        assert_eq!(peers, [("p1".into(), 1111, 2500), ("p2".into(), 2222, 2)]);

        let asked = |text: &str| text.parse::<What>().unwrap();
        assert_eq!(holders(&client.who_has(&asked("x")).await), [("p2".into(), true)]);
        let by_prefix = client.who_has(&asked("0202020202")).await;
        assert_eq!(holders(&by_prefix), [("p2".into(), true)], "no such name, so an id");
        assert_eq!(client.who_has(&asked("x@0")).await[0].id, id(2));
        assert_eq!(client.who_has(&asked("x@7")).await, []);
        assert!(client.failures().is_empty());
        drop((first, second));
        swarm.end().await;
    });
}

#[test]
fn an_unreachable_tracker_is_named_in_the_error() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let address = TrackerAddress::from(swarm.tracker.address);
        swarm.end().await;
        let trackers =
            TrackerClients::connect(std::slice::from_ref(&address), &Hello::new(peer_id("asker"))).await;
        let [(_, error)] = trackers.failures() else { panic!("it was reached") };
        assert!(matches!(error, AskError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    });
}

// ---- connections ----

#[test]
fn one_connection_too_many_is_told_so_and_there_is_room_when_one_has_ended() {
    story(|| async {
        let limits = TrackerLimits { connections: 2, ..TrackerLimits::default() };
        let mut swarm = Swarm::start_with(NEVER, limits);
        let first = swarm.join("p1", 1, 9, vec![]).await;
        let _second = swarm.join("p2", 2, 9, vec![]).await;
        let address = TrackerAddress::from(swarm.tracker.address);
        let mut client = TrackerClients::connect(&[address], &Hello::new(peer_id("asker"))).await;
        assert_eq!(client.who_has(&"a".parse().unwrap()).await, []);
        let [(_, error)] = client.failures() else { panic!("it is not refused") };
        assert!(matches!(error, AskError::Refused { refusal: Refusal::Limit, .. }), "{error}");
        drop(first);
        assert!(matches!(swarm.event().await, TrackerEvent::PeerLeft { .. }));
        swarm.greet("asker").await.who_has(named("a")).await;
        swarm.end().await;
    });
}

#[test]
fn of_those_for_whom_there_is_no_room_only_some_are_told_so_at_a_time() {
    story(|| async {
        let limits = TrackerLimits { connections: 1, ..TrackerLimits::default() };
        let swarm = Swarm::start_with(NEVER, limits);
        let _there = swarm.greet("p1").await;
        let mut turned_away = Vec::new();
        for _ in 0..2 * MAX_REFUSING_CONNECTIONS {
            turned_away.push(swarm.connect().await);
        }
        let mut told = 0;
        for speaker in &mut turned_away {
            match speaker.link.read::<FromTracker>().await {
                Ok(answer) => {
                    assert!(matches!(answer, FromTracker::Hello(_)));
                    assert_eq!(refusal(speaker.hear().await).0, Refusal::Limit);
                    told += 1;
                }
                Err(error) => assert!(matches!(error, LinkError::Closed | LinkError::Io(_)), "{error}"),
            }
        }
        assert!((MAX_REFUSING_CONNECTIONS..2 * MAX_REFUSING_CONNECTIONS).contains(&told), "{told}");
        drop(turned_away);
        swarm.end().await;
    });
}

#[test]
fn a_description_in_hello_that_is_too_long_is_refused() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        for (len, is_taken) in [(MAX_AGENT_BYTES, true), (MAX_AGENT_BYTES + 1, false)] {
            let mut speaker = swarm.connect().await;
            let hello = Hello { agent: "x".repeat(len), ..Hello::new(peer_id("p1")) };
            speaker.say(ToTracker::Hello(hello)).await;
            assert!(matches!(speaker.hear().await, FromTracker::Hello(_)));
            if is_taken {
                speaker.who_has(named("a")).await;
            } else {
                let (refusal, why) = refusal(speaker.hear().await);
                assert!(refusal == Refusal::Protocol && why.contains("description"), "{why}");
            }
        }
        swarm.end().await;
    });
}

#[test]
fn a_tracker_that_may_have_more_peers_has_as_many_connections() {
    let mut limits = TrackerLimits::default();
    limits.allow_connections(MAX_TRACKER_CONNECTIONS);
    assert_eq!(
        (limits.connections, limits.connections_per_address),
        (MAX_TRACKER_CONNECTIONS, MAX_TRACKER_CONNECTIONS_PER_ADDRESS)
    );
    limits.allow_connections(40_000);
    assert_eq!((limits.connections, limits.connections_per_address), (40_000, 30_000));
    assert_eq!(limits.catalogue.peers, MAX_PEERS);
    const { assert!(MAX_PEERS < MAX_TRACKER_CONNECTIONS, "each has one, and others ask") };
}

#[test]
fn one_address_has_not_all_connections_and_is_told_so() {
    story(|| async {
        let limits = TrackerLimits { connections: 4, connections_per_address: 3, ..TrackerLimits::default() };
        let swarm = Swarm::start_with(NEVER, limits);
        let here: Vec<_> = [swarm.greet("a").await, swarm.greet("b").await, swarm.greet("c").await].into();
        let mut one_more = swarm.connect().await;
        assert!(matches!(one_more.hear().await, FromTracker::Hello(_)));
        let (refusal, why) = refusal(one_more.hear().await);
        assert!(refusal == Refusal::Limit && why.contains("from this address"), "{why}");
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let mut link = ControlLink::new(socket.connect(swarm.tracker.address).await.unwrap());
        link.write(&[ToTracker::Hello(Hello::new(peer_id("elsewhere")))]).await.unwrap();
        assert!(matches!(link.read().await.unwrap(), FromTracker::Hello(_)), "another one has room");
        drop((here, link));
        swarm.end().await;
    });
}

#[test]
fn of_a_thousand_reconnects_and_closes_in_any_order_the_last_registration_holds() {
    story(|| async {
        let mut rng = fastrand::Rng::with_seed(16);
        let mut swarm = Swarm::start(NEVER);
        let mut asker = swarm.greet("asker").await;
        let mut old: Vec<Speaker> = Vec::new();
        let mut present = swarm.join("p1", 1, 9, vec![listing("a", 1, true)]).await;
        for turn in 0..1000 {
            // The end of an older connection comes before, amid or behind the next registration: as a cut,
            // as DISCONNECT, or late.
            let mut next = swarm.greet("p1").await;
            match rng.u8(..4) {
                0 => old.push(present),
                1 => drop(present),
                2 => {
                    present.say(ToTracker::Disconnect).await;
                    drop(present);
                }
                _ => {
                    old.push(present);
                    old.swap_remove(rng.usize(..old.len()));
                }
            }
            let answer =
                next.ask(ToTracker::Register { instance: 1, port: 9, files: vec![listing("a", 1, true)] });
            assert!(matches!(answer.await, FromTracker::Registered { .. }), "turn {turn}");
            present = next;
            assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true)], "turn {turn}");
        }
        drop(old);
        // All that is late has come when somebody who came behind it is answered.
        swarm.greet("p2").await.who_has(named("a")).await;
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true)]);
        drop(present);
        swarm.end().await;
    });
}

// ---- CONFIRM ----

/// The digest in the next message, which has to be CONFIRM.
async fn confirm(peer: &mut Speaker) -> ListDigest {
    match peer.hear().await {
        FromTracker::Confirm { digest } => digest,
        other => panic!("{other:?} instead of CONFIRM"),
    }
}

#[test]
fn a_peer_that_stops_answering_is_asked_twice_and_out_within_two_intervals() {
    story(|| async {
        let interval = Duration::from_secs(2);
        let mut swarm = Swarm::start(interval);
        let mut asker = swarm.greet("asker").await;
        let files = vec![listing("a", 1, true)];
        let mut peer = swarm.join("p1", 1, 9, files.clone()).await;
        let digest = confirm(&mut peer).await;
        assert_eq!(digest, files.iter().collect());
        peer.say(ToTracker::Confirmed { digest }).await;
        let death = Instant::now();
        confirm(&mut peer).await;
        confirm(&mut peer).await;
        assert_eq!(holders(&asker.who_has(named("a")).await), [("p1".into(), true)]);
        assert_eq!(swarm.event().await, left("p1", LeaveReason::Unconfirmed));
        assert!(death.elapsed() <= interval * 2, "out after {:?}", death.elapsed());
        assert_eq!(asker.who_has(named("a")).await, []);
        peer.closed().await;
        swarm.end().await;
    });
}

#[test]
fn a_peer_that_answers_stays_and_its_confirmation_is_dated() {
    story(|| async {
        let mut swarm = Swarm::start(Duration::from_secs(1));
        let mut peer = swarm.join("p1", 1, 9, vec![listing("a", 1, true)]).await;
        for _ in 0..3 {
            let digest = confirm(&mut peer).await;
            peer.say(ToTracker::Confirmed { digest }).await;
        }
        match peer.ask(ToTracker::Peers { after: None, limit: 9 }).await {
            FromTracker::Peers { peers, more: false } => {
                assert_eq!(peers.len(), 1);
                assert!(peers[0].confirmed_ms < 900, "{peers:?}");
            }
            other => panic!("{other:?}"),
        }
        swarm.end().await;
    });
}

#[test]
fn a_peer_with_another_list_is_asked_again_at_once_and_can_tell_it_anew() {
    story(|| async {
        let interval = Duration::from_secs(4);
        let mut swarm = Swarm::start(interval);
        let mut peer = swarm.join("p1", 1, 9, vec![listing("a", 1, true)]).await;
        let theirs = confirm(&mut peer).await;
        let asked = Instant::now();
        let list = vec![listing("b", 2, true)];
        let digest = list.iter().collect();
        peer.say(ToTracker::Confirmed { digest }).await;
        assert_eq!(confirm(&mut peer).await, theirs);
        assert!(asked.elapsed() < interval / 2, "not only with the next CONFIRM");
        let answer = peer.ask(ToTracker::Register { instance: 1, port: 9, files: list }).await;
        assert!(matches!(answer, FromTracker::Registered { .. }), "{answer:?}");
        peer.say(ToTracker::Confirmed { digest }).await;
        assert_eq!(confirm(&mut peer).await, digest, "the next round has the new list");
        assert!(asked.elapsed() > interval / 2, "agreed: there was no third CONFIRM in that round");
        swarm.end().await;
    });
}

#[test]
fn a_confirmation_of_nothing_has_no_answer() {
    story(|| async {
        let swarm = Swarm::start(NEVER);
        let mut stranger = swarm.greet("p1").await;
        stranger.say(ToTracker::Confirmed { digest: ListDigest::default() }).await;
        assert_eq!(stranger.who_has(named("a")).await, [], "the next answer is that of the next request");
        swarm.end().await;
    });
}

// ---- start and stop ----

#[test]
fn a_stop_closes_every_connection_reports_every_peer_and_frees_the_port() {
    story(|| async {
        let mut swarm = Swarm::start(NEVER);
        let address = swarm.tracker.address;
        let mut peers = vec![swarm.connect().await, swarm.greet("asker").await];
        for n in 0..20 {
            peers.push(swarm.join(&format!("p{n}"), n, 9, vec![listing("a", 1, true)]).await);
        }
        let (recipient, mut events) = rig::probe();
        let config = TrackerConfig { listen: address, refresh_interval: NEVER };
        let error = tracker::start(config.clone(), recipient.clone()).unwrap_err();
        assert!(matches!(error, TrackerError::PortInUse(at) if at == address), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");

        swarm.end().await;
        for peer in &mut peers {
            peer.closed().await;
        }
        let again = tracker::start(config, recipient).expect("the port is free");
        assert_eq!(again.address, address);
        again.stop().await;
        assert_eq!(events.recv().await, None, "nothing that could report is left");
    });
}

#[test]
fn what_cannot_be_listened_on_and_what_is_too_short_is_said_in_a_sentence() {
    story(|| async {
        let (recipient, _events) = rig::probe();
        // An address for documentation: no machine has it.
        let listen = "192.0.2.1:7070".parse().unwrap();
        let config = TrackerConfig { listen, refresh_interval: NEVER };
        let error = tracker::start(config.clone(), recipient.clone()).unwrap_err();
        assert!(matches!(error, TrackerError::Listen { .. }), "{error:?}");
        assert!(error.to_string().contains("192.0.2.1:7070"), "{error}");
        let refresh_interval = Duration::from_millis(199);
        let error = tracker::start(TrackerConfig { refresh_interval, ..config }, recipient).unwrap_err();
        assert!(error.to_string().contains("199ms") && error.to_string().contains("200ms"), "{error}");
    });
}
