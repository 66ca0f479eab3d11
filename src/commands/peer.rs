//! `enxame peer`: shares a folder until a signal ends it, and fetches into it first if told so.

use actix::{Actor, Context, Handler, Message};
use enxame_actors::base::What;
use enxame_actors::peer::tracker_link::TrackerNews;
use enxame_actors::peer::{Job, Peer, PeerConfig};

use super::in_system;
use crate::cli::{PeerArgs, each_once};
use crate::exit::Exit;
use crate::failure::{Asker, Failure, JobContext};
use crate::human;
use crate::json::Event;
use crate::progress::ScanBar;
use crate::reporter::{Outcome, Reporter};
use crate::signals::Signals;
use crate::ui::Ui;

/// Runs a peer.
pub(crate) fn run(ui: &Ui, args: &PeerArgs) -> Result<Exit, Failure> {
    in_system(async {
        let mut signals = Signals::listen()?;
        let wanted = each_once(args.get.iter().cloned());
        let config = PeerConfig {
            id: args.id.clone(),
            root: args.root.clone(),
            listen: args.listen,
            trackers: args.tracker.addresses(),
            wants: wanted.clone(),
            progress: Some(ScanBar::new(&ui.bars).start().recipient()),
            limits: args.limits.limits(),
        };
        let news = News { ui: ui.clone(), is_ready: false }.start();
        let peer = tokio::select! {
            peer = Peer::start(config, Some(news.clone().recipient())) => peer?,
            // Nothing is shared yet that would have to be ended in order.
            () = signals.next() => return Ok(Exit::Done),
        };
        let shared = peer.first_scan();
        ui.ready("peer", Some(peer.id()), peer.address(), Some(shared.skipped));
        news.do_send(IsReady);
        if shared.left > 0 {
            let left = human::count(shared.left as u64, "file");
            ui.note(format_args!("enxame: hashes {left} more, and shares each when that is done"));
        }
        ui.note(format_args!(
            "enxame: {} shares {} ({}) of {}",
            peer.id(),
            human::count(shared.files as u64, "file"),
            human::bytes(shared.bytes),
            args.root.join(args.id.as_str()).join("files").display()
        ));
        for unfinished in peer.unfinished() {
            ui.note(format_args!("enxame: goes on with {} ({})", unfinished.name, unfinished.id.short()));
        }
        let is_idle = wanted.is_empty() && peer.unfinished().is_empty();
        let job = (!is_idle).then(|| fetch(ui, args, wanted, &peer));
        let broken = tokio::select! {
            () = signals.next() => None,
            what = peer.broken() => Some(what),
        };
        signals
            .or_at_once(async {
                if let Some(job) = job {
                    job.cancel();
                    job.wait().await;
                }
                peer.stop().await;
            })
            .await;
        broken.map_or(Ok(Exit::Done), |what| Err(Failure::defect(what)))
    })
}

/// Goes on with what an earlier run began, and starts to fetch what `--get` asks for. What fails is
/// told, and the peer shares on.
fn fetch(ui: &Ui, args: &PeerArgs, wanted: Vec<What>, peer: &Peer) -> Job {
    let context = JobContext { trackers: args.tracker.addresses(), asker: Asker::Peer };
    let begun = peer.unfinished().iter().map(|unfinished| What::from(unfinished.id));
    let all = each_once(begun.chain(wanted.iter().cloned()));
    let reporter = Reporter::new(ui.clone(), context, &all).start();
    let job = peer.go_on(wanted, args.overwrite, reporter.clone().recipient());
    let over = job.clone();
    actix_rt::spawn(async move {
        over.wait().await;
        // Takes the bars away.
        let _ = reporter.send(Outcome).await;
    });
    job
}

/// Writes as records how the peer and its trackers get on, once it is ready: the first record of a
/// role says so. People read it in the log.
struct News {
    ui: Ui,
    is_ready: bool,
}

/// The peer is ready.
#[derive(Message)]
#[rtype(result = "()")]
struct IsReady;

impl Handler<IsReady> for News {
    type Result = ();

    fn handle(&mut self, _: IsReady, _: &mut Context<Self>) {
        self.is_ready = true;
    }
}

impl Actor for News {
    type Context = Context<Self>;
}

impl Handler<TrackerNews> for News {
    type Result = ();

    fn handle(&mut self, news: TrackerNews, _: &mut Context<Self>) {
        if !self.ui.json || !self.is_ready {
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
