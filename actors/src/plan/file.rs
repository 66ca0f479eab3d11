//! The spans of one file: had, in flight or wanted, each exactly one of these.

use std::collections::BTreeMap;
use std::ops::Range;

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

/// Spans to ask of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Consecutive spans; not none.
    pub spans: Range<u32>,
    /// Whether they are wanted only if nobody else was given them.
    pub is_fresh: bool,
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
    /// Sources that have a part, and fetch the rest like us.
    rivals: usize,
    /// Whether the last span is asked first, to prove the size.
    is_size_doubted: bool,
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
            rivals: 0,
            is_size_doubted: false,
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

    /// Holders state different sizes: the last span, which proves the size, is asked first.
    pub fn doubt_size(&mut self) {
        self.is_size_doubted = true;
    }

    /// Counts the spans of a source that has a part, when it comes (`add`) and when it goes.
    pub fn count_copies(&mut self, holding: &Holding, add: bool) {
        let Holding::Spans(spans) = holding else { return };
        self.rivals = if add { self.rivals + 1 } else { self.rivals - 1 };
        self.copies.resize(self.geometry.spans(), 0);
        for span in self.geometry.all_spans().filter(|span| spans.contains(*span)) {
            let copies = &mut self.copies[span.get()];
            *copies = if add { copies.saturating_add(1) } else { copies.saturating_sub(1) };
        }
    }

    /// Counts spans that a source with a part has got.
    pub fn add_copies(&mut self, spans: &[SpanIndex]) {
        for span in spans {
            if let Some(copies) = self.copies.get_mut(span.get()) {
                *copies = copies.saturating_add(1);
            }
        }
    }

    /// What to ask of a source with this holding: up to `max` spans; `given` are those that it has
    /// given to others, as far as it told.
    ///
    /// - An ordered output takes the first wanted span.
    /// - Of a partial source: the rarest span that it has, a random one among equals.
    /// - Of a complete source: spans that nobody else has or was given, in sequence from `cursor` on,
    ///   which suits disks and long runs. When those are exhausted the others have the rest, and pass
    ///   it on: then one that is rare, but only if the source `is_idle` for us. Where there are no
    ///   others, all the rest in sequence.
    pub fn choose(
        &self,
        holding: &Holding,
        given: Option<&SpanSet>,
        cursor: u32,
        max: usize,
        is_idle: bool,
        rng: &mut fastrand::Rng,
    ) -> Option<Choice> {
        let open = |span: SpanIndex| {
            span.number() < self.horizon && self.wanted.contains(span) && holding.contains(span)
        };
        let is_fresh = |span: SpanIndex| {
            open(span)
                && self.copies.get(span.get()).is_none_or(|copies| *copies == 0)
                && given.is_none_or(|given| !given.contains(span))
        };
        let anyway = |spans| Choice { spans, is_fresh: false };
        let spans = self.geometry.spans() as u32;
        let last = self.geometry.last_span();
        if self.in_order {
            return Some(anyway(self.run_from(self.first_open(0, &open)?, max, &open)));
        }
        if self.is_size_doubted && open(last) {
            return Some(anyway(self.run_from(last, 1, &open)));
        }
        if matches!(holding, Holding::Spans(_)) {
            return Some(anyway(self.run_from(self.rarest(rng.u32(0..spans), &open)?, 1, &open)));
        }
        if let Some(first) = self.first_open(cursor, &is_fresh).or_else(|| self.first_open(0, &is_fresh)) {
            return Some(Choice { spans: self.run_from(first, max, &is_fresh), is_fresh: true });
        }
        if self.rivals == 0 {
            let first = self.first_open(cursor, &open).or_else(|| self.first_open(0, &open))?;
            return Some(anyway(self.run_from(first, max, &open)));
        }
        if is_idle {
            return Some(anyway(self.run_from(self.rarest(rng.u32(0..spans), &open)?, 1, &open)));
        }
        None
    }

    fn run_from(&self, first: SpanIndex, max: usize, open: &impl Fn(SpanIndex) -> bool) -> Range<u32> {
        let start = first.number();
        let end = (self.geometry.spans() as u32).min(start.saturating_add(max as u32));
        let rest = (start + 1..end)
            .take_while(|number| self.geometry.span(u64::from(*number)).is_some_and(open))
            .count() as u32;
        start..start + 1 + rest
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
            .min_by_key(|span| self.copies.get(span.get()))
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
