//! The exit codes. They are a promise to scripts: a number never changes its meaning.

use std::process::ExitCode;

use enxame_actors::peer::events::JobError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that was asked for is done.
    Done = 0,
    /// It failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// No living peer has it.
    NobodyHasIt = 3,
    /// Several files fit; the candidates were listed.
    Ambiguous = 4,
    /// Holders exist, but none could deliver the content.
    Undelivered = 5,
    /// No tracker answered.
    NoTracker = 6,
    /// The local disk refused: full, read-only, the target exists.
    Disk = 7,
    /// SIGINT or SIGTERM came before the work was done.
    Interrupted = 130,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        exit.code().into()
    }
}

impl From<&JobError> for Exit {
    fn from(error: &JobError) -> Exit {
        match error {
            JobError::NobodyHasIt => Exit::NobodyHasIt,
            JobError::Ambiguous(_) => Exit::Ambiguous,
            JobError::Undelivered(_) => Exit::Undelivered,
            JobError::NoTracker(_) => Exit::NoTracker,
            JobError::Refused { .. } | JobError::TooManyFiles(_) => Exit::Failed,
            JobError::Disk { .. } | JobError::TargetExists(_) | JobError::SamePlace { .. } => Exit::Disk,
            JobError::Interrupted => Exit::Interrupted,
        }
    }
}
