//! Simulates swarms of machines with equal links in virtual time, with the plans that real downloads
//! have, and prints how the time of the last getter grows against size / rate, which none can beat.
//!
//! `cargo run --release -p enxame-actors --example simulate -- 10 100 1000 10000`

mod swarm;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use swarm::{Setup, Swarm};

const USAGE: &str =
    "usage: simulate [--mib N] [--mbit N] [--late N] [--origin-dies-after FILES] [--seed N] GETTERS...

  --mib N                    size of the file (512)
  --mbit N                   rate of each link in either direction, in Mbit/s (200)
  --late N                   so many of the getters start when the others are half done (0)
  --origin-dies-after FILES  the origin is gone when it has sent so many times the file
  --seed N                   equal seeds make equal runs (1)";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("simulate: {wrong}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut mib, mut mbit, mut late, mut dies, mut seed) = (512u64, 200u64, 0usize, None, 1u64);
    let mut sizes = Vec::new();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--mib" => mib = number(&value()?)?,
            "--mbit" => mbit = number(&value()?)?,
            "--late" => late = number(&value()?)?,
            "--seed" => seed = number(&value()?)?,
            "--origin-dies-after" => dies = Some(number::<f64>(&value()?)?),
            getters => sizes.push(number::<usize>(getters)?),
        }
    }
    if sizes.is_empty() {
        return Err("how many getters?".into());
    }
    let size = mib << 20;
    let link_bytes_s = mbit * 1_000_000 / 8;
    let bound_s = size as f64 / link_bytes_s as f64;
    println!("{mib} MiB, {mbit} Mbit/s each way: nobody can be done before {bound_s:.1} s");
    println!(
        "{:>7} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8}",
        "getters", "last s", "x bound", "origin x", "wasted %", "not done", "ran s"
    );
    for getters in sizes {
        let began = Instant::now();
        let report = Swarm::run(Setup {
            size,
            link_bytes_s,
            late,
            origin_dies_after: dies.map(|files| (files * size as f64) as u64),
            seed,
            ..Setup::of(getters)
        });
        let last_s = report.done.iter().flatten().max().map_or(f64::NAN, Duration::as_secs_f64);
        println!(
            "{getters:>7} {last_s:>8.2} {:>8.3} {:>9.3} {:>8.2} {:>8} {:>8.1}",
            last_s / bound_s,
            report.origin_bytes as f64 / size as f64,
            report.wasted_bytes as f64 * 100.0 / (getters as f64 * size as f64),
            report.done.iter().filter(|done| done.is_none()).count(),
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}
