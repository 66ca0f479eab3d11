//! Runs a test in an actix system of its own and fails it for everything that went wrong.
//!
//! The body runs on a thread of its own, so that even a thread that hangs is noticed. Beside what
//! the body asserts, a test fails if
//!
//! - anything panicked: actix swallows the panic of an actor, tokio that of a task. A hook of the
//!   process, installed once, finds the test by the actix system of the panicking thread (every
//!   arbiter has its system's id) or by its tokio runtime (blocking threads have it). A panic on a
//!   thread that has neither (rayon, a watcher) cannot be attributed, so it fails every test that
//!   runs at that moment: better two tests fail for one reason than none;
//! - it takes longer than its deadline; the message says what was waited for, see [`Test::wait_for`];
//! - it leaves tasks, arbiters, files or sockets behind.
//!
//! What is left of tasks is found in three ways. The body and every actor and task that it starts on
//! its thread live in a `LocalSet` of the harness, which is done when they all are; tasks that can
//! move between threads are counted by the runtime; and an arbiter that was not stopped and joined
//! is a thread that still holds its system. So code that starts arbiters has to end them, and all
//! that runs there ends with them. Not seen: what is sent to run on the test's own arbiter by its
//! handle (`Arbiter::current().spawn`) instead of being spawned, unless it holds a file or a socket.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
#[expect(clippy::disallowed_types, reason = "the panic hook is shared by all threads of the process")]
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, MutexGuard, Once, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use actix::System;
use tempfile::TempDir;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::leaks;

/// How long a test may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the body.
    pub deadline: Duration,
    /// For the last task, file and socket of a finished body to go.
    pub grace: Duration,
    /// For the system to end behind that, until its thread counts as stuck.
    pub last_word: Duration,
}

/// For tests in which nothing is meant to wait long; a loaded machine is slow too.
const PATIENCE: Patience = Patience {
    deadline: Duration::from_secs(60),
    grace: Duration::from_secs(5),
    last_word: Duration::from_secs(10),
};
/// How often a finished test looks at what is left: the system tells nobody when a file is closed.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The seed of a run that is to be repeated.
const SEED_VARIABLE: &str = "ENXAME_SEED";

/// Runs `body` as a test; panics with all that went wrong and the line that repeats it.
pub fn system_test<F, Fut>(body: F)
where
    F: FnOnce(Test) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    system_test_within(PATIENCE.deadline, body);
}

/// [`system_test`] with another deadline.
pub fn system_test_within<F, Fut>(deadline: Duration, body: F)
where
    F: FnOnce(Test) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let seed = std::env::var(SEED_VARIABLE).ok().map_or_else(
        || fastrand::u64(..),
        |text| text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")),
    );
    if let Err(failure) = try_system_test(Patience { deadline, ..PATIENCE }, seed, body) {
        panic!("{failure}\nto repeat it: {}", replay(seed));
    }
}

/// The command that runs the current test with this seed.
fn replay(seed: u64) -> String {
    let binary = std::env::current_exe().ok();
    let stem = binary.as_deref().and_then(Path::file_stem).and_then(|stem| stem.to_str());
    let file = stem.and_then(|stem| stem.rsplit_once('-')).map_or("", |(file, _)| file);
    // With one test thread, libtest runs the tests on the main thread and the name is lost.
    let test = thread::current().name().filter(|name| *name != "main").unwrap_or("").to_string();
    format!("{SEED_VARIABLE}={seed} cargo test --test {file} {test}")
}

