//! A tracker that answers as a test tells it, and a peer that says to a real one what a test wants.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use enxame_actors::base::{FileId, FileName, Question};
use enxame_actors::net::{ControlLink, LinkError};
use enxame_actors::wire::tracker::{Candidate, FromTracker, Holder, Listing, ToTracker};
use enxame_actors::wire::{Hello, ListDigest, Refusal};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::files::Content;
use super::harness::{PortWatch, Test};
use super::holder::{Behaviour, FakeHolder};
use super::proxy::{Fault, FaultProxy, Way, listen};

/// What a [`FakeTracker`] answers; a test may change it at any time.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The contents that somebody has.
    pub candidates: Vec<Candidate>,
    /// Reads and says nothing, HELLO included.
    pub silent: bool,
    /// Answers REGISTER with this refusal.
    pub refuse: Option<Refusal>,
    /// Sent as CONFIRM to all connections whenever it changes.
    pub confirm: Option<ListDigest>,
    /// Connections made before this was raised are closed.
    pub cuts: u32,
}

/// The candidate for a content under these names, with these holders.
pub fn candidate(content: &Content, names: &[&str], holders: Vec<Holder>) -> Candidate {
    Candidate {
        id: content.id,
        size: content.size(),
        names: names.iter().map(|name| name.parse().expect("a valid name")).collect(),
        holder_count: holders.len() as u32,
        holders,
    }
}

/// A holder of this content behind a way of so many bytes per second, and a tracker that knows it there
/// as `dir/x`.
pub fn slow(test: &Test, content: &Content, bytes_s: u64) -> (FakeHolder, FaultProxy, FakeTracker) {
    let holder = FakeHolder::start(test, "far", std::slice::from_ref(content), Behaviour::Honest);
    let proxy = FaultProxy::start(test, holder.address(), vec![Fault::to_client(Way::rate(bytes_s))]);
    let candidates = vec![candidate(content, &["dir/x"], vec![holder.listed_at(proxy.address())])];
    let tracker = FakeTracker::start(test, Script { candidates, ..Script::default() });
    (holder, proxy, tracker)
}

/// A running tracker; dropping it closes its connections.
pub struct FakeTracker {
    address: SocketAddr,
    script: watch::Sender<Script>,
    told: watch::Receiver<Vec<(u64, ToTracker)>>,
    watch: PortWatch,
    _accepting: JoinSet<()>,
}

impl FakeTracker {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(test: &Test, script: Script) -> FakeTracker {
        let (listener, address) = listen();
        let (script, follow) = watch::channel(script);
        let (record, told) = watch::channel(Vec::new());
        let record = Arc::new(record);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            let mut number = 0;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("a test has descriptors to spare");
                        number += 1;
                        let (record, script) = (record.clone(), follow.clone());
                        connections.spawn(async move {
                            let note = |said| record.send_modify(|told| told.push((number, said)));
                            let mut link = ControlLink::new(stream);
                            // Any end of a connection is one: the peer left, was cut, or sent nonsense.
                            let _ = talk(&mut link, script, note).await;
                            link.finish().await;
                        });
                    }
                    Some(ended) = connections.join_next() => ended.expect("no connection panics"),
                }
            }
        });
        FakeTracker { address, script, told, watch: test.watch(address), _accepting: accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it answers from now on.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        self.script.send_modify(change);
    }

    /// What it was told so far, each with the number of the connection, from 1.
    pub fn told(&self) -> Vec<(u64, ToTracker)> {
        self.told.borrow().clone()
    }

    /// Waits until what it was told is enough.
    pub async fn until(&self, mut enough: impl FnMut(&[(u64, ToTracker)]) -> bool) -> Vec<(u64, ToTracker)> {
        let mut told = self.told.clone();
        let told =
            self.watch.test().wait_for("the tracker to be told enough", told.wait_for(|told| enough(told)));
        told.await.expect("it runs as long as this lives").clone()
    }
}

