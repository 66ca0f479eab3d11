//! What holds for every message: it reads back, and nothing else that comes is read as if it did.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::take;
use super::frame::{BLOCKS_PREFIX_BYTES, FrameLimits, blocks_header};
use super::peer::{FromHolder, ToHolder};
use super::tracker::{Candidate, FromTracker, Holder, ListedFile, ListedPeer, Listing, ToTracker};
use super::*;
use crate::base::limits::{
    MAX_CONTROL_BYTES, MAX_DEPTH, MAX_FOREIGN_TEXT_BYTES, MAX_HELLO_BYTES, MAX_REQUEST_BYTES, MIN_SPAN_BLOCKS,
};
use crate::base::{BLOCK_LEN_BYTES, BlockRun, FileId, FileName, PeerId, Question, plain_text};

/// Data of the BLOCKS frames that a getter of an ordinary file expects.
const SPAN: usize = (MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES) as usize;

// ---- arbitrary messages ----

fn name() -> impl Strategy<Value = FileName> {
    "[a-z0-9äß日🐝 ._@-]{1,20}(/[A-Z ._é-]{1,12}){0,4}"
        .prop_filter_map("no valid name", |text: String| text.parse().ok())
}

fn peer_id() -> impl Strategy<Value = PeerId> {
    "[a-zA-Z0-9é][a-z0-9._-]{0,61}".prop_map(|text| text.parse().unwrap())
}

fn id() -> impl Strategy<Value = FileId> {
    any::<[u8; 32]>().prop_map(FileId::from_bytes)
}

fn address() -> impl Strategy<Value = SocketAddr> {
    // Scope and flow of an IPv6 address mean nothing to another machine and do not travel.
    any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
}

fn digest() -> impl Strategy<Value = ListDigest> {
    prop::collection::vec(listing(), 0..3).prop_map(|listings| listings.iter().collect())
}

