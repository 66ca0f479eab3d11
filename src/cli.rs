//! The command line. Its help texts are the manual: `enxame help` has to be enough to work from.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use enxame_actors::base::limits::{MAX_FILES_PER_PEER, MAX_PEERS, MIN_REFRESH_INTERVAL};
use enxame_actors::base::{ByteRate, PeerId, What, WhatError};
use enxame_actors::net::TrackerAddress;
use enxame_actors::peer::RateLimits;

const EXAMPLES: &str = "\
Examples:
  enxame tracker                                      on one machine, say 10.0.0.1
  enxame peer alice --tracker 10.0.0.1                share ./alice/files, on any machine
  enxame get model.bin --tracker 10.0.0.1             fetch a file from all who have it
  enxame get a.bin b.bin --tracker 10.0.0.1 -o out/   fetch several into a folder
  enxame get models/ --tracker 10.0.0.1               fetch all that is in a folder
  enxame get data.tar --tracker 10.0.0.1 -o - | tar x
  enxame ls --tracker 10.0.0.1                        what there is

With ENXAME_TRACKER=10.0.0.1 in the environment, --tracker can be left out. Every option has such
a twin; its help names it.

A network may have several trackers, so that one can fail: --tracker 10.0.0.1 --tracker 10.0.0.2, or
ENXAME_TRACKER=10.0.0.1,10.0.0.2. They know nothing of each other; peers register with all of them.";

const WHAT: &str = "\
WHAT is one of
  a name           reports/may.pdf     the path below the holder's files/ folder
  an id            64 hex digits       the BLAKE3 hash of the content, what `enxame hash` prints
  a prefix of one  1a2b3c4d            at least 8 digits, and only one id may begin so
  name@prefix      may.pdf@1a          where one name stands for several contents";

const FOLDERS: &str = "\
  folder/          reports/            all files whose names begin so, with --get and with `enxame get`";

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed for another reason
    2  wrong usage
    3  nobody has it
    4  the name is ambiguous: the candidates are listed
    5  holders exist, but none could deliver the content
    6  no tracker answered
    7  the local disk refused: full, read-only, the target exists
  130  interrupted
A command that was asked for several things ends with the code of the first one that failed.";

const OUTPUT: &str = "\
Results go to stdout; logs, messages and progress to stderr. With --json, stdout has one object per
line and nothing else. RUST_LOG sets the log in detail (RUST_LOG=enxame_actors=debug).";

/// Gets the same files onto many machines of a network
#[derive(Debug, Parser)]
#[command(
    name = "enxame",
    version,
    long_about = "\
Gets the same files onto many machines of a network.

A tracker knows who has what. Every peer shares a folder, and whoever fetches a file takes its
blocks from all holders at once. Each block is verified against the file's BLAKE3 hash before it is
kept, so a file under its final name is always whole and right.",
    after_help = "`enxame help` shows examples and exit codes, `enxame help get` all about a command.",
    after_long_help = format!("{EXAMPLES}\n\n{WHAT}\n\n{OUTPUT}\n\n{EXIT_CODES}"),
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct Common {
    /// Print one JSON object per line
    #[arg(long, global = true, env = "ENXAME_JSON", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
    /// Log more: -v what happens, -vv why, -vvv everything
    #[arg(short, long, global = true, env = "ENXAME_VERBOSE", hide_env_values = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress, no summaries, and no log but errors
    #[arg(short, long, global = true, env = "ENXAME_QUIET", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Tracker(TrackerArgs),
    Peer(PeerArgs),
    Get(GetArgs),
    WhoHas(WhoHasArgs),
    Ls(LsArgs),
    Peers(PeersArgs),
    Hash(HashArgs),
}

/// Run a tracker: it knows who has which file, and never carries file data
#[derive(Args, Debug)]
#[command(after_help = "\
Prints `ready tracker ADDR` to stdout when it can be used. SIGINT and SIGTERM end it in order. It
keeps nothing on disk: after a restart, the peers register again by themselves.

