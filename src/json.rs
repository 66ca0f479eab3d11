//! What `--json` prints: one object per line. Scripts rely on it, so fields may be added, but are
//! never renamed.

use std::net::SocketAddr;

use enxame_actors::base::{FileId, FileName, PeerId};
use enxame_actors::peer::events::{FileDone, JobEvent, Progress, SourceShare, SourceState};
use enxame_actors::wire::tracker::{Candidate, Holder, ListedFile, ListedPeer};
use serde::{Serialize, Serializer};

use crate::failure::Failure;

/// One line of a command that does something: `get`, and the roles.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event<'a> {
    /// A role can be used.
    Ready {
        /// `tracker` or `peer`.
        role: &'static str,
        /// The peer's id; null for a tracker.
        peer: Option<&'a PeerId>,
        /// Where it listens.
        address: SocketAddr,
        /// How much in the peer's folder is not shared; null for a tracker.
        not_shared: Option<usize>,
    },
    /// A peer registered at this tracker.
    Joined {
        /// The peer.
        peer: &'a PeerId,
        /// Where it serves.
        address: SocketAddr,
        /// Entries in the first frame of its list.
        files: usize,
    },
    /// A peer registered on a new connection while its older one lived.
    Returned {
        /// The peer.
        peer: &'a PeerId,
        /// Where it serves.
        address: SocketAddr,
        /// Entries in the first frame of its list.
        files: usize,
    },
    /// A peer's registration at this tracker ended.
    Left {
        /// The peer.
        peer: &'a PeerId,
        /// Why.
        reason: String,
    },
    /// This peer is registered, and all of its list is told.
    Registered {
        /// The tracker's address.
        tracker: String,
    },
    /// The tracker cannot be reached; it is tried again.
    Lost {
        /// The tracker's address.
        tracker: String,
        /// Why.
        reason: &'a str,
    },
    /// Somebody has the file.
    Found {
        /// The name under which it is fetched.
        name: &'a FileName,
        /// Its id.
        #[serde(serialize_with = "hex")]
        id: FileId,
        /// Its size in bytes.
        size: u64,
        /// How many peers hold it.
        holders: u32,
    },
    /// A source came or went.
    Source {
        /// The remote peer.
        peer: &'a PeerId,
        /// Its address.
        address: SocketAddr,
        /// `connected` or `dropped`.
        state: &'static str,
        /// Why it was dropped; null if it was not.
        reason: Option<&'a str>,
    },
    /// How far a file is.
    Progress {
        /// The file.
        #[serde(serialize_with = "hex")]
        id: FileId,
        /// The name under which it is fetched.
        name: &'a FileName,
        /// Bytes verified and written.
        have_bytes: u64,
        /// Its size in bytes.
        size: u64,
        /// Bytes per second over the last seconds.
        rate_bytes_s: u64,
        /// How many sources have delivered or are delivering it.
        sources: usize,
    },
    /// A file is there.
    Done {
        /// The name under which it was asked for.
        name: &'a FileName,
        /// Its id.
        #[serde(serialize_with = "hex")]
        id: FileId,
        /// Its size in bytes.
        size: u64,
        /// Where it stands; null if it went to standard output.
        path: Option<String>,
        /// Seconds from the start of the job.
        elapsed_s: f64,
        /// Bytes that came over the network and were used.
        fetched_bytes: u64,
        /// Bytes that were on disk already and were verified.
        kept_bytes: u64,
        /// Bytes that came over the network and were not used.
        wasted_bytes: u64,
        /// Who delivered how much.
        sources: Vec<Share<'a>>,
    },
    /// Something that was asked for failed.
    Error {
        /// The exit code of this failure.
        exit: u8,
        /// The sentence that stands on stderr too.
        message: &'a str,
        /// What was asked for, as it was typed; null if the failure is not about one file.
        what: Option<&'a str>,
        /// The choices, if there were several.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        candidates: Vec<CandidateRecord<'a>>,
    },
}

