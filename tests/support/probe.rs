//! An actor that hands on what it is told, so that a test can await it.

use actix::{Actor, Context, Handler, Message, Recipient};
use tokio::sync::mpsc;

/// Messages that a test may leave unread: far more than any test causes.
const ROOM: usize = 100_000;

/// Takes messages of one kind; stops when its address and the recipients made of it are gone.
pub struct Probe<M> {
    seen: mpsc::Sender<M>,
}

impl<M: Message<Result = ()> + Send + Unpin + 'static> Probe<M> {
    /// A recipient to give away, and the messages that reach it.
    pub fn start() -> (Recipient<M>, mpsc::Receiver<M>) {
        let (seen, messages) = mpsc::channel(ROOM);
        (Actor::start(Probe { seen }).recipient(), messages)
    }
}

impl<M: Unpin + 'static> Actor for Probe<M> {
    type Context = Context<Probe<M>>;
}

impl<M: Message<Result = ()> + Unpin + 'static> Handler<M> for Probe<M> {
    type Result = ();

    fn handle(&mut self, message: M, _: &mut Context<Probe<M>>) {
        // A test that has seen enough drops its end.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.seen.try_send(message) {
            panic!("a test leaves {ROOM} messages unread");
        }
    }
}