/// Why a test failed. The first reason alone: what is left by a body that panicked says nothing.
#[derive(Debug)]
pub enum Failure {
    /// Something panicked: thread, message and place of each.
    Panicked(Vec<String>),
    /// A panic that was announced did not come.
    NoPanic(String),
    /// The deadline passed while this was waited for.
    TimedOut(Vec<String>),
    /// The test's thread did not even end behind the deadline: something blocks it.
    Stuck(Vec<String>),
    /// The body is done, and this is left of it.
    Left(Vec<String>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, list) = match self {
            Failure::Panicked(panics) => ("panicked:", panics),
            Failure::NoPanic(text) => return write!(f, "nothing panicked with {text:?}"),
            Failure::TimedOut(waits) => ("the deadline passed; waited for:", waits),
            Failure::Stuck(waits) => ("the test's thread is blocked; waited for:", waits),
            Failure::Left(left) => ("left when the test was done:", left),
        };
        f.write_str(what)?;
        if list.is_empty() {
            f.write_str(" nothing that was named with `wait_for`")?;
        }
        list.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The test that runs: its randomness, its folder, and what it tells the harness. Cheap to clone.
#[derive(Clone)]
pub struct Test(Arc<Inner>);

struct Inner {
    seed: u64,
    /// Kept until the last clone is gone.
    _folder: TempDir,
    folder: PathBuf,
    system: OnceLock<usize>,
    runtime: OnceLock<tokio::runtime::Id>,
    /// Sockets that were open when the test began, and so are none of its own.
    sockets_before: BTreeSet<u64>,
    panicked: Notify,
    #[expect(clippy::disallowed_types, reason = "the panic hook writes from any thread")]
    notes: Mutex<Notes>,
}

/// What the harness is told while the test runs.
struct Notes {
    rng: fastrand::Rng,
    panics: Vec<String>,
    expected_panics: Vec<(String, bool)>,
    next_wait: u64,
    waits: BTreeMap<u64, String>,
    next_folder: u32,
    /// Ports of listeners of the test.
    ports: Vec<u16>,
    /// Ports that were the test's, each with the sockets that were open when it ceased to be: only
    /// those can be its own, as the port is free for other tests now.
    former_ports: BTreeMap<u16, BTreeSet<u64>>,
    /// Sockets of the test that were about to be reset.
    noted_sockets: BTreeSet<u64>,
}

impl Test {
    fn new(seed: u64) -> Test {
        let folder = tempfile::Builder::new().prefix("enxame-test-").tempdir().expect("a temporary folder");
        let path = folder.path().canonicalize().expect("it was just made");
        let notes = Notes {
            rng: fastrand::Rng::with_seed(seed),
            panics: Vec::new(),
            expected_panics: Vec::new(),
            next_wait: 0,
            waits: BTreeMap::new(),
            next_folder: 0,
            ports: Vec::new(),
            former_ports: BTreeMap::new(),
            noted_sockets: BTreeSet::new(),
        };
        Test(Arc::new(Inner {
            seed,
            folder: path,
            _folder: folder,
            system: OnceLock::new(),
            runtime: OnceLock::new(),
            sockets_before: leaks::socket_inodes(),
            panicked: Notify::new(),
            notes: notes.into(),
        }))
    }

    /// The seed of this run: [`SEED_VARIABLE`], or a random one.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A generator of its own for whoever needs one; its numbers follow from the seed and from how
    /// many were taken before it.
    pub fn rng(&self) -> fastrand::Rng {
        self.notes().rng.fork()
    }

    /// A new empty folder; files below it have to be closed when the test ends, and it is removed.
    pub fn folder(&self) -> PathBuf {
        let number = {
            let mut notes = self.notes();
            notes.next_folder += 1;
            notes.next_folder
        };
        let folder = self.0.folder.join(number.to_string());
        std::fs::create_dir(&folder).expect("a folder in a new folder");
        folder
    }

    /// Awaits `event`; should the deadline pass meanwhile, the message says `what` was waited for.
    pub async fn wait_for<T>(&self, what: impl Into<String>, event: impl Future<Output = T>) -> T {
        let number = {
            let mut notes = self.notes();
            notes.next_wait += 1;
            let number = notes.next_wait;
            notes.waits.insert(number, what.into());
            number
        };
        let _shown = Shown { test: self, number };
        event.await
    }

    /// Announces a panic whose message contains `text`. The test fails if it does not come.
    pub fn expect_panic(&self, text: &str) {
        self.notes().expected_panics.push((text.into(), false));
    }

    /// Makes the sockets of this listener, its own and those of its connections on either side,
    /// sockets of the test: they have to be closed at its end.
    ///
    /// Hold the guard as long as the listener lives.
    pub fn watch(&self, listener: SocketAddr) -> PortWatch {
        self.notes().ports.push(listener.port());
        PortWatch { test: self.clone(), port: listener.port() }
    }

    /// Notes the open sockets of all watched ports. To be called before a connection is reset: a
    /// socket that was reset is in no table any more, so nobody could tell whose it is.
    pub fn note_sockets(&self) {
        let sockets = self.sockets();
        self.notes().noted_sockets.extend(sockets.keys());
    }

