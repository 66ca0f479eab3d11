//! The task that owns the socket of a session: bytes in, bytes out, no decisions.

use std::sync::Arc;

use actix::Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
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
        end = serve_to_the_end(ControlLink::new(stream), &session, orders, &shared) => end,
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
) -> Result<(), LinkError> {
    let end = match serve(&mut link, session, orders, shared).await? {
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
) -> Result<End, LinkError> {
    let Shared { registry, turns, .. } = shared;
    let mut long = None;
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
        let deadline = Instant::now() + idle;
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
                        Ok(Err(error)) => return Err(error),
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

/// A place among the long frames, and until when the frame has to be whole.
type LongFrame<'t> = Option<(SemaphorePermit<'t>, Instant)>;

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
        if !come {
            match long {
                Some((_, until)) => {
                    let readable = timeout_at(*until, link.readable()).await;
                    readable.map_err(|_| LinkError::Idle(REQUEST_TIMEOUT))??;
                }
                None => link.readable().await?,
            }
        }
        let turn = take_turn(&shared.turns).await;
        link.read_now(requests, max, long.is_some()).await?;
        if !requests.is_empty() {
            *long = None;
            return Ok(turn);
        }
        drop(turn);
        come = false;
        match long {
            // Who trickles is always readable.
            Some((_, until)) if Instant::now() >= *until => return Err(LinkError::Idle(REQUEST_TIMEOUT)),
            None if link.is_long() => {
                let place = take_turn(&shared.long_frames).await;
                *long = Some((place, Instant::now() + REQUEST_TIMEOUT));
            }
            Some(_) | None => {}
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
    _slot: Slot,
) {
    let mut link = ControlLink::new(stream);
    if link.write(&[FromTracker::Hello(own_hello()), refused(Refusal::Limit, why)]).await.is_ok() {
        link.finish().await;
    }
}
