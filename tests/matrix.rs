//! The transfer matrix: every size that matters, from one, two and five sources of which one has a
//! fault, into a place where something may have been left: 576 downloads, each with its one right end.
//!
//! The faulty source is the only one in a third of the cases; what has to come of it then is said in
//! [`Faulty`]. Beside honest sources, which greet late so that it is asked first, the file arrives.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use enxame_actors::base::{Geometry, SpanIndex};
use enxame_actors::peer::events::{FileDone, JobError};
use enxame_actors::wire::tracker::{Candidate, Holder};
use support::files::SPAN;
use support::holder::{Says, connections, spans_asked};
use support::job::{Running, Told, into_folder, part_files, part_path, share, sums_up};
use support::proxy::{End, Way};
use support::tracker::{Script, candidate};
use support::{
    Behaviour, Content, FakeHolder, FakeTracker, Fault as ProxyFault, FaultProxy, Test, system_test_within,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const SIZES: [usize; 8] = [0, 1, 4095, 4096, 4097, SPAN - 1, SPAN + 1, 16 << 20];
const SOURCES: [usize; 3] = [1, 2, 5];
const FAULTS: [Fault; 6] =
    [Fault::None, Fault::Corrupt, Fault::Cut, Fault::Stall, Fault::FalseHave, Fault::WrongSize];
const STARTS: [Start; 4] = [Start::Nothing, Start::PartRight, Start::PartWrong, Start::AllWrong];
const CASES_PER_FAULT: usize = SIZES.len() * SOURCES.len() * STARTS.len();
const CASES: usize = CASES_PER_FAULT * FAULTS.len();
const _: () = assert!(CASES == 576);

/// How late honest sources greet beside a faulty one.
const LATE_MS: u64 = 150;

/// For all cases of a fault: those that stall wait half a minute, all at the same time.
const DEADLINE: Duration = Duration::from_secs(180);

/// Cases of which the end was seen, in all tests.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// What one of the sources does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It sends one span with a flipped bit, each time.
    Corrupt,
    /// Its first connection ends somewhere, by FIN or RST; dialled again, it serves.
    Cut,
    /// It sends some spans, then nothing on any connection.
    Stall,
    /// It says that it has what it then answers with MISSING.
    FalseHave,
    /// It states another size, to the tracker, in OPENED, or to both.
    WrongSize,
}

/// What stands at the place when the download begins. Of a file of several spans those that are right
/// are kept. A file of one span is written and named in one go and never recovered: whatever part
/// stands there is written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Nothing,
    /// A part file with some right spans and holes. Of one span: all of it, without its name.
    PartRight,
    /// A part file with some right spans, some wrong ones and holes. Of one span: half of it right.
    PartWrong,
    /// A part file that is all wrong, and may be too long.
    AllWrong,
}

#[derive(Clone, Copy)]
struct Case {
    size: usize,
    sources: usize,
    fault: Fault,
    start: Start,
    seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { size, sources, fault, start, .. } = self;
        write!(f, "size {size}, sources {sources}, fault {fault:?}, start {start:?}")
    }
}

/// How a case ended, as it had to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    /// The file arrived, and the fault was not met: there is none, or others were faster.
    Done,
    /// The file arrived in spite of it.
    DoneInSpite,
    /// The only source has not delivered it.
    Undelivered,
}

macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

// ---- what stands there ----

