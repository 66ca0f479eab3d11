//! The actor that keeps the connection to one tracker: registers, tells changes, answers CONFIRM,
//! asks WHO_HAS, and comes back after a cut.
//!
//! A task owns the socket. It fetches what is to be said from the actor (so nothing queues up in
//! front of a slow tracker: changes fall together in the list), and hands over what it reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::WeakRecipient;
use actix::prelude::*;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::limits::{
    IDLE_TIMEOUT, MAX_ANSWER_CANDIDATES, MAX_ANSWER_HOLDERS, MAX_ANSWER_NAMES, MAX_FILE_HOLDERS,
    MAX_PAGE_ENTRIES, SHUTDOWN_STEP_TIMEOUT, TRACKER_ANSWER_TIMEOUT, TRACKER_RETRY_FIRST, TRACKER_RETRY_MAX,
};
use crate::base::{FileId, FileName, PeerId, Question};
use crate::net::link::within_hello_budget;
use crate::net::{ControlLink, LinkError, TrackerAddress};
use crate::peer::library::{ListChanged, Rescan};
use crate::plan::{Backoff, Telling, ToldList};
use crate::wire::tracker::{Candidate, FromTracker, ListedFile, ToTracker};
use crate::wire::{Hello, Refusal, VERSION};

/// Frames of list changes fetched at once; each is up to half a megabyte.
const TELLINGS_AT_ONCE: usize = 2;

/// A tracker that is silent for a lease is gone; but a lease shorter than this says nothing of it.
const MIN_SILENCE: Duration = Duration::from_secs(5);

/// What a link is for.
#[derive(Clone)]
pub struct LinkConfig {
    /// The tracker.
    pub tracker: TrackerAddress,
    /// Who we are.
    pub us: PeerId,
    /// How we register; `None` for who only asks.
    pub registration: Option<Registration>,
    /// Who is told when the connection comes and goes.
    pub news: Option<Recipient<TrackerNews>>,
}

/// What a registration states.
#[derive(Clone)]
pub struct Registration {
    /// A random number of this process.
    pub instance: u64,
    /// Port of the block server.
    pub port: u16,
    /// Looks at the folder before a confirmation, if we share one.
    pub rescan: Option<WeakRecipient<Rescan>>,
    /// Whether to register only once there is something in the list.
    pub is_lazy: bool,
}

/// The connection to a tracker came or went.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum TrackerNews {
    /// Registered, and all of the list is told.
    Registered {
        /// The tracker.
        tracker: TrackerAddress,
    },
    /// The connection ended or could not be made; it is tried again.
    Lost {
        /// The tracker.
        tracker: TrackerAddress,
        /// Why.
        why: String,
    },
}

/// Why this tracker gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFailure {
    /// It could not be asked.
    #[error("{0}")]
    NoAnswer(String),
    /// It refused.
    #[error("refused: {why}")]
    Refused {
        /// The kind.
        refusal: Refusal,
        /// Its sentence.
        why: String,
    },
}

/// Where the answer to a WHO_HAS goes.
type Answer = oneshot::Sender<Result<Vec<Candidate>, LinkFailure>>;

/// Where a page of LIST goes, and whether there is more behind it.
type PageAnswer = oneshot::Sender<Result<(Vec<ListedFile>, bool), LinkFailure>>;

/// What is to be asked.
enum Inquiry {
    WhoHas(Question, Answer),
    Page(AskPage, PageAnswer),
}

/// An answer that is due, in the order asked.
enum Expected {
    Registered,
    Noted,
    Candidates(Answer),
    Page(PageAnswer),
}

/// The actor.
pub struct TrackerLink {
    config: LinkConfig,
    list: ToldList,
    asks: VecDeque<Inquiry>,
    expected: VecDeque<Expected>,
    stage: Stage,
    /// CONFIRM came and the folder was looked at.
    is_confirm_due: bool,
    /// The digest of the last CONFIRM was not ours.
    is_mismatched: bool,
    is_leaving: bool,
    was_registered: bool,
    /// Why the connection was lost, until we are registered again.
    last_loss: Option<String>,
    waiting_for_registration: Vec<oneshot::Sender<Result<(), LinkFailure>>>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How far the connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Down,
    /// HELLO is done; REGISTER is to be sent, unless we only ask or have nothing to tell.
    Greeted,
    /// REGISTER was sent.
    Speaking,
    Registered,
}

