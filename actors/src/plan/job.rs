//! The plan of a job: which source is asked for which spans of which file, and when.
//!
//! Each source has a window: how much of it may be in flight, from its measured rate. When nothing
//! is wanted any more, a source that has room is given spans that are late at another one; the first
//! answer counts. Invariant: every span of every file is exactly one of had, in flight and wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::base::limits::{
    JOB_IN_FLIGHT_BYTES, MAX_REPLACED_CONNECTIONS, MAX_REQUESTS_IN_FLIGHT, STALL_TIMEOUT, USELESS_TIMEOUT,
};
use crate::base::{Geometry, SpanIndex, SpanSet};
use crate::plan::file::{FilePlan, Holding, MAX_ASKERS};
use crate::plan::rate::Rate;

/// One attempt at a file of the job, numbered in the order in which they were begun; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIndex(pub u64);

/// One connection of the job; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

/// Ask a source for consecutive spans of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The file.
    pub file: FileIndex,
    /// Its spans; not empty.
    pub spans: Range<u32>,
    /// Whether they are wanted only if the source has given them to nobody else.
    pub is_fresh: bool,
}

/// What became of a delivered span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was the first to arrive; whether the file is complete with it.
    Used {
        /// Whether every span of the file is had now.
        complete: bool,
    },
    /// Another source was faster.
    Wasted,
}

/// How much time's worth of data a source may have in flight: covers the round trip and a few late
/// wake-ups. Little, for a span that waits in one source's queue is not asked of another one that
/// has got it meanwhile: with twice as much, sixteen that fetch together take 5 % longer.
const WINDOW: Duration = Duration::from_millis(100);
/// What the sources that were not measured yet may have in flight together: keeps 1 Gbit/s busy over
/// 8 ms. Whatever the window, each source may be asked for one span.
const FIRST_WINDOW_BYTES: u64 = 1 << 20;
/// The largest window.
const MAX_WINDOW_BYTES: u64 = 8 << 20;
/// A request states at most so many bytes: a span that is late can be given away span by span, but
/// the sender is free to send a whole run in one go.
const MAX_RUN_BYTES: u64 = 1 << 20;
/// A span is late if it is expected this many times later than another source would deliver it...
const LATE_FACTOR: u32 = 2;
/// ... and at least so much later: while other spans are wanted, only what hardly moves is worth a
/// duplicate...
const LATE_BY: Duration = Duration::from_secs(1);
/// ... and at the end everything that is more than noise.
const LATE_BY_AT_END: Duration = Duration::from_millis(50);
/// A source is not judged before it was connected for so long: a few windows.
const TRIAL: Duration = Duration::from_secs(1);
/// A source makes room for another one if it delivers less than this part of what sources deliver on
/// average: it is busy with many others, and who nobody asks yet is better (parts of 100).
const POOR_PERCENT: u64 = 75;

#[derive(Debug)]
struct Asked {
    file: FileIndex,
    span: SpanIndex,
    bytes: u64,
}

#[derive(Debug)]
struct SourcePlan {
    holdings: HashMap<FileIndex, Holding>,
    /// What it was asked for and has not answered, in the order asked.
    queue: VecDeque<Asked>,
    in_flight_bytes: u64,
    rate: Rate,
    /// When it last delivered, or was first asked after being idle.
    progress: Instant,
    /// Where its sequence goes on, per file.
    cursors: HashMap<FileIndex, u32>,
    /// What it has given to others, as far as it told.
    given: HashMap<FileIndex, SpanSet>,
    /// When it was added.
    since: Instant,
    /// When it last delivered what was of use.
    useful: Instant,
    /// Whether it makes room for another one.
    is_retired: bool,
}

impl SourcePlan {
    /// Its window in a job of so many sources, in bytes; at least 1, which is room for one span.
    fn window_bytes(&self, sources: usize) -> u64 {
        let Some(rate) = self.rate.bytes_s() else { return FIRST_WINDOW_BYTES / sources.max(1) as u64 };
        let bytes = u128::from(rate) * WINDOW.as_millis() / 1000;
        (bytes as u64).clamp(1, MAX_WINDOW_BYTES)
    }

    /// How long it takes this source to deliver so many bytes.
    fn time_for(&self, bytes: u64) -> Duration {
        match self.rate.bytes_s() {
            Some(rate) => Duration::from_secs_f64((bytes as f64 / rate.max(1) as f64).min(1e6)),
            None => STALL_TIMEOUT,
        }
    }

    /// When this source is expected to deliver the span at `position` of its queue. One that was not
    /// measured yet is trusted until it stalls.
    fn expected_in(&self, position: usize, now: Instant) -> Duration {
        if now.saturating_duration_since(self.progress) >= STALL_TIMEOUT {
            return Duration::MAX;
        }
        if self.rate.bytes_s().is_none() {
            return Duration::ZERO;
        }
        self.time_for(self.queue.iter().take(position + 1).map(|asked| asked.bytes).sum())
    }
}