fn listing() -> impl Strategy<Value = Listing> {
    (name(), id(), any::<u64>(), any::<bool>()).prop_map(|(name, id, size, complete)| Listing {
        name,
        id,
        size,
        complete,
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<u16>(), peer_id(), any::<String>()).prop_map(|(version, peer, agent)| Hello {
        version,
        peer,
        agent,
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop::sample::select(vec![
        Refusal::Version,
        Refusal::PeerIdTaken,
        Refusal::NotRegistered,
        Refusal::Limit,
        Refusal::Protocol,
    ])
}

/// One that reads back as it is.
fn sentence() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| plain_text(&text))
}

fn question() -> impl Strategy<Value = Question> {
    let prefix = || "[0-9a-f]{1,64}".prop_map(|text| text.parse().unwrap());
    prop_oneof![
        (name(), prop::option::of(prefix())).prop_map(|(name, prefix)| Question::Name { name, prefix }),
        prefix().prop_map(Question::Prefix),
    ]
}

fn some<S: Strategy>(of: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(of, 0..5)
}

fn to_tracker() -> impl Strategy<Value = ToTracker> {
    prop_oneof![
        hello().prop_map(ToTracker::Hello),
        (any::<u64>(), any::<u16>(), some(listing()))
            .prop_map(|(instance, port, files)| ToTracker::Register { instance, port, files }),
        some(listing()).prop_map(|files| ToTracker::NewFile { files }),
        some((name(), id())).prop_map(|files| ToTracker::RemoveFile { files }),
        question().prop_map(|question| ToTracker::WhoHas { question }),
        (any::<String>(), prop::option::of((name(), id())), any::<u32>())
            .prop_map(|(prefix, after, limit)| ToTracker::List { prefix, after, limit }),
        (prop::option::of(peer_id()), any::<u32>())
            .prop_map(|(after, limit)| ToTracker::Peers { after, limit }),
        digest().prop_map(|digest| ToTracker::Confirmed { digest }),
        Just(ToTracker::Disconnect),
    ]
}

fn holder() -> impl Strategy<Value = Holder> {
    (peer_id(), address(), any::<bool>()).prop_map(|(peer, address, complete)| Holder {
        peer,
        address,
        complete,
    })
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (id(), any::<u64>(), some(name()), any::<u32>(), some(holder())).prop_map(
        |(id, size, names, holder_count, holders)| Candidate { id, size, names, holder_count, holders },
    )
}

fn from_tracker() -> impl Strategy<Value = FromTracker> {
    let file = (name(), id(), any::<u64>(), any::<u32>()).prop_map(|(name, id, size, holders)| ListedFile {
        name,
        id,
        size,
        holders,
    });
    let peer = (peer_id(), address(), any::<u32>(), any::<u64>())
        .prop_map(|(peer, address, files, confirmed_ms)| ListedPeer { peer, address, files, confirmed_ms });
    prop_oneof![
        hello().prop_map(FromTracker::Hello),
        any::<(u64, u64)>().prop_map(|(lease_ms, refresh_interval_ms)| FromTracker::Registered {
            lease_ms,
            refresh_interval_ms
        }),
        Just(FromTracker::Noted),
        (refusal(), sentence()).prop_map(|(refusal, why)| FromTracker::Refused { refusal, why }),
        some(candidate()).prop_map(|candidates| FromTracker::Candidates { candidates }),
        (some(file), any::<bool>()).prop_map(|(files, more)| FromTracker::Files { files, more }),
        (some(peer), any::<bool>()).prop_map(|(peers, more)| FromTracker::Peers { peers, more }),
        digest().prop_map(|digest| FromTracker::Confirm { digest }),
    ]
}

fn to_holder() -> impl Strategy<Value = ToHolder> {
    prop_oneof![
        hello().prop_map(ToHolder::Hello),
        (id(), any::<bool>()).prop_map(|(id, manifest)| ToHolder::Open { id, manifest }),
        (id(), any::<u64>(), any::<u32>(), any::<bool>()).prop_map(|(id, first, count, fresh)| {
            ToHolder::Get { id, run: BlockRun { first, count }, fresh }
        }),
        id().prop_map(|id| ToHolder::Peers { id }),
    ]
}

fn from_holder() -> impl Strategy<Value = FromHolder> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        hello().prop_map(FromHolder::Hello),
        (id(), any::<u64>(), prop::option::of(bytes()), any::<bool>())
            .prop_map(|(id, size, spans, manifest)| FromHolder::Opened { id, size, spans, manifest }),
        (id(), bytes()).prop_map(|(id, values)| FromHolder::Manifest { id, values }),
        (id(), some(any::<u32>())).prop_map(|(id, spans)| FromHolder::Have { id, spans }),
        id().prop_map(|id| FromHolder::Missing { id }),
        (id(), bytes()).prop_map(|(id, given)| FromHolder::Taken { id, given }),
        (id(), some(holder())).prop_map(|(id, holders)| FromHolder::Holders { id, holders }),
        any::<u32>().prop_map(|retry_after_ms| FromHolder::Busy { retry_after_ms }),
        (refusal(), sentence()).prop_map(|(refusal, why)| FromHolder::Refused { refusal, why }),
    ]
}

// ---- what holds for each of them ----

/// What every message type is.
trait Wire: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug {}
impl<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug> Wire for M {}

fn frame_of<M: Serialize>(message: &M) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(message, &mut frame).unwrap();
    frame
}

fn reads_back<M: Wire>(message: &M) {
    let frame = frame_of(message);
    assert_eq!(&decode::<M>(&frame[HEADER_BYTES..]).unwrap(), message);

    // The next frame's first bytes stay where they are.
    let mut buffer = BytesMut::from(&frame[..]);
    buffer.extend_from_slice(b"next");
    assert_eq!(take::<M>(&mut buffer, FrameLimits::CONTROL).unwrap().as_ref(), Some(message));
    assert_eq!(&buffer[..], b"next");
}

fn every_truncation_is_incomplete<M: Wire>(message: &M) {
    let frame = frame_of(message);
    for len in 0..frame.len() {
        let mut buffer = BytesMut::from(&frame[..len]);
        assert_eq!(take::<M>(&mut buffer, FrameLimits::CONTROL).unwrap(), None, "{len} of {}", frame.len());
        assert_eq!(&buffer[..], &frame[..len], "an incomplete frame stays in the buffer");
    }
}

/// Flips one bit of the frame: an error, an incomplete frame, or a message that reads back as itself.
fn a_flipped_bit_never_panics<M: Wire>(message: &M, bit: usize) {
    let mut frame = frame_of(message);
    frame[bit / 8] ^= 1 << (bit % 8);
    if let Ok(Some(other)) = take::<M>(&mut BytesMut::from(&frame[..]), FrameLimits::CONTROL) {
        reads_back(&other);
    }
}

