//! A swarm in virtual time: real plans, and a network in which every machine has the same link.
//!
//! What is modelled: each machine's link in either direction as a queue that moves pieces of
//! [`PIECE_BYTES`] in turn for its connections, the latency, the way a control message has to wait
//! behind the data of its connection, how far a sender may run ahead of its receiver, the tracker's
//! sample of holders and when peers look for others. Not modelled: TCP's slow start and losses, the
//! bytes of headers, the time that hashing and disks take.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use enxame_actors::base::limits::{
    HALF_CONNECTED_FOR, MAX_ANSWER_HOLDERS, MAX_DOWNLOAD_CONNECTIONS, MAX_SENDING_UPLOADS,
    MAX_UPLOAD_CONNECTIONS, REPLACE_EVERY, REPLACE_EVERY_MAX,
};
use enxame_actors::base::{FileId, Geometry, SpanSet};
use enxame_actors::plan::{FileIndex, Given, Holding, JobPlan, Settled, SourceId, UploadId};

/// What a link moves at once for one connection.
const PIECE_BYTES: u64 = 64 << 10;
/// What may be on its way to a receiver whose link is busy, per connection.
const WINDOW_BYTES: u64 = 256 << 10;
/// From a getter's start to its registration as a holder: it has asked the tracker and has the manifest.
const REGISTERED_AFTER: Duration = Duration::from_millis(20);
/// First wait before a getter looks for others, doubled each time.
const SEARCH_FIRST: Duration = Duration::from_millis(250);
/// How often a plan looks at what is late.
const TICK: Duration = Duration::from_millis(250);

const FILE: FileIndex = FileIndex(0);
const ID: FileId = FileId::from_bytes([7; 32]);
/// The machine that has the file at the beginning.
const ORIGIN: usize = 0;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// How many machines fetch the file.
    pub(crate) getters: usize,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Bytes per second of every link, in either direction.
    pub(crate) link_bytes_s: u64,
    /// How long a byte travels.
    pub(crate) latency: Duration,
    /// The getters start within this time.
    pub(crate) start_within: Duration,
    /// The origin dies when it has sent so many bytes.
    pub(crate) origin_dies_after: Option<u64>,
    /// The last so many of the getters start when half of the time has passed that the others need at least.
    pub(crate) late: usize,
    /// Equal seeds make equal runs.
    pub(crate) seed: u64,
}

/// What came of it. Times are counted from each getter's own start.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// When each getter had the file, if it ever had; in the order in which they started.
    pub(crate) done: Vec<Option<Duration>>,
    /// Bytes that the origin sent.
    pub(crate) origin_bytes: u64,
    /// Bytes that arrived and were not used.
    pub(crate) wasted_bytes: u64,
}

impl Setup {
    /// So many getters that start within 100 ms, 64 MiB, 200 Mbit/s, half a millisecond.
    pub(crate) fn of(getters: usize) -> Setup {
        Setup {
            getters,
            size: 64 << 20,
            link_bytes_s: 25_000_000,
            latency: Duration::from_micros(500),
            start_within: Duration::from_millis(100),
            origin_dies_after: None,
            late: 0,
            seed: 1,
        }
    }
}

type ConnectionId = usize;

enum Event {
    Start(usize),
    Registered(usize),
    Search(usize),
    Tick(usize),
    Connected(ConnectionId),
    /// A request has arrived at the holder.
    Asked(ConnectionId, Range<u32>, bool),
    /// The holder's link has moved a piece.
    Sent(usize),
    /// The getter's link has moved a piece; the span is whole with it.
    Received(ConnectionId, u64, Option<u32>),
    Have(ConnectionId, Vec<u32>),
    Taken(ConnectionId, Range<u32>, SpanSet),
    Cut(ConnectionId),
}

