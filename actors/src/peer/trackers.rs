//! The actor that speaks for a process with all its trackers: one link each, asked at once, their
//! answers merged. It also remembers who held what, for the time when no tracker answers.
//!
//! What changes in our list goes to all links, and so does the look at the folder in front of a
//! confirmation: through here, so that it stays behind the changes it has found.

use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;
use tokio_util::task::TaskTracker;

use crate::base::limits::{REMEMBER_AFTER, TRACKER_GRACE, TRACKER_GRACE_IF_NOTHING};
use crate::base::{FileId, FileName, PeerId, Question, What};
use crate::net::TrackerAddress;
use crate::peer::gather::{Asking, gather};
use crate::peer::library::{ListChanged, Rescan};
use crate::peer::memory::{self, Memory};
use crate::peer::tracker_link::{
    Ask, AskPage, AwaitRegistration, Leave, LinkConfig, LinkFailure, Registration, TrackerLink, TrackerNews,
};
use crate::plan::{Remembered, merge_candidates, merge_pages};
use crate::wire::Refusal;
use crate::wire::tracker::{Candidate, Holder, ListedFile};

/// What the trackers are needed for.
pub struct TrackersConfig {
    /// Where they are: different ones.
    pub trackers: Vec<TrackerAddress>,
    /// Who we are.
    pub us: PeerId,
    /// Port of the block server.
    pub port: u16,
    /// Looks at the folder before a confirmation, if we share one.
    pub rescan: Option<Recipient<Rescan>>,
    /// Whether to register only once there is something in the list.
    pub is_lazy: bool,
    /// Who is told when the connections come and go.
    pub news: Option<Recipient<TrackerNews>>,
    /// What we remember, and where; without one, only as long as we live.
    pub memory: Option<Memory>,
}

/// Why no tracker gave an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerFailure {
    /// None could be asked: each address with its reason.
    #[error("no tracker answered")]
    NoAnswer(Vec<(String, String)>),
    /// One refused, and no other one did better.
    #[error("the tracker {tracker} refused: {why}")]
    Refused {
        /// The tracker.
        tracker: String,
        /// Its sentence.
        why: String,
    },
}

/// The actor.
pub struct Trackers {
    pub(crate) links: Vec<Link>,
    rescan: Option<Recipient<Rescan>>,
    remembered: Remembered,
    folder: Option<PathBuf>,
    /// Whether there is something new to write down.
    is_write_due: bool,
    writes: TaskTracker,
    /// Whether the last question was answered by nobody.
    is_cut_off: bool,
}

/// One tracker.
pub(crate) struct Link {
    tracker: TrackerAddress,
    pub(crate) address: Addr<TrackerLink>,
}

impl Trackers {
    /// Starts the actor and the links, which dial at once.
    pub fn start(config: TrackersConfig) -> Addr<Trackers> {
        Trackers::create(|ctx| {
            let (folder, remembered) = match config.memory {
                Some(memory) => (Some(memory.folder), memory.remembered),
                None => (None, Remembered::default()),
            };
            let us = ctx.address().downgrade();
            let link = |tracker: TrackerAddress| {
                let registration = Registration {
                    // Each its own: one tracker under two names refuses the second, instead of
                    // replacing the two by each other for ever.
                    instance: fastrand::u64(..),
                    port: config.port,
                    rescan: config.rescan.is_some().then(|| us.clone().recipient()),
                    is_lazy: config.is_lazy,
                };
                let address = TrackerLink::start(LinkConfig {
                    tracker: tracker.clone(),
                    us: config.us.clone(),
                    registration: Some(registration),
                    news: config.news.clone(),
                });
                Link { tracker, address }
            };
            let links = config.trackers.into_iter().map(link).collect();
            Trackers {
                links,
                rescan: config.rescan,
                remembered,
                folder,
                is_write_due: false,
                writes: TaskTracker::new(),
                is_cut_off: false,
            }
        })
    }