fn nothing_may_follow<M: Wire>(message: &M, more: u8) {
    let mut body = frame_of(message).split_off(HEADER_BYTES);
    body.push(more);
    let error = decode::<M>(&body).unwrap_err();
    assert!(matches!(error, FrameError::Trailing(1)), "{error}");
}

proptest! {
    #[test]
    fn each_message_reads_back(a in to_tracker(), b in from_tracker(), c in to_holder(), d in from_holder()) {
        reads_back(&a);
        reads_back(&b);
        reads_back(&c);
        reads_back(&d);
    }

    #[test]
    fn an_answer_that_is_written_piece_by_piece_has_the_bytes_of_the_message(
        candidates in prop::collection::vec(candidate(), 0..20),
    ) {
        let mut written = b"before".to_vec();
        let write = |answer: &mut CandidatesWriter<'_>| {
            for candidate in &candidates {
                let names = candidate.names.iter().map(|name| name.as_str().as_bytes());
                let holders: Vec<_> = candidate
                    .holders
                    .iter()
                    .map(|holder| (HolderBytes::new(holder.peer.clone(), holder.address), holder.complete))
                    .collect();
                let holders = holders.iter().map(|(holder, complete)| (holder, *complete));
                answer.candidate(&candidate.id, candidate.size, names, candidate.holder_count, holders);
            }
        };
        encode_candidates(candidates.len(), &mut written, write).unwrap();
        let mut whole = b"before".to_vec();
        encode(&FromTracker::Candidates { candidates: candidates.clone() }, &mut whole).unwrap();
        prop_assert_eq!(written, whole);
    }

    #[test]
    fn a_cut_frame_is_incomplete(a in to_tracker(), b in from_tracker(), c in to_holder(), d in from_holder()) {
        every_truncation_is_incomplete(&a);
        every_truncation_is_incomplete(&b);
        every_truncation_is_incomplete(&c);
        every_truncation_is_incomplete(&d);
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_a_valid_message(
        a in to_tracker(), b in from_tracker(), c in to_holder(), d in from_holder(), at in any::<prop::sample::Index>(),
    ) {
        a_flipped_bit_never_panics(&a, at.index(frame_of(&a).len() * 8));
        a_flipped_bit_never_panics(&b, at.index(frame_of(&b).len() * 8));
        a_flipped_bit_never_panics(&c, at.index(frame_of(&c).len() * 8));
        a_flipped_bit_never_panics(&d, at.index(frame_of(&d).len() * 8));
    }

    #[test]
    fn bytes_behind_a_message_are_refused(
        a in to_tracker(), b in from_tracker(), c in to_holder(), d in from_holder(), more in any::<u8>(),
    ) {
        nothing_may_follow(&a, more);
        nothing_may_follow(&b, more);
        nothing_may_follow(&c, more);
        nothing_may_follow(&d, more);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<ToTracker>(&body);
        let _ = decode::<FromTracker>(&body);
        let _ = decode::<ToHolder>(&body);
        let _ = decode::<FromHolder>(&body);
        let _ = take::<ToTracker>(&mut BytesMut::from(&body[..]), FrameLimits::CONTROL);
    }

    /// Bytes that are mostly right get deeper into the decoder than random ones.
    #[test]
    fn a_message_with_a_piece_of_another_is_read_without_a_panic(
        a in from_tracker(), b in to_tracker(), at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>(),
    ) {
        let mut body = frame_of(&a).split_off(HEADER_BYTES);
        let piece = frame_of(&b).split_off(HEADER_BYTES);
        body.truncate(at.index(body.len()));
        body.extend_from_slice(&piece[from.index(piece.len())..]);
        if let Ok(message) = decode::<FromTracker>(&body) {
            reads_back(&message);
        }
    }

    #[test]
    fn a_blocks_header_reads_back(first_block in any::<u64>(), data_len in 0..=SPAN) {
        let bytes = blocks_header(first_block, data_len);
        let (header, index) = bytes.split_at(HEADER_BYTES);
        let header = FrameHeader::parse(header.try_into().unwrap(), FrameLimits::with_blocks(SPAN)).unwrap();
        prop_assert_eq!(header, FrameHeader::Blocks { data_len });
        prop_assert_eq!(u64::from_be_bytes(index.try_into().unwrap()), first_block);
    }

    #[test]
    fn a_header_that_is_accepted_is_within_the_limits(bytes in any::<[u8; HEADER_BYTES]>(), control_bytes in 0usize..1 << 21, blocks_bytes in 0usize..1 << 21) {
        match FrameHeader::parse(bytes, FrameLimits { control_bytes, blocks_bytes }) {
            Ok(header @ FrameHeader::Control { len }) => {
                prop_assert!(len <= control_bytes);
                prop_assert_eq!(header.to_bytes(), bytes);
            }
            Ok(header @ FrameHeader::Blocks { data_len }) => {
                prop_assert!(data_len <= blocks_bytes);
                prop_assert_eq!(header.to_bytes(), bytes);
            }
            Err(_) => {}
        }
    }
}