    /// Open sockets of this test, by inode.
    fn sockets(&self) -> BTreeMap<u64, String> {
        let open = leaks::socket_inodes();
        let candidates = open.difference(&self.0.sockets_before).copied().collect();
        let sockets = leaks::tcp_sockets(&candidates);
        let notes = self.notes();
        let is_ours = |inode: &u64, port: &u16| {
            notes.ports.contains(port)
                || notes.former_ports.get(port).is_some_and(|inodes| inodes.contains(inode))
        };
        let mut ours: BTreeMap<u64, String> = sockets
            .iter()
            .filter(|(inode, ports)| is_ours(inode, &ports.local) || is_ours(inode, &ports.remote))
            .map(|(inode, ports)| (*inode, ports.to_string()))
            .collect();
        for inode in notes.noted_sockets.intersection(&open) {
            ours.entry(*inode).or_insert_with(|| "a socket that was reset".into());
        }
        ours
    }

    /// Nothing may panic while this is held: the panic hook takes it too.
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits(&self) -> Vec<String> {
        self.notes().waits.values().cloned().collect()
    }

    fn record_panic(&self, message: String) {
        let mut notes = self.notes();
        if let Some(expected) = notes.expected_panics.iter_mut().find(|(text, _)| message.contains(text)) {
            expected.1 = true;
        } else {
            notes.panics.push(message);
            self.0.panicked.notify_one();
        }
    }

    fn no_panic(&self) -> Result<(), Failure> {
        let notes = self.notes();
        if notes.panics.is_empty() { Ok(()) } else { Err(Failure::Panicked(notes.panics.clone())) }
    }

    fn announced_panics_came(&self) -> Result<(), Failure> {
        match self.notes().expected_panics.iter().find(|(_, came)| !came) {
            Some((text, _)) => Err(Failure::NoPanic(text.clone())),
            None => Ok(()),
        }
    }

    /// Files and sockets of this test that are open.
    fn open_descriptors(&self) -> Vec<String> {
        let files = leaks::open_files_below(&self.0.folder);
        let files = files.into_iter().map(|path| format!("the open file {}", path.display()));
        files.chain(self.sockets().into_values()).collect()
    }
}

/// A wait that the deadline's message would show.
struct Shown<'a> {
    test: &'a Test,
    number: u64,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.test.notes().waits.remove(&self.number);
    }
}

/// See [`Test::watch`].
#[must_use = "the port is watched as long as this lives"]
pub struct PortWatch {
    test: Test,
    port: u16,
}

impl PortWatch {
    /// The test that watches.
    pub fn test(&self) -> &Test {
        &self.test
    }
}

impl Drop for PortWatch {
    fn drop(&mut self) {
        let open = leaks::socket_inodes();
        let mut notes = self.test.notes();
        notes.former_ports.entry(self.port).or_default().extend(open);
        if let Some(at) = notes.ports.iter().position(|port| *port == self.port) {
            notes.ports.swap_remove(at);
        }
    }
}

/// [`system_test`] that returns the failure: for the tests of the harness itself.
///
/// # Errors
/// What went wrong.
pub fn try_system_test<F, Fut>(patience: Patience, seed: u64, body: F) -> Result<(), Failure>
where
    F: FnOnce(Test) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let test = Test::new(seed);
    let running = Running::enter(&test);
    let (done, end) = sync_channel(1);
    let name = thread::current().name().unwrap_or("system test").to_string();
    let its_thread = thread::Builder::new().name(name).spawn({
        let test = test.clone();
        move || done.send(run(&test, patience, body))
    });
    let its_thread = its_thread.expect("a thread for the test");
    let result = match end.recv_timeout(patience.deadline + patience.grace + patience.last_word) {
        Ok(result) => {
            let _ = its_thread.join();
            result.and(test.no_panic())
        }
        Err(RecvTimeoutError::Timeout) => Err(Failure::Stuck(test.waits())),
        Err(RecvTimeoutError::Disconnected) => Err(Failure::Panicked(test.notes().panics.clone())),
    };
    drop(running);
    result
}

