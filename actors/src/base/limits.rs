//! Every cap and time-out, with its unit and its reason. Nothing else in the project states one.

use std::time::Duration;

// ---- names ----

/// Bytes of a whole name: fits every file system's path limit with room for the folder before it.
pub const MAX_NAME_BYTES: usize = 1024;
/// Bytes of one part of a name: what ext4, XFS, NTFS and APFS allow.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Parts of a name: deeper trees are no use to people and a load for every walk.
pub const MAX_NAME_DEPTH: usize = 32;
/// Bytes of a peer id: it is a folder name and a column of a table.
pub const MAX_PEER_ID_BYTES: usize = 64;
/// What our own hidden files and folders begin with; no shared name may.
pub const RESERVED_PREFIX: &str = ".enxame";

// ---- geometry ----

/// Blocks of the smallest span: 256 KiB, where BLAKE3 reaches its full speed per core.
pub const MIN_SPAN_BLOCKS: u64 = 64;
/// Spans of a file: bounds a manifest at 2 MiB and a bit set at 8 KiB.
pub const MAX_SPANS: u64 = 65_536;

// ---- wire ----

/// Bytes of a control frame's body: some 10,000 names of a list in one frame, little enough to hold per connection.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;
/// Bytes of a control frame's body before HELLO is done: a stranger costs no more than this.
pub const MAX_HELLO_BYTES: usize = 64 << 10;
/// Bytes of a request to a holder: ids, numbers and no list, so that many connections that begin one and
/// stop hold little.
pub const MAX_REQUEST_BYTES: usize = 4 << 10;
/// Bytes of an unfinished frame that each of a tracker's connections may hold; for more it needs one of
/// [`MAX_LONG_FRAMES`] places. Nearly all messages are shorter.
pub const SHORT_FRAME_BYTES: usize = 16 << 10;
/// Connections of a tracker that hold more of an unfinished frame than that: 64 MiB. What others send waits in
/// their sockets.
pub const MAX_LONG_FRAMES: usize = 64;
/// Of these, from one address: three in four, so that one machine does not have all others wait.
pub const MAX_LONG_FRAMES_PER_ADDRESS: usize = MAX_LONG_FRAMES / 4 * 3;
/// Nesting of MessagePack values: ours need eight (an address in an answer to WHO_HAS); rmp-serde's default of 1,024 is a way to overflow a stack.
pub const MAX_DEPTH: usize = 16;
/// Body bytes that fill a frame of a long list: half the limit, so that the last entry added never crosses it.
pub const LIST_FRAME_BYTES: usize = MAX_CONTROL_BYTES / 2;
/// Chaining values in one MANIFEST frame: 256 KiB of them, so that a 2 MiB manifest is eight frames.
pub const MANIFEST_FRAME_SPANS: usize = 8192;
/// Bytes of the program's own description in HELLO.
pub const MAX_AGENT_BYTES: usize = 128;
/// Bytes of a sentence that the other side wrote, in a log and in a message: twice the longest of ours.
pub const MAX_FOREIGN_TEXT_BYTES: usize = 512;

// ---- catalogue ----

/// Holders in one WHO_HAS answer: three times the connections of a job.
pub const MAX_ANSWER_HOLDERS: usize = 50;
/// Candidates in one WHO_HAS answer: more choices than a person reads.
pub const MAX_ANSWER_CANDIDATES: usize = 64;
/// Names listed with one candidate.
pub const MAX_ANSWER_NAMES: usize = 16;
/// Contents of which a peer remembers who held them: more than people fetch in a week.
pub const MAX_REMEMBERED_FILES: usize = 1000;
/// Holders that a job knows of before it takes no more from its sources: more than it will ever dial.
pub const MAX_HEARD_HOLDERS: usize = 1000;
/// Holders that a job knows of, whoever told of them: as many peers as a tracker has connections. Others take
/// the places of those that were given up, or are idle.
pub const MAX_JOB_HOLDERS: usize = MAX_TRACKER_CONNECTIONS;
/// Holders of one file that a job knows of, by any size they state: many times its connections. Those that
/// are told of later take the places of such as are given up, or else of such as are not connected.
pub const MAX_FILE_HOLDERS: usize = 256;
/// Addresses of which a process remembers how dialling them went: more than it dials in ten minutes, unless
/// it is told of very many that fail; then the oldest are forgotten.
pub const MAX_DIALLED_ADDRESSES: usize = 4096;
/// Bytes of the file of remembered holders: some hundreds per content as a rule; long names and many
/// holders may not make more of it.
pub const MAX_REMEMBERED_BYTES: usize = 4 << 20;
/// Entries in one page of LIST or PEERS.
pub const MAX_PAGE_ENTRIES: usize = 1000;
/// Peers registered at one tracker: four in five of its connections, the rest are for those who ask. Where more
/// are allowed, so are connections.
pub const MAX_PEERS: usize = MAX_TRACKER_CONNECTIONS / 5 * 4;
/// Files registered by one peer.
pub const MAX_FILES_PER_PEER: usize = 1_000_000;
/// Files registered by all peers of one tracker: some gigabytes of memory at most.
pub const MAX_CATALOGUE_ENTRIES: usize = 10_000_000;
/// Bytes of all their names: ten million of usual length. The longest ones would take ten times as much.
pub const MAX_CATALOGUE_NAME_BYTES: usize = 1 << 30;