// ---- limits ----

#[test]
fn a_header_over_its_limit_is_refused_before_the_body_has_room() {
    let blocks = FrameLimits::with_blocks(SPAN);
    let prefix = BLOCKS_PREFIX_BYTES as u32;
    let span = SPAN as u32;
    // limits, length, kind, accepted
    for (limits, len, kind, accepted) in [
        (FrameLimits::HELLO, 0, 0, true),
        (FrameLimits::HELLO, MAX_HELLO_BYTES as u32, 0, true),
        (FrameLimits::HELLO, MAX_HELLO_BYTES as u32 + 1, 0, false),
        (FrameLimits::HELLO, u32::MAX, 0, false),
        (FrameLimits::HELLO, prefix + 1, 1, false),
        (FrameLimits::REQUEST, MAX_REQUEST_BYTES as u32, 0, true),
        (FrameLimits::REQUEST, MAX_REQUEST_BYTES as u32 + 1, 0, false),
        (FrameLimits::REQUEST, prefix + 1, 1, false),
        (FrameLimits::CONTROL, MAX_CONTROL_BYTES as u32, 0, true),
        (FrameLimits::CONTROL, MAX_CONTROL_BYTES as u32 + 1, 0, false),
        (FrameLimits::CONTROL, u32::MAX, 0, false),
        (FrameLimits::CONTROL, prefix + 1, 1, false),
        (blocks, prefix - 1, 1, false),
        (blocks, 0, 1, false),
        (blocks, prefix, 1, true),
        (blocks, prefix + span, 1, true),
        (blocks, prefix + span + 1, 1, false),
        (blocks, u32::MAX, 1, false),
        (blocks, u32::MAX, 0, false),
        (blocks, 1, 2, false),
        (blocks, 1, 255, false),
    ] {
        let [a, b, c, d] = len.to_be_bytes();
        let header = FrameHeader::parse([a, b, c, d, kind], limits);
        assert_eq!(header.is_ok(), accepted, "kind {kind}, {len} bytes, {limits:?}: {header:?}");
    }
}

#[test]
fn the_first_five_bytes_of_a_frame_too_long_are_enough_to_refuse_it() {
    for (limits, len) in [
        (FrameLimits::HELLO, MAX_HELLO_BYTES as u32 + 1),
        (FrameLimits::CONTROL, MAX_CONTROL_BYTES as u32 + 1),
        (FrameLimits::CONTROL, u32::MAX),
    ] {
        let mut buffer = BytesMut::from(&len.to_be_bytes()[..]);
        assert!(take::<ToTracker>(&mut buffer, limits).unwrap().is_none(), "four bytes say nothing yet");
        buffer.extend_from_slice(&[0]);
        let room = buffer.capacity();
        let error = take::<ToTracker>(&mut buffer, limits).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        assert_eq!(buffer.capacity(), room);
    }
}

#[test]
fn blocks_are_refused_where_only_messages_may_come() {
    for data_len in [0, 1, SPAN] {
        let mut buffer = BytesMut::from(&blocks_header(0, data_len)[..]);
        assert!(take::<ToHolder>(&mut buffer, FrameLimits::with_blocks(SPAN)).is_err(), "{data_len}");
    }
}

#[test]
fn a_message_over_the_limit_is_not_sent_and_leaves_the_buffer_as_it_was() {
    let values =
        |len| FromHolder::Manifest { id: FileId::from_bytes([1; 32]), values: Bytes::from(vec![7; len]) };
    let overhead = frame_of(&values(MAX_CONTROL_BYTES / 2)).len() - HEADER_BYTES - MAX_CONTROL_BYTES / 2;
    let mut out = b"before".to_vec();
    encode(&values(MAX_CONTROL_BYTES - overhead), &mut out).unwrap();
    assert_eq!(out.len(), 6 + HEADER_BYTES + MAX_CONTROL_BYTES, "exactly at the limit");

    out.truncate(6);
    let error = encode(&values(MAX_CONTROL_BYTES - overhead + 1), &mut out).unwrap_err();
    assert!(matches!(error, FrameError::TooLong { len, limit } if len == limit + 1), "{error}");
    assert_eq!(out, b"before");
}