impl<'a> Event<'a> {
    /// The line for an event of a job; `None` for a failure, which becomes a [`Failure`] first.
    pub(crate) fn of_job(event: &'a JobEvent) -> Option<Event<'a>> {
        Some(match event {
            JobEvent::Found { name, id, size, holders } => {
                Event::Found { name, id: *id, size: *size, holders: *holders }
            }
            JobEvent::Source { peer, address, state } => {
                let (state, reason) = match state {
                    SourceState::Connected => ("connected", None),
                    SourceState::Dropped { reason } => ("dropped", Some(reason.as_str())),
                };
                Event::Source { peer, address: *address, state, reason }
            }
            JobEvent::Progress(Progress { id, name, have_bytes, size, rate_bytes_s, sources }) => {
                Event::Progress {
                    id: *id,
                    name,
                    have_bytes: *have_bytes,
                    size: *size,
                    rate_bytes_s: *rate_bytes_s,
                    sources: sources.len(),
                }
            }
            JobEvent::Done(FileDone {
                name,
                id,
                size,
                path,
                elapsed,
                fetched_bytes,
                kept_bytes,
                wasted_bytes,
                sources,
            }) => Event::Done {
                name,
                id: *id,
                size: *size,
                path: path.as_ref().map(|path| path.to_string_lossy().into_owned()),
                elapsed_s: elapsed.as_secs_f64(),
                fetched_bytes: *fetched_bytes,
                kept_bytes: *kept_bytes,
                wasted_bytes: *wasted_bytes,
                sources: sources.iter().map(Share::from).collect(),
            },
            JobEvent::Failed { .. } => return None,
        })
    }
}

impl<'a> From<&'a Failure> for Event<'a> {
    fn from(failure: &'a Failure) -> Event<'a> {
        Event::Error {
            exit: failure.exit.code(),
            message: &failure.message,
            what: failure.what.as_deref(),
            candidates: failure.candidates.iter().map(CandidateRecord::from).collect(),
        }
    }
}

/// What one source delivered.
#[derive(Serialize)]
pub(crate) struct Share<'a> {
    peer: &'a PeerId,
    bytes: u64,
}

impl<'a> From<&'a SourceShare> for Share<'a> {
    fn from(share: &'a SourceShare) -> Share<'a> {
        Share { peer: &share.peer, bytes: share.bytes }
    }
}

/// A line of `ls`.
#[derive(Serialize)]
pub(crate) struct FileRecord<'a> {
    name: &'a FileName,
    #[serde(serialize_with = "hex")]
    id: FileId,
    size: u64,
    holders: u32,
}

impl<'a> From<&'a ListedFile> for FileRecord<'a> {
    fn from(file: &'a ListedFile) -> FileRecord<'a> {
        FileRecord { name: &file.name, id: file.id, size: file.size, holders: file.holders }
    }
}

/// A line of `who-has`: one content, and who holds it.
#[derive(Serialize)]
pub(crate) struct CandidateRecord<'a> {
    #[serde(serialize_with = "hex")]
    id: FileId,
    size: u64,
    names: Vec<&'a str>,
    /// How many hold it: more than are listed if there are many.
    holder_count: u32,
    holders: Vec<HolderRecord<'a>>,
}