/// Leaves what `start` says; which spans of it are right.
fn lay(to: &Path, content: &Content, start: Start, rng: &mut fastrand::Rng) -> BTreeSet<u32> {
    if start == Start::Nothing {
        return BTreeSet::new();
    }
    let part = File::create(part_path(to, content)).expect("a test's file");
    let inverted = |data: &[u8]| data.iter().map(|byte| !byte).collect::<Vec<u8>>();
    let write = |data: &[u8], offset: u64| part.write_all_at(data, offset).expect("a test's file");
    if start == Start::AllWrong {
        let more = rng.usize(1..5000);
        write(&[inverted(&content.data), vec![7; more]].concat(), 0);
        if content.size() > 0 && rng.bool() {
            part.set_len(content.size()).expect("a test's file");
        }
        return BTreeSet::new();
    }
    if content.geometry.is_single() {
        let (right, rest) = match start {
            Start::PartRight => content.data.split_at(content.data.len()),
            _ => content.data.split_at(content.data.len() / 2),
        };
        let junk = if start == Start::PartWrong && content.size() == 0 { vec![7] } else { inverted(rest) };
        write(&[right, &junk].concat(), 0);
        return if start == Start::PartRight { BTreeSet::from([0]) } else { BTreeSet::new() };
    }
    let mut spans: Vec<SpanIndex> = content.geometry.all_spans().collect();
    rng.shuffle(&mut spans);
    let (right, rest) = spans.split_at(rng.usize(1..spans.len()));
    let wrong = if start == Start::PartWrong { rng.usize(1..=rest.len()) } else { 0 };
    for span in right {
        write(&content.span(span.number()).expect("its span"), content.geometry.offset(*span));
    }
    for span in &rest[..wrong] {
        write(&inverted(&content.span(span.number()).expect("its span")), content.geometry.offset(*span));
    }
    if rng.bool() {
        part.set_len(content.size()).expect("a test's file");
    }
    right.iter().map(|span| span.number()).collect()
}

/// How many bytes these spans have.
fn len_of<'a>(content: &Content, spans: impl IntoIterator<Item = &'a u32>) -> u64 {
    let len = |span: &u32| content.span(*span).expect("its span").len() as u64;
    spans.into_iter().map(len).sum()
}

// ---- the source with the fault ----

/// The source with the fault, and what comes of it if it is the only one.
struct Faulty {
    holder: FakeHolder,
    proxy: Option<FaultProxy>,
    /// How the tracker tells of it, and the size that it states there.
    listed: Holder,
    stated: u64,
    /// Part of each reason for which it is dropped.
    reason: String,
    /// How often it is dropped; beside others at most so often.
    drops: usize,
    /// Whether it delivers in the end.
    delivers: bool,
}

impl Faulty {
    /// `missing` are the spans that have to come, of which there is at least one.
    fn start(
        test: &Test,
        fault: Fault,
        content: &Content,
        missing: &[u32],
        rng: &mut fastrand::Rng,
    ) -> Faulty {
        match fault {
            Fault::None => Faulty::honest(test, content, Behaviour::Honest),
            // There is no bit to flip.
            Fault::Corrupt if content.size() == 0 => Faulty::honest(test, content, Behaviour::Honest),
            Fault::Corrupt => {
                let span = missing[rng.usize(..missing.len())];
                let reason = format!("sent wrong data (span {span})");
                Faulty::honest(test, content, Behaviour::FlipBit(span)).lies(reason)
            }
            Fault::Cut => {
                // Somewhere in front of the last byte; the greeting alone is longer than 20.
                let at = rng.u64(0..len_of(content, missing).max(20));
                let cut = Way::ends(at, if rng.bool() { End::Fin } else { End::Reset });
                let mut script = vec![ProxyFault::none(); 10];
                script[0] = ProxyFault::to_client(cut);
                let honest = Faulty::honest(test, content, Behaviour::Honest);
                let proxy = FaultProxy::start(test, honest.holder.address(), script);
                let listed = honest.holder.listed_at(proxy.address());
                Faulty { proxy: Some(proxy), listed, reason: "the connection ".into(), drops: 1, ..honest }
            }
            Fault::Stall => {
                let behaviour = Behaviour::Freeze(rng.u64(0..missing.len() as u64));
                let stalls = Faulty::honest(test, content, behaviour).lies("sent nothing for 10 s");
                // So many connections in a row that led to nothing more.
                Faulty { drops: 3, ..stalls }
            }
            Fault::FalseHave => {
                let mut lacks = missing.to_vec();
                rng.shuffle(&mut lacks);
                lacks.truncate(rng.usize(1..=lacks.len()));
                let spans = 0..content.geometry.spans() as u32;
                let has = spans.filter(|span| !lacks.contains(span)).collect();
                let says = [Says::Complete, Says::InOpened, Says::ByHave][rng.usize(..3)];
                let lacking =
                    Faulty::honest(test, content, Behaviour::FalseHave(says, has)).lies("does not have it");
                // After 1, 2 and 4 s, for it is still listed; by the fourth time it is given up at the latest.
                Faulty { drops: 4, ..lacking }
            }
            Fault::WrongSize => Faulty::of_wrong_size(test, content, rng),
        }
    }