/// `{variant: {field: value}}` in MessagePack, the value as it is.
fn one_field(variant: &str, field: &str, value: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[0xa0 | text.len() as u8], text.as_bytes()].concat();
    [vec![0x81], text(variant), vec![0x81], text(field), value.to_vec()].concat()
}

/// A thread with little stack shows that depth is bounded by the limit and not by luck.
///
/// Row 5 of SECURITY.md.
#[test]
fn deep_nesting_is_refused_without_using_the_stack() {
    let nested = |opening: &[u8]| [opening.repeat(10_000), vec![0xc0]].concat();
    let check = move || {
        for deep in [nested(&[0x91]), nested(&[0x81, 0xa0]), nested(&[0x81])] {
            assert!(decode::<ToTracker>(&deep).is_err());
            assert!(decode::<ToTracker>(&one_field("NewFile", "files", &deep)).is_err());
            assert!(decode::<FromTracker>(&one_field("Peers", "peers", &deep)).is_err());
            // What stands in a field that nobody knows is passed over, whatever it is: only the
            // limit on depth ends that.
            for error in [
                decode::<ToTracker>(&one_field("WhoHas", "later", &deep)).unwrap_err(),
                decode::<FromTracker>(&one_field("Confirm", "later", &deep)).unwrap_err(),
                decode::<ToHolder>(&one_field("Open", "later", &deep)).unwrap_err(),
                decode::<FromHolder>(&one_field("Missing", "later", &deep)).unwrap_err(),
            ] {
                assert!(error.to_string().contains("depth limit exceeded"), "{error}");
            }
        }
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(check).unwrap().join().unwrap();
}

#[test]
fn a_length_stated_inside_a_message_allocates_nothing_that_has_not_come() {
    // array, map, text and bytes of 4 GiB each, with nothing behind
    for marker in [0xdd, 0xdf, 0xdb, 0xc6] {
        let huge = [marker, 0xff, 0xff, 0xff, 0xff];
        for (variant, field) in [("NewFile", "files"), ("List", "prefix")] {
            let body = one_field(variant, field, &huge);
            assert!(decode::<ToTracker>(&body).is_err(), "{variant} {marker:x}");
        }
        for (variant, field) in
            [("Manifest", "values"), ("Have", "spans"), ("Holders", "holders"), ("Refused", "why")]
        {
            let body = one_field(variant, field, &huge);
            assert!(decode::<FromHolder>(&body).is_err(), "{variant} {marker:x}");
        }
    }
}

/// Names and ids are parsed on the way in: no handler ever sees one that leaves the folder.
#[test]
fn a_name_that_leaves_the_folder_is_refused_wherever_it_stands() {
    for bad in ["../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a\\b", "a\0b", ".enxame-x", "C:/x"] {
        // A good name of the same length, so that the bad one takes its place byte by byte.
        let good = "q".repeat(bad.len());
        let name: FileName = good.parse().unwrap();
        let id = FileId::from_bytes([1; 32]);
        let listing = Listing { name: name.clone(), id, size: 1, complete: true };
        for message in [
            ToTracker::Register { instance: 1, port: 2, files: vec![listing.clone()] },
            ToTracker::NewFile { files: vec![listing] },
            ToTracker::RemoveFile { files: vec![(name.clone(), id)] },
            ToTracker::WhoHas { question: Question::Name { name: name.clone(), prefix: None } },
            ToTracker::List { prefix: String::new(), after: Some((name.clone(), id)), limit: 1 },
        ] {
            refuses_in_place_of(&message, &good, bad);
        }
        let names = vec![name.clone()];
        for message in [
            FromTracker::Candidates {
                candidates: vec![Candidate { id, size: 1, names, holder_count: 0, holders: vec![] }],
            },
            FromTracker::Files { files: vec![ListedFile { name, id, size: 1, holders: 1 }], more: false },
        ] {
            refuses_in_place_of(&message, &good, bad);
        }
    }
    for bad in ["../p", "a/b", ".hid", "a b"] {
        let hello = Hello::new("qqqqqqqq"[..bad.len()].parse().unwrap());
        refuses_in_place_of(&ToTracker::Hello(hello.clone()), "qqqq"[..bad.len()].as_ref(), bad);
        refuses_in_place_of(&FromHolder::Hello(hello), "qqqq"[..bad.len()].as_ref(), bad);
    }
}

fn refuses_in_place_of<M: Wire>(message: &M, good: &str, bad: &str) {
    let mut body = frame_of(message).split_off(HEADER_BYTES);
    assert_eq!(&decode::<M>(&body).unwrap(), message);
    let at = body.windows(good.len()).position(|part| part == good.as_bytes()).expect("it has the name");
    body[at..at + good.len()].copy_from_slice(bad.as_bytes());
    let error = decode::<M>(&body).unwrap_err();
    assert!(matches!(error, FrameError::Message(_)), "{bad:?} in {message:?}: {error}");
}

/// The other side's words stand in logs and on terminals.
#[test]
fn what_the_other_side_says_to_people_is_short_and_steers_no_terminal() {
    let is_tame = |text: &str| !text.contains(char::is_control) && text.len() < 2 * MAX_FOREIGN_TEXT_BYTES;
    let wild = format!("\x1b[2Jnothing\n[ERROR] happened{}", "!".repeat(100_000));
    let refusal = Refusal::Limit;
    let frame = frame_of(&FromHolder::Refused { refusal, why: wild.clone() });
    let FromHolder::Refused { why, .. } = decode(&frame[HEADER_BYTES..]).unwrap() else { panic!() };
    assert!(is_tame(&why) && why.starts_with("\\u{1b}[2Jnothing\\u{a}[ERROR] happened!!"), "{why}");
    let frame = frame_of(&FromTracker::Refused { refusal, why: wild.clone() });
    let FromTracker::Refused { why: same, .. } = decode(&frame[HEADER_BYTES..]).unwrap() else { panic!() };
    assert_eq!(same, why);

    // What is no message is quoted in the error that says so.
    let mut unknown = Vec::new();
    super::codec::body(&wild, &mut unknown);
    let error = decode::<FromHolder>(&unknown).unwrap_err().to_string();
    assert!(is_tame(&error) && error.contains("\\u{1b}[2Jnothing"), "{error}");

    let hello = Hello { version: 9, agent: wild, ..Hello::new("p".parse().unwrap()) };
    let mismatch = hello.version_mismatch();
    assert!(is_tame(&mismatch) && mismatch.ends_with("both sides"), "{mismatch}");
}

// ---- golden bytes ----

/// The bytes of version 1, a line per message: `name = hex`. **A change of the wire changes
/// [`VERSION`] and this file in one commit**; adding a message adds a line.
const GOLDEN: &str = include_str!("golden_v2.txt");

/// Whether these bytes are read as the message.
type Check = Box<dyn Fn(&[u8]) -> bool>;

/// One message of the table: its name, its frame, and what its golden bytes are read as.
struct Golden {
    name: &'static str,
    frame: Vec<u8>,
    reads: Check,
}

fn golden<M: Wire + 'static>(name: &'static str, message: M) -> Golden {
    let frame = frame_of(&message);
    let reads = move |bytes: &[u8]| {
        let mut buffer = BytesMut::from(bytes);
        let read = take::<M>(&mut buffer, FrameLimits::CONTROL);
        read.is_ok_and(|read| read.as_ref() == Some(&message)) && buffer.is_empty()
    };
    Golden { name, frame, reads: Box::new(reads) }
}

