//! SIGINT and SIGTERM: the first one ends the work in order, the second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::human;

/// The two signals that ask the program to end. From its making on, they do not kill it.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn listen() -> Result<Signals, Failure> {
        let failed = |error| {
            Failure::new(Exit::Failed, format!("signals cannot be handled: {}", human::reason(&error)))
        };
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for the orderly end, which the first signal has asked for; a second one ends the
    /// process where it stands. Nothing is lost by that: a part file is always what it says it is.
    pub(crate) async fn or_at_once<T>(&mut self, orderly_end: impl Future<Output = T>) -> T {
        tokio::select! {
            end = orderly_end => end,
            () = self.next() => std::process::exit(Exit::Interrupted.code().into()),
        }
    }
}
