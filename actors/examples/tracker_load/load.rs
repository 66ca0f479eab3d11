//! All peers, and what they do together.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use enxame_actors::base::limits::MAX_ANSWER_HOLDERS;
use enxame_actors::wire::decode;
use enxame_actors::wire::tracker::FromTracker;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::config::Config;
use crate::latency::Latencies;
use crate::peer::{Greeting, Peer, is};
use crate::questions::Questions;

/// How long anything may take beside its own time: the load ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// How fast questions come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rate {
    /// The next ones when answers have come.
    AsFastAsItGoes,
    /// So many of each asker, whether answers come or not.
    PerSecond(f64),
}

/// All peers of a tracker.
#[derive(Debug)]
pub(crate) struct Peers {
    config: Rc<Config>,
    all: Vec<Peer>,
}

impl Peers {
    /// Connects and registers them, all at once.
    pub(crate) async fn join(
        config: &Rc<Config>,
        tracker: SocketAddr,
        greetings: Vec<Greeting>,
    ) -> Result<Peers, Failure> {
        let joining = greetings.into_iter().map(|greeting| Peer::join(tracker, greeting));
        let mut all = together(joining, PATIENCE).await?;
        all.sort_unstable_by_key(Peer::number);
        Ok(Peers { config: Rc::clone(config), all })
    }

    /// Tells the lists of peers that registered without.
    pub(crate) async fn tell_lists(&mut self) -> Result<(), Failure> {
        let telling = self.all.drain(..).map(|mut peer| {
            let config = Rc::clone(&self.config);
            async move {
                peer.tell_list(&config).await?;
                Ok(peer)
            }
        });
        self.all = together(telling, PATIENCE).await?;
        self.all.sort_unstable_by_key(Peer::number);
        Ok(())
    }

    /// Lets them be for a time, confirming their lists.
    pub(crate) async fn stay(&mut self, time: Duration) -> Result<(), Failure> {
        let stop = CancellationToken::new();
        let staying = self.all.drain(..).map(|peer| stay(peer, stop.clone()));
        let until = async {
            tokio::time::sleep(time).await;
            stop.cancel();
        };
        let (all, ()) = tokio::join!(together(staying, time + PATIENCE), until);
        self.all = all?;
        self.all.sort_unstable_by_key(Peer::number);
        Ok(())
    }

    /// Compares answers with what the peers have told: a fast tracker has to be a right one.
    pub(crate) async fn check_answers(&mut self, questions: &Questions) -> Result<(), Failure> {
        let holders = self.config.holders;
        for peer in self.all.iter_mut().take(self.config.asking) {
            let (bytes, asked) = questions.bytes(peer.number() * 101, self.config.depth);
            peer.write(bytes).await?;
            let mut answered = 0;
            let first = peer.number() * 101;
            while answered < asked {
                let check = |frame: &[u8]| {
                    let asked = questions.asked(first + answered);
                    answered += 1;
                    let answer = decode(frame)?;
                    let FromTracker::Candidates { candidates } = &answer else {
                        return Err(format!("{answer:?} is no answer to WHO_HAS").into());
                    };
                    // The asker itself may be one of the holders, and is not told of itself.
                    let right = |told: usize| told == holders.min(MAX_ANSWER_HOLDERS) || told + 1 == holders;
                    match candidates.as_slice() {
                        [one]
                            if one.id == asked.id
                                && one.names == [asked.name.clone()]
                                && one.holder_count as usize == holders
                                && right(one.holders.len()) =>
                        {
                            Ok(())
                        }
                        _ => Err(format!("{answer:?} where {asked:?} was asked for").into()),
                    }
                };
                timeout(PATIENCE, peer.read(check)).await??;
            }
        }
        Ok(())
    }

    /// Some of them ask for so long, the others stay. How long each answer took.
    pub(crate) async fn ask(
        &mut self,
        questions: &Rc<Questions>,
        rate: Rate,
        time: Duration,
    ) -> Result<Latencies, Failure> {
        let stop = CancellationToken::new();
        let others = self.all.split_off(self.config.asking);
        let staying = together(others.into_iter().map(|peer| stay(peer, stop.clone())), time + PATIENCE);
        let until = Instant::now() + time;
        let asking = self.all.drain(..).map(|peer| {
            let config = Rc::clone(&self.config);
            let first = peer.number() * 1009;
            let mut asker = Asker {
                peer,
                questions: Rc::clone(questions),
                next: first,
                under_way: VecDeque::new(),
                answered: 0,
                latencies: Latencies::default(),
            };
            async move {
                match rate {
                    Rate::AsFastAsItGoes => asker.ask_on(config.depth, until).await?,
                    Rate::PerSecond(rate) => {
                        let gap = (config.group * config.asking) as f64 / rate;
                        asker.ask_at_times(config.group, gap, until).await?;
                    }
                }
                Ok((asker.peer, asker.latencies))
            }
        });
        let asking = together(asking, time + PATIENCE);
        let asking = async {
            let asked = asking.await;
            stop.cancel();
            asked
        };
        let (asked, others) = tokio::join!(asking, staying);
        let mut latencies = Latencies::default();
        for (peer, its) in asked? {
            latencies.append(its);
            self.all.push(peer);
        }
        self.all.append(&mut others?);
        self.all.sort_unstable_by_key(Peer::number);
        Ok(latencies)
    }
}