    fn of_wrong_size(test: &Test, content: &Content, rng: &mut fastrand::Rng) -> Faulty {
        let size = content.size();
        let mut others = vec![size + 1, size.saturating_sub(1), 1, size + SPAN as u64];
        others.retain(|stated| *stated != size);
        let stated = others[rng.usize(..others.len())];
        let geometry = Geometry::new(stated).expect("a small file");
        match rng.u8(..3) {
            // To the tracker alone: what it is then asked for is not what it has.
            0 => {
                let first = content.span(0).expect("a span").len() as u64;
                let reason = match geometry.is_single() {
                    true if first == stated => "sent wrong data (span 0)".into(),
                    true => "a span of another length".into(),
                    false => format!("states a wrong size ({size} bytes)"),
                };
                Faulty { stated, ..Faulty::honest(test, content, Behaviour::Honest).lies(reason) }
            }
            // In OPENED alone, for which a holder of a part is asked.
            1 => {
                let reason = format!("states a wrong size ({} bytes)", size + 1);
                let mut lying = Faulty::honest(test, content, Behaviour::WrongSize).lies(reason);
                lying.listed.complete = false;
                lying
            }
            // To both, with data and a manifest that go with it.
            _ => {
                let reason = if geometry.is_single() {
                    "sent wrong data (span 0)".into()
                } else if geometry.spans() == content.geometry.spans() {
                    // The true manifest fits too: the last span alone proves the size.
                    format!("sent wrong data (span {})", geometry.last_span())
                } else {
                    "sent a wrong manifest".into()
                };
                Faulty::honest(test, &content.forged(stated as usize), Behaviour::Honest).lies(reason)
            }
        }
    }

    /// One that delivers what it holds.
    fn honest(test: &Test, held: &Content, behaviour: Behaviour) -> Faulty {
        let holder = FakeHolder::start(test, "bad", std::slice::from_ref(held), behaviour);
        let (listed, stated) = (holder.listed(), held.size());
        Faulty { holder, proxy: None, listed, stated, reason: String::new(), drops: 0, delivers: true }
    }

    /// One that is found out, and not asked again.
    fn lies(self, reason: impl Into<String>) -> Faulty {
        Faulty { reason: reason.into(), drops: 1, delivers: false, ..self }
    }

    /// How often it was connected to.
    fn connections(&self) -> usize {
        match &self.proxy {
            Some(proxy) => proxy.traffic().connections as usize,
            None => connections(&self.holder.asked()),
        }
    }
}

// ---- a case ----