Examples:
  enxame tracker
  enxame tracker --listen :9000
  enxame tracker --listen 127.0.0.1:0      a free port, named in the ready line")]
pub(crate) struct TrackerArgs {
    /// Where to listen: IP:PORT, IP (port 7070) or :PORT; port 0 takes a free one
    #[arg(long, env = "ENXAME_LISTEN", hide_env_values = true, value_name = "ADDR", default_value = "0.0.0.0:7070",
        value_parser = tracker_listen)]
    pub(crate) listen: SocketAddr,
    /// How often each peer confirms its list; one that misses two is taken out
    #[arg(long, env = "ENXAME_REFRESH_INTERVAL", hide_env_values = true, value_name = "DURATION",
        default_value = "30s", value_parser = refresh_interval)]
    pub(crate) refresh_interval: Duration,
    /// How many peers may be registered at a time; one more is refused until another leaves
    #[arg(long, env = "ENXAME_MAX_PEERS", hide_env_values = true, value_name = "NUMBER",
        default_value_t = MAX_PEERS, value_parser = cap)]
    pub(crate) max_peers: usize,
    /// How many files each of them may list; a list that is longer is refused
    #[arg(long, env = "ENXAME_MAX_FILES_PER_PEER", hide_env_values = true, value_name = "NUMBER",
        default_value_t = MAX_FILES_PER_PEER, value_parser = cap)]
    pub(crate) max_files_per_peer: usize,
}

/// Share a folder: DIR/ID/files, until a signal ends it
#[derive(Args, Debug)]
#[command(
    after_help = "\
Prints `ready peer ID ADDR` to stdout when it shares. Files that are added to the folder, changed or
removed are noticed while it runs. SIGINT and SIGTERM end it in order. What --get has begun goes on
at the next start, asked for again or not. What the disk refuses is tried again until it can be had.

Examples:
  enxame peer alice --tracker 10.0.0.1
  enxame peer gpu7 --tracker 10.0.0.1 --root /srv/enxame --get model.bin --get vocab.json",
    after_long_help = format!("\
Prints `ready peer ID ADDR` to stdout when it shares: one of its trackers knows it then. What is new
in the folder has to be hashed first, which is remembered for the next start. If that takes longer
than 3 s, it is ready with the files that are hashed by then, and each other one is shared as soon as
it is hashed; a bar shows how far that is.

Files that are added to the folder, changed or removed are noticed while it runs. What cannot be
shared (links, devices, names that are one without case) is left out, and -v says what and why.
SIGINT and SIGTERM end it in order.

Of several trackers, those that do not answer are tried again for as long as it runs. Who holds what
it asked for is remembered in DIR/ID/.enxame: if no tracker answers, --get asks those holders, at
the start too.

What --get has begun goes on at the next start, asked for again or not. What the disk refuses is
tried again until it can be had.

{WHAT}
{FOLDERS}

Examples:
  enxame peer alice --tracker 10.0.0.1
  enxame peer gpu7 --tracker 10.0.0.1 --root /srv/enxame --get model.bin --get vocab.json

{EXIT_CODES}")
)]
pub(crate) struct PeerArgs {
    /// The peer's name, and that of its folder: letters, digits, '.', '_' and '-'
    pub(crate) id: PeerId,
    #[command(flatten)]
    pub(crate) tracker: TrackerOption,
    /// The folder in which the peer's folder ID/files is; made if it is not there
    #[arg(long, env = "ENXAME_ROOT", hide_env_values = true, value_name = "DIR", default_value = ".")]
    pub(crate) root: PathBuf,
    /// Where to serve: IP:PORT, IP or :PORT; without a port, or with port 0, a free one is taken
    #[arg(long, env = "ENXAME_LISTEN", hide_env_values = true, value_name = "ADDR", default_value = "0.0.0.0:0",
        value_parser = peer_listen)]
    pub(crate) listen: SocketAddr,
    /// Fetch this into the folder first, and go on sharing; a name that ends in '/' is a whole folder.
    /// Can be given several times
    // A line end cannot stand in a name: it separates the values of the environment twin.
    #[arg(long, env = "ENXAME_GET", hide_env_values = true, value_name = "WHAT", value_delimiter = '\n')]
    pub(crate) get: Vec<What>,
    /// Let --get replace files of the folder that have another content
    #[arg(long, env = "ENXAME_OVERWRITE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
}