impl TrackerLink {
    /// Starts the link; it dials at once.
    pub fn start(config: LinkConfig) -> Addr<TrackerLink> {
        TrackerLink {
            config,
            list: ToldList::default(),
            asks: VecDeque::new(),
            expected: VecDeque::new(),
            stage: Stage::Down,
            is_confirm_due: false,
            is_mismatched: false,
            is_leaving: false,
            was_registered: false,
            last_loss: None,
            waiting_for_registration: Vec::new(),
            wake: Arc::new(Notify::new()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
        .start()
    }

    fn tell(&self, news: TrackerNews) {
        if let Some(recipient) = &self.config.news {
            recipient.do_send(news);
        }
    }

    fn is_registered(&self) -> bool {
        self.stage == Stage::Registered && self.expected.is_empty() && self.list.is_told()
    }

    fn settle_waiting(&mut self, outcome: Result<(), LinkFailure>) {
        for waiting in self.waiting_for_registration.drain(..) {
            // Who waited may have given up.
            let _ = waiting.send(outcome.clone());
        }
    }

    /// The frames to write next.
    fn outgoing(&mut self) -> Vec<ToTracker> {
        let mut frames = Vec::new();
        if self.is_leaving {
            frames.push(ToTracker::Disconnect);
            return frames;
        }
        if self.stage == Stage::Greeted
            && let Some(registration) = &self.config.registration
        {
            self.list.forget();
            if !registration.is_lazy || !self.list.is_told() {
                let (instance, port) = (registration.instance, registration.port);
                let files = match self.list.tell() {
                    Some(Telling::Add(files)) => files,
                    Some(Telling::Remove(_)) | None => Vec::new(),
                };
                frames.push(ToTracker::Register { instance, port, files });
                self.expected.push_back(Expected::Registered);
                self.stage = Stage::Speaking;
            }
        }
        if matches!(self.stage, Stage::Speaking | Stage::Registered) {
            for _ in 0..TELLINGS_AT_ONCE {
                match self.list.tell() {
                    Some(Telling::Add(files)) => frames.push(ToTracker::NewFile { files }),
                    Some(Telling::Remove(files)) => frames.push(ToTracker::RemoveFile { files }),
                    None => break,
                }
                self.expected.push_back(Expected::Noted);
            }
        }
        for ask in self.asks.drain(..) {
            match ask {
                Inquiry::WhoHas(question, answer) => {
                    frames.push(ToTracker::WhoHas { question });
                    self.expected.push_back(Expected::Candidates(answer));
                }
                Inquiry::Page(AskPage { prefix, after }, answer) => {
                    frames.push(ToTracker::List { prefix, after, limit: MAX_PAGE_ENTRIES as u32 });
                    self.expected.push_back(Expected::Page(answer));
                }
            }
        }
        if self.is_confirm_due && self.list.is_told() {
            self.is_confirm_due = false;
            frames.push(ToTracker::Confirmed { digest: self.list.digest() });
        }
        frames
    }

    fn take(&mut self, message: FromTracker, ctx: &mut Context<Self>) -> Result<(), LinkError> {
        match (message, self.expected.front()) {
            (FromTracker::Confirm { digest }, _) => {
                let is_ours = digest == self.list.digest();
                if !is_ours && self.is_mismatched {
                    log::info!(
                        "{} has another list of us than we told it; registering anew",
                        self.config.tracker
                    );
                    self.is_mismatched = false;
                    self.stage = Stage::Greeted;
                } else {
                    // The first difference may be a change that is on its way.
                    self.is_mismatched = !is_ours;
                    self.look_at_folder(ctx);
                }
                return Ok(());
            }
            (FromTracker::Registered { .. }, Some(Expected::Registered)) => self.stage = Stage::Registered,
            (FromTracker::Noted, Some(Expected::Noted)) => {}
            (FromTracker::Candidates { candidates }, Some(Expected::Candidates(_))) => {
                if !is_answer(&candidates) {
                    return Err(LinkError::Unexpected("more than an answer may have"));
                }
                if let Some(Expected::Candidates(answer)) = self.expected.pop_front() {
                    // Who asked may have given up waiting.
                    let _ = answer.send(Ok(candidates));
                }
                return Ok(());
            }
            (FromTracker::Files { files, more }, Some(Expected::Page(_))) => {
                if files.len() > MAX_PAGE_ENTRIES {
                    return Err(LinkError::Unexpected("more than a page may have"));
                }
                if let Some(Expected::Page(answer)) = self.expected.pop_front() {
                    let _ = answer.send(Ok((files, more)));
                }
                return Ok(());
            }
            (FromTracker::Refused { refusal, why }, Some(Expected::Candidates(_) | Expected::Page(_))) => {
                let refused = LinkFailure::Refused { refusal, why };
                match self.expected.pop_front() {
                    Some(Expected::Candidates(answer)) => drop(answer.send(Err(refused))),
                    Some(Expected::Page(answer)) => drop(answer.send(Err(refused))),
                    _ => {}
                }
                return Ok(());
            }
            (FromTracker::Refused { refusal: Refusal::Limit, why }, Some(Expected::Noted)) => {
                log::error!("{} does not take all of our files: {why}", self.config.tracker);
            }
            (FromTracker::Refused { refusal, why }, expected) => {
                if matches!(expected, Some(Expected::Registered)) {
                    self.settle_waiting(Err(LinkFailure::Refused { refusal, why: why.clone() }));
                }
                return Err(LinkError::Refused(why));
            }
            (_, _) => return Err(LinkError::Unexpected("an answer that was not asked for")),
        }
        self.expected.pop_front();
        if self.is_registered() {
            self.settle_waiting(Ok(()));
            if self.last_loss.take().is_some() || !self.was_registered {
                self.was_registered = true;
                log::info!("registered with {}", self.config.tracker);
                self.tell(TrackerNews::Registered { tracker: self.config.tracker.clone() });
            }
        }
        Ok(())
    }

    /// Has the folder looked at; the changes are sent to us before the answer, so they are told
    /// before CONFIRMED.
    fn look_at_folder(&mut self, ctx: &mut Context<Self>) {
        let rescan = self.config.registration.as_ref().and_then(|registration| registration.rescan.as_ref());
        let looked = rescan.and_then(WeakRecipient::upgrade).map(|rescan| rescan.send(Rescan));
        let us = ctx.address();
        ctx.spawn(
            async move {
                if let Some(looked) = looked {
                    // A library that is gone has nothing to add.
                    let _ = looked.await;
                }
                // A message to ourselves, behind the changes that the look has sent us.
                us.do_send(FolderSeen);
            }
            .into_actor(self),
        );
    }
}

impl Actor for TrackerLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let task = LinkTask {
            link: ctx.address(),
            tracker: self.config.tracker.clone(),
            us: self.config.us.clone(),
            wake: Arc::clone(&self.wake),
            stop: self.stop.clone(),
        };
        actix_rt::spawn(self.tasks.track_future(task.run()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stop.cancel();
    }
}

/// Whether a tracker may answer so: no more of anything than it is to tell.
fn is_answer(candidates: &[Candidate]) -> bool {
    let is_short = |candidate: &Candidate| {
        candidate.holders.len() <= MAX_ANSWER_HOLDERS && candidate.names.len() <= MAX_ANSWER_NAMES
    };
    candidates.len() <= MAX_ANSWER_CANDIDATES && candidates.iter().all(is_short)
}

/// What is kept of an answer to one of many questions: a name of each content, and holders as far as a file
/// has room for them. Thousands of such answers are waited for at the same time.
fn cut(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut room = MAX_FILE_HOLDERS;
    for candidate in &mut candidates {
        candidate.names.truncate(1);
        candidate.holders.truncate(room);
        room -= candidate.holders.len();
        candidate.names.shrink_to_fit();
        candidate.holders.shrink_to_fit();
    }
    candidates
}

/// Ask the tracker; answered when it did, or cannot: at once while the connection is lost.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Vec<Candidate>>, LinkFailure>")]
pub struct Ask {
    /// What is looked for. The answers are in the same order.
    pub questions: Vec<Question>,
    /// Whether they are some of very many, so that little is kept of each answer.
    pub is_of_many: bool,
}

impl Handler<Ask> for TrackerLink {
    type Result = ResponseFuture<Result<Vec<Vec<Candidate>>, LinkFailure>>;

    fn handle(&mut self, Ask { questions, is_of_many }: Ask, _: &mut Self::Context) -> Self::Result {
        if let (Stage::Down, Some(why)) = (self.stage, &self.last_loss) {
            let lost = LinkFailure::NoAnswer(why.clone());
            return Box::pin(async move { Err(lost) });
        }
        let mut answers = Vec::new();
        for question in questions {
            let (sender, answer) = oneshot::channel();
            self.asks.push_back(Inquiry::WhoHas(question, sender));
            answers.push(answer);
        }
        self.wake.notify_one();
        Box::pin(async move {
            let all = async {
                let mut found = Vec::new();
                for answer in answers {
                    let gone = |_| Err(LinkFailure::NoAnswer("it was left".into()));
                    let candidates = answer.await.unwrap_or_else(gone)?;
                    found.push(if is_of_many { cut(candidates) } else { candidates });
                }
                Ok(found)
            };
            let late = format!("no answer within {} s", TRACKER_ANSWER_TIMEOUT.as_secs());
            timeout(TRACKER_ANSWER_TIMEOUT, all).await.unwrap_or(Err(LinkFailure::NoAnswer(late)))
        })
    }
}

/// Ask the tracker for a page of its catalogue, and whether there is more behind it; answered as [`Ask`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(Vec<ListedFile>, bool), LinkFailure>")]
pub struct AskPage {
    /// How the names begin.
    pub prefix: String,
    /// The line behind which it begins; `None` for the first page.
    pub after: Option<(FileName, FileId)>,
}

impl Handler<AskPage> for TrackerLink {
    type Result = ResponseFuture<Result<(Vec<ListedFile>, bool), LinkFailure>>;

    fn handle(&mut self, page: AskPage, _: &mut Self::Context) -> Self::Result {
        if let (Stage::Down, Some(why)) = (self.stage, &self.last_loss) {
            let lost = LinkFailure::NoAnswer(why.clone());
            return Box::pin(async move { Err(lost) });
        }
        let (sender, answer) = oneshot::channel();
        self.asks.push_back(Inquiry::Page(page, sender));
        self.wake.notify_one();
        Box::pin(async move {
            let late = format!("no answer within {} s", TRACKER_ANSWER_TIMEOUT.as_secs());
            match timeout(TRACKER_ANSWER_TIMEOUT, answer).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(LinkFailure::NoAnswer("it was left".into()))),
                Err(_) => Err(LinkFailure::NoAnswer(late)),
            }
        })
    }
}

