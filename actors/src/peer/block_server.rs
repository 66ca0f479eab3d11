//! The actor that lets others fetch from us: it owns the listener and grants upload connections.

use std::net::{SocketAddr, TcpStream as StdTcpStream};

use actix::prelude::*;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::PeerId;
use crate::base::limits::MAX_UPLOAD_CONNECTIONS;
use crate::net::listener::accept_until;
use crate::peer::library::Suspect;
use crate::peer::shelf::Open;
use crate::peer::threads::Turns;
use crate::peer::trackers::HoldersOf;
use crate::peer::upload::{self, Upload};

/// Serves blocks to getters, one task per connection.
pub struct BlockServer {
    us: PeerId,
    open: Recipient<Open>,
    suspect: Recipient<Suspect>,
    others: Recipient<HoldersOf>,
    growth: watch::Receiver<u64>,
    threads: Turns,
    uploads: usize,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl BlockServer {
    /// Starts the server on a listener that is bound already.
    pub fn start(
        us: PeerId,
        listener: TcpListener,
        open: Recipient<Open>,
        suspect: Recipient<Suspect>,
        others: Recipient<HoldersOf>,
        growth: watch::Receiver<u64>,
        threads: Turns,
    ) -> Addr<BlockServer> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let server = BlockServer {
            us,
            open,
            suspect,
            others,
            growth,
            threads,
            uploads: 0,
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
        let is_granted = self.uploads < MAX_UPLOAD_CONNECTIONS;
        if is_granted {
            self.uploads += 1;
        } else {
            log::info!("{from} is told to come back: {MAX_UPLOAD_CONNECTIONS} uploads are running");
        }
        let upload = Upload {
            us: self.us.clone(),
            from,
            open: self.open.clone(),
            suspect: self.suspect.clone(),
            others: self.others.clone(),
            growth: self.growth.clone(),
            is_granted,
        };
        let (server, stop) = (ctx.address().downgrade(), self.stop.clone());
        let task = self.tasks.track_future(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = upload::serve(upload, stream) => {}
            }
            if is_granted && let Some(server) = server.upgrade() {
                server.do_send(UploadEnded);
            }
        });
        self.threads.take_turn().spawn(task);
    }
}

/// An upload connection has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct UploadEnded;

impl Handler<UploadEnded> for BlockServer {
    type Result = ();

    fn handle(&mut self, _: UploadEnded, _: &mut Self::Context) {
        self.uploads -= 1;
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