/// Fetch files from all who have them, into the current folder
#[derive(Args, Debug)]
#[command(
    after_help = "\
Examples:
  enxame get model.bin --tracker 10.0.0.1
  enxame get model.bin@1a2b3c4d --tracker 10.0.0.1 -o models/
  enxame get data.tar --tracker 10.0.0.1 -o - | tar x",
    after_long_help = format!("\
A file is saved under the last part of its name, and appears there only when all of it is verified.
While it is fetched it stands in a hidden part file beside its target: after an interruption the
same command goes on from what has arrived. A file that is there already with the same content is
success without a transfer; one with another content is never replaced without --overwrite. What an
older version in its place, or beside it under its own name, has at the same offset is not fetched.

Of a folder (a WHAT that ends in '/', or --all) every file is fetched. `get models/` makes ./models/,
and `get a/b/` ./b/; with -o PATH, what is in the folder goes into PATH. What cannot be had is
listed, the other files go on, and the exit code is 0 only if all arrived. A name that stands for
several contents fails as ambiguous.

{WHAT}
{FOLDERS}

Examples:
  enxame get model.bin --tracker 10.0.0.1
  enxame get models/ --tracker 10.0.0.1 -o /srv/models
  enxame get model.bin@1a2b3c4d --tracker 10.0.0.1 -o models/
  enxame get data.tar --tracker 10.0.0.1 -o - | tar x
  enxame get model.bin --tracker 10.0.0.1 --download-limit 20MiB/s

{EXIT_CODES}")
)]
pub(crate) struct GetArgs {
    /// What to fetch: a name, an id, a prefix of an id, name@prefix, or folder/
    #[arg(required_unless_present = "all")]
    pub(crate) what: Vec<What>,
    /// Fetch all files there are, under their whole names
    #[arg(long, env = "ENXAME_ALL", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) tracker: TrackerOption,
    /// Where to save: a folder, a file name (for one file), or - for stdout
    ///
    /// An existing folder, or a PATH that ends in '/', takes the files under their own names;
    /// several files, and what is in a folder, always go into a folder, which is made if it is not there. Anything else is the
    /// file's new path. '-' writes one file to stdout, in order, each part once it is verified.
    #[arg(short, long, env = "ENXAME_OUTPUT", hide_env_values = true, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Replace a target that has another content
    #[arg(long, env = "ENXAME_OVERWRITE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
}

/// List the files that fit, and who has them
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  enxame who-has model.bin --tracker 10.0.0.1", after_long_help = format!("\
{WHAT}

Example:
  enxame who-has model.bin --tracker 10.0.0.1

{EXIT_CODES}"))]
pub(crate) struct WhoHasArgs {
    /// What to look for: a name, an id, a prefix of an id, or name@prefix
    #[arg(value_parser = one_what)]
    pub(crate) what: What,
    #[command(flatten)]
    pub(crate) tracker: TrackerOption,
}

/// List the catalogue: name, size, id, holders
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  enxame ls --tracker 10.0.0.1
  enxame ls models/ --tracker 10.0.0.1")]
pub(crate) struct LsArgs {
    /// Only names that begin so
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    #[command(flatten)]
    pub(crate) tracker: TrackerOption,
}

/// List the registered peers: id, address, files, age of the last confirmation
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  enxame peers --tracker 10.0.0.1")]
pub(crate) struct PeersArgs {
    #[command(flatten)]
    pub(crate) tracker: TrackerOption,
}

/// Print the ids of files, as b3sum does
#[derive(Args, Debug)]
#[command(after_help = "\
Needs no tracker. A file that cannot be read is named on stderr; the others are printed, and the
exit code is 1.