async fn run(test: &Test, case: &Case, content: &Content) -> Result<Ended, String> {
    let mut rng = fastrand::Rng::with_seed(case.seed);
    let to = test.folder();
    let right = lay(&to, content, case.start, &mut rng);
    let kept = if content.geometry.is_single() { BTreeSet::new() } else { right.clone() };
    let spans = 0..content.geometry.spans() as u32;
    let missing: Vec<u32> = spans.filter(|span| !kept.contains(span)).collect();
    let bad = Faulty::start(test, case.fault, content, &missing, &mut rng);
    let good: Vec<(String, FakeHolder)> = (1..case.sources)
        .map(|n| format!("good{n}"))
        .map(|peer| {
            let holder =
                FakeHolder::start(test, &peer, std::slice::from_ref(content), Behaviour::Late(LATE_MS));
            (peer, holder)
        })
        .collect();
    let listed = good.iter().map(|(_, holder)| holder.listed()).collect();
    let lie = candidate(content, &["x"], vec![bad.listed.clone()]);
    let candidates = vec![Candidate { size: bad.stated, ..lie }, candidate(content, &["x"], listed)];
    let tracker = FakeTracker::start(test, Script { candidates, ..Script::default() });
    let running = Running::start(test, tracker.address(), vec![into_folder("x", &to)]);
    let told = test.wait_for(format!("the end of {case}"), running.finish()).await;

    for (peer, _) in &good {
        ensure!(told.dropped(peer).is_empty(), "an honest source was dropped: {told:#?}");
    }
    let is_alone = good.is_empty();
    let (drops, dialled) = (told.dropped("bad"), bad.connections());
    let (most, dials) = (bad.drops, bad.drops + usize::from(bad.delivers));
    let as_often = if is_alone && case.fault != Fault::FalseHave {
        (drops.len(), dialled) == (most, dials)
    } else if is_alone {
        (1..=most).contains(&drops.len()) && dialled == drops.len()
    } else {
        drops.len() <= most && dialled <= dials
    };
    ensure!(as_often, "dialled {dialled} times, {drops:?}");
    ensure!(drops.iter().all(|why| why.contains(&bad.reason)), "not {:?}: {drops:?}", bad.reason);
    let is_done = !is_alone || bad.delivers;
    let ended = if is_done {
        let done = arrived(&told, &to, content)?;
        ensure!(done.kept_bytes == len_of(content, &kept), "right on disk was {kept:?}: {done:?}");
        ensure!(!is_alone || done.wasted_bytes == 0, "asked twice: {done:?}");
        let delivered = share(done, "bad").div_ceil(SPAN as u64) as usize;
        let is_stalled = case.fault == Fault::Stall && spans_asked(content, &bad.holder.asked()) > delivered;
        if is_stalled || !drops.is_empty() { Ended::DoneInSpite } else { Ended::Done }
    } else {
        undelivered(&told, &to, &bad.reason)?;
        ensure!(still_right(&to, content, &right), "what was right on disk is not any more");
        Ended::Undelivered
    };
    drop((bad, good, tracker));
    fs::remove_dir_all(&to).expect("a test's folder");
    Ok(ended)
}

/// The file stands under its name alone, and its numbers sum up.
fn arrived<'a>(told: &'a Told, to: &Path, content: &Content) -> Result<&'a FileDone, String> {
    let (done, failed) = (told.all_done(), told.all_failed());
    let ([done], []) = (&done[..], &failed[..]) else { return Err(format!("not done: {told:#?}")) };
    let place = to.join("x");
    ensure!(content.stands_at(&place), "another content has the name: {done:?}");
    ensure!(done.path.as_ref() == Some(&place) && done.id == content.id, "another file: {done:?}");
    ensure!(done.size == content.size() && sums_up(done), "the numbers do not sum up: {done:?}");
    let names = names_in(to);
    ensure!(names == ["x"], "more than the file is left: {names:?}");
    Ok(done)
}

/// Nothing has the name, and the one source failed for the one reason.
fn undelivered(told: &Told, to: &Path, reason: &str) -> Result<(), String> {
    let (done, failed) = (told.all_done(), told.all_failed());
    let ([], [(_, JobError::Undelivered(reasons))]) = (&done[..], &failed[..]) else {
        return Err(format!("not undelivered: {told:#?}"));
    };
    let why = matches!(&reasons[..], [(peer, why)] if peer.as_str() == "bad" && why.contains(reason));
    ensure!(why, "not for {reason:?}: {reasons:?}");
    ensure!(!to.join("x").exists(), "something has the name");
    ensure!(names_in(to).len() == part_files(to).len(), "left: {:?}", names_in(to));
    Ok(())
}

