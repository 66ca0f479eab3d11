//! Connections to trackers for somebody who only asks: `who-has`, `ls`, `peers`. Several are asked the
//! same, and what they answer is put together.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::base::What;
use crate::base::limits::{MAX_PAGE_ENTRIES, TRACKER_ANSWER_TIMEOUT, TRACKER_GRACE_IF_NOTHING};
use crate::net::link::within_hello_budget;
use crate::net::{ControlLink, LinkError, TrackerAddress};
use crate::peer::gather::{Asking, gather};
use crate::plan::merge_candidates;
use crate::wire::tracker::{Candidate, FromTracker, ListedFile, ListedPeer, ToTracker};
use crate::wire::{Hello, Refusal};

/// Why a tracker could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection.
    #[error("the tracker {tracker} cannot be reached: {source}")]
    Unreachable {
        /// The tracker.
        tracker: TrackerAddress,
        /// What dialling says.
        source: io::Error,
    },
    /// The connection broke, or no answer came.
    #[error("the tracker {tracker} gave no answer: {source}")]
    Lost {
        /// The tracker.
        tracker: TrackerAddress,
        /// How.
        source: LinkError,
    },
    /// It answered, and refused.
    #[error("the tracker {tracker} refused: {why}")]
    Refused {
        /// The tracker.
        tracker: TrackerAddress,
        /// The kind.
        refusal: Refusal,
        /// Its own sentence.
        why: String,
    },
}

/// Asks one tracker. After an error the connection is of no more use.
struct TrackerClient {
    tracker: TrackerAddress,
    link: ControlLink<TcpStream>,
}

impl TrackerClient {
    /// Dials a tracker and greets it.
    async fn connect(tracker: &TrackerAddress, hello: Hello) -> Result<TrackerClient, AskError> {
        let unreachable = |source| AskError::Unreachable { tracker: tracker.clone(), source };
        let stream = tracker.dial().await.map_err(unreachable)?;
        let link = ControlLink::new(stream);
        let mut client = TrackerClient { tracker: tracker.clone(), link };
        let version = hello.version;
        let greeting = async {
            client.link.write(&[ToTracker::Hello(hello)]).await?;
            client.link.read().await
        };
        match within_hello_budget(greeting).await {
            Ok(FromTracker::Hello(theirs)) if theirs.version == version => {
                client.link.hello_is_done();
                Ok(client)
            }
            Ok(FromTracker::Hello(theirs)) => Err(match client.answer().await {
                // Its own sentence, if it comes.
                Err(refused @ AskError::Refused { .. }) => refused,
                _ => AskError::Refused {
                    tracker: client.tracker,
                    refusal: Refusal::Version,
                    why: theirs.version_mismatch(),
                },
            }),
            Ok(_) => Err(client.lost(LinkError::Unexpected("something else in place of HELLO"))),
            Err(error) => Err(client.lost(error)),
        }
    }

    /// Who has this? All that it can mean is asked at once; an answer for each meaning.
    async fn who_has(&mut self, what: &What) -> Result<Vec<Vec<Candidate>>, AskError> {
        let questions = what.questions().iter().cloned();
        let requests: Vec<_> = questions.map(|question| ToTracker::WhoHas { question }).collect();
        self.ask(&requests).await?;
        let mut found = Vec::new();
        for _ in requests {
            match self.answer().await? {
                FromTracker::Candidates { candidates } => found.push(candidates),
                other => return Err(self.unexpected(&other)),
            }
        }
        Ok(found)
    }

    /// A page of a list, and whether there is more.
    async fn page<E: Listed>(&mut self, request: ToTracker) -> Result<(Vec<E>, bool), AskError> {
        self.ask(&[request]).await?;
        let answer = self.answer().await?;
        E::page(answer).map_err(|answer| self.unexpected(&answer))
    }

    async fn ask(&mut self, requests: &[ToTracker]) -> Result<(), AskError> {
        self.link.write(requests).await.map_err(|error| self.lost(error))
    }

