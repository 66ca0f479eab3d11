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
    /// The spans with copies.
    copied: SpanSet,
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
            copied: SpanSet::empty(&geometry),
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

    /// Whether a source with this holding has a span that is to be asked for.
    pub fn may_ask(&self, holding: &Holding) -> bool {
        let held = match holding {
            Holding::All => None,
            Holding::Spans(spans) => Some(spans),
        };
        let last = self.geometry.last_span().number();
        let open = |from| self.wanted.from(from, held, [None, None]).next();
        let is_doubtful = self.is_size_doubted && open(last).is_some();
        let may_begin = !self.in_order || self.may_begin();
        is_doubtful || may_begin && open(0).is_some_and(|span| span.number() < self.horizon)
    }

    /// Whether nothing may be asked for until the reader of an ordered output has taken what is there.
    pub fn waits_for_reader(&self) -> bool {
        self.in_order && self.may_begin() && !self.may_ask(&Holding::All)
    }

    /// Whether spans other than the one that proves a doubted size may be asked for, where they cannot be taken
    /// back.
    fn may_begin(&self) -> bool {
        !self.is_size_doubted || self.had.contains(self.geometry.last_span())
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
        for span in spans.from(0, None, [None, None]) {
            let copies = &mut self.copies[span.get()];
            *copies = if add { copies.saturating_add(1) } else { copies.saturating_sub(1) };
            if *copies > 0 {
                self.copied.insert(span);
            } else {
                self.copied.remove(span);
            }
        }
    }

    /// Whether any source has a part of it.
    pub fn has_partial_sources(&self) -> bool {
        self.rivals > 0
    }

    /// Counts spans that a source with a part has got.
    pub fn add_copies(&mut self, spans: &[SpanIndex]) {
        for span in spans {
            if let Some(copies) = self.copies.get_mut(span.get()) {
                *copies = copies.saturating_add(1);
                self.copied.insert(*span);
            }
        }
    }

    /// What to ask of a source with this holding: up to `max` spans; `given` are those that it has
    /// given to others, as far as it told.
    ///
    /// - While the size is doubted, the last span, which proves it.
    /// - An ordered output takes the first wanted span, once the size is not doubted.
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
        let held = match holding {
            Holding::All => None,
            Holding::Spans(spans) => Some(spans),
        };
        let within = |span: &SpanIndex| span.number() < self.horizon;
        let open = |from| self.wanted.from(from, held, [None, None]).take_while(within);
        let fresh = |from| self.wanted.from(from, None, [given, Some(&self.copied)]).take_while(within);
        let anyway = |spans| Choice { spans, is_fresh: false };
        let last = self.geometry.last_span();
        if self.is_size_doubted && self.wanted.from(last.number(), held, [None, None]).next().is_some() {
            return Some(anyway(last.number()..last.number() + 1));
        }
        if self.in_order {
            // What is written in order cannot be begun anew if the size turns out to be another one.
            return if self.may_begin() { run_of(open(0), max).map(anyway) } else { None };
        }
        let mut rarest = || {
            let start = rng.u32(0..self.geometry.spans() as u32);
            let around = open(start).chain(open(0).take_while(|span| span.number() < start));
            let span = around.take(RAREST_AMONG).min_by_key(|span| self.copies.get(span.get()))?;
            Some(anyway(span.number()..span.number() + 1))
        };
        if held.is_some() {
            return rarest();
        }
        if let Some(spans) = run_of(fresh(cursor), max).or_else(|| run_of(fresh(0), max)) {
            return Some(Choice { spans, is_fresh: true });
        }
        if self.rivals == 0 {
            return run_of(open(cursor), max).or_else(|| run_of(open(0), max)).map(anyway);
        }
        if is_idle { rarest() } else { None }
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

/// The first of these spans, and those that follow it without a gap, up to `max`.
fn run_of(spans: impl Iterator<Item = SpanIndex>, max: usize) -> Option<Range<u32>> {
    let mut spans = spans.take(max.max(1)).map(|span| span.number());
    let start = spans.next()?;
    let rest = spans.zip(start + 1..).take_while(|(span, due)| span == due).count() as u32;
    Some(start..start + 1 + rest)
}
