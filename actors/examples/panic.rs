//! A tracker of which an actor panics as soon as a peer registers: for `scripts/abuse.sh`, which looks what
//! becomes of a process that was built as it is released. `cargo test` cannot, for it builds no such process.

use std::time::Duration;

use actix::{Actor, Context, Handler, System};
use enxame_actors::tracker::{self, TrackerConfig, TrackerEvent};

/// Who hears what happens at the tracker.
struct Events;

impl Actor for Events {
    type Context = Context<Self>;
}

impl Handler<TrackerEvent> for Events {
    type Result = ();

    fn handle(&mut self, event: TrackerEvent, _: &mut Context<Self>) {
        if let TrackerEvent::PeerJoined { peer, .. } = event {
            panic!("an actor was asked to panic, by {peer}");
        }
    }
}

fn main() {
    System::new().block_on(async {
        let config =
            TrackerConfig { listen: ([127, 0, 0, 1], 0).into(), refresh_interval: Duration::from_secs(30) };
        let tracker = tracker::start(config, Events.start().recipient()).expect("a port is free");
        println!("ready tracker {}", tracker.address);
        let what = tracker.broken().await;
        println!("{what} has ended, and nobody ended the process");
    });
}