    /// Tells all links, and waits for their answers as [`gather`] does.
    fn to_all<M, T, G>(&self, message: &M, grace: G) -> impl Future<Output = Vec<Answer<T>>> + use<M, T, G>
    where
        G: Fn(&Result<T, LinkFailure>) -> Option<Duration> + 'static,
        M: Message<Result = Result<T, LinkFailure>> + Clone + Send + 'static,
        T: Send + 'static,
        TrackerLink: Handler<M>,
    {
        let trackers: Vec<String> = self.links.iter().map(|link| link.tracker.to_string()).collect();
        let asked = self.links.iter().map(|link| {
            let answer = link.address.send(message.clone());
            let asking: Asking<Result<T, LinkFailure>> = Box::pin(async move {
                answer.await.unwrap_or_else(|_| Err(LinkFailure::NoAnswer("it was left".into())))
            });
            asking
        });
        let asked = asked.collect();
        async move {
            let answers = gather(asked, grace).await;
            let silent = || Err(LinkFailure::NoAnswer("it is silent".into()));
            trackers
                .into_iter()
                .zip(answers.into_iter().map(|answer| answer.unwrap_or_else(silent)))
                .collect()
        }
    }

    /// What the trackers' answers come to; without any, what is remembered.
    fn answer(
        &mut self,
        what: &What,
        answers: Vec<Answer<Vec<Vec<Candidate>>>>,
        ctx: &mut Context<Self>,
    ) -> Result<Vec<Candidate>, TrackerFailure> {
        let (mut answered, failures) = split(answers);
        if answered.is_empty() {
            let known = self.remembered.find(what);
            if known.is_empty() {
                return Err(failure_of(failures));
            }
            if !std::mem::replace(&mut self.is_cut_off, true) {
                log::warn!("{}; holders are looked for among those of earlier", failure_of(failures));
            }
            return Ok(known);
        }
        self.is_cut_off = false;
        for (number, question) in what.questions().iter().enumerate() {
            let of_each = answered.iter_mut().filter_map(|answers| answers.get_mut(number));
            let candidates = merge_candidates(of_each.map(std::mem::take));
            if !candidates.is_empty() {
                self.remembered.learn(question, &candidates);
                self.write_later(ctx);
                return Ok(candidates);
            }
        }
        Ok(Vec::new())
    }

    /// Has what is remembered written down, once for all changes of a while.
    fn write_later(&mut self, ctx: &mut Context<Self>) {
        if self.folder.is_some() && !std::mem::replace(&mut self.is_write_due, true) {
            ctx.run_later(REMEMBER_AFTER, |trackers, ctx| {
                // One that still runs is not overtaken.
                if trackers.writes.is_empty() {
                    let write = trackers.write();
                    actix_rt::spawn(trackers.writes.track_future(write));
                } else {
                    trackers.is_write_due = false;
                    trackers.write_later(ctx);
                }
            });
        }
    }

    /// Writes down what is remembered, if there is anything new.
    fn write(&mut self) -> impl Future<Output = ()> + use<> {
        let is_due = std::mem::take(&mut self.is_write_due);
        let folder = self.folder.clone().filter(|_| is_due);
        let due = folder.map(|folder| (memory::to_bytes(&self.remembered), folder));
        async move {
            let Some((bytes, folder)) = due else { return };
            let shown = folder.display().to_string();
            let saved = tokio::task::spawn_blocking(move || memory::save(&folder, &bytes)).await;
            if let Ok(Err(error)) = saved {
                log::warn!("{shown}: who holds what is not remembered: {error}");
            }
        }
    }
}

/// What one tracker answered, and which one.
type Answer<T> = (String, Result<T, LinkFailure>);

/// The answers, and the failures by tracker.
fn split<T>(answers: Vec<Answer<T>>) -> (Vec<T>, Vec<(String, LinkFailure)>) {
    let (mut answered, mut failures) = (Vec::new(), Vec::new());
    for (tracker, answer) in answers {
        match answer {
            Ok(answer) => answered.push(answer),
            Err(failure) => failures.push((tracker, failure)),
        }
    }
    (answered, failures)
}

/// The failure of all: a refusal, if there was one, for it can be acted on.
fn failure_of(failures: Vec<(String, LinkFailure)>) -> TrackerFailure {
    let mut reasons = Vec::new();
    for (tracker, failure) in failures {
        match failure {
            LinkFailure::Refused { why, .. } => return TrackerFailure::Refused { tracker, why },
            LinkFailure::NoAnswer(why) => reasons.push((tracker, why)),
        }
    }
    TrackerFailure::NoAnswer(reasons)
}

