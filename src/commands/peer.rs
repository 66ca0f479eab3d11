//! `enxame peer`: shares a folder until a signal ends it, and fetches into it first if told so.

use actix::{Actor, Context, Handler};
use enxame_actors::peer::tracker_link::TrackerNews;
use enxame_actors::peer::{Peer, PeerConfig};

use super::{in_system, title};
use crate::cli::PeerArgs;
use crate::exit::Exit;
use crate::failure::{Asker, Failure, JobContext};
use crate::human;
use crate::json::Event;
use crate::reporter::{Outcome, Reporter};
use crate::signals::Signals;
use crate::ui::Ui;

/// Runs a peer.
pub(crate) fn run(ui: &Ui, args: &PeerArgs) -> Result<Exit, Failure> {
    in_system(async {
        let mut signals = Signals::listen()?;
        let config = PeerConfig {
            id: args.id.clone(),
            root: args.root.clone(),
            listen: args.listen,
            tracker: args.tracker.tracker.clone(),
        };
        let news = News { ui: ui.clone() }.start().recipient();
        let peer = tokio::select! {
            peer = Peer::start(config, Some(news)) => peer?,
            // Nothing is shared yet that would have to be ended in order.
            () = signals.next() => return Ok(Exit::Done),
        };
        let shared = peer.first_scan();
        ui.ready("peer", Some(peer.id()), peer.address());
        ui.note(format_args!(
            "enxame: {} shares {} ({}) of {}",
            peer.id(),
            human::count(shared.files as u64, "file"),
            human::bytes(shared.bytes),
            args.root.join(args.id.as_str()).join("files").display()
        ));
        let exit = fetch(ui, args, &peer, &mut signals).await;
        if exit == Some(Exit::Done) {
            signals.next().await;
        }
        signals.or_at_once(peer.stop()).await;
        // A signal is how a role is meant to end.
        Ok(exit.unwrap_or(Exit::Done))
    })
}

/// Fetches what `--get` asks for. `None`: a signal came in the middle.
async fn fetch(ui: &Ui, args: &PeerArgs, peer: &Peer, signals: &mut Signals) -> Option<Exit> {
    if args.get.is_empty() {
        return Some(Exit::Done);
    }
    let context = JobContext { tracker: args.tracker.tracker.clone(), asker: Asker::Peer };
    let reporter = Reporter::new(ui.clone(), context, title(&args.get)).start();
    let job = peer.fetch(args.get.clone(), false, reporter.clone().recipient());
    tokio::select! {
        () = job.wait() => Some(reporter.send(Outcome).await.unwrap_or(Exit::Failed)),
        () = signals.next() => {
            job.cancel();
            signals.or_at_once(job.wait()).await;
            // The bars go, whatever the outcome.
            let _ = reporter.send(Outcome).await;
            None
        }
    }
}

/// Writes as records how the peer and its tracker get on. People read it in the log.
struct News {
    ui: Ui,
}

impl Actor for News {
    type Context = Context<Self>;
}

impl Handler<TrackerNews> for News {
    type Result = ();

    fn handle(&mut self, news: TrackerNews, _: &mut Context<Self>) {
        if !self.ui.json {
            return;
        }
        match &news {
            TrackerNews::Registered { tracker } => {
                self.ui.event(&Event::Registered { tracker: tracker.to_string() });
            }
            TrackerNews::Lost { tracker, why } => {
                self.ui.event(&Event::Lost { tracker: tracker.to_string(), reason: why });
            }
        }
    }
}
