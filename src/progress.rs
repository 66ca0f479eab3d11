//! How far a job is: one bar for all of it, and a line per source with its share.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use enxame_actors::base::{FileId, PeerId};
use enxame_actors::peer::events::{FileDone, JobEvent, Progress, SourceShare, SourceState};
use enxame_actors::peer::library::Hashing;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human;

/// The bars on stderr; on anything but a terminal they are not drawn.
pub(crate) fn bars(draw: bool) -> MultiProgress {
    MultiProgress::with_draw_target(if draw {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    })
}

/// What is known of a job's files and sources, added up as it is told: a job may have very many files.
#[derive(Default)]
struct Tally {
    files: BTreeMap<FileId, FileTally>,
    size: u64,
    have_bytes: u64,
    rate_bytes_s: u64,
    /// What each source has delivered, for all files.
    delivered: BTreeMap<PeerId, u64>,
    /// Sources with a connection, and those that delivered something before they were dropped.
    sources: BTreeMap<PeerId, bool>,
}

#[derive(Clone, Default)]
struct FileTally {
    size: u64,
    have_bytes: u64,
    rate_bytes_s: u64,
    shares: Vec<SourceShare>,
}

impl Tally {
    fn take(&mut self, event: &JobEvent) {
        match event {
            JobEvent::Found { id, size, .. } => {
                let known = self.files.get(id).cloned().unwrap_or_default();
                self.set(*id, FileTally { size: *size, ..known });
            }
            JobEvent::Source { peer, state, .. } => {
                self.sources.insert(peer.clone(), *state == SourceState::Connected);
            }
            JobEvent::Progress(Progress { id, size, have_bytes, rate_bytes_s, sources, .. }) => {
                let file = FileTally {
                    size: *size,
                    have_bytes: *have_bytes,
                    rate_bytes_s: *rate_bytes_s,
                    shares: sources.clone(),
                };
                self.set(*id, file);
            }
            JobEvent::Done(FileDone { id, size, sources, .. }) => {
                let file =
                    FileTally { size: *size, have_bytes: *size, rate_bytes_s: 0, shares: sources.clone() };
                self.set(*id, file);
            }
            // Which file failed is not told by its id; what it has does not move any more.
            JobEvent::Failed { .. } => {}
        }
    }

    /// Takes in what is known of a file now, in place of what was known before.
    fn set(&mut self, id: FileId, file: FileTally) {
        let old = self.files.insert(id, file.clone()).unwrap_or_default();
        self.size = self.size + file.size - old.size;
        self.have_bytes = self.have_bytes + file.have_bytes - old.have_bytes;
        self.rate_bytes_s = self.rate_bytes_s + file.rate_bytes_s - old.rate_bytes_s;
        for share in file.shares {
            *self.delivered.entry(share.peer).or_default() += share.bytes;
        }
        for share in &old.shares {
            if let Some(delivered) = self.delivered.get_mut(&share.peer) {
                *delivered = delivered.saturating_sub(share.bytes);
            }
        }
    }

    /// How long the rest takes at the present rate; `None` while nothing moves.
    fn left(&self) -> Option<Duration> {
        let rest = self.size.saturating_sub(self.have_bytes);
        rest.checked_div(self.rate_bytes_s).map(Duration::from_secs)
    }

    /// Bytes that a source has delivered, for all files.
    fn delivered(&self, peer: &PeerId) -> u64 {
        self.delivered.get(peer).copied().unwrap_or(0)
    }

    /// That, in percent of what all sources have delivered.
    fn percent(&self, peer: &PeerId) -> u64 {
        let all: u64 = self.delivered.values().sum();
        (self.delivered(peer) * 100).checked_div(all).unwrap_or(0)
    }

    /// The right end of the job's bar.
    fn job_line(&self) -> String {
        let mut line = format!("{} of {}", human::bytes(self.have_bytes), human::bytes(self.size));
        if let Some(left) = self.left() {
            line += &format!("  {}/s  {} left", human::bytes(self.rate_bytes_s), human::clock(left));
        }
        line
    }

    fn source_line(&self, peer: &PeerId) -> String {
        let delivered = human::bytes(self.delivered(peer));
        let gone = if self.sources.get(peer) == Some(&false) { "  dropped" } else { "" };
        format!("{delivered:>8}  {:>3} %{gone}", self.percent(peer))
    }
}

/// The bars of one job.
pub(crate) struct JobBars {
    bars: MultiProgress,
    tally: Tally,
    job: ProgressBar,
    sources: BTreeMap<PeerId, ProgressBar>,
}

impl JobBars {
    /// Bars for a job that is titled so. Nothing is drawn before something was found.
    pub(crate) fn new(bars: MultiProgress, title: String) -> JobBars {
        let job = ProgressBar::hidden().with_style(style("{prefix} [{wide_bar}] {msg}")).with_prefix(title);
        JobBars { bars, tally: Tally::default(), job, sources: BTreeMap::new() }
    }

