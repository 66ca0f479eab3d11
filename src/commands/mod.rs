//! The commands, one file each: from arguments to actors, and from what they tell to lines and exit codes.

pub(crate) mod get;
pub(crate) mod hash;
pub(crate) mod peer;
pub(crate) mod query;
pub(crate) mod tracker;

use crate::exit::Exit;
use crate::failure::Failure;

/// Runs a command that talks or has actors, in an actor system of its own.
fn in_system(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    actix_rt::System::new().block_on(command)
}
