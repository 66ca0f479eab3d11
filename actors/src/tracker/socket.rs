//! The task that owns the socket of a session: bytes in, bytes out, no decisions.

use std::time::Duration;

use actix::Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::registry::refused;
use super::session::{Frames, SocketEnded, TrackerSession};
use super::{Slot, own_hello};
use crate::base::limits::IDLE_TIMEOUT;
use crate::net::link::{ControlLink, LinkError, within_hello_budget};
use crate::wire::Refusal;
use crate::wire::tracker::{FromTracker, ToTracker};

/// Serves a connection until it ends or `stop` is cancelled, and tells the session how.
pub(super) async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    slot: Slot,
    session: Addr<TrackerSession>,
    pushes: mpsc::Receiver<FromTracker>,
    stop: CancellationToken,
    refresh_interval: Duration,
) {
    // A registered peer says nothing between two CONFIRMs, and the schedule judges whether it lives.
    let idle = IDLE_TIMEOUT.max(refresh_interval * 2);
    let served = serve(ControlLink::new(stream), &session, pushes, idle);
    let end = stop.run_until_cancelled(served).await.unwrap_or(Ok(()));
    // The place is free before anybody hears of the end.
    drop(slot);
    session.do_send(SocketEnded(end));
}

async fn serve(
    mut link: ControlLink<impl AsyncRead + AsyncWrite + Unpin>,
    session: &Addr<TrackerSession>,
    mut pushes: mpsc::Receiver<FromTracker>,
    idle: Duration,
) -> Result<(), LinkError> {
    let mut batch: Vec<ToTracker> = match within_hello_budget(link.read()).await {
        Ok(hello) => vec![hello],
        Err(LinkError::Frame(error)) => {
            let frames = [FromTracker::Hello(own_hello()), refused(Refusal::Protocol, error.to_string())];
            link.write(&frames).await?;
            link.finish().await;
            return Err(error.into());
        }
        Err(error) => return Err(error),
    };
    loop {
        // The answer is the credit: nothing is read before the answers to the last batch are written.
        while !batch.is_empty() {
            let Ok(answers) = session.send(Frames(batch)).await else { return Ok(()) };
            link.write(&answers.frames).await?;
            if answers.close {
                link.finish().await;
                return Ok(());
            }
            link.hello_is_done();
            batch = answers.rest;
        }
        let deadline = Instant::now() + idle;
        while batch.is_empty() {
            tokio::select! {
                read = timeout_at(deadline, link.read_batch(&mut batch)) => match read {
                    Ok(Ok(())) => {}
                    Ok(Err(LinkError::Frame(error))) => {
                        link.write(&[refused(Refusal::Protocol, error.to_string())]).await?;
                        link.finish().await;
                        return Err(error.into());
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(LinkError::Idle(idle)),
                },
                Some(push) = pushes.recv() => link.write(&[push]).await?,
            }
        }
    }
}

/// Tells a connection for which there is no slot that it has to come again.
pub(super) async fn refuse_for_want_of_room(stream: impl AsyncRead + AsyncWrite + Unpin, _slot: Slot) {
    let mut link = ControlLink::new(stream);
    let why = "this tracker has as many connections as it takes; try again later";
    if link.write(&[FromTracker::Hello(own_hello()), refused(Refusal::Limit, why)]).await.is_ok() {
        link.finish().await;
    }
}