/// The plan of a job.
#[derive(Debug)]
pub struct JobPlan {
    files: BTreeMap<FileIndex, FilePlan>,
    /// The files that have wanted spans, so that a job of very many is not searched each time.
    with_wanted: BTreeSet<FileIndex>,
    sources: BTreeMap<SourceId, SourcePlan>,
    next_source: u64,
    in_flight_bytes: u64,
    rng: fastrand::Rng,
}

impl JobPlan {
    /// An empty plan; equal seeds make equal choices.
    pub fn new(seed: u64) -> JobPlan {
        JobPlan {
            files: BTreeMap::new(),
            with_wanted: BTreeSet::new(),
            sources: BTreeMap::new(),
            next_source: 0,
            in_flight_bytes: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Takes up a file of which `had` is there already.
    pub fn add_file(&mut self, file: FileIndex, geometry: Geometry, had: SpanSet) {
        let plan = FilePlan::new(geometry, had);
        if plan.has_wanted() {
            self.with_wanted.insert(file);
        }
        self.files.insert(file, plan);
    }

    /// Forgets a file; what is in flight of it is settled as wasted when it arrives.
    pub fn remove_file(&mut self, file: FileIndex) {
        self.files.remove(&file);
        self.with_wanted.remove(&file);
        for source in self.sources.values_mut() {
            source.holdings.remove(&file);
            source.cursors.remove(&file);
            source.given.remove(&file);
        }
    }

    /// The plan of one file.
    pub fn file(&self, file: FileIndex) -> Option<&FilePlan> {
        self.files.get(&file)
    }

    /// Bytes that the files in the plan still want, in flight or not.
    pub fn missing_bytes(&self) -> u64 {
        self.files.values().map(|plan| plan.geometry().size() - plan.had().len_bytes(plan.geometry())).sum()
    }

    /// Holders state different sizes of this file: the span that proves it is asked first.
    pub fn doubt_size(&mut self, file: FileIndex) {
        if let Some(plan) = self.files.get_mut(&file) {
            plan.doubt_size();
        }
    }

    /// Spans of this file from `horizon` on are not asked for yet, the others in order.
    pub fn limit_file_to(&mut self, file: FileIndex, horizon: u32) {
        if let Some(plan) = self.files.get_mut(&file) {
            plan.limit_to(horizon);
        }
    }

    /// A connection that can be asked.
    pub fn add_source(&mut self, now: Instant) -> SourceId {
        let id = SourceId(self.next_source);
        self.next_source += 1;
        let source = SourcePlan {
            holdings: HashMap::new(),
            queue: VecDeque::new(),
            in_flight_bytes: 0,
            rate: Rate::new(now),
            progress: now,
            cursors: HashMap::new(),
            given: HashMap::new(),
            since: now,
            useful: now,
            is_retired: false,
        };
        self.sources.insert(id, source);
        id
    }

    /// A connection ended: what it was asked for is wanted again. Returns how many spans that were.
    pub fn remove_source(&mut self, id: SourceId) -> usize {
        let Some(source) = self.sources.remove(&id) else { return 0 };
        self.in_flight_bytes -= source.in_flight_bytes;
        for asked in &source.queue {
            self.not_delivered(asked.file, asked.span, id);
        }
        for (file, holding) in &source.holdings {
            if let Some(plan) = self.files.get_mut(file) {
                plan.count_copies(holding, false);
            }
        }
        source.queue.len()
    }

    /// What a source has of a file; `None`: nothing (any more), and what it was asked for is wanted again.
    pub fn set_holding(&mut self, id: SourceId, file: FileIndex, holding: Option<Holding>) {
        if holding.is_none() {
            self.take_back(id, |asked| asked.file == file);
        }
        let (Some(source), Some(plan)) = (self.sources.get_mut(&id), self.files.get_mut(&file)) else {
            return;
        };
        if let Some(old) = source.holdings.remove(&file) {
            plan.count_copies(&old, false);
        }
        if let Some(holding) = holding {
            plan.count_copies(&holding, true);
            source.holdings.insert(file, holding);
        }
    }

    /// A source will not deliver these of the spans that it was asked for, of files that may have left the
    /// plan since.
    fn take_back(&mut self, id: SourceId, is_one: impl Fn(&Asked) -> bool) {
        let Some(source) = self.sources.get(&id) else { return };
        let asked: Vec<_> =
            source.queue.iter().filter(|asked| is_one(asked)).map(|it| (it.file, it.span)).collect();
        for (file, span) in asked {
            self.not_stored(id, file, span);
        }
    }

    /// A source has further spans of a file; whether it did not have them before.
    pub fn extend_holding(&mut self, id: SourceId, file: FileIndex, spans: &[SpanIndex]) -> bool {
        let Some(source) = self.sources.get_mut(&id) else { return false };
        let Some(Holding::Spans(set)) = source.holdings.get_mut(&file) else { return false };
        let new: Vec<SpanIndex> = spans.iter().copied().filter(|span| set.insert(*span)).collect();
        let is_full = set.is_full();
        if let Some(plan) = self.files.get_mut(&file) {
            plan.add_copies(&new);
        }
        if is_full {
            self.set_holding(id, file, Some(Holding::All));
        }
        !new.is_empty()
    }

    /// Whether a file is in line: a source that owes us spans of others has some that are wanted of this one.
    pub fn is_in_line(&self, file: FileIndex) -> bool {
        let Some(plan) = self.files.get(&file) else { return false };
        let has_some =
            |source: &SourcePlan| source.holdings.get(&file).is_some_and(|held| plan.may_ask(held));
        self.sources.values().any(|source| !source.queue.is_empty() && !source.is_retired && has_some(source))
    }

    /// Whether this source has anything of this file.
    pub fn holds(&self, id: SourceId, file: FileIndex) -> bool {
        self.sources.get(&id).is_some_and(|source| source.holdings.contains_key(&file))
    }

    /// Has sources make room for others, of which so many are ready, but no more than
    /// [`MAX_REPLACED_CONNECTIONS`] at a time: those that deliver least, if that is much less than what the
    /// others do, or nothing for [`USELESS_TIMEOUT`]. They are asked for nothing any more from here on. The
    /// last one that holds all of a wanted file stays.
    /// Returns how many that are.
    pub fn retire_poor(&mut self, ready: usize, now: Instant) -> usize {
        let most = ready.min(MAX_REPLACED_CONNECTIONS);
        let judged = |source: &SourcePlan| !source.is_retired && now >= source.since + TRIAL;
        let mut rates: Vec<(u64, SourceId)> = Vec::new();
        for (id, source) in self.sources.iter_mut().filter(|(_, source)| judged(source)) {
            rates.push((source.rate.bytes_s_at(now), *id));
        }
        let mean = rates.iter().map(|(rate, _)| rate).sum::<u64>() / (rates.len() as u64).max(1);
        rates.sort_unstable();
        let mut retired = 0;
        for (rate, id) in rates {
            let Some(source) = self.sources.get(&id) else { continue };
            let is_poor = rate < mean * POOR_PERCENT / 100;
            let is_useless = now.saturating_duration_since(source.useful) >= USELESS_TIMEOUT;
            if retired < most && (is_poor || is_useless) && !self.is_last_with_all(id) {
                self.retire(id);
                retired += 1;
            }
        }
        retired
    }

    fn is_last_with_all(&self, id: SourceId) -> bool {
        let Some(source) = self.sources.get(&id) else { return false };
        let has_all = |source: &SourcePlan, file| source.holdings.get(file) == Some(&Holding::All);
        source.holdings.keys().filter(|file| has_all(source, file)).any(|file| {
            let mut others =
                self.sources.iter().filter(|(other, source)| **other != id && !source.is_retired);
            !others.any(|(_, source)| has_all(source, file))
        })
    }

    fn retire(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.is_retired = true;
        }
    }

    /// The sources that have made room and owe nothing any more.
    pub fn retired(&self) -> Vec<SourceId> {
        let is_over = |source: &SourcePlan| source.is_retired && source.queue.is_empty();
        self.sources.iter().filter(|(_, source)| is_over(source)).map(|(id, _)| *id).collect()
    }

    /// The sources of the plan.
    pub fn sources(&self) -> Vec<SourceId> {
        self.sources.keys().copied().collect()
    }

    /// Whether this source was asked for anything that it has not answered.
    pub fn is_asked(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| !source.queue.is_empty())
    }