impl<'a> From<&'a Candidate> for CandidateRecord<'a> {
    fn from(candidate: &'a Candidate) -> CandidateRecord<'a> {
        CandidateRecord {
            id: candidate.id,
            size: candidate.size,
            names: candidate.names.iter().map(FileName::as_str).collect(),
            holder_count: candidate.holder_count,
            holders: candidate.holders.iter().map(HolderRecord::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct HolderRecord<'a> {
    peer: &'a PeerId,
    address: SocketAddr,
    complete: bool,
}

impl<'a> From<&'a Holder> for HolderRecord<'a> {
    fn from(holder: &'a Holder) -> HolderRecord<'a> {
        HolderRecord { peer: &holder.peer, address: holder.address, complete: holder.complete }
    }
}

/// A line of `peers`.
#[derive(Serialize)]
pub(crate) struct PeerRecord<'a> {
    peer: &'a PeerId,
    address: SocketAddr,
    files: u32,
    /// Seconds since its list was last confirmed.
    confirmed_s: f64,
}

impl<'a> From<&'a ListedPeer> for PeerRecord<'a> {
    fn from(peer: &'a ListedPeer) -> PeerRecord<'a> {
        PeerRecord {
            peer: &peer.peer,
            address: peer.address,
            files: peer.files,
            confirmed_s: peer.confirmed_ms as f64 / 1000.0,
        }
    }
}

/// A line of `hash`.
#[derive(Serialize)]
pub(crate) struct HashRecord<'a> {
    /// The content's id.
    #[serde(serialize_with = "hex")]
    pub(crate) id: FileId,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The path as it was typed.
    pub(crate) path: &'a str,
}

/// Ids travel as bytes on the wire, and are text here.
fn hex<S: Serializer>(id: &FileId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use enxame_actors::peer::events::JobError;
    use serde_json::{Value, json};

    fn value(record: impl Serialize) -> Value {
        serde_json::to_value(record).unwrap()
    }

    fn of_job(event: JobEvent) -> Value {
        value(Event::of_job(&event))
    }

    const ID: FileId = FileId::from_bytes([0xab; 32]);

    #[test]
    fn each_event_of_a_job_has_the_fields_of_the_contract() {
        let hex = "ab".repeat(32);
        let name: FileName = "a b/modell 🐝.bin".parse().unwrap();
        let peer: PeerId = "p1".parse().unwrap();
        let address = "10.0.0.5:4001".parse().unwrap();
        let sources = vec![SourceShare { peer: peer.clone(), bytes: 7 }];

        assert_eq!(
            of_job(JobEvent::Found { name: name.clone(), id: ID, size: 9, holders: 2 }),
            json!({"event": "found", "name": "a b/modell 🐝.bin", "id": hex, "size": 9, "holders": 2})
        );
        assert_eq!(
            of_job(JobEvent::Source { peer: peer.clone(), address, state: SourceState::Connected }),
            json!({"event": "source", "peer": "p1", "address": "10.0.0.5:4001", "state": "connected", "reason": null})
        );
        let dropped = SourceState::Dropped { reason: "it lied".into() };
        assert_eq!(
            of_job(JobEvent::Source { peer, address, state: dropped }),
            json!({"event": "source", "peer": "p1", "address": "10.0.0.5:4001", "state": "dropped", "reason": "it lied"})
        );
        assert_eq!(
            of_job(JobEvent::Progress(Progress {
                id: ID,
                name: name.clone(),
                have_bytes: 3,
                size: 9,
                rate_bytes_s: 5,
                sources: sources.clone(),
            })),
            json!({"event": "progress", "id": hex, "name": name.as_str(), "have_bytes": 3, "size": 9,
                "rate_bytes_s": 5, "sources": 1})
        );
        let done = FileDone {
            name: name.clone(),
            id: ID,
            size: 9,
            path: Some("out/x".into()),
            elapsed: Duration::from_millis(1500),
            fetched_bytes: 7,
            kept_bytes: 2,
            wasted_bytes: 1,
            sources,
        };
        assert_eq!(
            of_job(JobEvent::Done(done.clone())),
            json!({"event": "done", "name": name.as_str(), "id": hex, "size": 9, "path": "out/x",
                "elapsed_s": 1.5, "fetched_bytes": 7, "kept_bytes": 2, "wasted_bytes": 1,
                "sources": [{"peer": "p1", "bytes": 7}]})
        );
        assert_eq!(of_job(JobEvent::Done(FileDone { path: None, ..done }))["path"], Value::Null);
        let failed = JobEvent::Failed { what: "x".into(), error: JobError::NobodyHasIt };
        assert!(Event::of_job(&failed).is_none(), "a failure needs its sentence first");
    }

    #[test]
    fn a_role_tells_where_it_can_be_reached() {
        let peer: PeerId = "p1".parse().unwrap();
        let address = "127.0.0.1:7070".parse().unwrap();
        assert_eq!(
            value(Event::Ready { role: "peer", peer: Some(&peer), address, not_shared: Some(3) }),
            json!({"event": "ready", "role": "peer", "peer": "p1", "address": "127.0.0.1:7070", "not_shared": 3})
        );
        assert_eq!(
            value(Event::Ready { role: "tracker", peer: None, address, not_shared: None }),
            json!({"event": "ready", "role": "tracker", "peer": null, "address": "127.0.0.1:7070", "not_shared": null})
        );
    }

    #[test]
    fn the_records_of_the_catalogue_have_the_fields_of_the_contract() {
        let hex = "ab".repeat(32);
        let name: FileName = "x.bin".parse().unwrap();
        let peer: PeerId = "p1".parse().unwrap();
        let address = "[::1]:9".parse().unwrap();
        assert_eq!(
            value(FileRecord::from(&ListedFile { name: name.clone(), id: ID, size: 4, holders: 2 })),
            json!({"name": "x.bin", "id": hex, "size": 4, "holders": 2})
        );
        assert_eq!(
            value(CandidateRecord::from(&Candidate {
                id: ID,
                size: 4,
                names: vec![name],
                holder_count: 2,
                holders: vec![Holder { peer: peer.clone(), address, complete: false }],
            })),
            json!({"id": hex, "size": 4, "names": ["x.bin"], "holder_count": 2,
                "holders": [{"peer": "p1", "address": "[::1]:9", "complete": false}]})
        );
        assert_eq!(
            value(PeerRecord::from(&ListedPeer { peer, address, files: 3, confirmed_ms: 2500 })),
            json!({"peer": "p1", "address": "[::1]:9", "files": 3, "confirmed_s": 2.5})
        );
        assert_eq!(
            value(HashRecord { id: ID, size: 4, path: "x" }),
            json!({"id": hex, "size": 4, "path": "x"})
        );
    }
}
