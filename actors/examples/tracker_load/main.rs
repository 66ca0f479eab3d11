//! Puts a tracker under load and prints what it takes of memory and time.
//!
//! ```text
//! cargo build --release
//! cargo run --release -p enxame-actors --example tracker_load -- target/release/enxame [--json] [--peers 10000] ...
//! ```
//!
//! It starts the binary's tracker as a process of its own, on a free port of loopback, and connects
//! all peers to it. What follows, one after another:
//!
//! 1. memory: of a registered peer without files, and of a (peer, file) pair, as growth of the
//!    tracker's resident memory;
//! 2. one confirmation round in which nothing has changed: processor time of the tracker;
//! 3. WHO_HAS as fast as it goes: some connections keep a number of questions under way each, half of
//!    them by name and half by id, while all other peers stay connected and confirm their lists;
//! 4. WHO_HAS at parts of that rate, whether answered or not (an open loop): how long an answer takes
//!    from the moment at which its question was due;
//! 5. the storm: all peers are cut off and come back at once, each with its whole list;
//! 6. the ordered end of the tracker.
//!
//! | option | default | what |
//! |---|---|---|
//! | `--peers` | 10000 | peers that are connected and registered |
//! | `--pairs` | 1000000 | entries of all their lists together |
//! | `--holders` | 10 | peers that list the same file |
//! | `--asking` | 64 | peers that ask |
//! | `--depth` | 64 | questions that each of them keeps under way in step 3 |
//! | `--group` | 8 | questions that come together in step 4 |
//! | `--seconds` | 5 | how long each step of load takes |
//! | `--interval` | 30 | seconds of the tracker's refresh interval, and how long step 2 takes |
//! | `--json` | | one object instead of lines |
//!
//! Load generator and tracker share the cores, and others may use them too: the processor time of each
//! side per answer says more of a busy machine than the rate.

mod config;
mod latency;
mod load;
mod peer;
mod process;
mod questions;

use std::error::Error;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use config::Config;
use load::{Peers, Rate};
use peer::{Greeting, greeting};
use process::{Tracker, own_cpu};
use questions::Questions;

type Failure = Box<dyn Error>;

/// Parts of the highest rate at which the open loop asks.
const STEPS: [f64; 4] = [0.25, 0.5, 0.75, 0.9];

fn main() -> Result<(), Failure> {
    let config = Rc::new(Config::from_args(std::env::args().skip(1))?);
    process::allow_descriptors(config.peers + 100)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate())?;
        // An end by these leaves no tracker behind.
        tokio::select! {
            report = run(&config) => report,
            interrupted = ctrl_c() => Err(interrupted.map_or_else(Failure::from, |()| "interrupted".into())),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })?;
    if config.json {
        println!("{report}");
    } else {
        print!("{}", as_text(&report));
    }
    Ok(())
}

async fn run(config: &Rc<Config>) -> Result<Value, Failure> {
    let tracker = Tracker::start(&config.binary, config.interval)?;
    let mut report = json!({
        "peers": config.peers, "pairs": config.pairs, "holders_per_file": config.holders,
        "asking": config.asking, "depth": config.depth, "group": config.group,
    });
    let mut note = |key: &str, value: Value| {
        if !config.json {
            eprintln!("{key}: {value}");
        }
        report[key] = value;
    };

    let empty_kib = tracker.resident_kib()?;
    let mut peers = Peers::join(config, tracker.address, greetings(config, false)?).await?;
    let joined_kib = tracker.resident_kib()?;
    note("bytes_per_peer", json!((joined_kib - empty_kib) * 1024 / config.peers as u64));
    peers.tell_lists().await?;
    let told_kib = tracker.resident_kib()?;
    note("bytes_per_pair", json!((told_kib - joined_kib) as f64 * 1024.0 / config.pairs as f64));
    note("resident_mib", json!(told_kib / 1024));

    let (cpu, started) = (tracker.cpu()?, Instant::now());
    peers.stay(config.interval).await?;
    let used = tracker.cpu()? - cpu;
    let rounds = started.elapsed().as_secs_f64() / config.interval.as_secs_f64();
    note("confirmation_round_cpu_s", json!(used.as_secs_f64() / rounds));

    let questions = Rc::new(Questions::new(config)?);
    peers.check_answers(&questions).await?;
    let fastest = measured(&tracker, &mut peers, &questions, Rate::AsFastAsItGoes, config.seconds).await?;
    let per_second = fastest["answers_per_s"].as_f64().unwrap_or_default();
    note("fastest", fastest);
    for part in STEPS {
        let rate = Rate::PerSecond(per_second * part);
        let step = measured(&tracker, &mut peers, &questions, rate, config.seconds).await?;
        note(&format!("at_{:.0}_percent", part * 100.0), step);
    }

    drop(peers);
    let greetings = greetings(config, true)?;
    tracker.settled().await?;
    let (cpu, started) = (tracker.cpu()?, Instant::now());
    let peers = Peers::join(config, tracker.address, greetings).await?;
    note("storm_s", json!(started.elapsed().as_secs_f64()));
    note("storm_cpu_s", json!((tracker.cpu()? - cpu).as_secs_f64()));
    note("storm_resident_mib", json!(tracker.resident_kib()? / 1024));

    let started = Instant::now();
    tracker.stop()?;
    note("stop_s", json!(started.elapsed().as_secs_f64()));
    drop(peers);
    Ok(report)
}

/// What all peers say first.
fn greetings(config: &Config, with_lists: bool) -> Result<Vec<Greeting>, Failure> {
    (0..config.peers).map(|number| greeting(config, number, with_lists)).collect()
}

/// One step of load, with the processor time of both sides per answer.
async fn measured(
    tracker: &Tracker,
    peers: &mut Peers,
    questions: &Rc<Questions>,
    rate: Rate,
    time: Duration,
) -> Result<Value, Failure> {
    let (theirs, ours, started) = (tracker.cpu()?, own_cpu()?, Instant::now());
    let mut latencies = peers.ask(questions, rate, time).await?;
    let elapsed = started.elapsed();
    let answers = latencies.len() as f64;
    let per_answer = |used: Duration| used.as_secs_f64() * 1e6 / answers;
    Ok(json!({
        "answers_per_s": (answers / elapsed.as_secs_f64()).round(),
        "p50_ms": latencies.quantile_ms(0.5),
        "p99_ms": latencies.quantile_ms(0.99),
        "p999_ms": latencies.quantile_ms(0.999),
        "max_ms": latencies.quantile_ms(1.0),
        "tracker_cpu_us": per_answer(tracker.cpu()? - theirs),
        "generator_cpu_us": per_answer(own_cpu()? - ours),
    }))
}

/// The report as lines of `key value`.
fn as_text(report: &Value) -> String {
    let mut lines = String::new();
    for (key, value) in report.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
                lines.push_str(&format!("{key:26} {}\n", fields.join(", ")));
            }
            None => lines.push_str(&format!("{key:26} {value}\n")),
        }
    }
    lines
}
