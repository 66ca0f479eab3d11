//! What is to be measured.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::Failure;

/// The options, with their defaults in [`Config::from_args`].
#[derive(Debug)]
pub(crate) struct Config {
    /// The `enxame` binary whose tracker is measured.
    pub(crate) binary: PathBuf,
    /// Peers that are connected and registered.
    pub(crate) peers: usize,
    /// Entries of all their lists together.
    pub(crate) pairs: usize,
    /// Peers that have the same file.
    pub(crate) holders: usize,
    /// Peers that ask.
    pub(crate) asking: usize,
    /// Questions that each of them keeps under way where it goes as fast as it can.
    pub(crate) depth: usize,
    /// Questions that come together where they come at a given rate.
    pub(crate) group: usize,
    /// How long each step of load takes.
    pub(crate) seconds: Duration,
    /// The tracker's refresh interval.
    pub(crate) interval: Duration,
    /// One JSON object instead of lines.
    pub(crate) json: bool,
}

impl Config {
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Result<Config, Failure> {
        let mut config = Config {
            binary: PathBuf::new(),
            peers: 10_000,
            pairs: 1_000_000,
            holders: 10,
            asking: 64,
            depth: 64,
            group: 8,
            seconds: Duration::from_secs(5),
            interval: Duration::from_secs(30),
            json: false,
        };
        while let Some(arg) = args.next() {
            let mut count = || number(&arg, args.next());
            match arg.as_str() {
                "--json" => config.json = true,
                "--peers" => config.peers = count()?,
                "--pairs" => config.pairs = count()?,
                "--holders" => config.holders = count()?,
                "--asking" => config.asking = count()?,
                "--depth" => config.depth = count()?,
                "--group" => config.group = count()?,
                "--seconds" => config.seconds = Duration::from_secs(count()? as u64),
                "--interval" => config.interval = Duration::from_secs(count()? as u64),
                option if option.starts_with('-') => return Err(format!("unknown option {option}").into()),
                _ => config.binary = arg.into(),
            }
        }
        if config.binary.as_os_str().is_empty() {
            return Err("the path of the enxame binary is missing".into());
        }
        let per_peer = config.files_per_peer();
        if per_peer == 0 || config.files() < per_peer || config.asking > config.peers {
            return Err("too few pairs for so many peers and holders, or more askers than peers".into());
        }
        Ok(config)
    }

    /// Entries of each peer's list.
    pub(crate) fn files_per_peer(&self) -> usize {
        self.pairs / self.peers
    }

    /// Different files.
    pub(crate) fn files(&self) -> usize {
        self.pairs / self.holders
    }
}

fn number<N: FromStr<Err: std::fmt::Display> + PartialOrd + From<u8>>(
    option: &str,
    value: Option<String>,
) -> Result<N, Failure> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    let number = value.parse().map_err(|error| format!("{option} {value}: {error}"))?;
    if number < N::from(1) { Err(format!("{option} is at least 1").into()) } else { Ok(number) }
}