async fn talk(
    link: &mut ControlLink<TcpStream>,
    mut script: watch::Receiver<Script>,
    note: impl Fn(ToTracker),
) -> Result<(), LinkError> {
    let mut now = script.borrow_and_update().clone();
    loop {
        let said = tokio::select! {
            said = link.read::<ToTracker>() => said?,
            changed = script.changed() => {
                // The tracker of the test is gone.
                if changed.is_err() {
                    return Ok(());
                }
                let before = std::mem::replace(&mut now, script.borrow_and_update().clone());
                if now.cuts != before.cuts {
                    return Ok(());
                }
                if let Some(digest) = now.confirm.filter(|_| now.confirm != before.confirm) {
                    link.write(&[FromTracker::Confirm { digest }]).await?;
                }
                continue;
            }
        };
        if matches!(said, ToTracker::Hello(_)) {
            link.hello_is_done();
        }
        note(said.clone());
        if said == ToTracker::Disconnect {
            return Ok(());
        }
        if !now.silent
            && let Some(answer) = answer(&now, said)
        {
            link.write(&[answer]).await?;
        }
    }
}

fn answer(script: &Script, said: ToTracker) -> Option<FromTracker> {
    Some(match said {
        ToTracker::Hello(_) => FromTracker::Hello(Hello::new("fake-tracker".parse().expect("a peer id"))),
        ToTracker::Register { .. } => match script.refuse {
            Some(refusal) => FromTracker::Refused { refusal, why: format!("{refusal}, says the test") },
            None => FromTracker::Registered { lease_ms: 60_000, refresh_interval_ms: 30_000 },
        },
        ToTracker::NewFile { .. } | ToTracker::RemoveFile { .. } => FromTracker::Noted,
        ToTracker::WhoHas { question } => {
            let fits = |candidate: &&Candidate| fits(&question, candidate);
            FromTracker::Candidates { candidates: script.candidates.iter().filter(fits).cloned().collect() }
        }
        ToTracker::List { .. } => FromTracker::Files { files: Vec::new(), more: false },
        ToTracker::Peers { .. } => FromTracker::Peers { peers: Vec::new(), more: false },
        ToTracker::Confirmed { .. } | ToTracker::Disconnect => return None,
    })
}

fn fits(question: &Question, candidate: &Candidate) -> bool {
    match question {
        Question::Name { name, prefix } => {
            candidate.names.contains(name) && prefix.is_none_or(|prefix| prefix.matches(&candidate.id))
        }
        Question::Prefix(prefix) => prefix.matches(&candidate.id),
    }
}

/// A peer that has greeted a tracker; dropping it cuts the connection without a DISCONNECT.
///
/// It keeps the list that it told, so that it can answer CONFIRM as an honest peer does.
pub struct RawPeer {
    requests: mpsc::Sender<Request>,
    confirms: watch::Receiver<Vec<ListDigest>>,
    answering: watch::Sender<bool>,
    /// Ends with the connection.
    conversation: JoinSet<LinkError>,
}

/// What is to be said, and where its answer goes.
type Request = (ToTracker, oneshot::Sender<FromTracker>);

impl RawPeer {
    /// Connects and greets.
    ///
    /// # Errors
    /// As [`RawPeer::connect_as`].
    pub async fn connect(tracker: SocketAddr, peer: &str) -> Result<RawPeer, LinkError> {
        RawPeer::connect_as(tracker, Hello::new(peer.parse().expect("a peer id"))).await
    }

    /// Connects and says this HELLO.
    ///
    /// # Errors
    /// What the tracker does instead of greeting; its REFUSED as [`LinkError::Refused`].
    pub async fn connect_as(tracker: SocketAddr, hello: Hello) -> Result<RawPeer, LinkError> {
        let mut link = ControlLink::new(TcpStream::connect(tracker).await?);
        let version = hello.version;
        link.write(&[ToTracker::Hello(hello)]).await?;
        loop {
            match link.read().await? {
                FromTracker::Hello(hello) if hello.version == version => break,
                // Another version: the refusal follows.
                FromTracker::Hello(_) => {}
                FromTracker::Refused { why, .. } => return Err(LinkError::Refused(why)),
                _ => return Err(LinkError::Unexpected("an answer before HELLO")),
            }
        }
        link.hello_is_done();
        let (requests, asked) = mpsc::channel(64);
        let (seen, confirms) = watch::channel(Vec::new());
        let (answering, answers) = watch::channel(true);
        let mut conversation = JoinSet::new();
        conversation.spawn(async move {
            let Err(end) = converse(link, asked, seen, answers).await;
            end
        });
        Ok(RawPeer { requests, confirms, answering, conversation })
    }

