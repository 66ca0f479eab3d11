//! Swarms in virtual time: what the plan promises, on a network without surprises. The times are
//! simulated, so they are the same on every machine.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "../examples/simulate/swarm.rs"]
mod swarm;

use swarm::{Report, Setup, Swarm};

/// The time of the last getter against size / rate, and the files that the origin sent; all are done.
fn ratios(setup: Setup, report: &Report) -> (f64, f64) {
    let last = report.done.iter().map(|done| done.unwrap()).max().unwrap();
    let bound_s = setup.size as f64 / setup.link_bytes_s as f64;
    (last.as_secs_f64() / bound_s, report.origin_bytes as f64 / setup.size as f64)
}

#[test]
fn the_last_of_a_swarm_is_done_soon_after_what_its_link_allows_and_the_origin_sends_little_more_than_one_file()
 {
    println!("getters  x bound  origin x  wasted %");
    for (getters, size, most) in
        [(1, 64 << 20, 1.1), (8, 256 << 20, 1.1), (16, 64 << 20, 1.25), (100, 256 << 20, 1.2)]
    {
        for seed in 1..=3 {
            let setup = Setup { size, seed, ..Setup::of(getters) };
            let report = Swarm::run(setup);
            let (time, origin) = ratios(setup, &report);
            let wasted = report.wasted_bytes as f64 / (getters as f64 * size as f64);
            println!("{getters:>7} {time:>8.3} {origin:>9.3} {:>9.2}", wasted * 100.0);
            assert!(time < most, "seed {seed}: {getters} getters take {time:.3} of the bound");
            assert!(origin < most, "seed {seed}: the origin sends {origin:.3} files to {getters} getters");
            assert!(
                wasted < 0.05,
                "seed {seed}: {wasted:.3} of what is moved to {getters} getters is wasted"
            );
        }
    }
}

#[test]
fn a_swarm_whose_origin_dies_when_it_has_sent_little_more_than_the_file_finishes() {
    for seed in 1..=10 {
        let setup = Setup { origin_dies_after: Some(75 << 20), seed, ..Setup::of(8) };
        let report = Swarm::run(setup);
        assert!(report.done.iter().all(Option::is_some), "seed {seed}: {:?}", report.done);
    }
}

#[test]
fn who_joins_later_slows_nobody_down_by_much() {
    let slowest = |report: &Report| report.done[..8].iter().map(|done| done.unwrap()).max().unwrap();
    for seed in 1..=5 {
        let alone = Setup { size: 256 << 20, seed, ..Setup::of(8) };
        let joined = Setup { getters: 12, late: 4, ..alone };
        let (alone, joined) = (slowest(&Swarm::run(alone)), slowest(&Swarm::run(joined)));
        let slower = joined.as_secs_f64() / alone.as_secs_f64();
        println!("seed {seed}: {alone:?} alone, {joined:?} with four that join: {slower:.3}");
        assert!(slower < 1.1, "seed {seed}: {slower:.3}");
    }
}
