//! Simulates swarms of machines with equal links, and prints how long the last one takes.
//!
//! `cargo run --release -p enxame-actors --example simulate -- 10 100 1000 10000`
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod swarm;

use std::time::{Duration, Instant};

use swarm::{Setup, Swarm};

fn arg(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    println!(
        "{:>7} {:>9} {:>8} {:>7} {:>7} {:>7} {:>9} {:>6} {:>7}",
        "getters", "MiB", "bound s", "last s", "ratio", "origin", "wasted %", "undone", "ran s"
    );
    for getters in sizes {
        let size = arg("MIB", 256) << 20;
        let setup = Setup {
            getters,
            size,
            link_bytes_s: arg("MBIT", 200) * 1_000_000 / 8,
            latency: Duration::from_micros(arg("LATENCY_US", 500)),
            start_within: Duration::from_millis(arg("START_MS", 100)),
            origin_dies_after: std::env::var("DIES")
                .ok()
                .and_then(|v| v.parse::<f64>().ok())
                .map(|f| (f * size as f64) as u64),
            late: arg("LATE", 0) as usize,
            seed: arg("SEED", 1),
        };
        let began = Instant::now();
        let report = Swarm::run(setup);
        let bound = size as f64 / setup.link_bytes_s as f64;
        let last = report.done.iter().flatten().max().map_or(0.0, Duration::as_secs_f64);
        println!(
            "{getters:>7} {:>9} {bound:>8.1} {last:>7.2} {:>7.3} {:>7.3} {:>9.2} {:>6} {:>7.1}",
            size >> 20,
            last / bound,
            report.origin_bytes as f64 / size as f64,
            report.wasted_bytes as f64 * 100.0 / (getters as f64 * size as f64),
            report.done.iter().filter(|d| d.is_none()).count(),
            began.elapsed().as_secs_f64()
        );
    }
}
