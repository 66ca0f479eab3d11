//! The binary, run beside the actors of a test.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::harness::Test;

/// Records that a test may leave unread.
const ROOM: usize = 10_000;

/// The binary, with none of the environment's own settings.
pub fn enxame<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enxame"));
    command.args(args);
    quiet(command)
}

/// A command, with nothing of the environment that would change what `enxame` does.
pub fn quiet(mut command: Command) -> Command {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("ENXAME_") || key == "RUST_LOG" {
            command.env_remove(key);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a command that has ended left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    /// The records of this event that `--json` printed; a line that was cut short is left out.
    pub fn records(&self, event: &str) -> Vec<Value> {
        let lines = self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|record: &Value| record["event"] == event).collect()
    }

    /// The one record of this event.
    pub fn only_record(&self, event: &str) -> Value {
        match &self.records(event)[..] {
            [record] => record.clone(),
            records => panic!("not one {event}, but {records:?}: {self:?}"),
        }
    }
}

/// Runs a command to its end, while the test's actors go on.
pub async fn ran(test: &Test, mut command: Command) -> Ran {
    let what = format!("{command:?} to end");
    let output = test.wait_for(what, spawn_blocking(move || command.output())).await;
    output.expect("it does not panic").expect("it can be run").into()
}

/// A command with `--json` that runs, and what it prints. Killed when this is dropped.
pub struct Process {
    test: Test,
    child: Child,
    records: mpsc::Receiver<Value>,
    stderr: PathBuf,
}

impl Process {
    /// Starts it.
    pub fn start(test: &Test, mut command: Command) -> Process {
        let stderr = test.folder().join("stderr");
        // A file, and not a pipe that somebody would have to empty.
        command.stdout(Stdio::piped()).stderr(File::create(&stderr).expect("a test's file"));
        let mut child = command.spawn().expect("it can be run");
        let stdout = child.stdout.take().expect("it was asked for");
        let (print, records) = mpsc::channel(ROOM);
        // A thread of its own: the runtime's blocking threads are few, and this one reads as long as
        // the command runs.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Who is killed may leave half a line.
                let Ok(record) = serde_json::from_str(&line) else { return };
                if print.blocking_send(record).is_err() {
                    return;
                }
            }
        });
        Process { test: test.clone(), child, records, stderr }
    }

    /// The records from here to the first one of this event, which is the last one.
    pub async fn until(&mut self, event: &str) -> Vec<Value> {
        let mut seen: Vec<Value> = Vec::new();
        while seen.last().is_none_or(|record| record["event"] != event) {
            let next = self.test.wait_for(format!("the record {event}"), self.records.recv()).await;
            seen.push(next.unwrap_or_else(|| panic!("no {event}, but {seen:?}; {}", self.said())));
        }
        seen
    }

    /// Waits until a role can be used; where it listens.
    pub async fn ready(&mut self) -> SocketAddr {
        let ready = self.until("ready").await.pop().expect("there is one");
        ready["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// What is on its stderr so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("it prints UTF-8")
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends it as a power switch would, and says how it ended: it may have done so well before.
    pub async fn kill(self) -> ExitStatus {
        self.end(Signal::KILL).await.0
    }

    /// Sends a signal, and waits for the end; how it ended, and what is on its stderr.
    pub async fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        // It may have ended already; it is not reaped, so its number is nobody else's.
        let _ = kill_process(self.pid(), signal);
        let test = self.test.clone();
        let ended = spawn_blocking(move || (self.child.wait().expect("it is ours"), self));
        let (status, ended) = test.wait_for("a command to end", ended).await.expect("it does not panic");
        (status, ended.said())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
