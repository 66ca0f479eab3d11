//! `enxame tracker`: runs a tracker until a signal ends it.

use actix::{Actor, Context, Handler};
use enxame_actors::tracker::{self, TrackerConfig, TrackerEvent, TrackerLimits};
use rustix::process::{Resource, getrlimit};

use super::in_system;
use crate::cli::TrackerArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::json::Event;
use crate::signals::Signals;
use crate::ui::Ui;

/// Runs a tracker.
pub(crate) fn run(ui: &Ui, args: &TrackerArgs) -> Result<Exit, Failure> {
    let config = TrackerConfig { listen: args.listen, refresh_interval: args.refresh_interval };
    let mut limits = TrackerLimits::default();
    limits.catalogue.peers = args.max_peers;
    // A quarter more, for those who ask.
    limits.allow_connections(args.max_peers + args.max_peers / 4);
    limits.catalogue.files_per_peer = args.max_files_per_peer;
    limits.fit_descriptors(getrlimit(Resource::Nofile).current);
    if limits.connections < limits.catalogue.peers {
        log::warn!(
            "too few file descriptors for {} peers: this tracker takes {} connections, {} of them from one \
             address; raise `ulimit -Hn` (LimitNOFILE of systemd)",
            limits.catalogue.peers,
            limits.connections,
            limits.connections_per_address
        );
    }
    in_system(async {
        let mut signals = Signals::listen()?;
        let events = Events { ui: ui.clone() }.start().recipient();
        let tracker = tracker::start_with(config, limits, events)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        ui.ready("tracker", None, tracker.address, None);
        let broken = tokio::select! {
            () = signals.next() => None,
            what = tracker.broken() => Some(what),
        };
        signals.or_at_once(tracker.stop()).await;
        broken.map_or(Ok(Exit::Done), |what| Err(Failure::defect(what)))
    })
}

/// Writes the tracker's events as records. People read them in the log.
struct Events {
    ui: Ui,
}

impl Actor for Events {
    type Context = Context<Self>;
}

impl Handler<TrackerEvent> for Events {
    type Result = ();

    fn handle(&mut self, event: TrackerEvent, _: &mut Context<Self>) {
        if !self.ui.json {
            return;
        }
        match &event {
            TrackerEvent::PeerJoined { peer, address, files } => {
                self.ui.event(&Event::Joined { peer, address: *address, files: *files });
            }
            TrackerEvent::PeerReturned { peer, address, files } => {
                self.ui.event(&Event::Returned { peer, address: *address, files: *files });
            }
            TrackerEvent::PeerLeft { peer, reason } => {
                self.ui.event(&Event::Left { peer, reason: reason.to_string() });
            }
        }
    }
}
