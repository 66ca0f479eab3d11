//! What a download job tells whoever started it, and how it can fail.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actix::Message;

use crate::base::{FileId, FileName, PeerId};
use crate::wire::tracker::Candidate;

/// What happens in a job. Bytes and durations are counted from the job's start.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum JobEvent {
    /// Somebody has the file.
    Found {
        /// The name under which it is fetched.
        name: FileName,
        /// Its id.
        id: FileId,
        /// Its size in bytes.
        size: u64,
        /// How many peers hold it.
        holders: u32,
    },
    /// A source came or went.
    Source {
        /// The remote peer.
        peer: PeerId,
        /// Its address.
        address: SocketAddr,
        /// What became of the connection.
        state: SourceState,
    },
    /// A few times a second per file that moves.
    Progress(Progress),
    /// A file stands under its final name (or went to standard output).
    Done(FileDone),
    /// One of the wanted files cannot be had; the others go on.
    Failed {
        /// What was asked for, as it was typed.
        what: String,
        /// Why not.
        error: JobError,
    },
}

/// What became of a source's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It greeted us.
    Connected,
    /// It is not asked any more, and why.
    Dropped {
        /// A sentence for people.
        reason: String,
    },
}

/// How far one file is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The file.
    pub id: FileId,
    /// The name under which it is fetched.
    pub name: FileName,
    /// Bytes verified and written, the ones found on disk included.
    pub have_bytes: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes per second over the last seconds.
    pub rate_bytes_s: u64,
    /// What each source has delivered of this file.
    pub sources: Vec<SourceShare>,
}

/// How many verified bytes came from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceShare {
    /// The remote peer.
    pub peer: PeerId,
    /// Bytes that were verified and used.
    pub bytes: u64,
}

/// A finished file.
#[derive(Clone, Debug)]
pub struct FileDone {
    /// The name under which it was asked for.
    pub name: FileName,
    /// Its id.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// Where it stands; `None` if it went to standard output.
    pub path: Option<PathBuf>,
    /// From the start of the job.
    pub elapsed: Duration,
    /// Bytes that came over the network and were used.
    pub fetched_bytes: u64,
    /// Bytes that were on disk already and were verified.
    pub kept_bytes: u64,
    /// Bytes that came over the network and were not used.
    pub wasted_bytes: u64,
    /// Who delivered how much.
    pub sources: Vec<SourceShare>,
}

/// Why a wanted file could not be had.
#[derive(Clone, Debug)]
pub enum JobError {
    /// No living peer has it.
    NobodyHasIt,
    /// Several contents fit; one has to be chosen.
    Ambiguous(Vec<Candidate>),
    /// Holders exist, but none delivered: each with its reason.
    Undelivered(Vec<(PeerId, String)>),
    /// No tracker answered: each with its reason.
    NoTracker(Vec<(String, String)>),
    /// A tracker answered, and refused.
    Refused {
        /// The tracker.
        tracker: String,
        /// Its sentence.
        why: String,
    },
    /// The disk refused.
    Disk {
        /// The path that was to be read or written.
        path: PathBuf,
        /// The system's kind of error.
        kind: io::ErrorKind,
        /// What was tried and what the system says.
        why: String,
    },
    /// Another content stands where the file was to go.
    TargetExists(PathBuf),
    /// Another file of the same job goes there.
    SamePlace {
        /// The place.
        path: PathBuf,
        /// The place of the other file, whose name is the same or one with it on other systems.
        there: PathBuf,
        /// What was typed for the other file.
        other: String,
    },
    /// A folder has more files than a job takes: the others are fetched.
    TooManyFiles(usize),
    /// The job was cancelled.
    Interrupted,
}

impl JobError {
    /// Whether the same wish can come true later without anybody changing it.
    pub fn may_pass(&self) -> bool {
        match self {
            JobError::NobodyHasIt
            | JobError::Undelivered(_)
            | JobError::NoTracker(_)
            | JobError::Refused { .. }
            | JobError::Disk { .. } => true,
            JobError::Ambiguous(_)
            | JobError::TargetExists(_)
            | JobError::SamePlace { .. }
            | JobError::TooManyFiles(_)
            | JobError::Interrupted => false,
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, reasons: Vec<String>| f.write_str(&reasons.join("; "));
        match self {
            JobError::NobodyHasIt => f.write_str("nobody has it"),
            JobError::Ambiguous(candidates) => write!(f, "{} different files fit", candidates.len()),
            JobError::Undelivered(reasons) if reasons.is_empty() => f.write_str("no holder could be reached"),
            JobError::Undelivered(reasons) => {
                f.write_str("no holder could deliver it: ")?;
                list(f, reasons.iter().map(|(peer, why)| format!("{peer}: {why}")).collect())
            }
            JobError::NoTracker(reasons) => {
                f.write_str("no tracker answered: ")?;
                list(f, reasons.iter().map(|(address, why)| format!("{address}: {why}")).collect())
            }
            JobError::Refused { tracker, why } => write!(f, "the tracker {tracker} refused: {why}"),
            JobError::Disk { path, why, .. } => write!(f, "{}: {why}", path.display()),
            JobError::SamePlace { path, there, other } if path == there => {
                write!(f, "{} is where {other} goes, which is another file", path.display())
            }
            JobError::SamePlace { path, there, .. } => {
                let (path, there) = (path.display(), there.display());
                write!(f, "{path} and {there}, where another file goes, are one name on other systems")
            }
            JobError::TargetExists(path) => write!(f, "{} exists and has another content", path.display()),
            JobError::TooManyFiles(most) => {
                write!(
                    f,
                    "with what was found before, more is listed than the {most} files that one job takes"
                )
            }
            JobError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for JobError {}
