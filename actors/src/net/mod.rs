//! Tasks that own sockets: reading, writing, accepting, dialling. What the bytes mean is decided above.

pub mod address;
pub mod blocks;
pub mod greeting;
pub mod limiter;
pub mod link;
pub mod listener;
pub mod reached;

pub use address::{AddressError, TrackerAddress, dial};
pub use limiter::Limiter;
pub use link::{ControlLink, LinkError};
