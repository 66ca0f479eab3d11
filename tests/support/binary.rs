//! The binary, run beside the actors of a test.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::harness::Test;

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
}

/// Runs a command to its end, while the test's actors go on.
pub async fn ran(test: &Test, mut command: Command) -> Ran {
    let what = format!("{command:?} to end");
    let output = test.wait_for(what, spawn_blocking(move || command.output())).await;
    output.expect("it does not panic").expect("it can be run").into()
}
