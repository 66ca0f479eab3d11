//! How a source ends, and what that means for asking it again: one table.

use std::fmt;
use std::time::Duration;

use crate::base::SpanIndex;
use crate::base::limits::{DIAL_PAUSE, MADE_ROOM_FOR, MAX_DIAL_WAIT};

/// Why a source is not asked any more; it says so once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It could not be reached.
    Unreachable(String),
    /// It was not dialled, for we have no descriptor or no port for it.
    NotMade(String),
    /// It was not dialled: dials to its address failed, and the next one may be made after this time.
    PutOff(Duration),
    /// The connection ended or failed before all was delivered.
    Cut(String),
    /// It moved nothing for so long although it was asked.
    Stalled(Duration),
    /// It serves as many as it can; it said when to ask again.
    Busy(Duration),
    /// It refused us.
    Refused(String),
    /// It does not have (any more) what it was said to have.
    Missing,
    /// It sent a span that is not of the file.
    WrongSpan(SpanIndex),
    /// It sent a manifest that is not of the file.
    WrongManifest,
    /// It states a size that is not the file's.
    WrongSize {
        /// Bytes it states.
        stated: u64,
    },
    /// It sent what was not asked or what is no message.
    Protocol(String),
    /// It delivered little, and another holder takes its place.
    MadeRoom,
    /// The job needs it no more.
    NotNeeded,
}

/// What an ending means for the rest of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It may be dialled again after this time.
    AgainAfter(Duration),
    /// It is not dialled again for this job.
    Never,
}

/// First wait before a source that failed is dialled again; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// A source that failed so often in a row, delivering nothing, is given up.
const MAX_FAILURES: u32 = 3;
/// A busy source is asked so often; then it is given up.
const MAX_BUSY: u32 = 30;

impl Ending {
    /// What to do after this ending; `failures` counts it and the ones of its kind before it since the source
    /// last delivered a span: that it was busy, or that it failed otherwise.
    pub fn policy(&self, failures: u32) -> Policy {
        match self {
            Ending::Unreachable(_) | Ending::Cut(_) | Ending::Stalled(_) => {
                if failures >= MAX_FAILURES {
                    return Policy::Never;
                }
                Policy::AgainAfter(RETRY_FIRST * 2u32.pow(failures.saturating_sub(1)))
            }
            Ending::NotMade(_) => Policy::AgainAfter(DIAL_PAUSE),
            Ending::PutOff(wait) if *wait > MAX_DIAL_WAIT => Policy::Never,
            Ending::PutOff(wait) => Policy::AgainAfter(*wait),
            Ending::Busy(_) if failures >= MAX_BUSY => Policy::Never,
            Ending::Busy(wait) => Policy::AgainAfter(*wait),
            Ending::MadeRoom => Policy::AgainAfter(MADE_ROOM_FOR),
            // It may have other files, and is asked for those.
            Ending::Missing => Policy::AgainAfter(Duration::ZERO),
            Ending::Refused(_)
            | Ending::WrongSpan(_)
            | Ending::WrongManifest
            | Ending::WrongSize { .. }
            | Ending::Protocol(_)
            | Ending::NotNeeded => Policy::Never,
        }
    }

    /// Whether the source is to blame, so that it counts against it when it happens again and again.
    pub fn is_failure(&self) -> bool {
        !matches!(
            self,
            Ending::NotMade(_) | Ending::PutOff(_) | Ending::Missing | Ending::MadeRoom | Ending::NotNeeded
        )
    }

    /// Whether the source told an untruth, rather than failed: worth a warning in the log.
    pub fn is_lie(&self) -> bool {
        matches!(
            self,
            Ending::WrongSpan(_) | Ending::WrongManifest | Ending::WrongSize { .. } | Ending::Protocol(_)
        )
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Ending::NotMade(why) => write!(f, "could not be dialled: {why}"),
            Ending::PutOff(wait) => {
                write!(f, "failed a moment ago, and is not dialled again for {} s", wait.as_secs().max(1))
            }
            Ending::Cut(why) => f.write_str(why),
            Ending::Stalled(time) => write!(f, "sent nothing for {} s", time.as_secs()),
            Ending::Busy(_) => f.write_str("is busy"),
            Ending::Refused(why) => write!(f, "refused: {why}"),
            Ending::Missing => f.write_str("does not have it any more"),
            Ending::WrongSpan(span) => write!(f, "sent wrong data (span {span})"),
            Ending::WrongManifest => f.write_str("sent a wrong manifest"),
            Ending::WrongSize { stated } => write!(f, "states a wrong size ({stated} bytes)"),
            Ending::Protocol(why) => write!(f, "broke the protocol: {why}"),
            Ending::MadeRoom => f.write_str("made room for another holder"),
            Ending::NotNeeded => f.write_str("not needed any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lies_is_never_asked_again_and_who_fails_is_a_few_times() {
        let span = crate::base::SpanIndex::FIRST;
        for lie in [
            Ending::WrongSpan(span),
            Ending::WrongManifest,
            Ending::WrongSize { stated: 1 },
            Ending::Protocol("x".into()),
        ] {
            assert!(lie.is_lie());
            assert_eq!(lie.policy(1), Policy::Never, "{lie}");
        }
        for fault in [
            Ending::Unreachable("x".into()),
            Ending::Cut("x".into()),
            Ending::Stalled(Duration::from_secs(10)),
        ] {
            assert!(!fault.is_lie());
            assert_eq!(fault.policy(1), Policy::AgainAfter(RETRY_FIRST), "{fault}");
            assert_eq!(fault.policy(2), Policy::AgainAfter(2 * RETRY_FIRST), "{fault}");
            assert_eq!(fault.policy(3), Policy::Never, "{fault}");
        }
        assert!(!Ending::MadeRoom.is_failure() && !Ending::MadeRoom.is_lie());
        assert_eq!(Ending::MadeRoom.policy(99), Policy::AgainAfter(MADE_ROOM_FOR), "however often");
        for ours in [Ending::NotMade("no descriptors".into()), Ending::PutOff(DIAL_PAUSE)] {
            assert!(!ours.is_failure(), "it is not to blame");
            assert_eq!(ours.policy(99), Policy::AgainAfter(DIAL_PAUSE));
        }
        assert_eq!(Ending::PutOff(2 * MAX_DIAL_WAIT).policy(0), Policy::Never, "too long for a job");
        let busy = Ending::Busy(Duration::from_secs(2));
        assert_eq!(busy.policy(29), Policy::AgainAfter(Duration::from_secs(2)));
        assert_eq!(busy.policy(30), Policy::Never, "busy for ever");
    }
}
