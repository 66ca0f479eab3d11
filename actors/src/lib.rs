//! Everything below the `enxame` binary, in layers. A lower layer never names an upper one:
//!
//! ```text
//! tracker, peer   the actors
//! net             tasks that own sockets
//! wire | content | plan
//! base            ids, names, geometry, limits
//! ```

pub mod base;
pub mod content;
#[cfg(test)]
mod deaths;
pub mod net;
pub mod peer;
pub mod plan;
pub mod tracker;
pub mod wire;
