//! A connection to a tracker for somebody who only asks: `who-has`, `ls`, `peers`.

use std::io;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::base::limits::{MAX_PAGE_ENTRIES, TRACKER_ANSWER_TIMEOUT};
use crate::base::{FileId, FileName, PeerId, What};
use crate::net::link::within_hello_budget;
use crate::net::{ControlLink, LinkError, TrackerAddress};
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
pub struct TrackerClient {
    tracker: TrackerAddress,
    link: ControlLink<TcpStream>,
}

impl TrackerClient {
    /// Dials a tracker and greets it.
    ///
    /// # Errors
    /// It cannot be reached, does not greet, or speaks another version.
    pub async fn connect(tracker: &TrackerAddress, hello: Hello) -> Result<TrackerClient, AskError> {
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

    /// Who has this? All that it can mean is asked at once; the answer is that of the first meaning
    /// which somebody has, and empty if nobody has any.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn who_has(&mut self, what: &What) -> Result<Vec<Candidate>, AskError> {
        let requests: Vec<ToTracker> = what
            .questions()
            .iter()
            .map(|question| ToTracker::WhoHas { question: question.clone() })
            .collect();
        self.ask(&requests).await?;
        let mut first = Vec::new();
        // Every answer is taken, so that the next request meets its own.
        for _ in requests {
            match self.answer().await? {
                FromTracker::Candidates { candidates } if first.is_empty() => first = candidates,
                FromTracker::Candidates { .. } => {}
                other => return Err(self.unexpected(&other)),
            }
        }
        Ok(first)
    }

    /// Calls `each` with every line of the catalogue whose name begins with `prefix`, in the order of
    /// (name, id). One page is in memory at a time.
    ///
    /// # Errors
    /// No answer, or a refusal; the lines before it have been passed on.
    pub async fn list(&mut self, prefix: &str, mut each: impl FnMut(ListedFile)) -> Result<(), AskError> {
        let mut after: Option<(FileName, FileId)> = None;
        loop {
            let limit = MAX_PAGE_ENTRIES as u32;
            self.ask(&[ToTracker::List { prefix: prefix.into(), after, limit }]).await?;
            let (files, more) = match self.answer().await? {
                FromTracker::Files { files, more } => (files, more),
                other => return Err(self.unexpected(&other)),
            };
            after = files.last().map(|file| (file.name.clone(), file.id));
            files.into_iter().for_each(&mut each);
            // An empty page has nothing to go on behind.
            if !more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Calls `each` with every registered peer, in the order of their ids. One page is in memory at a time.
    ///
    /// # Errors
    /// No answer, or a refusal; the peers before it have been passed on.
    pub async fn peers(&mut self, mut each: impl FnMut(ListedPeer)) -> Result<(), AskError> {
        let mut after: Option<PeerId> = None;
        loop {
            self.ask(&[ToTracker::Peers { after, limit: MAX_PAGE_ENTRIES as u32 }]).await?;
            let (peers, more) = match self.answer().await? {
                FromTracker::Peers { peers, more } => (peers, more),
                other => return Err(self.unexpected(&other)),
            };
            after = peers.last().map(|peer| peer.peer.clone());
            peers.into_iter().for_each(&mut each);
            if !more || after.is_none() {
                return Ok(());
            }
        }
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
