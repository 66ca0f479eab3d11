//! The actor that lets others fetch from us: it owns the listener, grants upload connections, and
//! knows what was given to whom.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::ops::Range;
use std::sync::Arc;

use actix::prelude::*;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::limits::{
    MAX_GREETING_CONNECTIONS, MAX_SENDING_UPLOADS, MAX_UPLOAD_CONNECTIONS, MAX_UPLOAD_CONNECTIONS_PER_ADDRESS,
};
use crate::base::{FileId, Geometry, PeerId, SpanSet};
use crate::net::address::site;
use crate::net::limiter::Limiter;
use crate::net::listener::accept_until;
use crate::peer::library::{ReadSmall, Suspect};
use crate::peer::shelf::Open;
use crate::peer::threads::Turns;
use crate::peer::trackers::HoldersOf;
use crate::peer::upload::{self, Upload};
use crate::plan::{Given, UploadId};

/// Whom uploads ask.
#[derive(Clone)]
pub struct Serving {
    /// Who opens files.
    pub open: Recipient<Open>,
    /// Who reads small ones.
    pub read: Recipient<ReadSmall>,
    /// Who hears of files that changed.
    pub suspect: Recipient<Suspect>,
    /// Who knows of other holders.
    pub others: Recipient<HoldersOf>,
}

/// What a block server needs.
pub struct BlockServerConfig {
    /// Who we are.
    pub us: PeerId,
    /// Whom uploads ask.
    pub serving: Serving,
    /// Changes whenever a partial file has got a span.
    pub growth: watch::Receiver<u64>,
    /// Where connections run.
    pub threads: Turns,
    /// The limit on all uploads together.
    pub limiter: Option<Limiter>,
}

/// Serves blocks to getters, one task per connection.
pub struct BlockServer {
    config: BlockServerConfig,
    /// Connections on which HELLO is to come, or that are turned away, the oldest first, and what ends them.
    greeting: BTreeMap<UploadId, CancellationToken>,
    /// How many of these there may be.
    max_greeting: usize,
    /// Those that were admitted, and from where.
    uploads: HashMap<UploadId, IpAddr>,
    from_address: HashMap<IpAddr, usize>,
    crowded: watch::Sender<Crowded>,
    /// Whether those who are turned away were logged: once, until somebody is admitted again.
    is_crowd_logged: bool,
    next_upload: u64,
    given: Given,
    turns: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl BlockServer {
    /// Starts the server on a listener that is bound already.
    pub fn start(listener: TcpListener, config: BlockServerConfig) -> Addr<BlockServer> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let server = BlockServer {
            config,
            greeting: BTreeMap::new(),
            max_greeting: max_greeting(getrlimit(Resource::Nofile).current),
            uploads: HashMap::new(),
            from_address: HashMap::new(),
            crowded: watch::Sender::new(Crowded::Nobody),
            is_crowd_logged: false,
            next_upload: 0,
            given: Given::default(),
            turns: Arc::new(Semaphore::new(MAX_SENDING_UPLOADS)),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let server = server.start();
        let us = server.downgrade();
        let accepting = accept_until(listener, stop, move |stream, from| {
            let us = us.clone();
            async move {
                // The stream leaves this thread's reactor here and joins another one's later.
                let (Some(us), Ok(stream)) = (us.upgrade(), stream.into_std()) else { return };
                // Awaited, so that connections wait in the kernel's queue and not in our mailbox.
                if us.send(Accepted { stream, from }).await.is_err() {
                    log::debug!("the block server has stopped; {from} is not served");
                }
            }
        });
        actix_rt::spawn(tasks.track_future(accepting));
        server
    }
}

/// How many connections that have not greeted a process may have that has so many descriptors: a quarter of
/// them, or whoever connects and says nothing would keep out those who greet.
fn max_greeting(descriptors: Option<u64>) -> usize {
    let quarter = descriptors.map_or(usize::MAX, |all| usize::try_from(all / 4).unwrap_or(usize::MAX));
    quarter.clamp(1, MAX_GREETING_CONNECTIONS)
}

impl Actor for BlockServer {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stop.cancel();
    }
}

/// A getter has connected.
#[derive(Message)]
#[rtype(result = "()")]
struct Accepted {
    stream: StdTcpStream,
    from: SocketAddr,
}

impl Handler<Accepted> for BlockServer {
    type Result = ();

    fn handle(&mut self, Accepted { stream, from }: Accepted, ctx: &mut Self::Context) {
        if self.greeting.len() >= self.max_greeting
            && let Some((_, oldest)) = self.greeting.pop_first()
        {
            oldest.cancel();
        }
        let id = UploadId(self.next_upload);
        self.next_upload += 1;
        let upload = Upload {
            us: self.config.us.clone(),
            id,
            from,
            serving: self.config.serving.clone(),
            give: ctx.address().recipient(),
            closed: ctx.address().recipient(),
            admit: ctx.address().recipient(),
            crowded: self.crowded.subscribe(),
            turns: Arc::clone(&self.turns),
            limiter: self.config.limiter.clone(),
            growth: self.config.growth.clone(),
        };
        let (server, stop) = (ctx.address().downgrade(), self.stop.child_token());
        self.greeting.insert(id, stop.clone());
        let task = self.tasks.track_future(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = upload::serve(upload, stream) => {}
            }
            if let Some(server) = server.upgrade() {
                server.do_send(UploadEnded(id));
            }
        });
        self.config.threads.take_turn().spawn(task);
    }
}

