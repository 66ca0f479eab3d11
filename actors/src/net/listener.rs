//! Accepting connections: one loop that no error ends.

use std::future::Future;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::base::limits::ACCEPT_BACKOFF;

/// Accepts until `stop` is cancelled, and calls `take` with each connection.
///
/// An error of accept (no descriptors left, a connection that was reset while it waited) is followed
/// by a pause of [`ACCEPT_BACKOFF`], so that the loop neither ends nor spins, and logged, once for those
/// that come one after the other.
pub async fn accept_until<F, Fut>(listener: TcpListener, stop: CancellationToken, mut take: F)
where
    F: FnMut(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut is_failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    is_failing = false;
                    take(stream, from).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        log::warn!("a connection could not be accepted: {error}; it is tried again");
                    }
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(ACCEPT_BACKOFF) => {}
                    }
                }
            }
        }
    }
}