    /// Says it and waits for its answer.
    ///
    /// # Errors
    /// The connection ended before there was one.
    pub async fn ask(&self, said: ToTracker) -> Result<FromTracker, LinkError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send((said, answer)).await.map_err(|_| LinkError::Closed)?;
        answered.await.map_err(|_| LinkError::Closed)
    }

    /// REGISTER.
    ///
    /// # Errors
    /// As [`RawPeer::ask`].
    pub async fn register(
        &self,
        instance: u64,
        port: u16,
        files: Vec<Listing>,
    ) -> Result<FromTracker, LinkError> {
        self.ask(ToTracker::Register { instance, port, files }).await
    }

    /// WHO_HAS by a name.
    ///
    /// # Errors
    /// As [`RawPeer::ask`].
    pub async fn who_has(&self, name: &str) -> Result<FromTracker, LinkError> {
        let name = name.parse().expect("a valid name");
        self.ask(ToTracker::WhoHas { question: Question::Name { name, prefix: None } }).await
    }

    /// DISCONNECT, and why the connection ended then.
    pub async fn disconnect(self) -> LinkError {
        // No answer is due; a connection that has ended already says so below.
        let (answer, _) = oneshot::channel();
        let _ = self.requests.send((ToTracker::Disconnect, answer)).await;
        self.ended().await
    }

    /// Waits until the tracker ends the connection; why it ended.
    pub async fn ended(mut self) -> LinkError {
        self.conversation.join_next().await.expect("there is one").expect("it does not panic")
    }

    /// Whether CONFIRM is answered; it is from the start.
    pub fn answer_confirms(&self, answer: bool) {
        self.answering.send_replace(answer);
    }

    /// Waits until so many CONFIRMs came; their digests.
    ///
    /// # Errors
    /// The connection ended before.
    pub async fn confirms(&self, count: usize) -> Result<Vec<ListDigest>, LinkError> {
        let mut confirms = self.confirms.clone();
        let enough = confirms.wait_for(|seen| seen.len() >= count).await;
        enough.map(|seen| seen.clone()).map_err(|_| LinkError::Closed)
    }
}

/// Says what is asked for in order, gives each answer to who waits for it, and answers CONFIRM.
async fn converse(
    mut link: ControlLink<TcpStream>,
    mut asked: mpsc::Receiver<Request>,
    seen: watch::Sender<Vec<ListDigest>>,
    answering: watch::Receiver<bool>,
) -> Result<std::convert::Infallible, LinkError> {
    let mut waiting = VecDeque::new();
    let mut list: Vec<Listing> = Vec::new();
    loop {
        tokio::select! {
            Some((said, answer)) = asked.recv() => {
                follow(&mut list, &said);
                if !matches!(said, ToTracker::Confirmed { .. } | ToTracker::Disconnect) {
                    waiting.push_back(answer);
                }
                link.write(&[said]).await?;
            }
            heard = link.read() => match heard? {
                FromTracker::Confirm { digest } => {
                    seen.send_modify(|seen| seen.push(digest));
                    if *answering.borrow() {
                        link.write(&[ToTracker::Confirmed { digest: list.iter().collect() }]).await?;
                    }
                }
                answer => {
                    let waits = waiting.pop_front().ok_or(LinkError::Unexpected("an answer to nothing"))?;
                    // Who asked may have given up.
                    let _ = waits.send(answer);
                }
            },
        }
    }
}

/// The list as it is told.
fn follow(list: &mut Vec<Listing>, said: &ToTracker) {
    let is = |listing: &Listing, name: &FileName, id: &FileId| listing.name == *name && listing.id == *id;
    match said {
        ToTracker::Register { files, .. } => list.clone_from(files),
        ToTracker::NewFile { files } => {
            for file in files {
                list.retain(|listing| !is(listing, &file.name, &file.id));
                list.push(file.clone());
            }
        }
        ToTracker::RemoveFile { files } => {
            list.retain(|listing| !files.iter().any(|(name, id)| is(listing, name, id)));
        }
        _ => {}
    }
}
