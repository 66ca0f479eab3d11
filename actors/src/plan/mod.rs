//! Pure decisions: which span to ask of whom, whom to dial, when to give up; and for the tracker, who
//! has what and when whom to ask whether it still does. No sockets, no files, no actors; the time is
//! an argument and randomness comes from a seed, so that thousands of cases run without a runtime.

mod backoff;
pub mod catalogue;
pub mod confirmation;
mod dials;
mod ending;
mod file;
mod given;
mod holders;
mod job;
mod links;
mod merge;
mod rate;
mod remembered;
mod slab;
mod sorted;
mod texts;
mod told;

pub use backoff::Backoff;
pub use dials::{DialEnd, Dials};
pub use ending::{Ending, Policy};
pub use file::{Choice, FilePlan, Holding};
pub use given::{Given, UploadId};
pub use holders::{DialState, Holders};
pub use job::{FileIndex, JobPlan, Request, Settled, SourceId};
pub use merge::{merge_candidates, merge_pages};
pub use rate::Rate;
pub use remembered::Remembered;
pub use told::{Telling, ToldList};