// ---- time ----

/// From the start of a connection to the end of HELLO.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// From the header of a request to a holder to its end: it is one packet, unless somebody trickles. At a
/// tracker, for the rest of a long frame, from when it has a place: 1 MiB at 100 KB/s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The idle time of an upload, while others are turned away for want of room.
pub const CROWDED_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader that takes nothing for this long is dropped.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Opening a TCP connection.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer of a tracker to one request.
pub const TRACKER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other trackers are waited for when one has answered: all living ones of a network
/// have answered by then, and one that is silent costs no question more than this.
pub const TRACKER_GRACE: Duration = Duration::from_millis(300);
/// How long the other trackers are waited for when those that have answered know of nobody: "nobody
/// has it" ends a fetch, so it is not said before a slow tracker had a chance to know better.
pub const TRACKER_GRACE_IF_NOTHING: Duration = Duration::from_secs(3);
/// No progress on a source for this long: its spans are given to others.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// No progress on a source for this long: it is dropped.
pub const SOURCE_DEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A source that delivered nothing of use for this long makes room for another holder.
pub const USELESS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a job that has all the connections it may have looks whether another holder is worth
/// more than one of its sources; each time without a change it waits twice as long, up to the longest.
pub const REPLACE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait between two such looks.
pub const REPLACE_EVERY_MAX: Duration = Duration::from_secs(30);
/// A source that made room is dialled again after this time at the earliest.
pub const MADE_ROOM_FOR: Duration = Duration::from_secs(60);
/// How long a holder that cannot say yet whether it has a file, for it has just started, has a getter
/// wait: longer than a getter waits, for its "no" counts against it.
pub const OPEN_PATIENCE: Duration = Duration::from_secs(20);
/// Dials in [`DIAL_WINDOW`] to an address at which no peer has greeted us: whoever tells us of holders can
/// have us, and all others whom they tell, knock at a stranger's door, and not more often than this.
pub const MAX_DIALS_IN_WINDOW: usize = 2;
/// See [`MAX_DIALS_IN_WINDOW`].
pub const DIAL_WINDOW: Duration = Duration::from_secs(60);
/// Dials in a row that failed, after which an address is put off for [`DIAL_PUT_OFF`].
pub const MAX_DIAL_FAILURES: u32 = 3;
/// How long an address is put off, unless a tracker says that its peer has registered again.
pub const DIAL_PUT_OFF: Duration = Duration::from_secs(600);
/// How long a dial waits for another job's dial to the same address, and for the system to have
/// descriptors again.
pub const DIAL_PAUSE: Duration = Duration::from_secs(1);
/// A job that would have to wait longer for its next dial to a holder gives the holder up.
pub const MAX_DIAL_WAIT: Duration = Duration::from_secs(30);
/// A holder that said that it does not have a file is asked again after this time, if a tracker says
/// that it has: it may have looked at it anew. Doubled each time, up to [`MISSING_PAUSE_MAX`].
pub const MISSING_PAUSE: Duration = Duration::from_secs(1);
/// See [`MISSING_PAUSE`].
pub const MISSING_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a file goes on being looked for when its last holder was lost that had it a moment ago: a peer
/// that restarts, or hashes a file that was touched, has it again by then.
pub const LOST_PATIENCE: Duration = Duration::from_secs(8);
/// A holder that delivers nothing may prolong that so many times, by saying again that it does not have the
/// file, or by going and coming back.
pub const MAX_LOST_PATIENCE: u32 = 3;
/// How long a holder that has no descriptors left tries to open a file, before it says that it is busy.
pub const DESCRIPTOR_PATIENCE: Duration = Duration::from_secs(2);
/// No holder that can be reached has any of what is missing for this long: the download fails. Others
/// that download it may lack the same parts, so that it stands still with all of them connected.
pub const STANDSTILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a peer's list is confirmed, unless the tracker is told otherwise.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest refresh interval that can be set: below it, a busy machine looks dead.
pub const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(200);
/// First wait before a lost tracker is dialled again; doubled each time, with jitter.
pub const TRACKER_RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait before a lost tracker is dialled again.
pub const TRACKER_RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a starting peer tries to reach its tracker: covers both being started at once.
pub const TRACKER_START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a step of an ordered shutdown may take before it is cut short.
pub const SHUTDOWN_STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a side that closes a connection goes on reading, so that its last words are not lost.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that it reads then: more than may be under way on an honest connection.
pub const MAX_LINGER_BYTES: usize = 4 << 20;
/// Wait after an accept, or the opening of a file, that failed for want of descriptors, so that no loop spins.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Changes of the folder that come closer together than this are taken as one.
pub const WATCH_QUIET: Duration = Duration::from_millis(100);
/// From the first change of what is remembered of holders to its writing: many changes are one file.
pub const REMEMBER_AFTER: Duration = Duration::from_secs(2);
/// How long a starting peer waits for the hashing of what is new in its folder: then it is ready with
/// what it has, and shares the rest as it is hashed. A folder that somebody waits for is done by then.
pub const FIRST_SCAN_PATIENCE: Duration = Duration::from_secs(3);
/// How often a job looks at its sources and reports progress.
pub const JOB_TICK: Duration = Duration::from_millis(250);
/// How often a role looks whether its actors live: none ends unasked unless there is a defect.
pub const HEALTH_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Least time between two HAVEs on a connection: a span takes that long at 50 MB/s. Faster downloads tell of
/// several at once, for each wakes three threads of each getter.
pub const HAVE_EVERY: Duration = Duration::from_millis(5);
/// How long a BUSY holder asks the getter to wait.
pub const BUSY_RETRY: Duration = Duration::from_secs(2);