/// How long the others are waited for, once this tracker has answered.
fn grace<T>(answer: &Result<T, LinkFailure>, is_nothing: impl Fn(&T) -> bool) -> Option<Duration> {
    let found = answer.as_ref().ok()?;
    Some(if is_nothing(found) { TRACKER_GRACE_IF_NOTHING } else { TRACKER_GRACE })
}

impl Actor for Trackers {
    type Context = Context<Self>;
}

impl Drop for Trackers {
    /// However it ends, its links end too: nobody stays registered whom nobody speaks for.
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.address.do_send(Leave));
    }
}

/// Ask all trackers; answered when they did, or cannot.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Candidate>, TrackerFailure>")]
pub struct WhoHas {
    /// What is looked for: of its meanings, the first that anybody has.
    pub what: What,
}

impl Handler<WhoHas> for Trackers {
    type Result = ResponseActFuture<Self, Result<Vec<Candidate>, TrackerFailure>>;

    fn handle(&mut self, WhoHas { what }: WhoHas, _: &mut Self::Context) -> Self::Result {
        let questions = what.questions().to_vec();
        let answers = self.to_all(&Ask { questions, is_of_many: false }, |answer| {
            grace(answer, |found| found.iter().all(Vec::is_empty))
        });
        Box::pin(
            answers.into_actor(self).map(move |answers, trackers, ctx| trackers.answer(&what, answers, ctx)),
        )
    }
}

/// Ask all trackers for many things at once, of which nothing is remembered: the answers in the same order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Vec<Candidate>>, TrackerFailure>")]
pub struct WhoHasEach {
    /// What is looked for.
    pub questions: Vec<Question>,
}

impl Handler<WhoHasEach> for Trackers {
    type Result = ResponseFuture<Result<Vec<Vec<Candidate>>, TrackerFailure>>;

    fn handle(&mut self, WhoHasEach { questions }: WhoHasEach, _: &mut Self::Context) -> Self::Result {
        let asked = questions.len();
        let answers = self.to_all(&Ask { questions, is_of_many: true }, |answer| {
            grace(answer, |found| found.iter().all(Vec::is_empty))
        });
        Box::pin(async move {
            let (mut answered, failures) = split(answers.await);
            if answered.is_empty() {
                return Err(failure_of(failures));
            }
            let of_question = |number| {
                let of_each = answered.iter_mut().filter_map(|found| found.get_mut(number));
                merge_candidates(of_each.map(std::mem::take))
            };
            Ok((0..asked).map(of_question).collect())
        })
    }
}

/// Ask all trackers for a page of their catalogues, and whether there is more behind it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(Vec<ListedFile>, bool), TrackerFailure>")]
pub struct ListFiles {
    /// How the names begin.
    pub prefix: String,
    /// The line behind which the page begins; `None` for the first one.
    pub after: Option<(FileName, FileId)>,
}

impl Handler<ListFiles> for Trackers {
    type Result = ResponseFuture<Result<(Vec<ListedFile>, bool), TrackerFailure>>;

    fn handle(&mut self, ListFiles { prefix, after }: ListFiles, _: &mut Self::Context) -> Self::Result {
        let ask = AskPage { prefix: prefix.clone(), after: after.clone() };
        let answers = self.to_all(&ask, |answer| grace(answer, |(page, _)| page.is_empty()));
        Box::pin(async move {
            let (mut pages, failures) = split(answers.await);
            if pages.is_empty() {
                return Err(failure_of(failures));
            }
            // What was not asked for would lead round in circles.
            let is_asked = |file: &ListedFile| {
                let is_behind = |(name, id): &(FileName, FileId)| (&file.name, &file.id) > (name, id);
                file.name.as_str().starts_with(&prefix) && after.as_ref().is_none_or(is_behind)
            };
            pages.iter_mut().for_each(|(page, _)| page.retain(is_asked));
            Ok(merge_pages(pages))
        })
    }
}

/// Wait until we are registered with a tracker and the whole list is told there, or refused by one that
/// knows another living process of our id.
#[derive(Message)]
#[rtype(result = "Result<(), TrackerFailure>")]
pub struct AwaitTracker {
    /// How long to wait for trackers that do not answer.
    pub within: Duration,
}

impl Handler<AwaitTracker> for Trackers {
    type Result = ResponseFuture<Result<(), TrackerFailure>>;

