//! The plan of a download of 16 GiB, 65,536 spans, from 16 sources: all the decisions it takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::ItemsCount;
use enxame_actors::base::{Geometry, SpanIndex, SpanSet};
use enxame_actors::plan::{FileIndex, Holding, JobPlan, Settled, SourceId};

const SOURCES: usize = 16;
const FILE: FileIndex = FileIndex(0);
/// What a span takes on the way: 16 sources fill 1 Gbit/s with one of them each 2 ms.
const SPAN_TIME: Duration = Duration::from_millis(2);

fn main() {
    divan::main();
}

fn geometry() -> Geometry {
    Geometry::new(16 << 30).expect("it can be shared")
}

fn plan(holding: impl Fn(usize) -> Holding, now: Instant) -> (JobPlan, Vec<SourceId>) {
    let mut plan = JobPlan::new(7);
    plan.add_file(FILE, geometry(), SpanSet::empty(&geometry()));
    let sources: Vec<SourceId> = (0..SOURCES).map(|_| plan.add_source(now)).collect();
    for (n, source) in sources.iter().enumerate() {
        plan.set_holding(*source, FILE, Some(holding(n)));
    }
    (plan, sources)
}

/// Asks and stores, source by source, until every span is had; how many that were.
fn download(plan: &mut JobPlan, sources: &[SourceId], mut now: Instant) -> usize {
    let mut asked: Vec<VecDeque<SpanIndex>> = vec![VecDeque::new(); sources.len()];
    let mut stored = 0;
    loop {
        for (source, asked) in sources.iter().zip(&mut asked) {
            for request in plan.assign(*source, now) {
                asked.extend(request.spans.filter_map(|number| geometry().span(u64::from(number))));
            }
            now += SPAN_TIME / SOURCES as u32;
            let Some(span) = asked.pop_front() else { continue };
            stored += 1;
            if plan.stored(*source, FILE, span, now) == (Settled::Used { complete: true }) {
                return stored;
            }
        }
    }
}

/// A whole download from holders of all of it, from the first request to the last span.
#[divan::bench(sample_count = 10)]
fn from_complete_holders(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    bencher
        .counter(ItemsCount::new(geometry().spans()))
        .with_inputs(|| plan(|_| Holding::All, now))
        .bench_local_values(|(mut plan, sources)| download(&mut plan, &sources, now));
}

/// The same where each source has a random half of the spans, so that the rarest are looked for.
#[divan::bench(sample_count = 10)]
fn from_partial_holders(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let half = |n: usize| {
        let mut rng = fastrand::Rng::with_seed(n as u64);
        let mut spans = SpanSet::empty(&geometry());
        for span in geometry().all_spans() {
            // The first source has all, so that the download has an end.
            if n == 0 || rng.bool() {
                spans.insert(span);
            }
        }
        Holding::Spans(spans)
    };
    bencher
        .counter(ItemsCount::new(geometry().spans()))
        .with_inputs(|| plan(half, now))
        .bench_local_values(|(mut plan, sources)| download(&mut plan, &sources, now));
}
