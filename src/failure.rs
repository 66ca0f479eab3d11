//! How a command fails: an exit code, and a message that says what was tried and what to do next.

use std::io;
use std::path::Path;

use enxame_actors::base::{FileId, FileName, IdPrefix, Question, What};
use enxame_actors::net::TrackerAddress;
use enxame_actors::peer::PeerError;
use enxame_actors::peer::events::JobError;
use enxame_actors::peer::tracker_client::AskError;
use enxame_actors::peer::trackers::TrackerFailure;
use enxame_actors::wire::tracker::Candidate;

use crate::exit::Exit;
use crate::human::{self, shell_word};

/// Why a command, or one of the things it was asked for, failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The exit code it leads to.
    pub(crate) exit: Exit,
    /// For people: a sentence, and lines to choose from where there are some.
    pub(crate) message: String,
    /// What was asked for, as it was typed, if the failure is about that.
    pub(crate) what: Option<String>,
    /// The choices, if there are several.
    pub(crate) candidates: Vec<Candidate>,
}

impl Failure {
    /// A failure that is about no single file.
    pub(crate) fn new(exit: Exit, message: impl AsRef<str>) -> Failure {
        let message = human::without_error_numbers(message.as_ref());
        Failure { exit, message, what: None, candidates: Vec::new() }
    }

    /// Something in the program itself has ended that should not have.
    pub(crate) fn defect(what: &str) -> Failure {
        Failure::new(Exit::Failed, format!("{what} has ended, which is a defect of enxame; start it again"))
    }

    /// The disk, or standard output, refused.
    pub(crate) fn disk(path: &Path, error: &io::Error) -> Failure {
        Failure::new(Exit::Disk, format!("{}: {}", path.display(), human::reason(error)))
    }

    /// No tracker answered: each address with its reason.
    pub(crate) fn no_tracker(reasons: &[(String, String)]) -> Failure {
        let tried: Vec<String> = reasons.iter().map(|(address, why)| format!("{address}: {why}")).collect();
        let list = tried.join("; ");
        Failure::new(
            Exit::NoTracker,
            format!("no tracker answered: {list}; is `enxame tracker` running there?"),
        )
    }
}

/// A tracker that gave no answer, and why.
pub(crate) fn reason_of(tracker: &TrackerAddress, error: &AskError) -> (String, String) {
    let why = match error {
        AskError::Unreachable { source, .. } => human::reason(source),
        AskError::Lost { source, .. } => source.to_string(),
        AskError::Refused { why, .. } => format!("refused: {why}"),
    };
    (tracker.to_string(), why)
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Failure {
        match error {
            PeerError::Folder { path, source } => Failure::disk(&path, &source),
            PeerError::Tracker(TrackerFailure::NoAnswer(reasons)) => Failure::no_tracker(&reasons),
            PeerError::Listen { address, source } => Failure::new(
                Exit::Failed,
                format!(
                    "cannot listen on {address}: {}; choose another with --listen",
                    human::reason(&source)
                ),
            ),
            PeerError::Tracker(_) | PeerError::Threads(_) => Failure::new(Exit::Failed, error.to_string()),
        }
    }
}

/// What the messages about a job name: the command that was typed, as far as the next one needs it.
#[derive(Clone, Debug)]
pub(crate) struct JobContext {
    /// The trackers that were asked.
    pub(crate) trackers: Vec<TrackerAddress>,
    /// Who fetches.
    pub(crate) asker: Asker,
}

/// Who fetches: each has other ways out of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// `enxame get`, into files.
    Get,
    /// `enxame get -o -`.
    GetToStdout,
    /// `enxame peer --get`.
    Peer,
}

