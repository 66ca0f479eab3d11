//! Where lines go: results to stdout, everything for people to stderr, and neither into the bars.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::net::SocketAddr;

use enxame_actors::base::PeerId;
use indicatif::MultiProgress;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::json::Event;

/// The two outputs of the program. Clones are the same outputs.
#[derive(Clone)]
pub(crate) struct Ui {
    /// One object per line on stdout instead of text.
    pub(crate) json: bool,
    /// Nothing on stderr but errors.
    pub(crate) quiet: bool,
    /// The bars, between which lines must not fall.
    pub(crate) bars: MultiProgress,
}

impl Ui {
    /// Writes a part of the command's result to stdout. A reader that has seen enough and closed
    /// the pipe (`enxame ls | head`) ends the program, quietly and with success.
    ///
    /// # Errors
    /// What else the system says.
    pub(crate) fn result(&self, text: &str) -> Result<(), Failure> {
        match self.write(text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                std::process::exit(Exit::Done.code().into())
            }
            written => written.map_err(|error| Failure::disk("standard output".as_ref(), &error)),
        }
    }

    /// Writes objects as lines of the command's result.
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub(crate) fn records(&self, records: impl Iterator<Item = impl Serialize>) -> Result<(), Failure> {
        self.result(&records.map(|record| line(&record)).collect::<String>())
    }

    /// Writes an event as a line to stdout. What it tells of goes on without a reader.
    pub(crate) fn event(&self, event: &Event<'_>) {
        self.tell(&line(event));
    }

    /// Tells stdout that a role can be used.
    pub(crate) fn ready(
        &self,
        role: &'static str,
        peer: Option<&PeerId>,
        address: SocketAddr,
        not_shared: Option<usize>,
    ) {
        if self.json {
            return self.event(&Event::Ready { role, peer, address, not_shared });
        }
        let peer = peer.map(|peer| format!("{peer} ")).unwrap_or_default();
        self.tell(&format!("ready {role} {peer}{address}\n"));
    }

    /// Tells people something, unless they want quiet.
    pub(crate) fn note(&self, text: Arguments<'_>) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// Tells of a failure: a message on stderr, and with `--json` an `error` record as well.
    pub(crate) fn fail(&self, failure: &Failure) -> Exit {
        self.stderr(format_args!("enxame: {}", failure.message));
        if self.json {
            self.event(&Event::from(failure));
        }
        failure.exit
    }

    fn tell(&self, text: &str) {
        if let Err(error) = self.write(text) {
            log::debug!("nobody reads standard output: {error}");
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()
        })
    }

    fn stderr(&self, text: Arguments<'_>) {
        let text = printable(&text.to_string());
        // Nothing can be told to anybody if stderr fails.
        self.bars.suspend(|| {
            let _ = writeln!(io::stderr(), "{text}");
        });
    }
}

fn line(record: &impl Serialize) -> String {
    let mut line = serde_json::to_string(record).expect("a record has text keys and plain values");
    line.push('\n');
    line
}

/// A message may quote what another machine said: what could steer a terminal is made visible.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_machine_said_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a: refused: \u{1b}[2J\r\u{9b}x\n  é"),
            "a: refused: \u{fffd}[2J\u{fffd}\u{fffd}x\n  é"
        );
    }
}
