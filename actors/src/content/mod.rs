//! Files and hashes: the proof of a content, the folder, part files, the index and its cache.
//!
//! Everything here is synchronous and runs on blocking threads; nothing knows of sockets, messages
//! or actors. A path is never built from a name: files are opened relative to a folder's handle.

pub mod cache;
mod clash;
pub mod folder;
pub mod index;
pub mod part;
pub mod scan;
pub mod small;
pub mod tree;

pub use cache::{Cache, Cached};
pub use clash::clash_key;
pub use folder::{Folder, Stamp};
pub use index::{Entry, Index};
pub use part::{Existing, PartData, PartError, PartFile, existing};
pub use scan::{Scan, SkipReason, walk};
pub use tree::{ManifestError, Proof, SpanHash, hash_file, hash_path, hash_path_counted};