// ---- connections and memory ----

/// Connections of peers and askers at one tracker.
pub const MAX_TRACKER_CONNECTIONS: usize = 20_000;
/// Connections over that cap that are told so at the same time; more are closed without a word.
pub const MAX_REFUSING_CONNECTIONS: usize = 64;
/// Connections that wait to be accepted: a tracker's peers come back all at once.
pub const LISTEN_BACKLOG: u32 = 1024;
/// Of these, from one address: three in four, so that one machine does not shut all others out. An address
/// may be a site behind a router, or a machine on which hundreds of peers are tried out.
pub const MAX_TRACKER_CONNECTIONS_PER_ADDRESS: usize = MAX_TRACKER_CONNECTIONS / 4 * 3;
/// Upload connections of one peer.
pub const MAX_UPLOAD_CONNECTIONS: usize = 256;
/// Of these, from one address; see [`MAX_TRACKER_CONNECTIONS_PER_ADDRESS`].
pub const MAX_UPLOAD_CONNECTIONS_PER_ADDRESS: usize = MAX_UPLOAD_CONNECTIONS / 4 * 3;
/// Connections of a holder on which HELLO is to come, or that are turned away. They take no place among the
/// uploads, and the oldest makes room for one more: who is honest greets at once.
pub const MAX_GREETING_CONNECTIONS: usize = 1024;
/// Bytes of requests that may wait for a holder on one connection: all that an honest getter has under way.
pub const MAX_WAITING_REQUEST_BYTES: usize = 256 << 10;
/// Uploads that are being sent at the same time; others wait for their turn, a span each. What many
/// ask for at once comes to some of them early, who can pass it on, and not to all of them late.
pub const MAX_SENDING_UPLOADS: usize = 8;
/// A reader that does not take a span in this time has no turns from then on: it is slower than the
/// uplink, and would keep others waiting.
pub const TURN_TIMEOUT: Duration = Duration::from_millis(250);
/// Bytes that are moved at once under a limit that a user set: at 20 MB/s some 300 pieces per second.
pub const MAX_LIMITED_PIECE_BYTES: usize = 64 << 10;
/// Download connections of one job.
pub const MAX_DOWNLOAD_CONNECTIONS: usize = 16;
/// In this time from its start a job makes only half of its connections. Who starts together gets to
/// know each other in it; a job that had all its connections by then would have them to those who
/// were first, and nobody would ask those who came last.
pub const HALF_CONNECTED_FOR: Duration = Duration::from_millis(250);
/// Of the download connections of a job, those that may be replaced at a time: the others keep it busy.
pub const MAX_REPLACED_CONNECTIONS: usize = 4;
/// Control frames handed over in one message: bounds what one connection can put before an actor at once.
pub const MAX_FRAMES_PER_BATCH: usize = 256;
/// Connections of a tracker whose requests are being read and answered at the same time. Those of the
/// others wait in their sockets: what all peers send at once, after a restart, is not in memory at once.
pub const MAX_CONNECTIONS_HAVING_TURN: usize = 32;
/// Requests that one getter may have waiting at a holder.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 1024;
/// PEERS that wait for their answer at one source: a job of thousands of small files asks for some.
pub const MAX_PEERS_IN_FLIGHT: usize = 32;
/// Spans that one request may state.
pub const MAX_REQUEST_SPANS: usize = 64;
/// Data requested and not yet written, for a whole job.
pub const JOB_IN_FLIGHT_BYTES: u64 = 32 << 20;
/// Files a holder keeps open per upload connection: as many large ones as a job fetches at the same
/// time. A small one is asked for once.
pub const MAX_OPEN_FILES_PER_UPLOAD: usize = 8;
/// Places of a job's files, of all its wanted folders together, and lines read of one folder: what two peers
/// may share. A tracker that lists without an end would have a job remember them all, at some 0.4 KB each.
pub const MAX_TREE_FILES: usize = 2 * MAX_FILES_PER_PEER;
/// Files of a wanted folder that are taken up at the same time: bounds what a job knows of files that
/// are not over, and keeps the connections busy while the next ones are looked up.
pub const MAX_TREE_FILES_OPEN: usize = 4096;
/// Of these, so many are looked up at the trackers with one question each and one wait for all.
pub const TREE_BATCH_FILES: usize = 256;
/// Small files that are written and wait for their names together, before they are made durable.
pub const PUBLISH_AFTER_FILES: usize = 1024;
/// Bytes of small files that a holder reads in one go, if they were asked for one behind the other...
pub const MAX_SMALL_READ_BYTES: u64 = 256 << 10;
/// ... and how many of them: an empty file is a request too.
pub const MAX_SMALL_READ_FILES: usize = 128;
/// Threads that move data: more than this many cores are not filled by sockets, but by hashing.
pub const MAX_DATA_THREADS: usize = 4;
/// Blocking threads (hash, disk) of one data thread.
pub const MAX_BLOCKING_THREADS: usize = 8;

/// Bytes of spans that have arrived together and are handed over, verified and written in one step.
/// Four spans a step instead of one take a third fewer changes between threads.
pub const BATCH_BYTES: usize = 1 << 20;

// The worst case of a job's memory: every source has one buffer being written and one read ahead.
const _: () = assert!(
    MAX_DOWNLOAD_CONNECTIONS as u64 * 2 * BATCH_BYTES as u64 <= JOB_IN_FLIGHT_BYTES
        && MIN_SPAN_BLOCKS * super::BLOCK_LEN_BYTES <= BATCH_BYTES as u64,
    "a job's sources must not hold more than its memory bound"
);
// GETs of 70 bytes or so, and the OPENs and PEERS between them.
const _: () = assert!(MAX_WAITING_REQUEST_BYTES >= (2 * MAX_REQUESTS_IN_FLIGHT + MAX_PEERS_IN_FLIGHT) * 100);
const _: () = assert!(OPEN_PATIENCE.as_secs() > SOURCE_DEAD_TIMEOUT.as_secs(), "see there");
// A list frame that is full takes one more entry and stays below the limit.
const _: () = assert!(LIST_FRAME_BYTES + MAX_NAME_BYTES + 256 < MAX_CONTROL_BYTES);