Example:
  enxame hash model.bin *.json")]
pub(crate) struct HashArgs {
    /// Files to hash; - is stdin
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// How fast a process may move data.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitOptions {
    /// Send at most so much per second, to all together: 20MiB/s, 1.5MB/s, 20M or bytes
    ///
    /// Units are k, M and G (of 1000), Ki, Mi and Gi (of 1024), with or without B or B/s behind them;
    /// a plain number is bytes per second. Without the option there is no limit.
    #[arg(long, env = "ENXAME_UPLOAD_LIMIT", hide_env_values = true, value_name = "RATE")]
    upload_limit: Option<ByteRate>,
    /// Receive at most so much per second, from all together; units as above
    ///
    /// Only the content of files counts, for both: what is said with trackers and peers is little.
    #[arg(long, env = "ENXAME_DOWNLOAD_LIMIT", hide_env_values = true, value_name = "RATE")]
    download_limit: Option<ByteRate>,
}

impl LimitOptions {
    /// The limits of the process.
    pub(crate) fn limits(self) -> RateLimits {
        RateLimits { upload: self.upload_limit, download: self.download_limit }
    }
}

/// The trackers to ask, for every command that talks to one.
#[derive(Args, Clone, Debug)]
pub(crate) struct TrackerOption {
    /// The tracker to ask; its port is 7070 unless stated. Several can be given: all are asked
    // A comma cannot stand in an address.
    #[arg(
        id = "tracker",
        long = "tracker",
        env = "ENXAME_TRACKER",
        hide_env_values = true,
        value_name = "HOST[:PORT]",
        required = true,
        value_delimiter = ','
    )]
    stated: Vec<TrackerAddress>,
}

impl TrackerOption {
    /// The trackers in the order stated, each once.
    pub(crate) fn addresses(&self) -> Vec<TrackerAddress> {
        each_once(self.stated.iter().cloned())
    }
}

/// What was stated, in that order, without repetitions.
pub(crate) fn each_once<T: Clone + Eq + Hash>(stated: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = HashSet::new();
    stated.filter(|one| seen.insert(one.clone())).collect()
}

/// A WHAT that is no folder.
fn one_what(text: &str) -> Result<What, String> {
    let what: What = text.parse().map_err(|error: WhatError| error.to_string())?;
    match what.tree() {
        Some(tree) => Err(format!("it is a folder; `enxame ls {tree}` lists what is in it")),
        None => Ok(what),
    }
}

/// How many of something there may be: more than this nobody has, and what counts them takes no more.
const MOST: usize = 100_000_000;

fn cap(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("a number from 1 to {MOST} is wanted, for example 1000")),
    }
}

fn tracker_listen(text: &str) -> Result<SocketAddr, String> {
    listen_address(text, TrackerAddress::DEFAULT_PORT)
}

fn peer_listen(text: &str) -> Result<SocketAddr, String> {
    listen_address(text, 0)
}

/// `IP:PORT`, `IP` with the default port, or `:PORT` on all addresses.
fn listen_address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = unbracketed.parse::<IpAddr>() {
        return Ok((ip, default_port).into());
    }
    if let Some(Ok(port)) = text.strip_prefix(':').map(str::parse) {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    Err("write IP:PORT, IP or :PORT, for example 0.0.0.0:7070; a host name is no address to listen on".into())
}

