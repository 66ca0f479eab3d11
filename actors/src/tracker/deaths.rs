//! Each actor of a tracker dies in turn, see [`crate::deaths`].

use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::registry::{Order, PeerRegistry};
use super::scheduler::RefreshScheduler;
use super::session::TrackerSession;
use super::{Tracker, TrackerConfig, TrackerEvent, TrackerHandle};
use crate::deaths::{Die, mortal, run, soon};
use crate::net::{ControlLink, LinkError};
use crate::wire::Hello;
use crate::wire::tracker::{FromTracker, ToTracker};

mortal!(Tracker, PeerRegistry, RefreshScheduler, TrackerSession);

/// Who below the one that is told dies.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
enum Orphan {
    Registry,
    Clock,
    Sessions,
}

impl Handler<Orphan> for Tracker {
    type Result = ();
    fn handle(&mut self, orphan: Orphan, _: &mut Context<Tracker>) {
        match orphan {
            Orphan::Registry => self.shared.registry.do_send(Die),
            Orphan::Clock | Orphan::Sessions => self.shared.registry.do_send(orphan),
        }
    }
}

impl Handler<Orphan> for PeerRegistry {
    type Result = ();
    fn handle(&mut self, orphan: Orphan, _: &mut Context<PeerRegistry>) {
        match orphan {
            Orphan::Clock => self.scheduler.do_send(Die),
            _ => {
                for speaker in self.speakers.values() {
                    speaker.orders.send_replace(Order::Die);
                }
            }
        }
    }
}

/// Who hears what a tracker tells, and does nothing.
pub(super) struct Events;

impl Actor for Events {
    type Context = Context<Events>;
}

impl Handler<TrackerEvent> for Events {
    type Result = ();
    fn handle(&mut self, _: TrackerEvent, _: &mut Context<Events>) {}
}

fn start_at(listen: SocketAddr) -> TrackerHandle {
    let config = TrackerConfig { listen, refresh_interval: Duration::from_secs(3600) };
    super::start(config, Events.start().recipient()).unwrap()
}

/// A registered peer.
async fn register(tracker: SocketAddr, instance: u64) -> ControlLink<TcpStream> {
    let mut link = ControlLink::new(TcpStream::connect(tracker).await.unwrap());
    let hello = ToTracker::Hello(Hello::new("p1".parse().unwrap()));
    link.write(&[hello, ToTracker::Register { instance, port: 9, files: Vec::new() }]).await.unwrap();
    loop {
        match soon("an answer", link.read()).await.unwrap() {
            FromTracker::Registered { .. } => return link,
            FromTracker::Hello(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn is_closed(mut link: ControlLink<TcpStream>) -> bool {
    let ended: Result<FromTracker, LinkError> = soon("the end of the connection", link.read()).await;
    ended.is_err()
}

#[test]
fn a_tracker_of_which_an_actor_dies_says_which_and_ends_and_its_port_is_free() {
    run(|| async {
        type Death = (&'static str, fn(&Addr<Tracker>));
        let deaths: [Death; 3] = [
            ("who accepts connections", |tracker| tracker.do_send(Die)),
            ("the registry of peers", |tracker| tracker.do_send(Orphan::Registry)),
            ("the clock of confirmation", |tracker| tracker.do_send(Orphan::Clock)),
        ];
        let mut address = ([127, 0, 0, 1], 0).into();
        for (expected, kill) in deaths {
            let tracker = start_at(address);
            address = tracker.address;
            let link = register(address, 1).await;
            kill(&tracker.tracker);
            assert_eq!(soon("to see it", tracker.broken()).await, expected);
            soon("the end of the tracker", tracker.stop()).await;
            assert!(is_closed(link).await, "{expected}");
        }
        soon("the end of a whole one", start_at(address).stop()).await;
    });
}

#[test]
fn a_session_that_dies_closes_its_connection_and_its_peer_can_come_back_at_once() {
    run(|| async {
        let tracker = start_at(([127, 0, 0, 1], 0).into());
        let link = register(tracker.address, 1).await;
        tracker.tracker.do_send(Orphan::Sessions);
        assert!(is_closed(link).await);
        // As another process: the former one speaks for nobody any more.
        let link = register(tracker.address, 2).await;
        assert!(
            timeout(Duration::from_millis(100), tracker.broken()).await.is_err(),
            "all that it needs lives"
        );
        soon("the end of the tracker", tracker.stop()).await;
        assert!(is_closed(link).await);
    });
}