/// Wait until we are registered and the whole list is told, or refused.
#[derive(Clone, Message)]
#[rtype(result = "Result<(), LinkFailure>")]
pub struct AwaitRegistration {
    /// How long to wait for a tracker that does not answer.
    pub within: Duration,
}

impl Handler<AwaitRegistration> for TrackerLink {
    type Result = ResponseActFuture<Self, Result<(), LinkFailure>>;

    fn handle(
        &mut self,
        AwaitRegistration { within }: AwaitRegistration,
        _: &mut Self::Context,
    ) -> Self::Result {
        let (sender, answer) = oneshot::channel();
        self.waiting_for_registration.push(sender);
        if self.is_registered() {
            self.settle_waiting(Ok(()));
        }
        Box::pin(timeout(within, answer).into_actor(self).map(move |answer, link, _| match answer {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => {
                let late = format!("not registered within {} s", within.as_secs());
                Err(LinkFailure::NoAnswer(link.last_loss.clone().unwrap_or(late)))
            }
        }))
    }
}

impl Handler<ListChanged> for TrackerLink {
    type Result = ();

    fn handle(&mut self, ListChanged { added, removed }: ListChanged, _: &mut Self::Context) {
        for listing in &removed {
            self.list.remove(&listing.name, &listing.id);
        }
        added.into_iter().for_each(|listing| self.list.add(listing));
        self.wake.notify_one();
    }
}