impl JobContext {
    /// The failure of one wanted file.
    pub(crate) fn failure(&self, what: &str, error: &JobError) -> Failure {
        let message = match error {
            JobError::NobodyHasIt => {
                let message = nobody_has_it(what, &self.trackers).message;
                let is_name =
                    !what.ends_with('/') && !what.contains('@') && what.parse::<IdPrefix>().is_err();
                message + if is_name { ", and a folder is asked for with a / at its end" } else { "" }
            }
            JobError::Ambiguous(candidates) => self.ambiguous(what, candidates),
            JobError::Undelivered(reasons) => {
                let list: Vec<String> =
                    reasons.iter().map(|(peer, why)| format!("\n  {peer}: {why}")).collect();
                let tried =
                    if list.is_empty() { "no holder could be reached" } else { "no holder could deliver it" };
                format!(
                    "{what}: {tried}; `enxame who-has {} {}` shows who has it, and the same command \
                     goes on from what has arrived{}{}",
                    shell_word(what),
                    tracker_option(&self.trackers),
                    if list.is_empty() { "" } else { "; what went wrong:" },
                    list.concat()
                )
            }
            JobError::NoTracker(reasons) => Failure::no_tracker(reasons).message,
            JobError::Refused { tracker, why } => format!("{what}: the tracker {tracker} refused: {why}"),
            JobError::Disk { path, kind, why } => {
                format!("{}: {why}{}", path.display(), self.disk_hint(*kind))
            }
            JobError::TargetExists(path) => {
                let way_out = match self.asker {
                    Asker::Peer => "rename it or allow --overwrite, and start the peer again",
                    Asker::Get | Asker::GetToStdout => {
                        "replace it with --overwrite, or write elsewhere with -o PATH"
                    }
                };
                format!("{} exists and has another content; {way_out}", path.display())
            }
            JobError::SamePlace { path, there, other } if path != there => format!(
                "{what} and {other} are different files, and {} and {} are one name on other systems; fetch them \
                 one after the other, each to its own place",
                path.display(),
                there.display()
            ),
            JobError::SamePlace { path, other, .. } => format!(
                "{what} and {other} are different files and would both be saved as {}; fetch them one after \
                 the other, each to its own place",
                path.display()
            ),
            JobError::TooManyFiles(most) => {
                format!(
                    "{what}: what is listed of it, with what was found before, is more than the {most} files that one \
                     command takes; fetch its folders one by one"
                )
            }
            JobError::Interrupted => match self.asker {
                Asker::GetToStdout => format!("{what}: interrupted"),
                Asker::Get | Asker::Peer => {
                    format!(
                        "{what}: interrupted; what has arrived is kept, the same command goes on from there"
                    )
                }
            },
        };
        let message = match self.asker {
            Asker::Peer if error.may_pass() && !is_full(error) => format!("{message}; it is tried again"),
            _ => message,
        };
        let candidates = match error {
            JobError::Ambiguous(candidates) => candidates.clone(),
            _ => Vec::new(),
        };
        Failure { what: Some(what.into()), candidates, ..Failure::new(error.into(), message) }
    }

    fn ambiguous(&self, what: &str, candidates: &[Candidate]) -> String {
        let mut table = human::Table::new([human::Align::Left, human::Align::Right, human::Align::Left]);
        let asked: Option<FileName> = what.parse::<What>().ok().and_then(|what| {
            what.questions().iter().find_map(|question| match question {
                Question::Name { name, prefix: None } => Some(name.clone()),
                _ => None,
            })
        });
        let digits = distinguishing_digits(candidates.iter().map(|candidate| candidate.id));
        let rows: Vec<[String; 3]> = candidates
            .iter()
            .map(|candidate| {
                let name = asked.iter().find(|asked| candidate.names.contains(asked));
                let prefix = &candidate.id.to_string()[..digits];
                let choice = match name.or(candidate.names.first()) {
                    Some(name) => shell_word(&format!("{name}@{prefix}")),
                    None => prefix.into(),
                };
                let holders = human::count(candidate.holder_count.into(), "holder");
                [format!("  {choice}"), human::bytes(candidate.size), holders]
            })
            .collect();
        let lines = table.lay_out(&rows);
        format!(
            "{what}: {} different files fit; ask for one of these:\n{}",
            candidates.len(),
            lines.trim_end()
        )
    }

    fn disk_hint(&self, kind: io::ErrorKind) -> &'static str {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match (kind, self.asker) {
            (_, Asker::GetToStdout) => "",
            (StorageFull | QuotaExceeded, Asker::Peer) => {
                "; it goes on from what has arrived when there is room"
            }
            (StorageFull | QuotaExceeded, _) => {
                "; make room, then the same command goes on from what has arrived"
            }
            (PermissionDenied | ReadOnlyFilesystem, Asker::Get) => "; write elsewhere with -o PATH",
            (PermissionDenied | ReadOnlyFilesystem, Asker::Peer) => "; share another folder with --root DIR",
            _ => "",
        }
    }
}

/// The option that asks the same trackers.
fn tracker_option(trackers: &[TrackerAddress]) -> String {
    let list: Vec<String> = trackers.iter().map(ToString::to_string).collect();
    format!("--tracker {}", list.join(","))
}

/// Whether the message says already that it goes on.
fn is_full(error: &JobError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, JobError::Disk { kind: StorageFull | QuotaExceeded, .. })
}

/// What no living peer has.
pub(crate) fn nobody_has_it(what: &str, trackers: &[TrackerAddress]) -> Failure {
    Failure {
        what: Some(what.into()),
        ..Failure::new(
            Exit::NobodyHasIt,
            format!("{what}: nobody has it; `enxame ls {}` lists what there is", tracker_option(trackers)),
        )
    }
}

