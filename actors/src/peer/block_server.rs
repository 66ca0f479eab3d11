//! The actor that lets others fetch from us: it owns the listener, grants upload connections, and
//! knows what was given to whom.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::ops::Range;
use std::sync::Arc;

use actix::prelude::*;
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
    /// Those that were admitted, and from where.
    uploads: HashMap<UploadId, IpAddr>,
    from_address: HashMap<IpAddr, usize>,
    crowded: watch::Sender<Crowded>,
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
            uploads: HashMap::new(),
            from_address: HashMap::new(),
            crowded: watch::Sender::new(Crowded::Nobody),
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
        if self.greeting.len() >= MAX_GREETING_CONNECTIONS
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
            crowded.by(from) && std::mem::replace(crowded, Crowded::Nobody) != Crowded::Nobody
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
        let is_news = self.crowded.send_if_modified(|before| std::mem::replace(before, crowded) != crowded);
        // Those who are turned away one after the other are logged once.
        if !is_admitted && is_news {
            let (count, whose) = if is_full { (self.uploads.len(), "") } else { (from_there, " from there") };
            log::info!("{from} and more are told to come back: {count} uploads{whose} are running");
        }
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
