//! Tells what happens in a job: bars and sentences for people, records for scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, MessageResult};
use enxame_actors::base::{PeerId, What};
use enxame_actors::peer::events::{FileDone, JobError, JobEvent};

use crate::exit::Exit;
use crate::failure::{Asker, JobContext};
use crate::human;
use crate::json::Event;
use crate::progress::JobBars;
use crate::ui::Ui;

/// The actor that takes the events of one job, in order, and shows them.
pub(crate) struct Reporter {
    ui: Ui,
    context: JobContext,
    bars: JobBars,
    exit: Exit,
    /// What of a folder is done, which is told in the end: not a line for each of thousands of files.
    tree: Option<TreeTally>,
    /// What was last told of each thing that failed.
    told: BTreeMap<String, String>,
}

impl Reporter {
    /// A reporter of a job that fetches these things.
    pub(crate) fn new(ui: Ui, context: JobContext, wanted: &[What]) -> Reporter {
        let bars = JobBars::new(ui.bars.clone(), title(wanted));
        let is_tree = wanted.iter().any(|what| what.tree().is_some());
        let tree = is_tree.then(TreeTally::default);
        Reporter { ui, context, bars, exit: Exit::Done, tree, told: BTreeMap::new() }
    }

    fn take(&mut self, event: &JobEvent) {
        self.bars.take(event);
        if self.ui.json
            && let Some(record) = Event::of_job(event)
        {
            self.ui.event(&record);
        }
        match (event, &mut self.tree) {
            (JobEvent::Done(done), Some(tree)) => return tree.add(done),
            (JobEvent::Failed { .. }, Some(tree)) => tree.failed += 1,
            _ => {}
        }
        match event {
            JobEvent::Done(done) => self.ui.note(format_args!("{}", summary(done))),
            // The reader of `-o -` has seen enough (`| head`): that is no failure.
            JobEvent::Failed { what, error: JobError::Disk { kind: io::ErrorKind::BrokenPipe, .. } }
                if self.context.asker == Asker::GetToStdout =>
            {
                log::info!("{what}: standard output was closed before its end");
            }
            JobEvent::Failed { what, error } => {
                let failure = self.context.failure(what, error);
                // A job that tries again need not say again why.
                if self.told.get(what) == Some(&failure.message) {
                    return;
                }
                self.told.insert(what.clone(), failure.message.clone());
                let exit = self.ui.fail(&failure);
                if self.exit == Exit::Done {
                    self.exit = exit;
                }
            }
            JobEvent::Found { .. } | JobEvent::Source { .. } | JobEvent::Progress(_) => {}
        }
    }
}

/// How the bar of a job is titled.
fn title(wanted: &[What]) -> String {
    match wanted {
        [what] if what.tree().is_some() => what.to_string(),
        [what] => what.as_str().rsplit('/').next().unwrap_or_default().into(),
        several if several.iter().any(|what| what.tree().is_some()) => "files".into(),
        several => format!("{} files", several.len()),
    }
}

/// What of a job with a folder is done.
#[derive(Default)]
struct TreeTally {
    files: u64,
    failed: u64,
    bytes: u64,
    fetched_bytes: u64,
    elapsed: Duration,
    sources: BTreeSet<PeerId>,
}

impl TreeTally {
    fn add(&mut self, done: &FileDone) {
        self.files += 1;
        self.bytes += done.size;
        self.fetched_bytes += done.fetched_bytes;
        self.elapsed = self.elapsed.max(done.elapsed);
        for share in done.sources.iter().filter(|share| share.bytes > 0) {
            if !self.sources.contains(&share.peer) {
                self.sources.insert(share.peer.clone());
            }
        }
    }

    /// What a person wants to know of it.
    fn summary(&self) -> String {
        let files = human::count(self.files, "file");
        let mut text = format!("{files}  {} in {}", human::bytes(self.bytes), human::duration(self.elapsed));
        let seconds = self.elapsed.as_secs_f64();
        if self.fetched_bytes > 0 && seconds > 0.0 {
            text += &format!(" ({}/s)", human::bytes((self.fetched_bytes as f64 / seconds) as u64));
        }
        if !self.sources.is_empty() {
            text += &format!(" from {}", human::count(self.sources.len() as u64, "peer"));
        }
        if self.fetched_bytes < self.bytes {
            text += &format!(", {} of it was here already", human::bytes(self.bytes - self.fetched_bytes));
        }
        if self.failed > 0 {
            text += &format!("; {} failed", self.failed);
        }
        text
    }
}

/// What a person wants to know of a finished file.
fn summary(done: &FileDone) -> String {
    let place = match &done.path {
        Some(path) => path.display().to_string(),
        None => done.name.to_string(),
    };
    let size = human::bytes(done.size);
    if done.kept_bytes > 0 && done.kept_bytes == done.size {
        return format!("{place}  {size}, was here already");
    }
    let mut text = format!("{place}  {size} in {}", human::duration(done.elapsed));
    let seconds = done.elapsed.as_secs_f64();
    if done.fetched_bytes > 0 && seconds > 0.0 {
        text += &format!(" ({}/s)", human::bytes((done.fetched_bytes as f64 / seconds) as u64));
    }
    if !done.sources.is_empty() {
        text += &format!(" from {}", human::count(done.sources.len() as u64, "peer"));
    }
    if done.kept_bytes > 0 {
        text += &format!(", {} of it was here already", human::bytes(done.kept_bytes));
    }
    text
}