/// An upload connection has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct UploadEnded(UploadId);

impl Handler<UploadEnded> for BlockServer {
    type Result = ();

    fn handle(&mut self, UploadEnded(id): UploadEnded, _: &mut Self::Context) {
        self.greeting.remove(&id);
        let Some(from) = self.uploads.remove(&id) else { return };
        // There is a place again for whoever was turned away.
        self.crowded.send_if_modified(|crowded| {
            let ends = crowded.by(from);
            if ends {
                *crowded = Crowded::Nobody;
            }
            ends
        });
        if let Entry::Occupied(mut count) = self.from_address.entry(from) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.given.end(id);
    }
}

/// Whose uploads hold places that others want: whoever asked last was turned away for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// Whoever asked last was admitted.
    Nobody,
    /// Those from this site: it has as many as one may.
    From(IpAddr),
    /// All.
    All,
}

impl Crowded {
    /// Whether uploads to this site hold such places.
    pub(super) fn by(self, site: IpAddr) -> bool {
        self == Crowded::All || self == Crowded::From(site)
    }
}

/// A getter has greeted: is there room for it? If not, it is told to come back.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct Admit {
    pub id: UploadId,
    pub from: SocketAddr,
}

impl Handler<Admit> for BlockServer {
    type Result = bool;

    fn handle(&mut self, Admit { id, from }: Admit, _: &mut Self::Context) -> bool {
        // Else it made room for others meanwhile, and is about to end.
        if !self.greeting.contains_key(&id) {
            return false;
        }
        let address = site(from.ip());
        let from_there = self.from_address.get(&address).copied().unwrap_or(0);
        let is_full = self.uploads.len() >= MAX_UPLOAD_CONNECTIONS;
        let is_admitted = !is_full && from_there < MAX_UPLOAD_CONNECTIONS_PER_ADDRESS;
        // Who is turned away stays among those who greet until its connection has ended.
        if is_admitted {
            self.greeting.remove(&id);
            self.uploads.insert(id, address);
            self.from_address.insert(address, from_there + 1);
        }
        let crowded = match (is_admitted, is_full) {
            (true, _) => Crowded::Nobody,
            (false, true) => Crowded::All,
            (false, false) => Crowded::From(address),
        };
        self.crowded.send_if_modified(|before| std::mem::replace(before, crowded) != crowded);
        if !is_admitted && !self.is_crowd_logged {
            let (count, whose) = if is_full { (self.uploads.len(), "") } else { (from_there, " from there") };
            log::info!("{from} and more are told to come back: {count} uploads{whose} are running");
        }
        self.is_crowd_logged = !is_admitted;
        is_admitted
    }
}

/// A getter asks for spans: note what it is given.
#[derive(Message)]
#[rtype(result = "Gives")]
pub(super) struct Give {
    pub to: UploadId,
    pub id: FileId,
    pub geometry: Geometry,
    /// Not none.
    pub spans: Range<u32>,
    /// Whether only what no other getter was given.
    pub is_fresh: bool,
}

/// What a getter is given.
#[derive(Debug, MessageResponse)]
pub(super) struct Gives {
    /// The spans in front of this one.
    pub until: u32,
    /// If those are not all that it asked for: what others were given.
    pub to_others: Option<SpanSet>,
}

impl Handler<Give> for BlockServer {
    type Result = Gives;

    fn handle(&mut self, give: Give, _: &mut Self::Context) -> Gives {
        let Give { to, id, geometry, spans, is_fresh } = give;
        let end = spans.end;
        let until = self.given.give(to, id, &geometry, spans, is_fresh);
        let to_others = (until < end).then(|| self.given.to_others(to, id, &geometry));
        Gives { until, to_others }
    }
}

/// A getter has not asked for this file for long: what it was given of it does not count any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Closed {
    pub by: UploadId,
    pub id: FileId,
}

impl Handler<Closed> for BlockServer {
    type Result = ();

    fn handle(&mut self, Closed { by, id }: Closed, _: &mut Self::Context) {
        self.given.close(by, id);
    }
}

/// Stop accepting, end all uploads; answered when they have ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopServing;

