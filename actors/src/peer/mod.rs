//! The actors of a peer, and of a download job.

pub mod events;
pub mod tracker_client;
pub mod library;