struct Timed(u64, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Machine {
    plan: JobPlan,
    is_alive: bool,
    is_registered: bool,
    started: u64,
    done: Option<u64>,
    search_wait: Duration,
    /// Whom it fetches from.
    sources: Vec<(SourceId, ConnectionId)>,
    known: BTreeSet<usize>,
    made_room: BTreeSet<usize>,
    replace_wait: Duration,
    next_replacement: u64,
    /// Who fetches from it.
    uploads: Vec<ConnectionId>,
    given: Given,
    /// Uploads that have something to send, in the order of their turns: those that are being sent...
    sending: VecDeque<ConnectionId>,
    /// ... and those that wait for one of them to end.
    waiting: VecDeque<ConnectionId>,
    piece: Option<(ConnectionId, u64)>,
    down_free: u64,
    sent_bytes: u64,
}

struct Connection {
    getter: usize,
    holder: usize,
    source: SourceId,
    is_open: bool,
    requests: VecDeque<(Range<u32>, bool)>,
    /// The span being sent, what is left of it, and the rest of its request.
    current: Option<(u32, u64, Range<u32>)>,
    has_turn: bool,
    in_transit: u64,
    /// When the last thing that was sent is received.
    received_at: u64,
    have: Vec<u32>,
}

/// The whole simulation.
pub(crate) struct Swarm {
    setup: Setup,
    geometry: Geometry,
    base: Instant,
    now: u64,
    seq: u64,
    events: BinaryHeap<Reverse<Timed>>,
    machines: Vec<Machine>,
    connections: Vec<Connection>,
    rng: fastrand::Rng,
    unfinished: usize,
    wasted_bytes: u64,
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

impl Swarm {
    /// Runs it until all getters are done, or nothing has come for a minute.
    pub(crate) fn run(setup: Setup) -> Report {
        let geometry = Geometry::new(setup.size).expect("a size that files have");
        let mut rng = fastrand::Rng::with_seed(setup.seed);
        let machine = |n: usize, rng: &mut fastrand::Rng| {
            let mut plan = JobPlan::new(rng.u64(..));
            let had = if n == ORIGIN { SpanSet::full(&geometry) } else { SpanSet::empty(&geometry) };
            plan.add_file(FILE, geometry, had);
            Machine {
                plan,
                is_alive: true,
                is_registered: n == ORIGIN,
                started: 0,
                done: None,
                search_wait: SEARCH_FIRST,
                sources: Vec::new(),
                known: BTreeSet::new(),
                made_room: BTreeSet::new(),
                replace_wait: REPLACE_EVERY,
                next_replacement: 0,
                uploads: Vec::new(),
                given: Given::default(),
                sending: VecDeque::new(),
                waiting: VecDeque::new(),
                piece: None,
                down_free: 0,
                sent_bytes: 0,
            }
        };
        let machines = (0..=setup.getters).map(|n| machine(n, &mut rng)).collect();
        let mut swarm = Swarm {
            setup,
            geometry,
            base: Instant::now(),
            now: 0,
            seq: 0,
            events: BinaryHeap::new(),
            machines,
            connections: Vec::new(),
            rng,
            unfinished: setup.getters,
            wasted_bytes: 0,
        };
        let half = Duration::from_secs_f64(setup.size as f64 / setup.link_bytes_s as f64 / 2.0);
        for n in 1..=setup.getters {
            let mut at = swarm.rng.u64(0..=nanos(setup.start_within));
            if n > setup.getters - setup.late {
                at += nanos(half);
            }
            swarm.at(at, Event::Start(n));
        }
        let mut alive_until = u64::MAX;
        while swarm.unfinished > 0
            && let Some(Reverse(Timed(at, _, event))) = swarm.events.pop()
            && at < alive_until
        {
            swarm.now = at;
            if matches!(event, Event::Received(..)) {
                alive_until = at + nanos(Duration::from_secs(60));
            }
            swarm.handle(event);
        }
        let done = |machine: &Machine| Some(Duration::from_nanos(machine.done? - machine.started));
        Report {
            done: swarm.machines[1..].iter().map(done).collect(),
            origin_bytes: swarm.machines[ORIGIN].sent_bytes,
            wasted_bytes: swarm.wasted_bytes,
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.seq += 1;
        self.events.push(Reverse(Timed(at, self.seq, event)));
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + nanos(wait), event);
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(n) => {
                self.machines[n].started = self.now;
                self.after(REGISTERED_AFTER, Event::Registered(n));
                let jitter = Duration::from_millis(self.rng.u64(0..250));
                self.after(TICK + jitter, Event::Tick(n));
                self.search(n);
            }
            Event::Registered(n) => self.machines[n].is_registered = true,
            Event::Search(n) => self.search(n),
            Event::Tick(n) => {
                if self.machines[n].done.is_none() {
                    self.assign_all(n);
                    self.replace(n);
                    self.close_retired(n);
                    self.after(TICK, Event::Tick(n));
                }
            }
            Event::Connected(id) => {
                let (getter, holder) = (self.connections[id].getter, self.connections[id].holder);
                if !self.machines[holder].is_alive {
                    return;
                }
                self.connections[id].is_open = true;
                self.machines[holder].uploads.push(id);
                let had = self.machines[holder].plan.file(FILE).expect("one file").had().clone();
                let holding = if had.is_full() { Holding::All } else { Holding::Spans(had) };
                let source = self.connections[id].source;
                self.machines[getter].plan.set_holding(source, FILE, Some(holding));
                self.assign(id);
            }
            Event::Asked(id, spans, is_fresh) => {
                let holder = self.connections[id].holder;
                if self.connections[id].is_open && self.machines[holder].is_alive {
                    self.connections[id].requests.push_back((spans, is_fresh));
                    self.take_turn(id);
                    self.send(holder);
                }
            }
            Event::Sent(n) => self.sent(n),
            Event::Received(id, bytes, span) => self.received(id, bytes, span),
            Event::Have(id, _) | Event::Taken(id, ..) if !self.connections[id].is_open => {}
            Event::Have(id, spans) => {
                let getter = self.connections[id].getter;
                let source = self.connections[id].source;
                let spans: Vec<_> =
                    spans.iter().filter_map(|span| self.geometry.span(u64::from(*span))).collect();
                self.machines[getter].plan.extend_holding(source, FILE, &spans);
                self.assign(id);
            }
            Event::Taken(id, spans, given) => {
                let (getter, source) = (self.connections[id].getter, self.connections[id].source);
                self.machines[getter].plan.taken(source, FILE, spans, &given);
                self.assign_all(getter);
            }
            Event::Cut(id) => {
                let (getter, source) = (self.connections[id].getter, self.connections[id].source);
                self.machines[getter].plan.remove_source(source);
                self.machines[getter].sources.retain(|(of, _)| *of != source);
                self.assign_all(getter);
            }
        }
    }

    // ---- who is connected to whom ----

    fn search(&mut self, n: usize) {
        if self.machines[n].done.is_some() {
            return;
        }
        let registered: Vec<usize> =
            (0..self.machines.len()).filter(|m| self.machines[*m].is_registered && *m != n).collect();
        let sample = self.rng.choose_multiple(registered, MAX_ANSWER_HOLDERS);
        self.machines[n].known.extend(sample);
        // A tracker names at least one complete holder.
        if self.machines[ORIGIN].is_alive {
            self.machines[n].known.insert(ORIGIN);
        }
        self.connect(n);
        let wait = self.machines[n].search_wait;
        self.machines[n].search_wait = (wait * 2).min(Duration::from_secs(30));
        self.after(wait, Event::Search(n));
    }

    /// Dials who is known and not connected, as long as there is room.
    fn connect(&mut self, n: usize) {
        let mut ready = self.ready(n);
        self.rng.shuffle(&mut ready);
        let age = Duration::from_nanos(self.now - self.machines[n].started);
        let most = MAX_DOWNLOAD_CONNECTIONS / if age < HALF_CONNECTED_FOR { 2 } else { 1 };
        let room = most.saturating_sub(self.machines[n].sources.len());
        for holder in ready.into_iter().take(room) {
            let Machine { is_alive, uploads, .. } = &self.machines[holder];
            if *is_alive && uploads.len() < MAX_UPLOAD_CONNECTIONS {
                self.dial(n, holder);
            }
        }
    }

    fn ready(&self, n: usize) -> Vec<usize> {
        let machine = &self.machines[n];
        let is_source = |m| machine.sources.iter().any(|(_, id)| self.connections[*id].holder == m);
        let is_ready = |m: &usize| !is_source(*m) && !machine.made_room.contains(m);
        machine.known.iter().copied().filter(is_ready).collect()
    }

    /// Has poor sources make room for others that are known.
    fn replace(&mut self, n: usize) {
        if self.now < self.machines[n].next_replacement
            || self.machines[n].sources.len() < MAX_DOWNLOAD_CONNECTIONS
        {
            return;
        }
        let (ready, now) = (self.ready(n).len(), self.instant());
        let machine = &mut self.machines[n];
        let retired = machine.plan.retire_poor(ready, now);
        machine.replace_wait =
            if retired > 0 { REPLACE_EVERY } else { (machine.replace_wait * 2).min(REPLACE_EVERY_MAX) };
        machine.next_replacement = self.now + nanos(machine.replace_wait);
    }

    /// Closes what has made room, and dials others instead.
    fn close_retired(&mut self, n: usize) {
        let retired = self.machines[n].plan.retired();
        if retired.is_empty() {
            return;
        }
        for source in retired {
            self.machines[n].plan.remove_source(source);
            let Some(at) = self.machines[n].sources.iter().position(|(of, _)| *of == source) else {
                continue;
            };
            let (_, id) = self.machines[n].sources.swap_remove(at);
            let holder = self.connections[id].holder;
            self.machines[n].made_room.insert(holder);
            self.connections[id].is_open = false;
            self.machines[holder].uploads.retain(|upload| *upload != id);
            self.machines[holder].given.end(UploadId(id as u64));
        }
        self.connect(n);
    }

    fn dial(&mut self, getter: usize, holder: usize) {
        let now = self.instant();
        let source = self.machines[getter].plan.add_source(now);
        let id = self.connections.len();
        self.connections.push(Connection {
            getter,
            holder,
            source,
            is_open: false,
            requests: VecDeque::new(),
            current: None,
            has_turn: false,
            in_transit: 0,
            received_at: 0,
            have: Vec::new(),
        });
        self.machines[getter].sources.push((source, id));
        // The handshake, HELLO and OPEN, both ways each.
        self.after(self.setup.latency * 6, Event::Connected(id));
    }

    fn die(&mut self, n: usize) {
        self.machines[n].is_alive = false;
        self.machines[n].is_registered = false;
        for id in std::mem::take(&mut self.machines[n].uploads) {
            self.connections[id].is_open = false;
            self.after(self.setup.latency, Event::Cut(id));
        }
    }

    // ---- the getter ----

    fn assign(&mut self, id: ConnectionId) {
        let (getter, source) = (self.connections[id].getter, self.connections[id].source);
        if self.machines[getter].done.is_some() || !self.connections[id].is_open {
            return;
        }
        let now = self.instant();
        for request in self.machines[getter].plan.assign(source, now) {
            self.after(self.setup.latency, Event::Asked(id, request.spans, request.is_fresh));
        }
    }

    fn assign_all(&mut self, n: usize) {
        for index in 0..self.machines[n].sources.len() {
            let (_, id) = self.machines[n].sources[index];
            self.assign(id);
        }
    }

    fn received(&mut self, id: ConnectionId, bytes: u64, span: Option<u32>) {
        let Connection { getter, holder, source, .. } = self.connections[id];
        self.connections[id].in_transit -= bytes;
        self.send(holder);
        let Some(span) = span.and_then(|number| self.geometry.span(u64::from(number))) else { return };
        if self.machines[getter].done.is_some() {
            self.wasted_bytes += self.geometry.len_bytes(span) as u64;
            return;
        }
        let now = self.instant();
        match self.machines[getter].plan.stored(source, FILE, span, now) {
            Settled::Wasted => self.wasted_bytes += self.geometry.len_bytes(span) as u64,
            Settled::Used { complete } => {
                if complete {
                    self.machines[getter].done = Some(self.now);
                    self.unfinished -= 1;
                }
                for index in 0..self.machines[getter].uploads.len() {
                    let upload = self.machines[getter].uploads[index];
                    self.connections[upload].have.push(span.number());
                    self.tell_growth(upload);
                }
            }
        }
        self.assign(id);
    }

    // ---- the holder ----

    /// HAVE goes out between two spans.
    fn tell_growth(&mut self, id: ConnectionId) {
        if self.connections[id].current.is_none() && !self.connections[id].have.is_empty() {
            let spans = std::mem::take(&mut self.connections[id].have);
            self.say(id, Event::Have(id, spans));
        }
    }

    /// A control message arrives behind what its connection has on its way.
    fn say(&mut self, id: ConnectionId, event: Event) {
        let at = (self.now + nanos(self.setup.latency)).max(self.connections[id].received_at);
        self.connections[id].received_at = at;
        self.at(at, event);
    }

    fn take_turn(&mut self, id: ConnectionId) {
        let holder = self.connections[id].holder;
        let connection = &mut self.connections[id];
        if connection.has_turn || connection.requests.is_empty() && connection.current.is_none() {
            return;
        }
        connection.has_turn = true;
        self.machines[holder].waiting.push_back(id);
    }

    /// Decides what a connection sends next; false if it has nothing to send.
    fn next_span(&mut self, id: ConnectionId) -> bool {
        let holder = self.connections[id].holder;
        let to = UploadId(id as u64);
        loop {
            if self.connections[id].current.is_some() {
                return true;
            }
            let Some((spans, is_fresh)) = self.connections[id].requests.pop_front() else { return false };
            let given = &mut self.machines[holder].given;
            let end = given.give(to, ID, &self.geometry, spans.clone(), is_fresh);
            if end < spans.end {
                let others = given.to_others(to, ID, &self.geometry);
                if end == spans.start {
                    self.say(id, Event::Taken(id, spans, others));
                    continue;
                }
                // What is left of it is refused when its turn comes.
                self.connections[id].requests.push_front((end..spans.end, is_fresh));
            }
            let len = self.len_of(spans.start);
            self.connections[id].current = Some((spans.start, len, spans.start + 1..end));
        }
    }

    fn len_of(&self, span: u32) -> u64 {
        self.geometry.span(u64::from(span)).map_or(0, |span| self.geometry.len_bytes(span) as u64)
    }

    /// Has an idle link move the next piece.
    fn send(&mut self, n: usize) {
        if self.machines[n].piece.is_some() || !self.machines[n].is_alive {
            return;
        }
        loop {
            while self.machines[n].sending.len() < MAX_SENDING_UPLOADS
                && let Some(id) = self.machines[n].waiting.pop_front()
            {
                self.machines[n].sending.push_back(id);
            }
            let mut is_changed = false;
            for _ in 0..self.machines[n].sending.len() {
                let Some(id) = self.machines[n].sending.pop_front() else { break };
                if !self.connections[id].is_open || !self.next_span(id) {
                    self.connections[id].has_turn = false;
                    self.tell_growth(id);
                    is_changed = true;
                    continue;
                }
                self.machines[n].sending.push_back(id);
                let Some((_, left, _)) = self.connections[id].current else { continue };
                if self.connections[id].in_transit >= WINDOW_BYTES {
                    continue;
                }
                let bytes = left.min(PIECE_BYTES);
                self.machines[n].piece = Some((id, bytes));
                self.after(self.time_for(bytes), Event::Sent(n));
                return;
            }
            if !is_changed || self.machines[n].waiting.is_empty() {
                return;
            }
        }
    }

    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes * 1_000_000_000 / self.setup.link_bytes_s)
    }

    fn sent(&mut self, n: usize) {
        let Some((id, bytes)) = self.machines[n].piece.take() else { return };
        if !self.connections[id].is_open {
            return self.send(n);
        }
        self.machines[n].sent_bytes += bytes;
        let mut done = None;
        if let Some((span, left, rest)) = self.connections[id].current.take() {
            if left > bytes {
                self.connections[id].current = Some((span, left - bytes, rest));
            } else {
                done = Some(span);
                if rest.start < rest.end {
                    let len = self.len_of(rest.start);
                    self.connections[id].current = Some((rest.start, len, rest.start + 1..rest.end));
                }
            }
        }
        let getter = self.connections[id].getter;
        let free = self.machines[getter].down_free.max(self.now + nanos(self.setup.latency));
        let at = free + nanos(self.time_for(bytes));
        self.machines[getter].down_free = at;
        self.connections[id].in_transit += bytes;
        self.connections[id].received_at = self.connections[id].received_at.max(at);
        self.at(at, Event::Received(id, bytes, done));
        if done.is_some() {
            // Its turn is over; it waits for the next one behind the others.
            self.machines[n].sending.retain(|sending| *sending != id);
            self.connections[id].has_turn = false;
            if self.connections[id].current.is_none() {
                self.tell_growth(id);
            }
            self.take_turn(id);
        }
        if n == ORIGIN && self.setup.origin_dies_after.is_some_and(|most| self.machines[n].sent_bytes >= most)
        {
            return self.die(n);
        }
        self.send(n);
    }
}