/// Runs these, each as a task, and waits for all of them.
async fn together<T: 'static, F: Future<Output = Result<T, Failure>> + 'static>(
    futures: impl Iterator<Item = F>,
    patience: Duration,
) -> Result<Vec<T>, Failure> {
    let mut tasks = JoinSet::new();
    for future in futures {
        tasks.spawn_local(future);
    }
    let all = async {
        let mut done = Vec::with_capacity(tasks.len());
        while let Some(result) = tasks.join_next().await {
            done.push(result??);
        }
        Ok(done)
    };
    timeout(patience, all).await?
}

/// A peer that asks nothing, and answers CONFIRM.
async fn stay(mut peer: Peer, stop: CancellationToken) -> Result<Peer, Failure> {
    let unexpected = |frame: &[u8]| Err(format!("{frame:?} where nothing was asked").into());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(peer),
            read = peer.read(unexpected) => read?,
        }
    }
}

/// A peer that asks.
struct Asker {
    peer: Peer,
    questions: Rc<Questions>,
    /// Where it goes on in the ring of questions.
    next: usize,
    /// When questions were due, and how many of them are not answered.
    under_way: VecDeque<(Instant, usize)>,
    /// Answers that were read and are not taken off these.
    answered: usize,
    latencies: Latencies,
}

impl Asker {
    /// Keeps `depth` questions under way.
    async fn ask_on(&mut self, depth: usize, until: Instant) -> Result<(), Failure> {
        let mut free = depth;
        while free > 0 || !self.under_way.is_empty() {
            let now = Instant::now();
            if free > 0 && now < until {
                self.send(free, now).await?;
            }
            free = if self.under_way.is_empty() { 0 } else { self.take_answers().await? };
        }
        Ok(())
    }

    /// Asks `group` questions at random times that are `gap_s` apart on average.
    async fn ask_at_times(&mut self, group: usize, gap_s: f64, until: Instant) -> Result<(), Failure> {
        let mut rng = fastrand::Rng::with_seed(self.next as u64);
        let mut gap = || Duration::from_secs_f64(-(1.0 - rng.f64()).ln() * gap_s);
        let mut due = Instant::now() + gap();
        loop {
            let over = due >= until;
            if over && self.under_way.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = sleep_until(due.into()), if !over => {
                    self.send(group, due).await?;
                    due += gap();
                }
                taken = self.take_answers(), if !self.under_way.is_empty() => {
                    taken?;
                }
            }
        }
    }

    async fn send(&mut self, count: usize, due: Instant) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < count {
            let (bytes, some) = self.questions.bytes(self.next, count - sent);
            self.peer.write(bytes).await?;
            self.next += some;
            sent += some;
        }
        self.under_way.push_back((due, count));
        Ok(())
    }

    /// Reads answers that have come, and says how many. Cancel safe.
    async fn take_answers(&mut self) -> Result<usize, Failure> {
        if self.answered == 0 {
            let count = |frame: &[u8]| {
                // Behind two names of ten letters stands the number of candidates: each question has one.
                if is(frame, b"Candidates") && frame.get(24) == Some(&0x91) {
                    self.answered += 1;
                    return Ok(());
                }
                Err(format!("{:?} is not one candidate", decode::<FromTracker>(frame)).into())
            };
            self.peer.read(count).await?;
        }
        let (now, answers) = (Instant::now(), std::mem::take(&mut self.answered));
        let mut left = answers;
        while left > 0 {
            let Some((due, open)) = self.under_way.front_mut() else {
                return Err("more answers than questions".into());
            };
            let answered = left.min(*open);
            (0..answered).for_each(|_| self.latencies.add(now.saturating_duration_since(*due)));
            *open -= answered;
            left -= answered;
            if *open == 0 {
                self.under_way.pop_front();
            }
        }
        Ok(answers)
    }
}