/// Whether the part file still has these spans.
fn still_right(to: &Path, content: &Content, right: &BTreeSet<u32>) -> bool {
    let held = fs::read(part_path(to, content)).unwrap_or_default();
    right.iter().filter_map(|number| content.geometry.span(u64::from(*number))).all(|span| {
        let offset = content.geometry.offset(span) as usize;
        content.span(span.number()).is_some_and(|data| held.get(offset..offset + data.len()) == Some(&data))
    })
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a test's folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

// ---- all of them ----

/// Runs the cases of one fault, `at_once` at a time; those with one source, which may have to wait long,
/// first.
fn every_case_with(fault: Fault, at_once: usize) {
    system_test_within(DEADLINE, move |test| async move {
        let mut rng = test.rng();
        let mut content_of = |size| {
            let mut data = Content::random(&mut rng, size).data.to_vec();
            // A hole is never right by chance.
            if let Some(byte) = data.last_mut() {
                *byte |= 1;
            }
            Content::of(data)
        };
        let contents: BTreeMap<usize, Content> =
            SIZES.into_iter().map(|size| (size, content_of(size))).collect();
        let permits = Rc::new(Semaphore::new(at_once));
        let mut running = JoinSet::new();
        for sources in SOURCES {
            for size in SIZES {
                for start in STARTS {
                    let case = Case { size, sources, fault, start, seed: rng.u64(..) };
                    let (test, permits, content) = (test.clone(), permits.clone(), contents[&size].clone());
                    running.spawn_local(async move {
                        let _permit = permits.acquire().await.expect("it is never closed");
                        (case, run(&test, &case, &content).await)
                    });
                }
            }
        }
        let (mut counts, mut wrong) = (BTreeMap::new(), Vec::new());
        while let Some(ended) = running.join_next().await {
            // A panic has told the harness.
            let Ok((case, ended)) = ended else { continue };
            match ended {
                Ok(ended) => *counts.entry(ended).or_insert(0) += 1,
                Err(why) => wrong.push(format!("{case} (seed {}): {why}", case.seed)),
            }
        }
        let count = |ended| counts.get(&ended).copied().unwrap_or(0);
        let [done, in_spite, not] = [Ended::Done, Ended::DoneInSpite, Ended::Undelivered].map(count);
        let all: usize = counts.values().sum::<usize>() + wrong.len();
        let ended = all + ENDED.fetch_add(all, Ordering::Relaxed);
        println!(
            "{fault:?}: {all} cases: {done} done, {in_spite} done in spite of the fault, {not} undelivered, \
             {} wrong; {ended} of {CASES} so far",
            wrong.len()
        );
        assert!(wrong.is_empty(), "{} cases ended wrongly:\n{}", wrong.len(), wrong.join("\n"));
        assert_eq!(all, CASES_PER_FAULT);
        assert!(fault == Fault::None || in_spite >= 8, "the faulty source was hardly ever asked first");
    });
}

#[test]
fn a_download_without_a_fault_arrives_whatever_stood_there() {
    every_case_with(Fault::None, 8);
}

#[test]
fn what_comes_corrupt_is_never_shown_and_honest_sources_deliver() {
    every_case_with(Fault::Corrupt, 8);
}

#[test]
fn what_is_cut_goes_on_where_it_was() {
    every_case_with(Fault::Cut, 16);
}

#[test]
fn who_stalls_is_given_up_and_holds_nobody_up() {
    every_case_with(Fault::Stall, 48);
}

#[test]
fn who_lacks_what_it_said_it_has_is_asked_a_few_times_while_it_is_listed() {
    every_case_with(Fault::FalseHave, 8);
}

#[test]
fn who_states_a_wrong_size_deceives_nobody() {
    every_case_with(Fault::WrongSize, 16);
}
