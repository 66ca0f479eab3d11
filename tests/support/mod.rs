//! The test kit: a harness that no failure slips through, and scripted counterparts on real sockets.
//!
//! | part | is |
//! |---|---|
//! | [`harness`] | `system_test`: a fresh actix system per test, panics, a deadline, leaks, the seed |
//! | [`leaks`] | which files and sockets of a test are still open |
//! | [`proxy`] | a TCP proxy that delays, cuts, corrupts and swallows, by script |
//! | [`holder`] | a holder that speaks the wire and misbehaves as told |
//! | [`tracker`] | a tracker that answers as told, and a peer that says to a real one what a test wants |
//! | [`files`] | seeded contents of the sizes that matter |
//! | [`tree`] | a second implementation of the manifest, to check the first against |
//! | [`getter`] | a getter that says to a real holder what a test wants |
//! | [`job`] | a download job as a test sees it: what it was asked for, and all that it told |
//! | [`swarm`] | a real tracker and real peers in the test's system, directly or through a proxy |
//! | [`binary`] | the binary, run beside the actors of a test |
//! | [`mounts`] | small disks that a test may fill, and a machine without a network |
//! | [`probe`] | an actor that hands on what it is told |
//!
//! A test file takes it in with `mod support;`. Nothing here has a fixed port, and the only
//! timers are those of the proxy, of the late and the trickling holder, and of the harness's deadline.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses its own part of the kit")]

pub mod binary;
pub mod files;
pub mod getter;
pub mod harness;
pub mod holder;
pub mod job;
pub mod leaks;
pub mod mounts;
pub mod probe;
pub mod proxy;
pub mod swarm;
pub mod tracker;
pub mod tree;

pub use files::Content;
pub use harness::{Test, system_test, system_test_within};
pub use holder::{Behaviour, FakeHolder};
pub use proxy::{Fault, FaultProxy};
pub use tracker::{FakeTracker, RawPeer};