// The names come from matches without a `_`: a new message does not compile until it has one, and
// the test below does not pass until it has an instance.

fn to_tracker_name(message: &ToTracker) -> &'static str {
    match message {
        ToTracker::Hello(_) => "to_tracker.hello",
        ToTracker::Register { .. } => "to_tracker.register",
        ToTracker::NewFile { .. } => "to_tracker.new_file",
        ToTracker::RemoveFile { .. } => "to_tracker.remove_file",
        ToTracker::WhoHas { question: Question::Name { prefix: None, .. } } => "to_tracker.who_has_name",
        ToTracker::WhoHas { question: Question::Name { .. } } => "to_tracker.who_has_name_and_prefix",
        ToTracker::WhoHas { question: Question::Prefix(_) } => "to_tracker.who_has_prefix",
        ToTracker::List { after: None, .. } => "to_tracker.list",
        ToTracker::List { .. } => "to_tracker.list_after",
        ToTracker::Peers { after: None, .. } => "to_tracker.peers",
        ToTracker::Peers { .. } => "to_tracker.peers_after",
        ToTracker::Confirmed { .. } => "to_tracker.confirmed",
        ToTracker::Disconnect => "to_tracker.disconnect",
    }
}

fn from_tracker_name(message: &FromTracker) -> &'static str {
    match message {
        FromTracker::Hello(_) => "from_tracker.hello",
        FromTracker::Registered { .. } => "from_tracker.registered",
        FromTracker::Noted => "from_tracker.noted",
        FromTracker::Refused { refusal, .. } => match refusal {
            Refusal::Version => "from_tracker.refused_version",
            Refusal::PeerIdTaken => "from_tracker.refused_peer_id_taken",
            Refusal::NotRegistered => "from_tracker.refused_not_registered",
            Refusal::Limit => "from_tracker.refused_limit",
            Refusal::Protocol => "from_tracker.refused_protocol",
        },
        FromTracker::Candidates { .. } => "from_tracker.candidates",
        FromTracker::Files { .. } => "from_tracker.files",
        FromTracker::Peers { .. } => "from_tracker.peers",
        FromTracker::Confirm { .. } => "from_tracker.confirm",
    }
}