    /// Shows what has happened.
    pub(crate) fn take(&mut self, event: &JobEvent) {
        // The lines of nobody's terminal are not worth adding up.
        if self.bars.is_hidden() {
            return;
        }
        self.tally.take(event);
        match event {
            JobEvent::Found { .. } if self.job.is_hidden() => {
                self.job = self.bars.insert(0, self.job.clone())
            }
            JobEvent::Source { peer, state: SourceState::Connected, .. }
                if !self.sources.contains_key(peer) =>
            {
                let bar = self.bars.add(ProgressBar::hidden());
                bar.set_style(style("  {prefix:16!} [{bar:20}] {wide_msg}"));
                bar.set_prefix(peer.to_string());
                bar.set_length(100);
                self.sources.insert(peer.clone(), bar);
            }
            _ => {}
        }
        self.job.set_length(self.tally.size);
        self.job.set_position(self.tally.have_bytes);
        self.job.set_message(self.tally.job_line());
        for (peer, bar) in &self.sources {
            bar.set_position(self.tally.percent(peer));
            bar.set_message(self.tally.source_line(peer));
        }
    }

    /// Takes the bars away.
    pub(crate) fn clear(&mut self) {
        for bar in self.sources.values().chain([&self.job]) {
            bar.finish_and_clear();
        }
    }
}

/// The bar of hashing, which is there as long as it goes on.
pub(crate) struct ScanBar {
    bars: MultiProgress,
    bar: Option<ProgressBar>,
}

impl ScanBar {
    /// Nothing is drawn before something is hashed that takes a while.
    pub(crate) fn new(bars: &MultiProgress) -> ScanBar {
        ScanBar { bars: bars.clone(), bar: None }
    }
}

impl Actor for ScanBar {
    type Context = Context<Self>;
}

impl Handler<Hashing> for ScanBar {
    type Result = ();

    fn handle(&mut self, Hashing { left_files, bytes, of_bytes }: Hashing, _: &mut Context<Self>) {
        if left_files == 0 {
            if let Some(bar) = self.bar.take() {
                bar.finish_and_clear();
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| hash_bar(&self.bars, 0));
        bar.set_length(of_bytes);
        bar.set_position(bytes);
        bar.set_message(format!(
            "{}  {} left",
            hashed(bytes, of_bytes),
            human::count(left_files as u64, "file")
        ));
    }
}

/// A bar for so many bytes that are to be hashed.
pub(crate) fn hash_bar(bars: &MultiProgress, bytes: u64) -> ProgressBar {
    bars.add(ProgressBar::new(bytes).with_style(style("{prefix} [{wide_bar}] {msg}")).with_prefix("hashing"))
}

/// The right end of a bar of hashing.
pub(crate) fn hashed(bytes: u64, of_bytes: u64) -> String {
    format!("{} of {}", human::bytes(bytes), human::bytes(of_bytes))
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a constant template is right").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: FileId = FileId::from_bytes([1; 32]);
    const B: FileId = FileId::from_bytes([2; 32]);

    fn peer(id: &str) -> PeerId {
        id.parse().unwrap()
    }

    fn found(id: FileId, size: u64) -> JobEvent {
        JobEvent::Found { name: "x".parse().unwrap(), id, size, holders: 2 }
    }

    fn progress(
        id: FileId,
        size: u64,
        have_bytes: u64,
        rate_bytes_s: u64,
        shares: &[(&str, u64)],
    ) -> JobEvent {
        let sources =
            shares.iter().map(|(id, bytes)| SourceShare { peer: peer(id), bytes: *bytes }).collect();
        JobEvent::Progress(Progress {
            id,
            name: "x".parse().unwrap(),
            have_bytes,
            size,
            rate_bytes_s,
            sources,
        })
    }

    fn source(id: &str, state: SourceState) -> JobEvent {
        JobEvent::Source { peer: peer(id), address: "10.0.0.1:1".parse().unwrap(), state }
    }

    fn after(events: &[JobEvent]) -> Tally {
        let mut tally = Tally::default();
        events.iter().for_each(|event| tally.take(event));
        tally
    }

    #[test]
    fn the_files_of_a_job_add_up() {
        let tally = after(&[
            found(A, 1_000_000),
            found(B, 3_000_000),
            progress(A, 1_000_000, 500_000, 100_000, &[("p1", 500_000)]),
            progress(B, 3_000_000, 1_000_000, 150_000, &[("p1", 250_000), ("p2", 750_000)]),
        ]);
        assert_eq!(tally.job_line(), "1.50 MB of 4.00 MB  250 kB/s  0:10 left");
        assert_eq!((tally.delivered(&peer("p1")), tally.percent(&peer("p1"))), (750_000, 50));
        assert_eq!(tally.source_line(&peer("p2")), "  750 kB   50 %");
    }

    #[test]
    fn what_does_not_move_has_no_time_left_and_divides_by_nothing() {
        assert_eq!(after(&[]).job_line(), "0 B of 0 B");
        assert_eq!(after(&[found(A, 5000)]).job_line(), "0 B of 5.00 kB");
        assert_eq!(after(&[found(A, 0)]).percent(&peer("p1")), 0);
    }

    #[test]
    fn a_dropped_source_keeps_its_share_and_says_so() {
        let tally = after(&[
            source("p1", SourceState::Connected),
            progress(A, 4000, 1000, 10, &[("p1", 1000)]),
            source("p1", SourceState::Dropped { reason: "it lied".into() }),
        ]);
        assert_eq!(tally.source_line(&peer("p1")), " 1.00 kB  100 %  dropped");
    }
}