/// The folder was looked at for a CONFIRM.
#[derive(Message)]
#[rtype(result = "()")]
struct FolderSeen;

impl Handler<FolderSeen> for TrackerLink {
    type Result = ();

    fn handle(&mut self, _: FolderSeen, _: &mut Self::Context) {
        self.is_confirm_due = true;
        self.wake.notify_one();
    }
}

/// Say DISCONNECT and end; answered when the connection is closed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave;

impl Handler<Leave> for TrackerLink {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        self.is_leaving = true;
        if self.stage == Stage::Down {
            self.stop.cancel();
        }
        self.wake.notify_one();
        self.tasks.close();
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let ended = async move {
            if timeout(SHUTDOWN_STEP_TIMEOUT, tasks.wait()).await.is_err() {
                stop.cancel();
                tasks.wait().await;
            }
        };
        Box::pin(ended.into_actor(self).map(|(), _, ctx| ctx.stop()))
    }
}

// ---- between the actor and the task that owns the socket ----

/// HELLO is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Greeted;

impl Handler<Greeted> for TrackerLink {
    type Result = ();

    fn handle(&mut self, _: Greeted, _: &mut Self::Context) {
        self.stage = Stage::Greeted;
        self.is_confirm_due = false;
        self.is_mismatched = false;
    }
}

