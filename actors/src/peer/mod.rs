//! The actors of a peer, and of a download job.
//!
//! [`Peer`] shares a folder and fetches into it; [`Fetch`] only fetches.

pub mod assembler;
pub mod block_server;
mod copies;
pub mod dialling;
pub mod downloader;
pub mod events;
pub mod gather;
mod job_file;
pub mod library;
mod memory;
mod places;
mod role;
pub mod shelf;
pub mod source_connection;
mod source_task;
pub mod threads;
pub mod tracker_client;
pub mod tracker_link;
pub mod trackers;
mod tree;
mod upload;

pub use downloader::{Destination, Want};
pub use role::{Fetch, FetchConfig, Job, Peer, PeerConfig, PeerError, RateLimits, open_folder};