fn to_holder_name(message: &ToHolder) -> &'static str {
    match message {
        ToHolder::Hello(_) => "to_holder.hello",
        ToHolder::Open { .. } => "to_holder.open",
        ToHolder::Get { .. } => "to_holder.get",
        ToHolder::Peers { .. } => "to_holder.peers",
    }
}

fn from_holder_name(message: &FromHolder) -> &'static str {
    match message {
        FromHolder::Hello(_) => "from_holder.hello",
        FromHolder::Opened { spans: None, .. } => "from_holder.opened_complete",
        FromHolder::Opened { .. } => "from_holder.opened_partial",
        FromHolder::Manifest { .. } => "from_holder.manifest",
        FromHolder::Have { .. } => "from_holder.have",
        FromHolder::Missing { .. } => "from_holder.missing",
        FromHolder::Taken { .. } => "from_holder.taken",
        FromHolder::Holders { .. } => "from_holder.holders",
        FromHolder::Busy { .. } => "from_holder.busy",
        FromHolder::Refused { .. } => "from_holder.refused",
    }
}

fn golden_messages() -> Vec<Golden> {
    let id = FileId::from_bytes(std::array::from_fn(|i| i as u8));
    let name: FileName = "models/Größe 🐝.bin".parse().unwrap();
    let peer: PeerId = "gpu-07".parse().unwrap();
    let hello = Hello { version: 1, peer: peer.clone(), agent: "enxame/0.1.0".into() };
    let listing = Listing { name: name.clone(), id, size: 5_000_000_000, complete: true };
    let partial = Listing { name: "b".parse().unwrap(), id, size: 0, complete: false };
    let digest: ListDigest = [&listing, &partial].into_iter().collect();
    let address: SocketAddr = "192.168.1.7:50123".parse().unwrap();
    let v6 = SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 7071, 0, 0);
    let files = vec![listing, partial];
    let why = || "because".to_string();
    let holders = vec![
        Holder { peer: peer.clone(), address, complete: true },
        Holder { peer: "p2".parse().unwrap(), address: v6.into(), complete: false },
    ];
    let refused = |refusal| FromTracker::Refused { refusal, why: why() };

    let to_tracker = vec![
        ToTracker::Hello(hello.clone()),
        ToTracker::Register { instance: u64::MAX, port: 50123, files: files.clone() },
        ToTracker::NewFile { files },
        ToTracker::RemoveFile { files: vec![(name.clone(), id)] },
        ToTracker::WhoHas { question: Question::Name { name: name.clone(), prefix: None } },
        ToTracker::WhoHas {
            question: Question::Name { name: name.clone(), prefix: Some("0a1".parse().unwrap()) },
        },
        ToTracker::WhoHas { question: Question::Prefix(id.into()) },
        ToTracker::List { prefix: "models/".into(), after: None, limit: 1000 },
        ToTracker::List { prefix: String::new(), after: Some((name.clone(), id)), limit: 1 },
        ToTracker::Peers { after: None, limit: 1000 },
        ToTracker::Peers { after: Some(peer.clone()), limit: 0 },
        ToTracker::Confirmed { digest },
        ToTracker::Disconnect,
    ];
    let from_tracker = vec![
        FromTracker::Hello(hello.clone()),
        FromTracker::Registered { lease_ms: 60_000, refresh_interval_ms: 30_000 },
        FromTracker::Noted,
        refused(Refusal::Version),
        refused(Refusal::PeerIdTaken),
        refused(Refusal::NotRegistered),
        refused(Refusal::Limit),
        refused(Refusal::Protocol),
        FromTracker::Candidates {
            candidates: vec![Candidate {
                id,
                size: 5_000_000_000,
                names: vec![name.clone()],
                holder_count: 51,
                holders: holders.clone(),
            }],
        },
        FromTracker::Files { files: vec![ListedFile { name, id, size: 1, holders: 2 }], more: true },
        FromTracker::Peers {
            peers: vec![ListedPeer { peer, address, files: 3, confirmed_ms: 29_999 }],
            more: false,
        },
        FromTracker::Confirm { digest },
    ];
    let to_holder = vec![
        ToHolder::Hello(hello.clone()),
        ToHolder::Open { id, manifest: true },
        ToHolder::Get { id, run: BlockRun { first: 1 << 40, count: 128 }, fresh: true },
        ToHolder::Peers { id },
    ];
    let from_holder = vec![
        FromHolder::Hello(hello),
        FromHolder::Opened { id, size: 5_000_000_000, spans: None, manifest: true },
        FromHolder::Opened { id, size: 600_000, spans: Some(Bytes::from_static(&[0b101])), manifest: false },
        FromHolder::Manifest { id, values: (0..64).collect() },
        FromHolder::Have { id, spans: vec![0, 127, 65_535] },
        FromHolder::Missing { id },
        FromHolder::Taken { id, given: Bytes::from_static(&[0x05, 0x80]) },
        FromHolder::Holders { id, holders },
        FromHolder::Busy { retry_after_ms: 2000 },
        FromHolder::Refused { refusal: Refusal::Limit, why: why() },
    ];
    let mut all: Vec<Golden> = Vec::new();
    all.extend(to_tracker.into_iter().map(|m| golden(to_tracker_name(&m), m)));
    all.extend(from_tracker.into_iter().map(|m| golden(from_tracker_name(&m), m)));
    all.extend(to_holder.into_iter().map(|m| golden(to_holder_name(&m), m)));
    all.extend(from_holder.into_iter().map(|m| golden(from_holder_name(&m), m)));
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).expect("hex digits") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn the_bytes_of_version_2_are_the_golden_ones() {
    assert_eq!(VERSION, 2, "a new version has a golden file of its own");
    let messages = golden_messages();
    let mut now: String = messages.iter().map(|m| format!("{} = {}\n", m.name, hex(&m.frame))).collect();
    now.push_str(&format!("blocks_header = {}\n", hex(&blocks_header(1 << 40, SPAN))));
    let stated: String = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |all, line| all + line + "\n");
    assert!(
        stated == now,
        "the wire has changed; if that is meant, raise VERSION and commit these bytes:\n{now}"
    );
    for (message, line) in messages.iter().zip(stated.lines()) {
        let (name, bytes) = line.split_once(" = ").expect("name = hex");
        assert!(name == message.name && (message.reads)(&unhex(bytes)), "{line}");
    }
}