/// What is to be written next; nothing: wait until there is.
#[derive(Message)]
#[rtype(result = "Vec<ToTracker>")]
struct TakeOutgoing;

impl Handler<TakeOutgoing> for TrackerLink {
    type Result = MessageResult<TakeOutgoing>;

    fn handle(&mut self, _: TakeOutgoing, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.outgoing())
    }
}

/// These came. Answered with how long the tracker may be silent from now on, if it said so.
#[derive(Message)]
#[rtype(result = "Result<Option<Duration>, LinkError>")]
struct Incoming(Vec<FromTracker>);

impl Handler<Incoming> for TrackerLink {
    type Result = Result<Option<Duration>, LinkError>;

    fn handle(&mut self, Incoming(messages): Incoming, ctx: &mut Self::Context) -> Self::Result {
        let mut lease = None;
        for message in messages {
            if let FromTracker::Registered { lease_ms, .. } = message {
                lease = Some(Duration::from_millis(lease_ms).max(MIN_SILENCE));
            }
            self.take(message, ctx)?;
        }
        Ok(lease)
    }
}

/// The connection ended, or could not be made.
#[derive(Message)]
#[rtype(result = "()")]
struct Lost(String);

impl Handler<Lost> for TrackerLink {
    type Result = ();

    fn handle(&mut self, Lost(why): Lost, _: &mut Self::Context) {
        self.stage = Stage::Down;
        let failure = LinkFailure::NoAnswer(why.clone());
        let asked = self.asks.drain(..).map(|ask| match ask {
            Inquiry::WhoHas(_, answer) => Expected::Candidates(answer),
            Inquiry::Page(_, answer) => Expected::Page(answer),
        });
        for unanswered in self.expected.drain(..).chain(asked) {
            match unanswered {
                Expected::Candidates(answer) => drop(answer.send(Err(failure.clone()))),
                Expected::Page(answer) => drop(answer.send(Err(failure.clone()))),
                Expected::Registered | Expected::Noted => {}
            }
        }
        if self.is_leaving {
            self.stop.cancel();
            return;
        }
        if self.last_loss.replace(why.clone()).is_none() {
            // Who never was registered is told by an error if that matters.
            if self.was_registered {
                log::warn!("{}: {why}; trying again", self.config.tracker);
            } else {
                log::info!("{}: {why}", self.config.tracker);
            }
            self.tell(TrackerNews::Lost { tracker: self.config.tracker.clone(), why });
        }
    }
}

/// The task that owns the socket.
struct LinkTask {
    link: Addr<TrackerLink>,
    tracker: TrackerAddress,
    us: PeerId,
    wake: Arc<Notify>,
    stop: CancellationToken,
}