impl Handler<StopServing> for BlockServer {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: StopServing, _: &mut Self::Context) -> Self::Result {
        self.stop.cancel();
        self.tasks.close();
        let tasks = self.tasks.clone();
        Box::pin(async move { tasks.wait().await }.into_actor(self).map(|(), _, ctx| ctx.stop()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use actix_rt::System;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::base::BlockRun;
    use crate::base::limits::MAX_SMALL_READ_FILES;
    use crate::peer::library::OpenError;
    use crate::peer::shelf::Served;
    use crate::peer::threads::DataThreads;
    use crate::wire::frame::BLOCKS_HEADER_BYTES;
    use crate::wire::peer::ToHolder;
    use crate::wire::tracker::Holder;
    use crate::wire::{Hello, encode};

    /// Has every content, of one byte, and tells how many it is asked for at once.
    struct Files(mpsc::Sender<usize>);

    impl Actor for Files {
        type Context = Context<Self>;
    }

    impl Handler<ReadSmall> for Files {
        type Result = Vec<Option<Vec<u8>>>;
        fn handle(&mut self, ReadSmall { ids }: ReadSmall, _: &mut Self::Context) -> Self::Result {
            self.0.try_send(ids.len()).expect("a test asks less often than the channel holds");
            ids.iter().map(|_| Some(vec![7])).collect()
        }
    }

    impl Handler<Open> for Files {
        type Result = Result<Served, OpenError>;
        fn handle(&mut self, _: Open, _: &mut Self::Context) -> Self::Result {
            Err(OpenError::Missing)
        }
    }

    impl Handler<Suspect> for Files {
        type Result = ();
        fn handle(&mut self, _: Suspect, _: &mut Self::Context) {}
    }

    impl Handler<HoldersOf> for Files {
        type Result = Vec<Holder>;
        fn handle(&mut self, _: HoldersOf, _: &mut Self::Context) -> Self::Result {
            Vec::new()
        }
    }

    /// A server of such files; where it listens, its threads, and how many it asks for at once.
    async fn serve() -> (Addr<BlockServer>, SocketAddr, DataThreads, mpsc::Receiver<usize>) {
        let (sender, asked) = mpsc::channel(1000);
        let files = Files(sender).start();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, threads) = (listener.local_addr().unwrap(), DataThreads::start().unwrap());
        let serving = Serving {
            open: files.clone().recipient(),
            read: files.clone().recipient(),
            suspect: files.clone().recipient(),
            others: files.recipient(),
        };
        let (us, growth) = ("p1".parse().unwrap(), watch::channel(0).1);
        let config = BlockServerConfig { us, serving, growth, threads: threads.turns(), limiter: None };
        (BlockServer::start(listener, config), address, threads, asked)
    }

    fn run(story: impl Future<Output = ()>) {
        System::new().block_on(async { timeout(Duration::from_secs(20), story).await.expect("it ends") });
    }

    #[test]
    fn of_small_files_that_are_asked_for_together_so_many_are_read_in_one_go() {
        run(async {
            let (server, address, threads, mut asked) = serve().await;
            let mut getter = TcpStream::connect(address).await.unwrap();
            let mut frames = Vec::new();
            encode(&ToHolder::Hello(Hello::new("p2".parse().unwrap())), &mut frames).unwrap();
            // Fewer bytes than are read ahead, so that nearly all of them are there when the first is looked at.
            let gets = MAX_SMALL_READ_FILES + 20;
            for number in 0..gets {
                let id = FileId::from_bytes([number as u8; 32]);
                let run = BlockRun { first: 0, count: 1 };
                encode(&ToHolder::Get { id, run, fresh: false }, &mut frames).unwrap();
            }
            getter.write_all(&frames).await.unwrap();
            let mut answered = 0;
            let mut largest = 0;
            while answered < gets {
                let together = asked.recv().await.unwrap();
                largest = largest.max(together);
                answered += together;
            }
            assert_eq!(answered, gets, "each is read once");
            assert_eq!(largest, MAX_SMALL_READ_FILES);
            let mut answers = vec![0; gets * (BLOCKS_HEADER_BYTES + 1)];
            getter.read_exact(&mut answers).await.unwrap();
            drop(getter);
            server.send(StopServing).await.unwrap();
            threads.stop().await;
        });
    }

    #[test]
    fn those_who_do_not_greet_have_a_quarter_of_the_descriptors_at_most() {
        for (descriptors, most) in [
            (Some(0), 1),
            (Some(64), 16),
            (Some(1024), 256),
            (Some(1 << 20), MAX_GREETING_CONNECTIONS),
            (None, MAX_GREETING_CONNECTIONS),
        ] {
            assert_eq!(max_greeting(descriptors), most, "{descriptors:?}");
        }
    }

    #[test]
    fn who_has_made_room_or_was_admitted_already_is_admitted_no_more() {
        run(async {
            let (server, address, threads, _asked) = serve().await;
            let from: SocketAddr = ([10, 0, 0, 1], 9).into();
            let admit = |number| server.send(Admit { id: UploadId(number), from });
            assert!(!admit(7).await.unwrap(), "it is not among those that greet");
            // It connects, and greets only as far as this test says so.
            let mut waiting = TcpStream::connect(address).await.unwrap();
            while !admit(0).await.unwrap() {}
            assert!(!admit(0).await.unwrap(), "once is enough");
            waiting.shutdown().await.unwrap();
            waiting.read_to_end(&mut Vec::new()).await.unwrap();
            server.send(StopServing).await.unwrap();
            threads.stop().await;
        });
    }
}
