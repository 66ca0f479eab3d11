//! The task that owns the socket of a session: bytes in, bytes out, no decisions.

use std::pin::Pin;
use std::sync::Arc;

use actix::Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::registry::{Order, Requests, refused};
use super::session::{Greet, Greeted, Shared, SocketEnded, TrackerSession};
use super::{Slot, own_hello};
use crate::base::limits::{IDLE_TIMEOUT, MAX_FRAMES_PER_BATCH, REQUEST_TIMEOUT};
use crate::net::link::{ControlLink, LinkError, Readable, within_hello_budget};
use crate::wire::Refusal;
use crate::wire::tracker::{FromTracker, ToTracker};

/// Serves a connection until it ends, an order closes it or `stop` is cancelled, and tells the session
/// how.
pub(super) async fn run(
    stream: impl AsyncRead + AsyncWrite + Readable + Unpin,
    slot: Slot,
    session: Addr<TrackerSession>,
    orders: watch::Receiver<Order>,
    shared: Arc<Shared>,
) {
    let mut closing = orders.clone();
    let end = tokio::select! {
        end = serve_to_the_end(ControlLink::new(stream), &session, orders, &shared, &slot) => end,
        // It cannot fail: the session has the sender.
        _ = closing.wait_for(|order| matches!(order, Order::Close)) => Ok(()),
        () = shared.stop.cancelled() => Ok(()),
    };
    // The place is free before anybody hears of the end.
    drop(slot);
    session.do_send(SocketEnded(end));
}

/// How serving ends where the socket does not.
enum End {
    /// Nothing is left to be said.
    Silent,
    /// Everything was said; it has to arrive.
    Said,
    /// This is to be said, and arrive; whether it is for a fault of the other side.
    Saying(Vec<FromTracker>, Result<(), LinkError>),
}

async fn serve_to_the_end(
    mut link: ControlLink<impl AsyncRead + AsyncWrite + Readable + Unpin>,
    session: &Addr<TrackerSession>,
    orders: watch::Receiver<Order>,
    shared: &Shared,
    slot: &Slot,
) -> Result<(), LinkError> {
    let end = match serve(&mut link, session, orders, shared, slot).await? {
        End::Silent => return Ok(()),
        End::Said => Ok(()),
        End::Saying(words, end) => {
            link.write(&words).await?;
            end
        }
    };
    // In a box, for all connections would be as large as their end is.
    Box::pin(link.finish()).await;
    end
}

async fn serve(
    link: &mut ControlLink<impl AsyncRead + AsyncWrite + Readable + Unpin>,
    session: &Addr<TrackerSession>,
    mut orders: watch::Receiver<Order>,
    shared: &Shared,
    slot: &Slot,
) -> Result<End, LinkError> {
    let Shared { registry, turns, .. } = shared;
    let mut long = LongFrame { places: [&slot.long_frames, &shared.long_frames], state: LongState::Short };
    // A registered peer says nothing between two CONFIRMs, and the schedule judges whether it lives.
    let idle = IDLE_TIMEOUT.max(shared.refresh_interval * 2);
    let mut requests = Vec::new();
    let greeted = match within_hello_budget(receive(link, shared, &mut long, &mut requests, 1)).await {
        Ok(_turn) => match requests.pop() {
            Some(first) => session.send(Greet(first)).await,
            None => return Ok(End::Silent),
        },
        Err(LinkError::Frame(error)) => {
            let words = vec![FromTracker::Hello(own_hello()), refused(Refusal::Protocol, error.to_string())];
            return Ok(End::Saying(words, Err(error.into())));
        }
        Err(error) => return Err(error),
    };
    let caller = match greeted {
        Ok(Greeted::Welcome(caller)) => caller,
        Ok(Greeted::Refused(refusal)) => {
            return Ok(End::Saying(vec![FromTracker::Hello(own_hello()), refusal], Ok(())));
        }
        Err(_) => return Ok(End::Silent),
    };
    link.write(&[FromTracker::Hello(own_hello())]).await?;
    link.hello_is_done();
    loop {
        let mut requests = Vec::new();
        let mut deadline = Instant::now() + idle;
        let mut turn = loop {
            tokio::select! {
                read = timeout_at(
                    deadline,
                    receive(link, shared, &mut long, &mut requests, MAX_FRAMES_PER_BATCH),
                ) => {
                    match read {
                        Ok(Ok(turn)) => break turn,
                        Ok(Err(LinkError::Frame(error))) => {
                            let words = vec![refused(Refusal::Protocol, error.to_string())];
                            return Ok(End::Saying(words, Err(error.into())));
                        }
                        Ok(Err(error @ LinkError::TooSlow(_))) => {
                            let words = vec![refused(Refusal::Limit, error.to_string())];
                            return Ok(End::Saying(words, Err(error)));
                        }
                        Ok(Err(error)) => return Err(error),
                        // It is we who let it wait.
                        Err(_) if matches!(long.state, LongState::Waiting(_)) => {
                            deadline = Instant::now() + idle;
                        }
                        Err(_) => return Err(LinkError::Idle(idle)),
                    }
                }
                Ok(()) = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    if let Order::Confirm(digest) = order {
                        link.write(&[FromTracker::Confirm { digest }]).await?;
                    }
                    #[cfg(test)]
                    if let Order::Die = order {
                        session.do_send(crate::deaths::Die);
                    }
                }
            }
        };
        // The answer is the credit: nothing is read before the answers to these are written.
        loop {
            // Without a registry the tracker is ending.
            let asked = Requests { from: Arc::clone(&caller), requests };
            let Ok(answers) = registry.send(asked).await else { return Ok(End::Silent) };
            drop(turn);
            link.write_frames(&answers.frames).await?;
            if answers.close {
                return Ok(End::Said);
            }
            if answers.rest.is_empty() {
                break;
            }
            requests = answers.rest;
            turn = take_turn(turns).await;
        }
    }
}