#[test]
fn every_bit_of_every_golden_frame_may_flip_without_a_panic() {
    fn flips<M: Wire>(frame: &[u8]) {
        for bit in 0..frame.len() * 8 {
            let mut frame = frame.to_vec();
            frame[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(message)) = take::<M>(&mut BytesMut::from(&frame[..]), FrameLimits::CONTROL) {
                reads_back(&message);
            }
        }
    }
    for message in golden_messages() {
        match message.name.split('.').next() {
            Some("to_tracker") => flips::<ToTracker>(&message.frame),
            Some("from_tracker") => flips::<FromTracker>(&message.frame),
            Some("to_holder") => flips::<ToHolder>(&message.frame),
            Some("from_holder") => flips::<FromHolder>(&message.frame),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn our_deepest_message_is_far_from_the_limit() {
    let deepest = |frame: &[u8]| {
        (1..=MAX_DEPTH).find(|depth| {
            let mut rest = &frame[HEADER_BYTES..];
            let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
            deserializer.set_max_depth(*depth);
            <FromTracker as serde::Deserialize>::deserialize(&mut deserializer).is_ok()
        })
    };
    let messages = golden_messages();
    let depths: Vec<_> =
        messages.iter().filter(|m| m.name.starts_with("from_tracker")).map(|m| deepest(&m.frame)).collect();
    assert!(depths.iter().all(|depth| depth.is_some_and(|depth| depth <= MAX_DEPTH / 2)), "{depths:?}");
}