fn refresh_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number with its unit, for example 30s or 500ms"))?;
    if interval < MIN_REFRESH_INTERVAL {
        return Err(format!(
            "the shortest is {}: below it, a busy machine looks dead",
            humantime::format_duration(MIN_REFRESH_INTERVAL)
        ));
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use enxame_actors::base::limits::REFRESH_INTERVAL;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_an_environment_twin() {
        for command in Cli::command().get_subcommands().chain([&Cli::command()]) {
            for option in command.get_arguments().filter(|option| !option.is_positional()) {
                let long = option.get_long().unwrap_or_default();
                let twin = format!("ENXAME_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(option.get_env().and_then(|twin| twin.to_str()), Some(twin.as_str()), "--{long}");
            }
        }
    }

    #[test]
    fn addresses_to_listen_on_may_leave_out_a_part() {
        for (text, address) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1", "127.0.0.1:7070"),
            (":9", "0.0.0.0:9"),
            ("::1", "[::1]:7070"),
            ("[::1]", "[::1]:7070"),
            ("[::]:9", "[::]:9"),
        ] {
            assert_eq!(tracker_listen(text).unwrap(), address.parse().unwrap(), "{text}");
        }
        assert_eq!(peer_listen("10.0.0.5").unwrap(), "10.0.0.5:0".parse().unwrap());
        for text in ["", ":", "localhost:7070", "127.0.0.1:", "127.0.0.1:65536", "1.2.3:4", "[::1", "a b"] {
            assert!(tracker_listen(text).unwrap_err().contains("IP:PORT"), "{text:?}");
        }
    }

    #[test]
    fn limits_are_read_for_peer_and_get_and_a_wrong_one_says_what_to_write() {
        for command in [&["get", "x"], &["peer", "p1"]] {
            let parse = |option: &str| {
                let line = ["enxame", command[0], command[1], "--tracker", "t", option];
                Cli::try_parse_from(line).map(|cli| match cli.command {
                    Command::Get(args) => args.limits.limits(),
                    Command::Peer(args) => args.limits.limits(),
                    _ => unreachable!("it is one of these"),
                })
            };
            let limits = parse("--upload-limit=20MiB/s").unwrap();
            assert_eq!((limits.upload.map(ByteRate::bytes_s), limits.download), (Some(20 << 20), None));
            let limits = parse("--download-limit=1.5M").unwrap();
            assert_eq!((limits.upload, limits.download.map(ByteRate::bytes_s)), (None, Some(1_500_000)));
            for (option, hint) in [("--upload-limit=20Mbit/s", "bytes"), ("--download-limit=0", "no limit")] {
                let error = parse(option).unwrap_err();
                assert_eq!(error.exit_code(), Exit::Usage as i32);
                assert!(error.to_string().contains(hint), "{error}");
            }
        }
    }

    #[test]
    fn a_refresh_interval_has_a_unit_a_lower_end_and_the_default_of_the_limits() {
        let option = Cli::command().find_subcommand("tracker").unwrap().clone();
        let option = option.get_arguments().find(|option| option.get_id() == "refresh_interval").unwrap();
        let default = option.get_default_values()[0].to_str().unwrap();
        assert_eq!(refresh_interval(default), Ok(REFRESH_INTERVAL));
        assert_eq!(refresh_interval("2m 30s"), Ok(Duration::from_secs(150)));
        assert_eq!(refresh_interval("200ms"), Ok(MIN_REFRESH_INTERVAL));
        assert!(refresh_interval("199ms").unwrap_err().contains("200ms"));
        for text in ["", "30", "soon", "-1s"] {
            assert!(refresh_interval(text).unwrap_err().contains("30s"), "{text:?}");
        }
    }

    #[test]
    fn a_cap_of_a_tracker_is_a_number_that_can_be_counted() {
        assert_eq!(cap("1"), Ok(1));
        assert_eq!(cap("100000000"), Ok(MOST));
        for text in ["", "0", "-1", "many", "1e3", "100000001", "9999999999999999999"] {
            assert!(cap(text).unwrap_err().contains("from 1 to 100000000"), "{text:?}");
        }
    }

    #[test]
    fn the_help_has_every_exit_code() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NobodyHasIt,
            Exit::Ambiguous,
            Exit::Undelivered,
            Exit::NoTracker,
            Exit::Disk,
            Exit::Interrupted,
        ] {
            let row = format!("\n{:>5}  ", exit.code());
            assert!(EXIT_CODES.contains(&row), "{exit:?}");
        }
    }
}
