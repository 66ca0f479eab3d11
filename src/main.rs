//! The `enxame` binary: command line, display and exit codes around the actors of `enxame-actors`.

mod cli;
mod commands;
mod destination;
mod exit;
mod failure;
mod human;
mod json;
mod logging;
mod progress;
mod reporter;
mod signals;
mod ui;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use cli::{Cli, Command};
use exit::Exit;
use failure::Failure;
use ui::Ui;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    // Who reads records needs no bars, and a terminal shows only one of the two well. What goes to
    // stdout is read by a program that may write to the same terminal.
    let to_stdout =
        matches!(&cli.command, Command::Get(args) if args.output.as_deref() == Some("-".as_ref()));
    let draw = io::stderr().is_terminal() && !cli.common.quiet && !cli.common.json && !to_stdout;
    let bars = progress::bars(draw);
    logging::start(&cli.common, bars.clone());
    let ui = Ui { json: cli.common.json, quiet: cli.common.quiet, bars };
    raise_descriptor_limit();
    let ended = match &cli.command {
        Command::Tracker(args) => commands::tracker::run(&ui, args),
        Command::Peer(args) => commands::peer::run(&ui, args),
        Command::Get(args) => commands::get::run(&ui, args),
        Command::WhoHas(args) => commands::query::who_has(&ui, args),
        Command::Ls(args) => commands::query::ls(&ui, args),
        Command::Peers(args) => commands::query::peers(&ui, args),
        Command::Hash(args) => commands::hash::run(&ui, args),
    };
    ended.unwrap_or_else(|failure| ui.fail(&failure)).into()
}

/// Takes as many file descriptors as the system lets us have without asking: a tracker has thousands of
/// connections, a peer hundreds, each with some files, and the usual limit is a thousand.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the limit of file descriptors stays at {:?}: {error}", limit.current);
    }
}

/// Shows the help that was asked for, or what is wrong with the command line.
fn usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // A reader that has gone (`enxame help | head`) wanted no more of it.
        let _ = error.print();
        return Exit::Done;
    }
    let text = error.render().to_string();
    let Some(message) = text.strip_prefix("error: ") else {
        // No arguments at all: clap's answer is the help.
        let _ = error.print();
        return Exit::Usage;
    };
    let ui = Ui { json: asks_for_json(), quiet: false, bars: progress::bars(false) };
    ui.fail(&Failure::new(Exit::Usage, usage_sentence(message)))
}

/// One sentence of clap's several paragraphs: what is wrong, the tips, and where to read on.
fn usage_sentence(message: &str) -> String {
    let said = |paragraph: &&str| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more");
    let paragraphs = message.split("\n\n").filter(said);
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = paragraphs.map(words).collect::<Vec<_>>().join("; ");
    let twin = if sentence.contains("not provided: --tracker") { " (or ENXAME_TRACKER)" } else { "" };
    format!("{sentence}{twin}; `enxame help` shows how it is used")
}

/// Whether a command line that did not parse asks for JSON: that has to be looked up by hand.
fn asks_for_json() -> bool {
    let no = ["", "0", "f", "false", "n", "no", "off"];
    let twin = std::env::var("ENXAME_JSON").unwrap_or_default().to_lowercase();
    std::env::args_os().any(|arg| arg == "--json") || !no.contains(&twin.as_str())
}