/// How many digits tell these ids apart: at least what a bare prefix needs.
fn distinguishing_digits(ids: impl Iterator<Item = FileId>) -> usize {
    let mut texts: Vec<String> = ids.map(|id| id.to_string()).collect();
    texts.sort_unstable();
    // Candidates of one id (their holders state different sizes) cannot be told apart by it.
    texts.dedup();
    let shared = |pair: &[String]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    texts.windows(2).map(|pair| shared(pair) + 1).max().unwrap_or(0).max(IdPrefix::MIN_BARE_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(asker: Asker) -> JobContext {
        JobContext { trackers: vec!["10.0.0.1".parse().unwrap(), "b:9".parse().unwrap()], asker }
    }

    fn candidate(first_bytes: &[u8], size: u64, names: &[&str], holder_count: u32) -> Candidate {
        let mut id = [0x11; 32];
        id[..first_bytes.len()].copy_from_slice(first_bytes);
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        Candidate { id: FileId::from_bytes(id), size, names, holder_count, holders: Vec::new() }
    }

    #[test]
    fn each_error_of_a_job_has_the_exit_code_of_the_table_and_a_next_step() {
        let reasons = || vec![("127.0.0.1:1".to_string(), "connection refused".to_string())];
        let disk = |kind| JobError::Disk { path: "/x".into(), kind, why: "cannot be written".into() };
        for (error, code, next_step) in [
            (JobError::NobodyHasIt, 3, "`enxame ls --tracker 10.0.0.1:7070,b:9`"),
            (JobError::NobodyHasIt, 3, "a folder is asked for with a / at its end"),
            (JobError::Ambiguous(vec![candidate(&[1], 1, &["m"], 1)]), 4, "  m@01111111  1 B  1 holder"),
            (JobError::Undelivered(vec![]), 5, "`enxame who-has m --tracker 10.0.0.1:7070,b:9`"),
            (JobError::Undelivered(vec![("p1".parse().unwrap(), "it lied".into())]), 5, "\n  p1: it lied"),
            (
                JobError::NoTracker(reasons()),
                6,
                "127.0.0.1:1: connection refused; is `enxame tracker` running",
            ),
            (
                JobError::Refused { tracker: "b:9".into(), why: "full".into() },
                1,
                "the tracker b:9 refused: full",
            ),
            (disk(io::ErrorKind::StorageFull), 7, "make room"),
            (disk(io::ErrorKind::PermissionDenied), 7, "-o PATH"),
            (JobError::TargetExists("m".into()), 7, "--overwrite"),
            (
                JobError::SamePlace { path: "m".into(), there: "m".into(), other: "x/m".into() },
                7,
                "saved as m; fetch them one after the other",
            ),
            (
                JobError::SamePlace { path: "M".into(), there: "m".into(), other: "x/m".into() },
                7,
                "M and m are one name on other systems; fetch them one after the other",
            ),
            (JobError::TooManyFiles(7), 1, "more than the 7 files"),
            (JobError::Interrupted, 130, "goes on from there"),
        ] {
            let failure = context(Asker::Get).failure("m", &error);
            assert_eq!(failure.exit.code(), code, "{error:?}");
            assert!(failure.message.contains(next_step), "{error:?}: {}", failure.message);
        }
    }

    #[test]
    fn a_message_names_only_options_that_its_command_has() {
        let target = JobError::TargetExists("m".into());
        let read_only = JobError::Disk {
            path: "m".into(),
            kind: io::ErrorKind::ReadOnlyFilesystem,
            why: "read-only".into(),
        };
        for error in [&target, &read_only] {
            let message = context(Asker::Peer).failure("m", error).message;
            assert!(!message.contains("-o "), "{message}");
        }
        assert_eq!(
            context(Asker::GetToStdout).failure("m", &JobError::Interrupted).message,
            "m: interrupted"
        );
    }

    #[test]
    fn the_choices_of_an_ambiguous_name_can_be_typed_as_they_stand() {
        let candidates = vec![
            candidate(&[0xaa, 0xbb], 1000, &["a b.bin", "z"], 1),
            candidate(&[0xaa, 0xbc], 20_000_000, &["a b.bin"], 12),
        ];
        let failure = context(Asker::Get).failure("a b.bin", &JobError::Ambiguous(candidates));
        assert_eq!(
            failure.message,
            "a b.bin: 2 different files fit; ask for one of these:\n  \
             'a b.bin@aabb1111'  1.00 kB  1 holder\n  \
             'a b.bin@aabc1111'  20.0 MB  12 holders"
        );
        for candidate in &failure.candidates {
            let choice: What = format!("a b.bin@{}", candidate.id.short()).parse().unwrap();
            assert!(choice.questions().iter().any(|question| matches!(question,
                Question::Name { name, prefix: Some(prefix) }
                    if name.as_str() == "a b.bin" && prefix.matches(&candidate.id))));
        }
    }

    #[test]
    fn prefixes_are_as_long_as_it_takes_to_tell_the_choices_apart() {
        let digits = |firsts: &[&[u8]]| {
            distinguishing_digits(firsts.iter().map(|first| candidate(first, 1, &["m"], 1).id))
        };
        assert_eq!(digits(&[&[1], &[2]]), 8);
        assert_eq!(digits(&[&[1, 1, 1, 1, 0x10], &[1, 1, 1, 1, 0x20]]), 9);
        assert_eq!(digits(&[&[1; 31], &[1; 32]]), 63, "the 32nd byte is 0x11 in one, 0x01 in the other");
        assert_eq!(digits(&[&[1], &[1]]), 8, "one id twice: no length tells them apart");
        assert_eq!(digits(&[]), 8);
    }
}
