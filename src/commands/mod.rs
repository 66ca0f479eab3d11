//! The commands, one file each: from arguments to actors, and from what they tell to lines and exit codes.

pub(crate) mod hash;
pub(crate) mod query;