    /// What to ask of a source now.
    pub fn assign(&mut self, id: SourceId, now: Instant) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.sources.get(&id).is_none_or(|source| source.is_retired) {
            return requests;
        }
        while let Some(request) = self.next_request(id) {
            self.ask(id, &request, now);
            requests.push(request);
        }
        if requests.is_empty() && !self.is_asked(id) {
            while let Some(request) = self.next_late(id, now) {
                self.ask(id, &request, now);
                requests.push(request);
            }
        }
        requests
    }

    /// Bytes that the window of this source has room for; the last request may go over it.
    fn room_bytes(&self, source: &SourcePlan) -> u64 {
        if source.queue.len() >= MAX_REQUESTS_IN_FLIGHT {
            return 0;
        }
        let window = source.window_bytes(self.sources.len());
        let room = window.saturating_sub(source.in_flight_bytes);
        // While a large window is half full, requests wait until they are worth a message.
        if source.in_flight_bytes >= window / 2 && window >= 4 * MAX_RUN_BYTES && room < MAX_RUN_BYTES {
            return 0;
        }
        // A source that has nothing in flight gets its one span whatever the others have taken.
        let job = JOB_IN_FLIGHT_BYTES.saturating_sub(self.in_flight_bytes);
        room.min(job.max(u64::from(source.queue.is_empty())))
    }

    fn next_request(&mut self, id: SourceId) -> Option<Request> {
        let source = self.sources.get(&id)?;
        let room = self.room_bytes(source);
        if room == 0 {
            return None;
        }
        let held = self.with_wanted.iter().filter_map(|file| Some((*file, source.holdings.get(file)?)));
        for (file, holding) in held {
            let plan = self.files.get(&file)?;
            let cursor = match source.cursors.get(&file) {
                Some(cursor) => *cursor,
                None => self.rng.u32(0..plan.geometry().spans() as u32),
            };
            let max = room.min(MAX_RUN_BYTES).div_ceil(plan.geometry().span_len_bytes()) as usize;
            let (given, is_idle) = (source.given.get(&file), source.queue.is_empty());
            if let Some(choice) = plan.choose(holding, given, cursor, max, is_idle, &mut self.rng) {
                return Some(Request { file, spans: choice.spans, is_fresh: choice.is_fresh });
            }
        }
        None
    }

    /// A span that is late elsewhere and that this idle source would deliver well before.
    fn next_late(&self, id: SourceId, now: Instant) -> Option<Request> {
        let source = self.sources.get(&id)?;
        if self.room_bytes(source) == 0 {
            return None;
        }
        let late_at = |owner: &SourceId, file: FileIndex, span: SpanIndex| {
            let owner = self.sources.get(owner)?;
            let position = owner.queue.iter().position(|asked| asked.file == file && asked.span == span)?;
            Some(owner.expected_in(position, now))
        };
        let (mut latest, mut found) = (Duration::ZERO, None);
        for (file, holding) in &source.holdings {
            let Some(plan) = self.files.get(file) else { continue };
            for (span, askers) in plan.in_flight() {
                if askers.len() >= MAX_ASKERS || askers.contains(&id) || !holding.contains(span) {
                    continue;
                }
                let Some(expected) = askers.first().and_then(|owner| late_at(owner, *file, span)) else {
                    continue;
                };
                let ours = source.time_for(source.in_flight_bytes + plan.geometry().len_bytes(span) as u64);
                let late_by = if plan.has_wanted() { LATE_BY } else { LATE_BY_AT_END };
                let late = expected > ours.saturating_mul(LATE_FACTOR) && expected > ours + late_by;
                if late && expected > latest {
                    latest = expected;
                    let spans = span.number()..span.number() + 1;
                    found = Some(Request { file: *file, spans, is_fresh: false });
                }
            }
        }
        found
    }

    fn ask(&mut self, id: SourceId, request: &Request, now: Instant) {
        let (Some(source), Some(plan)) = (self.sources.get_mut(&id), self.files.get_mut(&request.file))
        else {
            return;
        };
        if source.queue.is_empty() {
            // In a swarm a quick source stays at one span, for what waits at it is not asked of those who get
            // it meanwhile: sixteen getters take up to 1.25 of the bound in simulation, and 1.30 otherwise.
            if plan.has_partial_sources() {
                source.rate.restart(now);
            } else {
                source.rate.resume(source.progress, now);
            }
            source.progress = now;
        }
        for number in request.spans.clone() {
            let Some(span) = plan.geometry().span(u64::from(number)) else { continue };
            let bytes = plan.geometry().len_bytes(span) as u64;
            plan.asked(span, id);
            source.queue.push_back(Asked { file: request.file, span, bytes });
            source.in_flight_bytes += bytes;
            self.in_flight_bytes += bytes;
        }
        source.cursors.insert(request.file, request.spans.end);
        if !plan.has_wanted() {
            self.with_wanted.remove(&request.file);
        }
    }

    /// A source delivered a span, and it was verified and written (or found to be had already).
    pub fn stored(&mut self, id: SourceId, file: FileIndex, span: SpanIndex, now: Instant) -> Settled {
        let bytes = self.unasked(id, file, span);
        if let Some(source) = self.sources.get_mut(&id) {
            source.rate.add(bytes, now);
            source.progress = now;
        }
        let Some(plan) = self.files.get_mut(&file) else { return Settled::Wasted };
        let new = plan.delivered(span);
        if !plan.has_wanted() {
            self.with_wanted.remove(&file);
        }
        if !new {
            return Settled::Wasted;
        }
        if let Some(source) = self.sources.get_mut(&id) {
            source.useful = now;
        }
        Settled::Used { complete: self.files.get(&file).is_some_and(FilePlan::is_complete) }
    }

    /// A source will not deliver this span (it was wrong, or could not be written).
    pub fn not_stored(&mut self, id: SourceId, file: FileIndex, span: SpanIndex) {
        self.unasked(id, file, span);
        self.not_delivered(file, span, id);
    }

    /// A source was asked for these spans only if it had given them to nobody else, and it has: what it
    /// has given to others is `given`. What it once said counts for good, so that no source can
    /// refuse for ever.
    pub fn taken(&mut self, id: SourceId, file: FileIndex, spans: Range<u32>, given: &SpanSet) {
        self.take_back(id, |asked| asked.file == file && spans.contains(&asked.span.number()));
        let Some(geometry) = self.files.get(&file).map(|plan| *plan.geometry()) else { return };
        if let Some(source) = self.sources.get_mut(&id) {
            let all = source.given.entry(file).or_insert_with(|| SpanSet::empty(&geometry));
            all.add_all(given);
            for span in spans.filter_map(|number| geometry.span(u64::from(number))) {
                all.insert(span);
            }
        }
    }

    /// Takes a span off a source's queue; its bytes.
    fn unasked(&mut self, id: SourceId, file: FileIndex, span: SpanIndex) -> u64 {
        let Some(source) = self.sources.get_mut(&id) else { return 0 };
        // Answers come in order, so it is the first or near it.
        let Some(position) = source.queue.iter().position(|asked| asked.file == file && asked.span == span)
        else {
            return 0;
        };
        let bytes = source.queue.remove(position).map_or(0, |asked| asked.bytes);
        source.in_flight_bytes -= bytes;
        self.in_flight_bytes -= bytes;
        bytes
    }

    fn not_delivered(&mut self, file: FileIndex, span: SpanIndex, id: SourceId) {
        if let Some(plan) = self.files.get_mut(&file) {
            plan.not_delivered(span, id);
            if plan.has_wanted() {
                self.with_wanted.insert(file);
            }
        }
    }

    #[cfg(test)]
    fn check(&self) {
        let mut total = 0;
        for (id, source) in &self.sources {
            let bytes: u64 = source.queue.iter().map(|asked| asked.bytes).sum();
            assert_eq!(source.in_flight_bytes, bytes);
            total += bytes;
            for asked in &source.queue {
                let Some(plan) = self.files.get(&asked.file) else { continue };
                let askers = plan.in_flight().find(|(span, _)| *span == asked.span);
                let known = askers.is_some_and(|(_, askers)| askers.contains(id));
                assert!(
                    known || plan.had().contains(asked.span),
                    "{id:?} was asked for {asked:?}, nobody knows"
                );
            }
        }
        assert_eq!(self.in_flight_bytes, total);
        for (file, plan) in &self.files {
            plan.check();
            assert_eq!(plan.has_wanted(), self.with_wanted.contains(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FileId;
    use crate::plan::{Given, UploadId};
    use proptest::prelude::*;

    const SPAN: u64 = 262_144;

    fn geometry(spans: u64) -> Geometry {
        Geometry::new(spans * SPAN - 100).unwrap()
    }

    fn plan_of(spans: u64, sources: usize, now: Instant) -> (JobPlan, FileIndex, Vec<SourceId>) {
        let mut plan = JobPlan::new(7);
        let file = FileIndex(0);
        plan.add_file(file, geometry(spans), SpanSet::empty(&geometry(spans)));
        let ids: Vec<_> = (0..sources).map(|_| plan.add_source(now)).collect();
        for id in &ids {
            plan.set_holding(*id, file, Some(Holding::All));
        }
        (plan, file, ids)
    }

    fn spans_of(requests: &[Request]) -> Vec<(FileIndex, SpanIndex)> {
        let span = |n: u32| Geometry::new(Geometry::MAX_SIZE).unwrap().span(u64::from(n)).unwrap();
        requests.iter().flat_map(|r| r.spans.clone().map(move |n| (r.file, span(n)))).collect()
    }

    #[test]
    fn the_last_span_is_asked_first_when_the_size_is_in_doubt() {
        let now = Instant::now();
        let (mut plan, file, ids) = plan_of(50, 1, now);
        plan.doubt_size(file);
        assert_eq!(plan.assign(ids[0], now)[0], Request { file, spans: 49..50, is_fresh: false });
    }

    #[test]
    fn of_an_ordered_output_nothing_comes_before_the_span_that_proves_a_doubted_size() {
        let now = Instant::now();
        let (mut plan, file, ids) = plan_of(50, 2, now);
        plan.doubt_size(file);
        plan.limit_file_to(file, 2);
        let last = Request { file, spans: 49..50, is_fresh: false };
        assert_eq!(plan.assign(ids[0], now), [last]);
        assert_eq!(plan.assign(ids[1], now), []);
        assert!(!plan.file(file).unwrap().waits_for_reader(), "it waits for that span");
        let (_, span) = spans_of(&[Request { file, spans: 49..50, is_fresh: false }])[0];
        plan.stored(ids[0], file, span, now);
        assert_eq!(plan.assign(ids[0], now), [Request { file, spans: 0..2, is_fresh: false }]);
    }

    #[test]
    fn several_sources_get_different_spans_and_each_gets_some() {
        let now = Instant::now();
        let (mut plan, _, ids) = plan_of(16, 3, now);
        let mut seen = BTreeSet::new();
        for id in ids {
            let spans = spans_of(&plan.assign(id, now));
            assert!(!spans.is_empty());
            assert!(spans.iter().all(|span| seen.insert(*span)), "asked twice");
        }
    }

    #[test]
    fn an_ordered_output_is_asked_in_order_and_not_past_its_horizon() {
        let now = Instant::now();
        let (mut plan, file, ids) = plan_of(100, 1, now);
        plan.limit_file_to(file, 3);
        assert!(!plan.file(file).unwrap().waits_for_reader());
        assert_eq!(spans_of(&plan.assign(ids[0], now)).len(), 3);
        assert_eq!(plan.assign(ids[0], now), []);
        assert!(plan.file(file).unwrap().waits_for_reader());
        plan.limit_file_to(file, 4);
        assert!(!plan.file(file).unwrap().waits_for_reader());
        assert_eq!(plan.assign(ids[0], now), [Request { file, spans: 3..4, is_fresh: false }]);
    }

    #[test]
    fn the_spans_of_a_stalled_source_go_to_an_idle_one_and_the_loser_is_wasted() {
        let now = Instant::now();
        let (mut plan, file, ids) = plan_of(2, 2, now);
        let taken = spans_of(&plan.assign(ids[0], now));
        assert_eq!(taken.len(), 2);
        assert_eq!(plan.assign(ids[1], now), [], "nothing is late yet");
        let later = now + STALL_TIMEOUT;
        let stolen = spans_of(&plan.assign(ids[1], later));
        assert_eq!(stolen.len(), 2);
        plan.check();
        for (file, span) in &stolen {
            assert!(matches!(plan.stored(ids[1], *file, *span, later), Settled::Used { .. }));
        }
        assert!(plan.file(file).unwrap().is_complete());
        assert_eq!(plan.stored(ids[0], file, taken[0].1, later), Settled::Wasted);
        plan.check();
    }

    #[test]
    fn of_a_partial_source_the_rarest_span_that_it_has_is_asked_first() {
        let now = Instant::now();
        let (mut plan, file, ids) = plan_of(9, 3, now);
        let g = geometry(9);
        let set = |spans: &[u64]| {
            let mut set = SpanSet::empty(&g);
            spans.iter().for_each(|span| {
                set.insert(g.span(*span).unwrap());
            });
            Some(Holding::Spans(set))
        };
        plan.set_holding(ids[0], file, set(&[1, 2, 3, 4]));
        plan.set_holding(ids[1], file, set(&[1, 2, 3]));
        plan.set_holding(ids[2], file, set(&[1, 3]));
        let asked: Vec<u32> =
            spans_of(&plan.assign(ids[0], now)).iter().map(|(_, span)| span.number()).collect();
        assert_eq!(asked[..2], [4, 2]);
    }

    #[test]
    fn those_who_fetch_together_take_each_span_of_a_complete_holder_once() {
        const GETTERS: usize = 8;
        let now = Instant::now();
        let g = geometry(400);
        let (file, id) = (FileIndex(0), FileId::from_bytes([3; 32]));
        let mut given = Given::default();
        let mut plans: Vec<_> = (0..GETTERS)
            .map(|us| {
                let mut plan = JobPlan::new(us as u64);
                plan.add_file(file, g, SpanSet::empty(&g));
                let rival = plan.add_source(now);
                plan.set_holding(rival, file, Some(Holding::Spans(SpanSet::empty(&g))));
                let origin = plan.add_source(now);
                plan.set_holding(origin, file, Some(Holding::All));
                (plan, origin, 0)
            })
            .collect();
        let mut sent = 0;
        // The others have nothing yet: each getter knows only what the holder tells.
        while sent < 400 {
            for (us, (plan, origin, ours)) in plans.iter_mut().enumerate() {
                let to = UploadId(us as u64);
                for Request { spans, is_fresh, .. } in plan.assign(*origin, now) {
                    assert!(is_fresh || sent >= 400, "only a fresh span is asked for while there is one");
                    let end = given.give(to, id, &g, spans.clone(), is_fresh);
                    for span in (spans.start..end).map(|number| g.span(number.into()).unwrap()) {
                        plan.stored(*origin, file, span, now);
                        (*ours, sent) = (*ours + 1, sent + 1);
                    }
                    if end < spans.end {
                        plan.taken(*origin, file, end..spans.end, &given.to_others(to, id, &g));
                    }
                    plan.check();
                }
            }
        }
        for (us, (.., ours)) in plans.iter().enumerate() {
            let others = given.to_others(UploadId(us as u64), id, &g).count();
            assert_eq!(others + ours, 400, "no span was given to two");
            assert!(*ours >= 10, "{ours} of 400 spans went to one of eight");
        }
    }

    #[test]
    fn what_the_only_holder_gave_to_others_is_asked_for_all_the_same() {
        let now = Instant::now();
        let (mut plan, file, ids) = plan_of(4, 1, now);
        let first = plan.assign(ids[0], now);
        assert!(first.iter().all(|request| request.is_fresh));
        for request in first {
            plan.taken(ids[0], file, request.spans, &SpanSet::empty(&geometry(4)));
        }
        let again = plan.assign(ids[0], now);
        assert!(again.iter().all(|request| !request.is_fresh));
        assert_eq!(spans_of(&again).len(), 4);
        plan.check();
    }

    #[test]
    fn a_window_follows_the_measured_rate_within_its_bounds() {
        let mut now = Instant::now();
        let (mut plan, _, ids) = plan_of(4000, 1, now);
        let first = plan.assign(ids[0], now);
        assert_eq!(spans_of(&first).len() as u64, FIRST_WINDOW_BYTES / SPAN);
        let mut queue: VecDeque<_> = spans_of(&first).into();
        // 100 MB/s for two seconds: a window of 20 MB is cut to the largest
        for _ in 0..800 {
            now += Duration::from_micros(2621);
            let (file, span) = queue.pop_front().unwrap();
            plan.stored(ids[0], file, span, now);
            queue.extend(spans_of(&plan.assign(ids[0], now)));
        }
        assert!(queue.len() as u64 >= (MAX_WINDOW_BYTES - MAX_RUN_BYTES) / SPAN, "{}", queue.len());
        assert!(queue.len() as u64 <= (MAX_WINDOW_BYTES + MAX_RUN_BYTES) / SPAN, "{}", queue.len());
    }

    #[test]
    fn a_job_has_so_much_in_flight_and_no_more_however_fast_its_sources_are() {
        let mut now = Instant::now();
        let (mut plan, _, ids) = plan_of(40_000, 6, now);
        let mut queues: Vec<VecDeque<_>> =
            ids.iter().map(|id| spans_of(&plan.assign(*id, now)).into()).collect();
        let mut most = 0;
        for _ in 0..800 {
            now += Duration::from_micros(2621);
            for (id, queue) in ids.iter().zip(&mut queues) {
                if let Some((file, span)) = queue.pop_front() {
                    plan.stored(*id, file, span, now);
                }
                queue.extend(spans_of(&plan.assign(*id, now)));
            }
            most = most.max(queues.iter().map(VecDeque::len).sum::<usize>() as u64 * SPAN);
        }
        // The last request may go over it, and each source has its one span.
        assert!(most <= JOB_IN_FLIGHT_BYTES + MAX_RUN_BYTES + 6 * SPAN, "{most}");
        assert!(most >= JOB_IN_FLIGHT_BYTES - MAX_RUN_BYTES, "{most}: their windows are 48 MiB");
    }

    #[test]
    fn what_a_busy_source_has_yet_to_be_asked_for_is_in_line() {
        let now = Instant::now();
        let (mut plan, first, ids) = plan_of(40, 2, now);
        let second = FileIndex(1);
        plan.add_file(second, geometry(3), SpanSet::empty(&geometry(3)));
        assert!(!plan.is_in_line(second), "nobody has it");
        let some = |numbers: &[u64]| {
            let mut spans = SpanSet::empty(&geometry(3));
            for number in numbers {
                spans.insert(geometry(3).span(*number).unwrap());
            }
            Some(Holding::Spans(spans))
        };
        plan.set_holding(ids[0], second, some(&[1]));
        assert!(!plan.is_in_line(second), "it could be asked");
        let owed = spans_of(&plan.assign(ids[0], now));
        assert!(owed.iter().all(|(file, _)| *file == first) && plan.is_in_line(second));
        plan.limit_file_to(second, 1);
        assert!(!plan.is_in_line(second), "what it has is not to be asked for yet");
        plan.limit_file_to(second, 2);
        assert!(plan.is_in_line(second));
        plan.doubt_size(second);
        assert!(!plan.is_in_line(second), "it does not have what proves the size");
        plan.set_holding(ids[0], second, some(&[2]));
        assert!(plan.is_in_line(second));
        owed.iter().for_each(|(file, span)| plan.not_stored(ids[0], *file, *span));
        assert!(!plan.is_in_line(second), "it owes nothing");
    }

    #[test]
    fn a_source_of_no_use_for_half_a_minute_makes_room_unless_it_alone_has_all() {
        let start = Instant::now();
        let (mut plan, ..) = plan_of(4000, 3, start);
        assert_eq!(plan.retire_poor(3, start + USELESS_TIMEOUT - Duration::from_millis(1)), 0);
        assert_eq!(plan.retire_poor(3, start + USELESS_TIMEOUT), 2);
        assert_eq!(plan.retired().len(), 2, "they owe nothing");
    }

    #[test]
    fn four_sources_make_room_at_a_time_however_many_could_take_their_places() {
        let start = Instant::now();
        let (mut plan, ..) = plan_of(4000, 16, start);
        let mut make_room = |ready| plan.retire_poor(ready, start + USELESS_TIMEOUT);
        assert_eq!([make_room(0), make_room(1), make_room(99)], [0, 1, MAX_REPLACED_CONNECTIONS]);
    }

    #[test]
    fn a_source_is_asked_for_so_many_small_files_at_a_time_and_no_more() {
        let now = Instant::now();
        let (mut plan, small) = (JobPlan::new(7), Geometry::new(10).unwrap());
        let source = plan.add_source(now);
        for file in (0..2 * MAX_REQUESTS_IN_FLIGHT as u64).map(FileIndex) {
            plan.add_file(file, small, SpanSet::empty(&small));
            plan.set_holding(source, file, Some(Holding::All));
        }
        let asked = spans_of(&plan.assign(source, now));
        assert_eq!(asked.len(), MAX_REQUESTS_IN_FLIGHT);
        assert_eq!(plan.assign(source, now), []);
        let (file, span) = asked[0];
        plan.stored(source, file, span, now);
        assert_eq!(spans_of(&plan.assign(source, now)).len(), 1);
    }

    fn random_set(geometry: &Geometry, seed: u64) -> SpanSet {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut set = SpanSet::empty(geometry);
        geometry.all_spans().filter(|_| rng.bool()).for_each(|span| {
            set.insert(span);
        });
        set
    }

    /// What can happen to a job, as the naive model below replays it.
    #[derive(Clone, Debug)]
    enum Step {
        AddSource(Vec<Option<u64>>),
        RemoveSource(usize),
        Assign(usize),
        Deliver(usize),
        Refuse(usize),
        Missing(usize, u64),
        Taken(usize, u64),
        Have(usize, u64, u64),
        RemoveFile(u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => prop::collection::vec(prop::option::of(any::<u64>()), 3).prop_map(Step::AddSource),
            1 => (0usize..8).prop_map(Step::RemoveSource),
            8 => (0usize..8).prop_map(Step::Assign),
            16 => (0usize..8).prop_map(Step::Deliver),
            1 => (0usize..8).prop_map(Step::Refuse),
            1 => (0usize..8, 0u64..3).prop_map(|(s, f)| Step::Missing(s, f)),
            1 => (0usize..8, any::<u64>()).prop_map(|(s, seed)| Step::Taken(s, seed)),
            1 => (0u64..3).prop_map(Step::RemoveFile),
            2 => (0usize..8, 0u64..3, 0u64..70).prop_map(|(s, f, n)| Step::Have(s, f, n)),
            1 => (1u64..5000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        /// A model that only remembers which source was asked for what: whatever happens, no span is
        /// lost or asked of more than two, and a source that holds everything ends the job.
        #[test]
        fn every_span_is_exactly_one_of_had_in_flight_and_wanted(
            sizes in prop::collection::vec(0u64..70 * SPAN, 3),
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let mut now = Instant::now();
            let mut plan = JobPlan::new(1);
            let geometries: Vec<_> = sizes.iter().map(|size| Geometry::new(*size).unwrap()).collect();
            for (n, g) in geometries.iter().enumerate() {
                plan.add_file(FileIndex(n as u64), *g, SpanSet::empty(g));
            }
            let mut asked: Vec<(SourceId, VecDeque<(FileIndex, SpanIndex)>)> = Vec::new();
            let mut had: BTreeSet<(FileIndex, SpanIndex)> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::AddSource(holdings) if asked.len() < 8 => {
                        let id = plan.add_source(now);
                        for (n, seed) in holdings.into_iter().enumerate() {
                            let g = &geometries[n];
                            let holding = match seed {
                                None => Holding::All,
                                Some(seed) => Holding::Spans(random_set(g, seed)),
                            };
                            plan.set_holding(id, FileIndex(n as u64), Some(holding));
                        }
                        asked.push((id, VecDeque::new()));
                    }
                    Step::RemoveSource(n) if n < asked.len() => {
                        let (id, _) = asked.remove(n);
                        plan.remove_source(id);
                    }
                    Step::Assign(n) if n < asked.len() => {
                        let new = spans_of(&plan.assign(asked[n].0, now));
                        for span in &new {
                            prop_assert!(!had.contains(span), "asked for what is had");
                            prop_assert!(!asked[n].1.contains(span), "asked twice of one source");
                        }
                        asked[n].1.extend(new);
                    }
                    Step::Deliver(n) if n < asked.len() => {
                        let (id, queue) = &mut asked[n];
                        if let Some((file, span)) = queue.pop_front() {
                            let is_new = plan.file(file).is_some() && had.insert((file, span));
                            let settled = plan.stored(*id, file, span, now);
                            prop_assert_eq!(is_new, matches!(settled, Settled::Used { .. }));
                        }
                    }
                    Step::Refuse(n) if n < asked.len() => {
                        let (id, queue) = &mut asked[n];
                        if let Some((file, span)) = queue.pop_front() {
                            plan.not_stored(*id, file, span);
                        }
                    }
                    Step::Missing(n, file) if n < asked.len() => {
                        plan.set_holding(asked[n].0, FileIndex(file), None);
                        asked[n].1.retain(|(f, _)| f.0 != file);
                    }
                    Step::Taken(n, seed) if n < asked.len() => {
                        let (id, queue) = &mut asked[n];
                        let Some((file, span)) = queue.front().copied() else { continue };
                        let run = queue
                            .iter()
                            .zip(span.number()..)
                            .take_while(|((f, s), number)| *f == file && s.number() == *number)
                            .count();
                        queue.drain(..run);
                        let given = random_set(&geometries[file.0 as usize], seed);
                        plan.taken(*id, file, span.number()..span.number() + run as u32, &given);
                    }
                    Step::Have(n, file, span) if n < asked.len() => {
                        if let Some(span) = geometries[file as usize].span(span) {
                            plan.extend_holding(asked[n].0, FileIndex(file), &[span]);
                        }
                    }
                    Step::RemoveFile(file) => plan.remove_file(FileIndex(file)),
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    _ => {}
                }
                plan.check();
                for (id, queue) in &asked {
                    prop_assert_eq!(plan.is_asked(*id), !queue.is_empty(), "what it owes is known");
                }
                for (span, count) in asked.iter().flat_map(|(_, queue)| queue).fold(BTreeMap::new(), |mut map, span| {
                    *map.entry(*span).or_insert(0) += 1;
                    map
                }) {
                    prop_assert!(count <= MAX_ASKERS || had.contains(&span), "{span:?} asked of {count}");
                }
            }
            // One good source ends it, whatever the others still owe.
            for (id, _) in asked {
                plan.remove_source(id);
            }
            let good = plan.add_source(now);
            for n in 0..3 {
                plan.set_holding(good, FileIndex(n), Some(Holding::All));
            }
            loop {
                let spans = spans_of(&plan.assign(good, now));
                if spans.is_empty() { break }
                for (file, span) in spans {
                    plan.stored(good, file, span, now);
                }
            }
            prop_assert_eq!(plan.missing_bytes(), 0);
        }
    }
}