fn run<F, Fut>(test: &Test, patience: Patience, body: F) -> Result<(), Failure>
where
    F: FnOnce(Test) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let system = System::with_tokio_rt(|| {
        Builder::new_current_thread().enable_all().max_blocking_threads(8).build().expect("a runtime")
    });
    let result = system.block_on(async {
        let _ = test.0.system.set(System::current().id());
        let _ = test.0.runtime.set(Handle::current().id());
        let threads = threads_of_this_system();
        let mut local = LocalSet::new();
        live(test, patience.deadline, body, &local).await?;
        test.announced_panics_came()?;
        let left = leave(test, patience.grace, &mut local, threads).await;
        test.no_panic()?;
        if left.is_empty() { Ok(()) } else { Err(Failure::Left(left)) }
    });
    System::current().stop();
    let _ = system.run();
    result
}

/// Runs the body until it is done, something panics, or the deadline passes.
async fn live<F, Fut>(test: &Test, deadline: Duration, body: F, local: &LocalSet) -> Result<(), Failure>
where
    F: FnOnce(Test) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // As a task: its panic ends the task and not this thread, which has to end the system in order.
    let body = local.spawn_local(body(test.clone()));
    local
        .run_until(async {
            tokio::select! {
                biased;
                () = test.0.panicked.notified() => {}
                _ = body => {}
                () = sleep(deadline) => return Err(Failure::TimedOut(test.waits())),
            }
            test.no_panic()
        })
        .await
}

/// Waits until nothing of the test is left, for `grace` at most; what is left then.
async fn leave(test: &Test, grace: Duration, local: &mut LocalSet, threads_before: usize) -> Vec<String> {
    let until = Instant::now() + grace;
    loop {
        let tasks_here = tokio::select! {
            biased;
            () = &mut *local => false,
            () = sleep(LOOK_EVERY) => true,
        };
        let mut left = test.open_descriptors();
        if tasks_here {
            left.push("actors or tasks on the test's thread".into());
        }
        match Handle::current().metrics().num_alive_tasks() {
            0 => {}
            tasks => left.push(format!("{tasks} tasks of the test's runtime")),
        }
        match threads_of_this_system().saturating_sub(threads_before) {
            0 => {}
            arbiters => left.push(format!("{arbiters} arbiters that were not stopped and joined")),
        }
        if left.is_empty() || Instant::now() >= until {
            return left;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How many threads have the current system as theirs.
///
/// actix has no count, but each thread of a system holds a sender to it, and the debug form of the
/// system shows how many senders there are. Should a version of actix or tokio print something
/// else, every test fails here at once, and so cannot be overlooked.
fn threads_of_this_system() -> usize {
    let shown = format!("{:?}", System::current());
    let count = shown.split("sys_tx").nth(1).and_then(|rest| rest.split("tx_count: ").nth(1));
    let digits = count.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
    // One for this thread, one for the copy that was just printed.
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no count in {shown}"))
}

// ---- panics ----

#[expect(clippy::disallowed_types, reason = "the hook is the process's and runs on any thread")]
static RUNNING: Mutex<Vec<Test>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether libtest made this thread for a test of the harness: it reports panics there itself.
    static LIBTEST: Cell<bool> = const { Cell::new(false) };
}

/// A test that the panic hook knows.
struct Running(Test);

/// This thread was made by libtest for a test that runs no system on it: libtest alone reports its
/// panics.
pub fn leave_panics_to_libtest() {
    LIBTEST.set(true);
}

impl Running {
    fn enter(test: &Test) -> Running {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                attribute(info);
                before(info);
            }));
        });
        LIBTEST.set(true);
        running().push(test.clone());
        Running(test.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running().retain(|test| !Arc::ptr_eq(&test.0, &self.0.0));
    }
}

fn running() -> MutexGuard<'static, Vec<Test>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a panic at the test whose thread panicked; at all of them if no test can be told.
fn attribute(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)");
    let message = format!("thread {}: {said} ({place})", thread.name().unwrap_or("without a name"));
    let system = System::try_current().map(|system| system.id());
    let runtime = Handle::try_current().ok().map(|handle| handle.id());
    let tests = running();
    let its = |test: &&Test| {
        system.is_some_and(|id| test.0.system.get() == Some(&id))
            || runtime.is_some_and(|id| test.0.runtime.get() == Some(&id))
    };
    match tests.iter().find(its) {
        Some(test) => test.record_panic(message),
        None if LIBTEST.get() => {}
        None => {
            for test in tests.iter() {
                test.record_panic(format!("{message}, which may be another test's"));
            }
        }
    }
}
