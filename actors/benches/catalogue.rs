//! The catalogue of a tracker with 1,000,000 entries: 10,000 peers list 100 files each, and ten of
//! them have the same file.

use std::time::Instant;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use enxame_actors::base::{FileId, FileName, PeerId, Question};
use enxame_actors::plan::catalogue::{Catalogue, CatalogueLimits, ConnectionId};
use enxame_actors::wire::tracker::Listing;

const PEERS: usize = 10_000;
const FILES_PER_PEER: usize = 100;
const FILES: usize = 100_000;

fn main() {
    divan::main();
}

fn peer_id(n: usize) -> PeerId {
    format!("node-{n:05}").parse().expect("a valid peer id")
}

fn name(n: usize) -> FileName {
    format!("models/set-{:05}/shard-{n:08}.safetensors", n / 100).parse().expect("a valid name")
}

fn id(n: usize) -> FileId {
    let mut rng = fastrand::Rng::with_seed(n as u64);
    FileId::from_bytes(std::array::from_fn(|_| rng.u8(..)))
}

fn listings(files: impl Iterator<Item = usize>) -> Vec<Listing> {
    files.map(|n| Listing { name: name(n), id: id(n), size: 1 << 30, complete: true }).collect()
}

fn connection(n: usize) -> ConnectionId {
    ConnectionId(n as u64)
}

fn join(catalogue: &mut Catalogue, n: usize, list: &[Listing], now: Instant) {
    let address = ([10, 0, (n >> 8) as u8, n as u8], 7071).into();
    catalogue.register(&peer_id(n), 1, connection(n), address, now).expect("there is room for it");
    catalogue.add(connection(n), list).expect("there is room for it");
}

fn full(now: Instant) -> Catalogue {
    let mut catalogue = Catalogue::new(CatalogueLimits::default(), fastrand::Rng::with_seed(1));
    for n in 0..PEERS {
        let first = n * FILES_PER_PEER;
        join(&mut catalogue, n, &listings((first..first + FILES_PER_PEER).map(|n| n % FILES)), now);
    }
    catalogue
}

/// A peer with 1,000 files joins and leaves: files that nobody else has, and such as others have.
#[divan::bench(args = [false, true])]
fn join_and_leave_with_1000_files(bencher: Bencher<'_, '_>, known: bool) {
    let now = Instant::now();
    let mut catalogue = full(now);
    let mut rng = fastrand::Rng::with_seed(1);
    bencher
        .counter(ItemsCount::new(1000usize))
        .with_inputs(|| {
            let first = if known { rng.usize(..FILES - 1000) } else { FILES };
            listings(first..first + 1000)
        })
        .bench_local_refs(|list| {
            join(&mut catalogue, PEERS, list, now);
            catalogue.disconnect(connection(PEERS))
        });
}

fn answering(bencher: Bencher<'_, '_>, question: impl Fn(usize) -> Question) {
    let mut catalogue = full(Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut out = Vec::new();
    bencher
        .counter(ItemsCount::new(1usize))
        .with_inputs(|| (question(rng.usize(..FILES)), peer_id(rng.usize(..PEERS))))
        .bench_local_refs(|(question, asker)| {
            out.clear();
            let asker = catalogue.known(asker);
            catalogue.who_has(black_box(question), asker, None, &mut out);
        });
}

/// The frame that answers WHO_HAS, for a random file of all.
#[divan::bench(sample_count = 2000)]
fn answer_by_name(bencher: Bencher<'_, '_>) {
    answering(bencher, |n| Question::Name { name: name(n), prefix: None });
}

#[divan::bench(sample_count = 2000)]
fn answer_by_id(bencher: Bencher<'_, '_>) {
    answering(bencher, |n| Question::Prefix(id(n).into()));
}

/// A peer states the digest that the catalogue has.
#[divan::bench(sample_count = 2000)]
fn confirm(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let mut catalogue = full(now);
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let connection = connection(rng.usize(..PEERS));
        let digest = catalogue.digest(connection).unwrap_or_default();
        catalogue.confirmed(connection, digest, now)
    });
}
