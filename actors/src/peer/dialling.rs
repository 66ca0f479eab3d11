//! The actor that says which addresses may be dialled now, to all jobs of a process.
//!
//! It ends when nobody is left to ask it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::plan::{DialEnd, Dials};

/// The actor.
#[derive(Default)]
pub struct Dialling {
    dials: Dials,
}

/// Whom a job asks for permits.
#[derive(Clone)]
pub struct DialPermits {
    /// Who permits a dial.
    pub may_dial: Recipient<MayDial>,
    /// Who hears of peers that have come back.
    pub back: Recipient<RegisteredAgain>,
}

impl From<&Addr<Dialling>> for DialPermits {
    fn from(dialling: &Addr<Dialling>) -> DialPermits {
        DialPermits { may_dial: dialling.clone().recipient(), back: dialling.clone().recipient() }
    }
}

impl Actor for Dialling {
    type Context = Context<Self>;
}

/// An address is about to be dialled. If it may not be: how long to wait.
#[derive(Message)]
#[rtype(result = "Result<DialPermit, Duration>")]
pub struct MayDial(pub SocketAddr);

impl Handler<MayDial> for Dialling {
    type Result = Result<DialPermit, Duration>;

    fn handle(&mut self, MayDial(address): MayDial, ctx: &mut Self::Context) -> Self::Result {
        self.dials.dial(address, Instant::now())?;
        Ok(DialPermit { ended: ctx.address().recipient(), address, end: DialEnd::LeftOff })
    }
}

/// A dial that may be made. Dropped, wherever that is, it tells what came of it.
#[derive(Debug)]
pub struct DialPermit {
    ended: Recipient<DialEnded>,
    address: SocketAddr,
    /// What came of it so far.
    pub end: DialEnd,
}

impl Drop for DialPermit {
    fn drop(&mut self) {
        self.ended.do_send(DialEnded { address: self.address, end: self.end });
    }
}

/// What came of a dial that was permitted.
#[derive(Message)]
#[rtype(result = "()")]
struct DialEnded {
    address: SocketAddr,
    end: DialEnd,
}

impl Handler<DialEnded> for Dialling {
    type Result = ();

    fn handle(&mut self, DialEnded { address, end }: DialEnded, _: &mut Self::Context) {
        self.dials.ended(address, end, Instant::now());
    }
}

/// Trackers tell again of the peer at this address, after a time in which they did not.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisteredAgain(pub SocketAddr);

impl Handler<RegisteredAgain> for Dialling {
    type Result = ();

    fn handle(&mut self, RegisteredAgain(address): RegisteredAgain, _: &mut Self::Context) {
        self.dials.registered_again(address);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::task::LocalSet;

    use super::*;
    use crate::base::limits::DIAL_PAUSE;

    /// A job may end at any moment between its question and its dial.
    #[tokio::test]
    async fn a_permit_that_nobody_takes_is_given_back() {
        let story = async {
            let permits = DialPermits::from(&Dialling::default().start());
            let [here, there] = [1, 2].map(|number| SocketAddr::from(([10, 0, 0, number], 9)));
            let permit = permits.may_dial.send(MayDial(there)).await.unwrap().unwrap();
            let wait = permits.may_dial.send(MayDial(there)).await.unwrap().unwrap_err();
            assert_eq!(wait, DIAL_PAUSE, "it is being dialled");
            let mut unheard = Box::pin(permits.may_dial.send(MayDial(here)));
            assert!(poll_fn(|context| Poll::Ready(unheard.as_mut().poll(context).is_pending())).await);
            // Answered behind it.
            assert!(permits.may_dial.send(MayDial(there)).await.unwrap().is_err());
            drop((permit, unheard));
            for address in [here, there] {
                permits.may_dial.send(MayDial(address)).await.unwrap().expect("nobody dials it");
            }
        };
        LocalSet::new().run_until(story).await;
    }
}