/// What a connection has to have to hold much of a frame that is not whole: a place among those of its
/// site, so that one machine does not have them all, and one among all.
struct LongFrame<'t> {
    places: [&'t Semaphore; 2],
    state: LongState<'t>,
}

enum LongState<'t> {
    /// It holds little.
    Short,
    /// It holds as much as it may, and reads nothing. In a box, for few wait, and kept by whoever waits: a
    /// CONFIRM meanwhile does not send it to the end of the queue.
    Waiting(Pin<Box<dyn Future<Output = Place<'t>> + 't>>),
    /// It may hold a whole frame.
    Has(Place<'t>),
}

struct Place<'t> {
    _places: [SemaphorePermit<'t>; 2],
    /// Until when it has its place for certain.
    until: Instant,
}

async fn take_place<'t>([of_site, of_all]: [&'t Semaphore; 2]) -> Place<'t> {
    let _places = [take_turn(of_site).await, take_turn(of_all).await];
    Place { _places, until: Instant::now() + REQUEST_TIMEOUT }
}

impl LongFrame<'_> {
    /// Gives up a place that was had for long enough, if others may want it. While there are places left,
    /// a frame may be slow.
    ///
    /// # Errors
    /// It is given up.
    fn renew(&mut self) -> Result<(), LinkError> {
        let LongState::Has(place) = &mut self.state else { return Ok(()) };
        if Instant::now() < place.until {
            return Ok(());
        }
        if self.places.iter().any(|places| places.available_permits() == 0) {
            return Err(LinkError::TooSlow(REQUEST_TIMEOUT));
        }
        place.until = Instant::now() + REQUEST_TIMEOUT;
        Ok(())
    }
}

/// Appends to `requests` what has come, at least one and at most `max`, and returns the turn in which it
/// was read. Nothing is waited for in a turn, so it is not long until the next. Whoever holds much of a frame
/// that is not whole has a place for it in `long`, or waits for one and reads nothing. Cancel safe.
async fn receive<'t>(
    link: &mut ControlLink<impl AsyncRead + AsyncWrite + Readable + Unpin>,
    shared: &'t Shared,
    long: &mut LongFrame<'t>,
    requests: &mut Vec<ToTracker>,
    max: usize,
) -> Result<SemaphorePermit<'t>, LinkError> {
    // What is left of the last read may be requests.
    let mut come = link.has_unread();
    loop {
        match &mut long.state {
            LongState::Waiting(waiting) => long.state = LongState::Has(waiting.await),
            LongState::Has(place) if !come => match timeout_at(place.until, link.readable()).await {
                Ok(readable) => readable?,
                Err(_) => {
                    long.renew()?;
                    continue;
                }
            },
            LongState::Short if !come => link.readable().await?,
            LongState::Short | LongState::Has(_) => {}
        }
        // Who trickles is always readable.
        long.renew()?;
        let turn = take_turn(&shared.turns).await;
        let has_place = matches!(long.state, LongState::Has(_));
        link.read_now(requests, max, has_place).await?;
        if !requests.is_empty() {
            long.state = LongState::Short;
            return Ok(turn);
        }
        drop(turn);
        come = false;
        if !has_place && link.is_long() {
            long.state = LongState::Waiting(Box::pin(take_place(long.places)));
        }
    }
}

async fn take_turn(turns: &Semaphore) -> SemaphorePermit<'_> {
    turns.acquire().await.expect("nobody closes it")
}

/// Tells a connection for which there is no slot that it has to come again.
pub(super) async fn refuse_for_want_of_room(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    why: &'static str,
    _place: OwnedSemaphorePermit,
) {
    let mut link = ControlLink::new(stream);
    if link.write(&[FromTracker::Hello(own_hello()), refused(Refusal::Limit, why)]).await.is_ok() {
        link.finish().await;
    }
}
