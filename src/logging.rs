//! The log: lines on stderr that never fall into the bars.

use std::io::{self, IsTerminal, Write};

use env_logger::{Builder, Env, Target, WriteStyle};
use indicatif::MultiProgress;
use log::LevelFilter;

use crate::cli::Common;

/// Starts the log. `-q` and `-v` win over `RUST_LOG`, which wins over the default: warnings.
pub(crate) fn start(common: &Common, bars: MultiProgress) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut builder = Builder::from_env(Env::default().default_filter_or("warn"));
    let level = match common.verbose {
        _ if common.quiet => Some(LevelFilter::Error),
        0 => None,
        1 => Some(LevelFilter::Info),
        2 => Some(LevelFilter::Debug),
        _ => Some(LevelFilter::Trace),
    };
    if let Some(level) = level {
        builder = Builder::new();
        builder.filter_level(level);
    }
    builder
        .target(Target::Pipe(Box::new(BetweenBars(bars))))
        .write_style(if colour { WriteStyle::Always } else { WriteStyle::Never })
        .format_timestamp_millis()
        .init();
}

/// Stderr, with the bars taken away while a line is written.
struct BetweenBars(MultiProgress);

impl Write for BetweenBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