impl LinkTask {
    async fn run(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.keep_connected() => {}
        }
    }

    /// Connects, again and again, until DISCONNECT was said or the actor is gone.
    async fn keep_connected(&self) {
        let mut backoff = Backoff::new(TRACKER_RETRY_FIRST, TRACKER_RETRY_MAX);
        let mut rng = fastrand::Rng::new();
        loop {
            let start = Instant::now();
            let ended = match self.connect().await {
                Ok(link) => self.converse(link).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            if self.link.send(Lost(error.to_string())).await.is_err() {
                return;
            }
            // A tracker that takes us and at once drops us again is not hammered.
            if start.elapsed() > TRACKER_RETRY_MAX {
                backoff.reset();
            }
            sleep(backoff.next_wait(&mut rng)).await;
        }
    }

    async fn connect(&self) -> Result<ControlLink<TcpStream>, LinkError> {
        let mut link = ControlLink::new(self.tracker.dial().await?);
        within_hello_budget(async {
            link.write(&[ToTracker::Hello(Hello::new(self.us.clone()))]).await?;
            match link.read().await? {
                FromTracker::Hello(hello) if hello.version == VERSION => Ok(()),
                FromTracker::Hello(hello) => Err(LinkError::Refused(hello.version_mismatch())),
                FromTracker::Refused { why, .. } => Err(LinkError::Refused(why)),
                _ => Err(LinkError::Unexpected("an answer before HELLO")),
            }
        })
        .await?;
        link.hello_is_done();
        Ok(link)
    }

    /// Speaks until DISCONNECT was said or the actor is gone.
    async fn converse(&self, mut link: ControlLink<TcpStream>) -> Result<(), LinkError> {
        if self.link.send(Greeted).await.is_err() {
            return Ok(());
        }
        // Until the tracker has said how long a lease is, silence has its general limit.
        let mut silence = IDLE_TIMEOUT;
        let mut batch = Vec::new();
        loop {
            let Ok(outgoing) = self.link.send(TakeOutgoing).await else { return Ok(()) };
            if !outgoing.is_empty() {
                link.write(&outgoing).await?;
                if outgoing.contains(&ToTracker::Disconnect) {
                    link.finish().await;
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                read = timeout(silence, link.read_batch(&mut batch)) => {
                    read.map_err(|_| LinkError::NoAnswer(silence))??;
                    match self.link.send(Incoming(std::mem::take(&mut batch))).await {
                        Ok(Ok(Some(lease))) => silence = lease,
                        Ok(Ok(None)) => {}
                        Ok(Err(error)) => return Err(error),
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tracker::Holder;

    fn candidates(count: usize, names: usize, holders: usize) -> Vec<Candidate> {
        let holder = |number: usize| Holder {
            peer: format!("p{number}").parse().unwrap(),
            address: ([10, 0, 0, 1], 9).into(),
            complete: true,
        };
        let candidate = |number: usize| Candidate {
            id: FileId::from_bytes([1; 32]),
            size: number as u64,
            names: (0..names).map(|name| name.to_string().parse().unwrap()).collect(),
            holder_count: holders as u32,
            holders: (0..holders).map(holder).collect(),
        };
        (0..count).map(candidate).collect()
    }

    #[test]
    fn an_answer_with_more_of_anything_than_a_tracker_may_tell_is_none() {
        let most = (MAX_ANSWER_CANDIDATES, MAX_ANSWER_NAMES, MAX_ANSWER_HOLDERS);
        assert!(is_answer(&candidates(most.0, most.1, most.2)) && is_answer(&[]));
        for (count, names, holders) in [(most.0 + 1, 1, 1), (1, most.1 + 1, 1), (1, 1, most.2 + 1)] {
            assert!(!is_answer(&candidates(count, names, holders)), "{count} {names} {holders}");
        }
    }

    #[test]
    fn of_one_of_many_answers_as_much_is_kept_as_a_file_has_room_for() {
        let honest = candidates(2, 1, MAX_ANSWER_HOLDERS);
        assert_eq!(cut(honest.clone()), honest);
        let kept = cut(candidates(MAX_ANSWER_CANDIDATES, MAX_ANSWER_NAMES, MAX_ANSWER_HOLDERS));
        assert!(kept.iter().all(|candidate| candidate.names.len() == 1));
        assert_eq!(kept.iter().map(|candidate| candidate.holders.len()).sum::<usize>(), MAX_FILE_HOLDERS);
    }
}
