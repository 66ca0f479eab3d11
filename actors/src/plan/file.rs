//! The spans of one file: had, in flight or wanted, each exactly one of these.

use std::collections::BTreeMap;

use crate::base::{Geometry, SpanIndex, SpanSet};
use crate::plan::SourceId;

/// At most so many sources have the same span in flight.
pub(super) const MAX_ASKERS: usize = 2;

/// How many spans are looked at for the rarest one: bounds the cost of a choice.
const RAREST_AMONG: usize = 1024;

/// What a source has of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Every span.
    All,
    /// These spans.
    Spans(SpanSet),
}

impl Holding {
    /// Whether this span is held.
    pub fn contains(&self, span: SpanIndex) -> bool {
        match self {
            Holding::All => true,
            Holding::Spans(spans) => spans.contains(span),
        }
    }
}

/// The state of every span of one file.
#[derive(Debug)]
pub struct FilePlan {
    geometry: Geometry,
    had: SpanSet,
    wanted: SpanSet,
    /// Who was asked for the spans in flight: one source, in the endgame two.
    in_flight: BTreeMap<SpanIndex, Vec<SourceId>>,
    /// How many of the sources that have a part have this span; empty until there is such a source.
    copies: Vec<u16>,
    /// Spans from here on are not asked for yet: how far ahead of an ordered output the job may run.
    horizon: u32,
    in_order: bool,
}

impl FilePlan {
    /// A plan for a file of which `had` is there already.
    pub fn new(geometry: Geometry, had: SpanSet) -> FilePlan {
        let mut wanted = SpanSet::empty(&geometry);
        for span in geometry.all_spans().filter(|span| !had.contains(*span)) {
            wanted.insert(span);
        }
        let horizon = geometry.spans() as u32;
        FilePlan {
            geometry,
            had,
            wanted,
            in_flight: BTreeMap::new(),
            copies: Vec::new(),
            horizon,
            in_order: false,
        }
    }

    /// Makes the plan ask for spans in order, and for none from `horizon` on.
    pub fn limit_to(&mut self, horizon: u32) {
        self.in_order = true;
        self.horizon = horizon.min(self.geometry.spans() as u32);
    }

    /// The file's geometry.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The spans that were verified and written.
    pub fn had(&self) -> &SpanSet {
        &self.had
    }

    /// Whether every span is had.
    pub fn is_complete(&self) -> bool {
        self.had.is_full()
    }

    /// Whether any span is wanted: not had, nor in flight.
    pub fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Counts the spans of a source that has a part; `sign` is 1 when it comes, -1 when it goes.
    pub fn count_copies(&mut self, holding: &Holding, add: bool) {
        let Holding::Spans(spans) = holding else { return };
        self.copies.resize(self.geometry.spans(), 0);
        for span in self.geometry.all_spans().filter(|span| spans.contains(*span)) {
            let copies = &mut self.copies[span.get()];
            *copies = if add { copies.saturating_add(1) } else { copies.saturating_sub(1) };
        }
    }

    /// The next span to ask of a source with this holding, and the ones behind it up to `max`.
    ///
    /// An ordered output takes the first wanted span. Else the last span comes first, for it proves
    /// the size; then, while all sources are complete, spans in sequence from `cursor` on, which suits
    /// disks and long runs; with partial sources the rarest span, a random one among equals.
    pub fn choose(
        &self,
        holding: &Holding,
        cursor: u32,
        max: usize,
        rng: &mut fastrand::Rng,
    ) -> Option<std::ops::Range<u32>> {
        let open = |span: SpanIndex| {
            span.number() < self.horizon && self.wanted.contains(span) && holding.contains(span)
        };
        let spans = self.geometry.spans() as u32;
        let last = self.geometry.last_span();
        let first = if self.in_order {
            self.first_open(0, &open)?
        } else if open(last) && self.is_size_unproved() {
            last
        } else if self.copies.is_empty() {
            self.first_open(cursor, &open).or_else(|| self.first_open(0, &open))?
        } else {
            self.rarest(rng.u32(0..spans), &open)?
        };
        let start = first.number();
        let rest = (start + 1..spans.min(start.saturating_add(max as u32)))
            .take_while(|number| self.geometry.span(u64::from(*number)).is_some_and(open))
            .count() as u32;
        Some(start..start + 1 + rest)
    }

    /// Whether the last span is still to come, and with it the proof of the size.
    pub fn is_size_unproved(&self) -> bool {
        !self.had.contains(self.geometry.last_span())
    }

    fn first_open(&self, from: u32, open: &impl Fn(SpanIndex) -> bool) -> Option<SpanIndex> {
        let spans = self.geometry.spans() as u32;
        (from..spans).filter_map(|number| self.geometry.span(u64::from(number))).find(|span| open(*span))
    }

    fn rarest(&self, from: u32, open: &impl Fn(SpanIndex) -> bool) -> Option<SpanIndex> {
        let spans = self.geometry.spans() as u32;
        (from..spans)
            .chain(0..from)
            .filter_map(|number| self.geometry.span(u64::from(number)))
            .filter(|span| open(*span))
            .take(RAREST_AMONG)
            .min_by_key(|span| self.copies[span.get()])
    }

    /// The spans in flight, and who was asked for each.
    pub fn in_flight(&self) -> impl Iterator<Item = (SpanIndex, &[SourceId])> {
        self.in_flight.iter().map(|(span, askers)| (*span, askers.as_slice()))
    }

    /// A source was asked for a span.
    pub fn asked(&mut self, span: SpanIndex, source: SourceId) {
        self.wanted.remove(span);
        let askers = self.in_flight.entry(span).or_default();
        debug_assert!(askers.len() < MAX_ASKERS && !askers.contains(&source) && !self.had.contains(span));
        askers.push(source);
    }

    /// A source will not deliver a span that it was asked for.
    pub fn not_delivered(&mut self, span: SpanIndex, source: SourceId) {
        let Some(askers) = self.in_flight.get_mut(&span) else { return };
        askers.retain(|asker| *asker != source);
        if askers.is_empty() {
            self.in_flight.remove(&span);
            self.wanted.insert(span);
        }
    }

    /// A span was verified and written; whether it is new. Nobody else's answer counts from here on.
    pub fn delivered(&mut self, span: SpanIndex) -> bool {
        self.wanted.remove(span);
        self.in_flight.remove(&span);
        self.had.insert(span)
    }

    /// Checks the invariant that each span is exactly one of had, in flight and wanted.
    ///
    /// # Panics
    /// If it does not hold.
    #[cfg(test)]
    pub(super) fn check(&self) {
        for span in self.geometry.all_spans() {
            let in_flight = self.in_flight.get(&span).is_some_and(|askers| !askers.is_empty());
            let states = [self.had.contains(span), in_flight, self.wanted.contains(span)];
            assert_eq!(states.iter().filter(|state| **state).count(), 1, "span {span}: {states:?}");
            assert!(self.in_flight.get(&span).is_none_or(|askers| askers.len() <= MAX_ASKERS));
        }
    }
}