    fn handle(&mut self, AwaitTracker { within }: AwaitTracker, _: &mut Self::Context) -> Self::Result {
        let is_taken = |failure: &LinkFailure| {
            matches!(failure, LinkFailure::Refused { refusal: Refusal::PeerIdTaken, .. })
        };
        let answers = self.to_all(&AwaitRegistration { within }, move |answer| match answer {
            Ok(()) => Some(TRACKER_GRACE),
            Err(failure) => is_taken(failure).then_some(Duration::ZERO),
        });
        let has_several = self.links.len() > 1;
        Box::pin(async move {
            let (registered, mut failures) = split(answers.await);
            if let Some(taken) = failures.iter().position(|(_, failure)| is_taken(failure)) {
                let mut failure = failure_of(vec![failures.swap_remove(taken)]);
                if let (TrackerFailure::Refused { why, .. }, true) = (&mut failure, has_several) {
                    why.push_str("; or is it one tracker under two names?");
                }
                return Err(failure);
            }
            if registered.is_empty() { Err(failure_of(failures)) } else { Ok(()) }
        })
    }
}

impl Handler<ListChanged> for Trackers {
    type Result = ();

    fn handle(&mut self, change: ListChanged, _: &mut Self::Context) {
        self.links.iter().for_each(|link| link.address.do_send(change.clone()));
    }
}

impl Handler<Rescan> for Trackers {
    type Result = ResponseActFuture<Self, ()>;

    /// What the look finds is sent to us before its answer, so it is passed on to the links before
    /// they have theirs.
    fn handle(&mut self, _: Rescan, _: &mut Self::Context) -> Self::Result {
        let looked = self.rescan.as_ref().map(|rescan| rescan.send(Rescan));
        let looked = async move {
            if let Some(looked) = looked {
                // A library that is gone has nothing to add.
                let _ = looked.await;
            }
        };
        Box::pin(looked.into_actor(self))
    }
}

/// A holder is known by other means: it has delivered to us.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Remember(pub Candidate);

impl Handler<Remember> for Trackers {
    type Result = ();

    fn handle(&mut self, Remember(candidate): Remember, ctx: &mut Self::Context) {
        self.remembered.enter(&candidate);
        self.write_later(ctx);
    }
}

/// Who else has a content, as far as we know?
#[derive(Message)]
#[rtype(result = "Vec<Holder>")]
pub struct HoldersOf {
    /// The content.
    pub id: FileId,
    /// Who wants to know, and so is not told of itself.
    pub asker: PeerId,
}

impl Handler<HoldersOf> for Trackers {
    type Result = MessageResult<HoldersOf>;

    fn handle(&mut self, HoldersOf { id, asker }: HoldersOf, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.remembered.holders(&id, &asker))
    }
}

/// Is anything remembered of one of these?
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Remembers(pub Vec<What>);

impl Handler<Remembers> for Trackers {
    type Result = bool;

    fn handle(&mut self, Remembers(wants): Remembers, _: &mut Self::Context) -> bool {
        wants.iter().any(|what| !self.remembered.find(what).is_empty())
    }
}

/// Does every link live?
#[derive(Message)]
#[rtype(result = "bool")]
pub struct HasAllLinks;

impl Handler<HasAllLinks> for Trackers {
    type Result = bool;

    fn handle(&mut self, _: HasAllLinks, _: &mut Self::Context) -> bool {
        self.links.iter().all(|link| link.address.connected())
    }
}

/// Say DISCONNECT to all, write down what is remembered, and end; answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LeaveAll;

impl Handler<LeaveAll> for Trackers {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: LeaveAll, _: &mut Self::Context) -> Self::Result {
        let left = self.links.iter().map(|link| {
            let left = link.address.send(Leave);
            let asking: Asking<()> = Box::pin(async move {
                // A link that has gone has left.
                let _ = left.await;
            });
            asking
        });
        let left = gather(left.collect(), |()| None);
        self.writes.close();
        let writes = self.writes.clone();
        let ended = async move {
            left.await;
            writes.wait().await;
        };
        let ended = ended.into_actor(self).then(|(), trackers, _| trackers.write().into_actor(trackers));
        Box::pin(ended.map(|(), _, ctx| ctx.stop()))
    }
}