    async fn answer(&mut self) -> Result<FromTracker, AskError> {
        let limit = TRACKER_ANSWER_TIMEOUT;
        match timeout(limit, self.link.read()).await.unwrap_or(Err(LinkError::NoAnswer(limit))) {
            Ok(FromTracker::Refused { refusal, why }) => {
                Err(AskError::Refused { tracker: self.tracker.clone(), refusal, why })
            }
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn lost(&self, source: LinkError) -> AskError {
        AskError::Lost { tracker: self.tracker.clone(), source }
    }

    fn unexpected(&self, answer: &FromTracker) -> AskError {
        self.lost(LinkError::Unexpected(match answer {
            FromTracker::Hello(_) => "HELLO",
            FromTracker::Registered { .. } => "REGISTERED",
            FromTracker::Noted => "NOTED",
            FromTracker::Refused { .. } => "REFUSED",
            FromTracker::Candidates { .. } => "CANDIDATES",
            FromTracker::Files { .. } => "FILES",
            FromTracker::Peers { .. } => "PEERS",
            FromTracker::Confirm { .. } => "CONFIRM",
        }))
    }
}

/// Asks several trackers. Those that fail are not asked again.
pub struct TrackerClients {
    clients: Vec<TrackerClient>,
    failures: Vec<(TrackerAddress, AskError)>,
}

impl TrackerClients {
    /// Dials all of them at once. When one has answered, the others have [`TRACKER_GRACE_IF_NOTHING`]
    /// more.
    pub async fn connect(trackers: &[TrackerAddress], hello: &Hello) -> TrackerClients {
        let dialled = trackers.iter().map(|tracker| {
            let (tracker, hello) = (tracker.clone(), hello.clone());
            let asking: Asking<Result<TrackerClient, AskError>> =
                Box::pin(async move { TrackerClient::connect(&tracker, hello).await });
            asking
        });
        let limit = TRACKER_GRACE_IF_NOTHING;
        let answers = gather(dialled.collect(), |answer| answer.is_ok().then_some(limit)).await;
        let mut all = TrackerClients { clients: Vec::new(), failures: Vec::new() };
        for (tracker, answer) in trackers.iter().zip(answers) {
            match answer {
                Some(Ok(client)) => all.clients.push(client),
                Some(Err(error)) => all.failures.push((tracker.clone(), error)),
                None => {
                    let error =
                        AskError::Lost { tracker: tracker.clone(), source: LinkError::NoAnswer(limit) };
                    all.failures.push((tracker.clone(), error));
                }
            }
        }
        all
    }

    /// The trackers that failed so far, and how; if [`TrackerClients::is_none_left`], all.
    pub fn failures(&self) -> &[(TrackerAddress, AskError)] {
        &self.failures
    }

    /// Whether no tracker is left: then what was asked has no answer, or not all of one.
    pub fn is_none_left(&self) -> bool {
        self.clients.is_empty()
    }

    /// Who has this? The answers for the first meaning which somebody has, merged; empty if nobody
    /// has any.
    pub async fn who_has(&mut self, what: &What) -> Vec<Candidate> {
        let mut answers = Vec::new();
        for mut client in std::mem::take(&mut self.clients) {
            match client.who_has(what).await {
                Ok(found) => {
                    answers.push(found);
                    self.clients.push(client);
                }
                Err(error) => self.failures.push((client.tracker, error)),
            }
        }
        let of_meaning = |meaning: usize| {
            let of_each = answers.iter_mut().filter_map(|answer| answer.get_mut(meaning));
            merge_candidates(of_each.map(std::mem::take))
        };
        (0..what.questions().len()).map(of_meaning).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// Calls `each` with every line of the catalogues whose name begins with `prefix`, in the order of
    /// (name, id), and each once. A page of each tracker is in memory at a time.
    pub async fn list(&mut self, prefix: &str, each: impl FnMut(ListedFile)) {
        let request = |last: Option<&ListedFile>| ToTracker::List {
            prefix: prefix.into(),
            after: last.map(|file| (file.name.clone(), file.id)),
            limit: MAX_PAGE_ENTRIES as u32,
        };
        self.merge_lists(request, each).await;
    }

    /// Calls `each` with every registered peer, in the order of their ids, and each once. A page of each
    /// tracker is in memory at a time.
    pub async fn peers(&mut self, each: impl FnMut(ListedPeer)) {
        let request = |last: Option<&ListedPeer>| ToTracker::Peers {
            after: last.map(|peer| peer.peer.clone()),
            limit: MAX_PAGE_ENTRIES as u32,
        };
        self.merge_lists(request, each).await;
    }

    async fn merge_lists<E: Listed>(
        &mut self,
        request: impl Fn(Option<&E>) -> ToTracker,
        mut each: impl FnMut(E),
    ) {
        let mut lists: Vec<List<E>> = self.clients.drain(..).map(List::new).collect();
        loop {
            for mut list in std::mem::take(&mut lists) {
                match list.refill(&request).await {
                    Ok(()) => lists.push(list),
                    Err(error) => self.failures.push((list.client.tracker, error)),
                }
            }
            let fronts = lists.iter_mut().filter(|list| !list.page.is_empty());
            let Some(first) = fronts.min_by(|a, b| a.page[0].order(&b.page[0])) else { break };
            let Some(mut entry) = first.page.pop_front() else { break };
            for list in &mut lists {
                if let Some(same) = list.page.pop_front_if(|other| other.order(&entry).is_eq()) {
                    entry.join(same);
                }
            }
            each(entry);
        }
        self.clients = lists.into_iter().map(|list| list.client).collect();
    }
}

/// One tracker's list, a page of it at a time.
struct List<E> {
    client: TrackerClient,
    page: VecDeque<E>,
    last: Option<E>,
    is_more: bool,
}

impl<E: Listed> List<E> {
    fn new(client: TrackerClient) -> List<E> {
        List { client, page: VecDeque::new(), last: None, is_more: true }
    }

    /// Fetches the next page, if this one is used up and there is one.
    async fn refill(&mut self, request: impl Fn(Option<&E>) -> ToTracker) -> Result<(), AskError> {
        if self.page.is_empty() && self.is_more {
            let (page, is_more) = self.client.page::<E>(request(self.last.as_ref())).await?;
            self.last = page.last().cloned();
            // An empty page has nothing to go on behind.
            self.is_more = is_more && self.last.is_some();
            self.page = page.into();
        }
        Ok(())
    }
}

/// A line of a list that trackers tell in pages, in an order.
trait Listed: Clone {
    /// The page that an answer is.
    fn page(answer: FromTracker) -> Result<(Vec<Self>, bool), FromTracker>;
    /// Equal: they are about the same.
    fn order(&self, other: &Self) -> Ordering;
    /// Puts what two trackers say of the same together.
    fn join(&mut self, other: Self);
}

impl Listed for ListedFile {
    fn page(answer: FromTracker) -> Result<(Vec<ListedFile>, bool), FromTracker> {
        match answer {
            FromTracker::Files { files, more } => Ok((files, more)),
            other => Err(other),
        }
    }

    fn order(&self, other: &ListedFile) -> Ordering {
        (&self.name, self.id).cmp(&(&other.name, other.id))
    }

    /// The holders that two trackers count may be the same, so the larger count is told.
    fn join(&mut self, other: ListedFile) {
        if other.holders > self.holders {
            *self = other;
        }
    }
}

impl Listed for ListedPeer {
    fn page(answer: FromTracker) -> Result<(Vec<ListedPeer>, bool), FromTracker> {
        match answer {
            FromTracker::Peers { peers, more } => Ok((peers, more)),
            other => Err(other),
        }
    }

    fn order(&self, other: &ListedPeer) -> Ordering {
        self.peer.cmp(&other.peer)
    }

    /// Who has heard of it last knows best.
    fn join(&mut self, other: ListedPeer) {
        if other.confirmed_ms < self.confirmed_ms {
            *self = other;
        }
    }
}
