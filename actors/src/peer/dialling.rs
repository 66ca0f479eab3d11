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

/// Whom a job asks and tells of its dials.
#[derive(Clone)]
pub struct DialPermits {
    /// Who permits a dial.
    pub may_dial: Recipient<MayDial>,
    /// Who hears what came of it.
    pub ended: Recipient<DialEnded>,
    /// Who hears of peers that have come back.
    pub back: Recipient<RegisteredAgain>,
}

impl From<&Addr<Dialling>> for DialPermits {
    fn from(dialling: &Addr<Dialling>) -> DialPermits {
        DialPermits {
            may_dial: dialling.clone().recipient(),
            ended: dialling.clone().recipient(),
            back: dialling.clone().recipient(),
        }
    }
}

impl Actor for Dialling {
    type Context = Context<Self>;
}

/// An address is about to be dialled. If it may not be: how long to wait.
#[derive(Message)]
#[rtype(result = "Result<(), Duration>")]
pub struct MayDial(pub SocketAddr);

impl Handler<MayDial> for Dialling {
    type Result = Result<(), Duration>;

    fn handle(&mut self, MayDial(address): MayDial, _: &mut Self::Context) -> Self::Result {
        self.dials.dial(address, Instant::now())
    }
}

/// What came of a dial that was permitted.
#[derive(Message)]
#[rtype(result = "()")]
pub struct DialEnded {
    /// Where to.
    pub address: SocketAddr,
    /// What came of it.
    pub end: DialEnd,
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