impl Actor for Reporter {
    type Context = Context<Self>;
}

impl Handler<JobEvent> for Reporter {
    type Result = ();

    fn handle(&mut self, event: JobEvent, _: &mut Context<Self>) {
        self.take(&event);
    }
}

/// The job has ended, and all its events were sent before this: the exit code of its first failure.
#[derive(Message)]
#[rtype(result = "Exit")]
pub(crate) struct Outcome;

impl Handler<Outcome> for Reporter {
    type Result = MessageResult<Outcome>;

    fn handle(&mut self, _: Outcome, _: &mut Context<Self>) -> Self::Result {
        self.bars.clear();
        if let Some(tree) = self.tree.take().filter(|tree| tree.files > 0) {
            self.ui.note(format_args!("{}", tree.summary()));
        }
        MessageResult(self.exit)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use enxame_actors::base::FileId;
    use enxame_actors::peer::events::SourceShare;

    use crate::progress;

    fn done(fetched_bytes: u64, kept_bytes: u64, peers: &[&str]) -> FileDone {
        FileDone {
            name: "dir/model.bin".parse().unwrap(),
            id: FileId::from_bytes([1; 32]),
            size: fetched_bytes + kept_bytes,
            path: Some("out/model.bin".into()),
            elapsed: Duration::from_millis(500),
            fetched_bytes,
            kept_bytes,
            wasted_bytes: 0,
            sources: peers.iter().map(|peer| SourceShare { peer: peer.parse().unwrap(), bytes: 1 }).collect(),
        }
    }

    #[test]
    fn a_summary_tells_what_was_fetched_how_fast_and_what_was_here() {
        let summary = |done: FileDone| super::summary(&done);
        assert_eq!(
            summary(done(200_000_000, 0, &["p1", "p2", "p3"])),
            "out/model.bin  200 MB in 0.5 s (400 MB/s) from 3 peers"
        );
        assert_eq!(
            summary(done(100_000_000, 100_000_000, &["p1"])),
            "out/model.bin  200 MB in 0.5 s (200 MB/s) from 1 peer, 100 MB of it was here already"
        );
        assert_eq!(summary(done(0, 4096, &[])), "out/model.bin  4.10 kB, was here already");
        assert_eq!(summary(done(0, 0, &[])), "out/model.bin  0 B in 0.5 s");
        let to_stdout = FileDone { path: None, ..done(1000, 0, &["p1"]) };
        assert!(summary(to_stdout).starts_with("dir/model.bin  1.00 kB"), "no path: its name");
    }

    #[test]
    fn a_folder_has_one_summary_that_tells_what_came_what_was_here_and_what_failed() {
        let mut tree = TreeTally::default();
        tree.add(&done(3000, 0, &["p1"]));
        assert_eq!(tree.summary(), "1 file  3.00 kB in 0.5 s (6.00 kB/s) from 1 peer");
        tree.add(&done(3000, 0, &["p1", "p2"]));
        tree.add(&done(0, 1000, &[]));
        tree.failed = 2;
        assert_eq!(
            tree.summary(),
            "3 files  7.00 kB in 0.5 s (12.0 kB/s) from 2 peers, 1.00 kB of it was here already; 2 failed"
        );
    }

    #[test]
    fn a_bar_is_titled_by_what_was_asked_for() {
        let titled =
            |texts: &[&str]| title(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(titled(&["a/b"]), "b");
        assert_eq!(titled(&["a/b/"]), "a/b/");
        assert_eq!(titled(&["a", "b"]), "2 files");
        assert_eq!(titled(&["a/", "b"]), "files");
    }

    fn reporter(asker: Asker) -> Reporter {
        let ui = Ui { json: false, quiet: true, bars: progress::bars(false) };
        let context = JobContext { trackers: vec!["10.0.0.1".parse().unwrap()], asker };
        Reporter::new(ui, context, &[])
    }

    fn failed(what: &str, error: JobError) -> JobEvent {
        JobEvent::Failed { what: what.into(), error }
    }

    #[test]
    fn a_job_ends_with_the_code_of_its_first_failure() {
        actix_rt::System::new().block_on(async {
            let reporter = reporter(Asker::Get).start();
            assert_eq!(reporter.send(Outcome).await.unwrap(), Exit::Done);
            reporter.do_send(failed("a", JobError::NobodyHasIt));
            reporter.do_send(JobEvent::Done(done(1, 0, &["p1"])));
            reporter.do_send(failed("b", JobError::Undelivered(vec![])));
            assert_eq!(reporter.send(Outcome).await.unwrap(), Exit::NobodyHasIt);
        });
    }

    #[test]
    fn a_reader_of_stdout_that_has_seen_enough_is_no_failure_but_a_file_cut_short_is() {
        for (asker, exit) in [(Asker::GetToStdout, Exit::Done), (Asker::Get, Exit::Disk)] {
            let mut reporter = reporter(asker);
            let (path, kind) = ("x".into(), io::ErrorKind::BrokenPipe);
            reporter.take(&failed("x", JobError::Disk { path, kind, why: "cannot be written".into() }));
            assert_eq!(reporter.exit, exit);
        }
    }
}
