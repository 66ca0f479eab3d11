//! The tracker as a process, and what the system says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::time::sleep;

use crate::Failure;

/// How often a process that is left alone is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A tracker that runs; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Tracker {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Tracker {
    pub(crate) fn start(binary: &Path, interval: Duration) -> Result<Tracker, Failure> {
        let mut child = Command::new(binary)
            .args(["tracker", "--quiet", "--listen", "127.0.0.1:0", "--refresh-interval"])
            .arg(format!("{}s", interval.as_secs()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", binary.display()))?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        match ready.trim_end().strip_prefix("ready tracker ").map(str::parse) {
            Some(Ok(address)) => Ok(Tracker { child, address }),
            _ => {
                child.kill()?;
                child.wait()?;
                Err(format!("the tracker said {ready:?} where it says that it is ready").into())
            }
        }
    }

    /// Resident memory.
    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS in its status")?;
        Ok(number.parse()?)
    }

    /// Processor time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(&self.child.id().to_string())
    }

    /// Waits until it has nothing to do any more.
    pub(crate) async fn settled(&self) -> Result<(), Failure> {
        let mut before = self.cpu()?;
        loop {
            sleep(LOOK_EVERY).await;
            let now = self.cpu()?;
            if now - before < LOOK_EVERY / 100 {
                return Ok(());
            }
            before = now;
        }
    }

    /// Ends it as a person would, and waits for that.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the tracker ended with {status}").into()) }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of this process so far.
pub(crate) fn own_cpu() -> Result<Duration, Failure> {
    cpu_of("self")
}

/// From the scheduler's own count, in nanoseconds: the one of `stat` is in hundredths of a second.
fn cpu_of(process: &str) -> Result<Duration, Failure> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that ended since it was listed took nothing that matters.
        let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        sum += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Sees to it that this process, and the tracker that it starts, may have so many descriptors.
pub(crate) fn allow_descriptors(wanted: usize) -> Result<(), Failure> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).map_err(|_| {
        format!("{wanted} open descriptors are needed and {maximum:?} allowed: fewer peers").into()
    })
}
