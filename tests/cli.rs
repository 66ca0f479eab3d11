//! The binary itself, as a shell runs it: help, usage errors, hashing, a tracker that is asked, and
//! peers and fetches with their exit codes, records and signals.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use bytes::BytesMut;
use enxame_actors::wire::Hello;
use enxame_actors::wire::codec;
use enxame_actors::wire::frame::FrameLimits;
use enxame_actors::wire::tracker::{FromTracker, Listing, ToTracker};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// `b3sum` of a file that holds one `x`.
const X: &str = "3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5";
/// `b3sum` of an empty file, from the BLAKE3 test vectors.
const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

/// The binary, with none of the environment's own settings.
fn enxame<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enxame"));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("ENXAME_") || key == "RUST_LOG" {
            command.env_remove(key);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn ran(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn run<const N: usize>(args: [&str; N]) -> Ran {
    ran(enxame(args))
}

fn records(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn help_is_enough_to_work_from() {
    for args in [&["help"][..], &["--help"]] {
        let help = ran(enxame(args));
        assert_eq!(help.code, Some(0));
        assert_eq!(help.stderr, "");
        for part in [
            "tracker",
            "peer",
            "get",
            "who-has",
            "ls",
            "peers",
            "hash",
            "Examples:",
            "WHAT is one of",
            "name@prefix",
            "Exit codes:",
            "ENXAME_TRACKER",
            "--json",
        ] {
            assert!(help.stdout.contains(part), "{args:?} does not tell of {part}");
        }
    }
    for (command, options) in [
        (
            "tracker",
            &[
                "--listen",
                "--refresh-interval",
                "0.0.0.0:7070",
                "30s",
                "ready tracker ADDR",
                "--max-peers",
                "100000",
                "--max-files-per-peer",
                "1000000",
            ][..],
        ),
        ("peer", &["--tracker", "--root", "--listen", "--get", "ready peer ID ADDR", "WHAT is one of"]),
        ("get", &["--tracker", "--output", "--overwrite", "stdout", "WHAT is one of", "Exit codes:"]),
        ("who-has", &["--tracker", "WHAT is one of"]),
        ("ls", &["--tracker", "PREFIX"]),
        ("peers", &["--tracker"]),
        ("hash", &["FILE"]),
    ] {
        let help = run(["help", command]);
        assert_eq!(help.code, Some(0), "{command}");
        for part in options.iter().chain(&["--json", "[env: ENXAME_JSON]", "Example"]) {
            assert!(help.stdout.contains(part), "{command} does not tell of {part}");
        }
    }
    let version = run(["--version"]);
    assert_eq!(
        (version.code, version.stdout),
        (Some(0), concat!("enxame ", env!("CARGO_PKG_VERSION"), "\n").into())
    );
}

#[test]
fn a_wrong_command_line_is_told_in_one_sentence_and_ends_with_2() {
    for (line, says) in [
        ("get", "--tracker"),
        ("get x", "ENXAME_TRACKER"),
        ("get x --tracker h --wat", "--wat"),
        ("get ../x --tracker h", "neither a name nor an id"),
        ("get x --tracker h:", "HOST:PORT"),
        ("get x --tracker http://h", "HOST:PORT"),
        ("peer a/b --tracker h", "'/' cannot stand in a peer id"),
        ("peer .. --tracker h", "begins with a letter or a digit"),
        ("peer a --tracker h --listen wat", "IP:PORT"),
        ("tracker --listen localhost:7070", "IP:PORT"),
        ("tracker --refresh-interval 30", "30s"),
        ("tracker --refresh-interval 1ms", "shortest"),
        ("who-has --tracker h", "<WHAT>"),
        ("wat", "wat"),
        ("hash", "<FILE>"),
    ] {
        let Ran { code, stdout, stderr } = ran(enxame(line.split(' ')));
        assert_eq!(code, Some(2), "{line}: {stderr}");
        assert_eq!(stdout, "", "{line}");
        assert!(stderr.starts_with("enxame: ") && stderr.contains(says), "{line}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{line}: {stderr}");
    }
    let nothing = run([]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    assert!(nothing.stderr.contains("Usage: enxame"), "{}", nothing.stderr);
}

#[test]
fn a_usage_error_is_a_record_too_where_json_is_asked_for() {
    let mut by_twin = enxame(["get"]);
    by_twin.env("ENXAME_JSON", "1");
    for wrong in [run(["get", "--json"]), ran(by_twin)] {
        assert_eq!(wrong.code, Some(2));
        let record = &records(&wrong.stdout)[0];
        assert_eq!((&record["event"], &record["exit"]), (&json!("error"), &json!(2)));
        assert_eq!(wrong.stderr, format!("enxame: {}\n", record["message"].as_str().unwrap()));
    }
    let mut denied = enxame(["get"]);
    denied.env("ENXAME_JSON", "false");
    assert_eq!(ran(denied).stdout, "");
}

#[test]
fn hash_prints_what_b3sum_prints() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("sp ace"), "x").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("a\\b\n"), "x").unwrap();

    let hashed = run(["hash", &at("sp ace"), &at("empty"), &at("a\\b\n")]);
    let dir = dir.path().display();
    assert_eq!((hashed.code, hashed.stderr.as_str()), (Some(0), ""));
    assert_eq!(hashed.stdout, format!("{X}  {dir}/sp ace\n{EMPTY}  {dir}/empty\n\\{X}  {dir}/a\\\\b\\n\n"));
}

#[test]
fn hash_reads_standard_input_for_a_dash() {
    let mut child = enxame(["hash", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{X}  -\n"));
}

#[test]
fn a_file_that_cannot_be_hashed_is_named_and_the_others_are_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let (x, missing, folder) =
        (dir.path().join("x"), dir.path().join("missing"), dir.path().display().to_string());
    fs::write(&x, "x").unwrap();
    let (x, missing) = (x.display().to_string(), missing.display().to_string());

    let hashed = run(["hash", &missing, &folder, &x]);
    assert_eq!(hashed.code, Some(1));
    assert_eq!(hashed.stdout, format!("{X}  {x}\n"));
    assert_eq!(
        hashed.stderr,
        format!("enxame: {missing}: no such file or directory\nenxame: {folder}: is a directory\n")
    );

    let hashed = run(["hash", "--json", &missing, &x]);
    assert_eq!(hashed.code, Some(1));
    assert_eq!(
        records(&hashed.stdout),
        [
            json!({"event": "error", "exit": 1, "message": format!("{missing}: no such file or directory"), "what": null}),
            json!({"id": X, "size": 1, "path": x}),
        ]
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    // More lines than a pipe holds, so that the end of the reader is noticed.
    let files = std::iter::repeat_n("Cargo.toml", 5000);
    let mut command = enxame(["hash"]);
    let mut child = command
        .args(files)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 64];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(first.iter().all(u8::is_ascii_hexdigit));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_of_the_disk() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = enxame(["hash", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    let output = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "enxame: standard output: no space left on device\n"
    );
}

/// A role that runs, and its output; it is killed if a test ends before it did.
struct Role {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Role {
    fn start(mut command: Command) -> Role {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Role { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// Sends a signal; returns the exit code, and what was on stderr.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Registers a peer that shares these at a tracker, for as long as the connection lives.
fn register(tracker: &str, peer: &str, files: &[(&str, &str, u64)]) -> TcpStream {
    let files = files
        .iter()
        .map(|(name, content, size)| Listing {
            name: name.parse().unwrap(),
            id: enxame_actors::base::FileId::from_bytes(*blake3::hash(content.as_bytes()).as_bytes()),
            size: *size,
            complete: true,
        })
        .collect();
    let mut bytes = Vec::new();
    codec::encode(&ToTracker::Hello(Hello::new(peer.parse().unwrap())), &mut bytes).unwrap();
    codec::encode(&ToTracker::Register { instance: 1, port: 4001, files }, &mut bytes).unwrap();
    let mut stream = TcpStream::connect(tracker).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut answers = BytesMut::new();
    loop {
        match codec::take(&mut answers, FrameLimits::CONTROL).unwrap() {
            Some(FromTracker::Registered { .. }) => return stream,
            Some(FromTracker::Hello(_)) => {}
            Some(other) => panic!("{other:?}"),
            None => {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "the tracker closed the connection");
                answers.extend_from_slice(&piece[..read]);
            }
        }
    }
}

#[test]
fn a_tracker_says_where_it_is_and_tells_what_is_shared() {
    let mut tracker = Role::start(enxame(["tracker", "--listen", "127.0.0.1:0"]));
    let ready = tracker.line();
    let address = ready.strip_prefix("ready tracker ").unwrap().to_string();
    let ask = |line: &[&str]| {
        let mut command = enxame(line);
        command.env("ENXAME_TRACKER", &address);
        ran(command)
    };

    let empty = ask(&["ls"]);
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(0), ""));
    assert_eq!(empty.stderr, "enxame: no file is shared whose name begins so\n");

    let _p1 = register(&address, "p1", &[("a b/modell 🐝.bin", "one", 3), ("x", "two", 3)]);
    let _p2 = register(&address, "p2", &[("x", "other", 5)]);
    let [one, two, other] =
        ["one", "two", "other"].map(|content| blake3::hash(content.as_bytes()).to_hex().to_string());

    let listed = ask(&["ls", "--json"]);
    let mut of_x = [
        json!({"name": "x", "id": two, "size": 3, "holders": 1}),
        json!({"name": "x", "id": other, "size": 5, "holders": 1}),
    ];
    of_x.sort_by_key(|record| record["id"].to_string());
    let all =
        [&[json!({"name": "a b/modell 🐝.bin", "id": one, "size": 3, "holders": 1})][..], &of_x].concat();
    assert_eq!(records(&listed.stdout), all);
    assert_eq!(records(&ask(&["ls", "x", "--json"]).stdout), of_x);
    assert_eq!(ask(&["ls", "a b/"]).stdout, format!("a b/modell 🐝.bin  3 B  {one}  1 holder\n"));

    let peers = records(&ask(&["peers", "--json"]).stdout);
    assert_eq!(peers.len(), 2);
    assert_eq!(
        (&peers[0]["peer"], &peers[0]["address"], &peers[0]["files"]),
        (&json!("p1"), &json!("127.0.0.1:4001"), &json!(2))
    );
    assert!(peers.iter().all(|peer| peer["confirmed_s"].as_f64().is_some_and(|s| (0.0..60.0).contains(&s))));

    let holders = ask(&["who-has", &format!("x@{}", &two[..4]), "--json"]);
    assert_eq!(
        records(&holders.stdout),
        [json!({"id": two, "size": 3, "names": ["x"], "holder_count": 1,
            "holders": [{"peer": "p1", "address": "127.0.0.1:4001", "complete": true}]})]
    );
    assert_eq!(records(&ask(&["who-has", "x", "--json"]).stdout).len(), 2, "two candidates");
    let nobody = ask(&["who-has", "nothing"]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(3), ""));
    assert!(
        nobody.stderr.starts_with("enxame: nothing: nobody has it; `enxame ls --tracker "),
        "{}",
        nobody.stderr
    );

    let (code, stderr) = tracker.end(Signal::TERM);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_tracker_tells_scripts_who_comes_and_goes() {
    let mut tracker = Role::start(enxame(["tracker", "--listen", "127.0.0.1:0", "--json"]));
    let ready: Value = serde_json::from_str(&tracker.line()).unwrap();
    assert_eq!(
        (&ready["event"], &ready["role"], &ready["peer"]),
        (&json!("ready"), &json!("tracker"), &Value::Null)
    );

    let peer = register(ready["address"].as_str().unwrap(), "p1", &[("x", "one", 3)]);
    let joined: Value = serde_json::from_str(&tracker.line()).unwrap();
    assert_eq!(joined, json!({"event": "joined", "peer": "p1", "address": "127.0.0.1:4001", "files": 1}));
    drop(peer);
    let left: Value = serde_json::from_str(&tracker.line()).unwrap();
    assert_eq!((&left["event"], &left["peer"]), (&json!("left"), &json!("p1")));
    assert!(left["reason"].as_str().is_some_and(|reason| !reason.is_empty()));

    assert_eq!(tracker.end(Signal::INT).0, Some(0));
}

#[test]
fn a_tracker_that_does_not_answer_ends_with_6_and_a_next_step() {
    // A port that was free a moment ago, and on which nobody listens.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in [&["ls"][..], &["peers"], &["who-has", "x"]] {
        let mut ask = enxame(command);
        ask.args(["--tracker", &address, "--json"]);
        let Ran { code, stdout, stderr } = ran(ask);
        let message =
            format!("no tracker answered: {address}: connection refused; is `enxame tracker` running there?");
        assert_eq!(code, Some(6), "{command:?}");
        assert_eq!(stderr, format!("enxame: {message}\n"));
        assert_eq!(
            records(&stdout),
            [json!({"event": "error", "exit": 6, "message": message, "what": null})]
        );
    }
}

/// A port that was free a moment ago, and on which nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A tracker, and where it is.
fn tracker() -> (Role, String) {
    let mut tracker = Role::start(enxame(["tracker", "--listen", "127.0.0.1:0"]));
    let address = tracker.line().strip_prefix("ready tracker ").unwrap().to_string();
    (tracker, address)
}

#[test]
fn a_tracker_that_has_as_many_as_it_takes_is_told_in_one_sentence_at_the_peer() {
    let caps = ["--max-peers", "1", "--max-files-per-peer", "2"];
    let mut tracker = Role::start(enxame(["tracker", "--listen", "127.0.0.1:0"].into_iter().chain(caps)));
    let address = tracker.line().strip_prefix("ready tracker ").unwrap().to_string();
    let root = tempfile::tempdir().unwrap();
    let peer = |id: &str| {
        let mut command = enxame(["peer", id, "--listen", "127.0.0.1:0", "--tracker", &address, "--root"]);
        command.arg(root.path());
        command
    };
    let files = root.path().join("p1/files");
    fs::create_dir_all(&files).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(files.join(name), name).unwrap();
    }
    let mut p1 = Role::start(peer("p1"));
    assert!(p1.line().starts_with("ready peer p1 "));
    let refused = ran(peer("p2"));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("this tracker takes 1 peers and has as many"), "{}", refused.stderr);
    let (code, stderr) = p1.end(Signal::INT);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("a peer may list 2 files at most"), "{stderr}");
    tracker.end(Signal::TERM);
}

#[test]
fn several_trackers_are_asked_and_their_answers_are_one() {
    let [(_a, a), (_b, b)] = [tracker(), tracker()];
    let _p1 = register(&a, "p1", &[("n/1", "one", 3), ("n/3", "three", 5)]);
    let _at_both = [&a, &b].map(|tracker| register(tracker, "p2", &[("n/3", "three", 5)]));
    let _p3 = register(&b, "p3", &[("n/2", "two", 3), ("n/3", "three", 5)]);
    let id = |content: &str| blake3::hash(content.as_bytes()).to_hex().to_string();
    let twice = |line: &[&str]| {
        let mut ask = enxame(line);
        ask.args(["--json", "--tracker", &a, "--tracker", &b]);
        ran(ask)
    };
    let by_twin = |line: &[&str]| {
        let mut ask = enxame(line);
        ask.arg("--json").env("ENXAME_TRACKER", format!("{a},{b},{a}"));
        ran(ask)
    };
    for ask in [&twice as &dyn Fn(&[&str]) -> Ran, &by_twin] {
        let listed = ask(&["ls"]);
        assert_eq!((listed.code, listed.stderr.as_str()), (Some(0), ""));
        assert_eq!(
            records(&listed.stdout),
            [
                json!({"name": "n/1", "id": id("one"), "size": 3, "holders": 1}),
                json!({"name": "n/2", "id": id("two"), "size": 3, "holders": 1}),
                json!({"name": "n/3", "id": id("three"), "size": 5, "holders": 2}),
            ]
        );
        let peers: Vec<Value> =
            records(&ask(&["peers"]).stdout).iter().map(|record| record["peer"].clone()).collect();
        assert_eq!(peers, ["p1", "p2", "p3"]);
        let [three] = &records(&ask(&["who-has", "n/3"]).stdout)[..] else { panic!("one candidate") };
        let mut holders: Vec<&str> = three["holders"]
            .as_array()
            .unwrap()
            .iter()
            .map(|holder| holder["peer"].as_str().unwrap())
            .collect();
        holders.sort_unstable();
        assert_eq!((holders, &three["holder_count"]), (vec!["p1", "p2", "p3"], &json!(3)));
    }
}

#[test]
fn a_tracker_that_does_not_answer_is_left_out_with_a_warning() {
    let (_tracker, address) = tracker();
    let _p1 = register(&address, "p1", &[("x", "one", 3)]);
    let nobody = nobody();
    for command in [&["ls"][..], &["peers"], &["who-has", "x"]] {
        let mut ask = enxame(command);
        ask.args(["--tracker", &format!("{nobody},{address}"), "--json"]);
        let Ran { code, stdout, stderr } = ran(ask);
        assert_eq!((code, records(&stdout).len()), (Some(0), 1), "{command:?}");
        assert_eq!(stderr, format!("enxame: the tracker {nobody} is left out: connection refused\n"));
    }
}

#[test]
fn trackers_of_which_none_answers_are_all_named() {
    let [a, b] = [nobody(), nobody()];
    let to = tempfile::tempdir().unwrap();
    for command in [&["ls"][..], &["who-has", "x"], &["get", "x", "-o", to.path().to_str().unwrap()]] {
        let mut ask = enxame(command);
        ask.env("ENXAME_TRACKER", format!("{a},{b}"));
        let Ran { code, stderr, .. } = ran(ask);
        assert_eq!(code, Some(6), "{command:?}: {stderr}");
        let said = stderr.lines().last().unwrap().to_lowercase();
        assert!(said.starts_with("enxame: no tracker answered: "), "{command:?}: {said}");
        assert_eq!(said.matches("connection refused").count(), 2, "{command:?}: {said}");
        assert!([&a, &b].iter().all(|address| said.contains(address.as_str())), "{command:?}: {said}");
    }
}

#[test]
fn a_peer_and_a_get_take_several_trackers() {
    let [(first, a), (_b, b)] = [tracker(), tracker()];
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir_all(at("p1/files")).unwrap();
    fs::write(at("p1/files/x"), "one").unwrap();
    let both = format!("{a},{b}");
    let mut peer = enxame(["peer", "p1", "--root", &at(""), "--listen", "127.0.0.1:0", "--tracker", &both]);
    let mut peer = Role::start({
        peer.arg("--quiet");
        peer
    });
    assert!(peer.line().starts_with("ready peer p1 "));
    assert_eq!(first.end(Signal::TERM).0, Some(0));
    let got = ran({
        let mut get = enxame(["get", "x", "-o", &at("got")]);
        get.env("ENXAME_TRACKER", &both);
        get
    });
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    assert_eq!(fs::read_to_string(at("got")).unwrap(), "one");
    assert_eq!(peer.end(Signal::TERM).0, Some(0));
}

#[test]
fn a_port_in_use_is_told_and_the_program_ends() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let second = run(["tracker", "--listen", &address]);
    assert_eq!((second.code, second.stdout.as_str()), (Some(1), ""));
    assert!(
        second.stderr.contains(&format!("cannot listen on {address}: the port is in use")),
        "{}",
        second.stderr
    );
}

/// A tracker and the peers that are started at it, each in a folder of one root.
struct Swarm {
    dir: tempfile::TempDir,
    tracker: Role,
    address: String,
}

impl Swarm {
    fn start() -> Swarm {
        let mut tracker = Role::start(enxame(["tracker", "--listen", "127.0.0.1:0"]));
        let address = tracker.line().strip_prefix("ready tracker ").unwrap().to_string();
        Swarm { dir: tempfile::tempdir().unwrap(), tracker, address }
    }

    /// A command that talks to this tracker, in the folder of the swarm.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = enxame(args);
        command.env("ENXAME_TRACKER", &self.address).current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(path)).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        self.dir.path().join(path).exists()
    }

    /// A peer that shares what was written below `ID/files`.
    fn peer(&self, id: &str) -> Role {
        let mut peer = Role::start(self.command(&["peer", id, "--listen", "127.0.0.1:0", "--quiet"]));
        let ready = peer.line();
        assert!(ready.starts_with(&format!("ready peer {id} 127.0.0.1:")), "{ready:?}");
        peer
    }

    /// The hidden files that downloads left in the swarm's folder.
    fn part_files(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".part")).collect()
    }
}

fn hex(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

#[test]
fn get_saves_where_it_is_told_and_says_how_it_went() {
    let swarm = Swarm::start();
    let content: Vec<u8> = (0..700_001u32).map(|i| ((i * 31) >> 3) as u8).collect();
    swarm.write("p1/files/sub/größe 🐝.bin", &content);
    swarm.write("p1/files/empty", b"");
    let _p1 = swarm.peer("p1");

    let got = swarm.run(&["get", "sub/größe 🐝.bin", "--json"]);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    let lines = records(&got.stdout);
    assert_eq!(
        lines[0],
        json!({"event": "found", "name": "sub/größe 🐝.bin", "id": hex(&content), "size": 700_001, "holders": 1})
    );
    let connected = lines.iter().find(|line| line["event"] == "source").unwrap();
    assert_eq!((&connected["peer"], &connected["state"]), (&json!("p1"), &json!("connected")));
    let done = lines.iter().find(|line| line["event"] == "done").unwrap();
    assert_eq!(done["sources"], json!([{"peer": "p1", "bytes": 700_001}]));
    assert_eq!(
        (&done["fetched_bytes"], &done["kept_bytes"], &done["wasted_bytes"]),
        (&json!(700_001), &json!(0), &json!(0))
    );
    assert!(done["elapsed_s"].as_f64().is_some_and(|s| s > 0.0));
    assert_eq!(
        swarm.dir.path().join(done["path"].as_str().unwrap()),
        swarm.dir.path().join("./größe 🐝.bin")
    );
    assert_eq!(swarm.read("größe 🐝.bin"), content);

    let again = swarm.run(&["get", "sub/größe 🐝.bin"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), ""));
    assert!(again.stderr.contains("was here already"), "{}", again.stderr);

    for (output, saved) in
        [("other.bin", "other.bin"), ("new/", "new/größe 🐝.bin"), ("new", "new/größe 🐝.bin")]
    {
        let got = swarm.run(&["get", &hex(&content)[..8], "-o", output, "-q"]);
        assert_eq!((got.code, got.stdout.as_str(), got.stderr.as_str()), (Some(0), "", ""), "-o {output}");
        assert_eq!(swarm.read(saved), content, "-o {output}");
    }
    let two = swarm.run(&["get", "empty", &hex(&content), "-o", "both"]);
    assert_eq!(two.code, Some(0), "{}", two.stderr);
    assert_eq!((swarm.read("both/empty"), swarm.read("both/größe 🐝.bin")), (vec![], content.clone()));

    let output = swarm.command(&["get", "sub/größe 🐝.bin", "-o", "-"]).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout), (Some(0), &content), "to stdout, in order");
    assert_eq!(swarm.part_files(), [""; 0], "no part file stays");
}

#[test]
fn a_new_version_that_is_saved_beside_the_old_one_takes_from_it_what_is_the_same() {
    let swarm = Swarm::start();
    let new: Vec<u8> = (0..700_001u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let mut old = new.clone();
    old[300_000] ^= 1;
    swarm.write("p1/files/models/model.bin", &new);
    swarm.write("model.bin", &old);
    let _p1 = swarm.peer("p1");
    let got = swarm.run(&["get", "models/model.bin", "-o", "model-new.bin", "--json"]);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    let done = records(&got.stdout).into_iter().find(|line| line["event"] == "done").unwrap();
    assert_eq!((&done["kept_bytes"], &done["fetched_bytes"]), (&json!(700_001 - 262_144), &json!(262_144)));
    assert_eq!((swarm.read("model.bin"), swarm.read("model-new.bin")), (old, new));
}

#[test]
fn each_failure_of_get_has_its_code_and_leaves_nothing_behind() {
    let swarm = Swarm::start();
    swarm.write("p1/files/x", b"one");
    swarm.write("p2/files/x", b"two");
    swarm.write("p2/files/y", b"y");
    swarm.write("y", b"another");
    let (_p1, _p2) = (swarm.peer("p1"), swarm.peer("p2"));
    // Says that it has something, and nobody listens where it says it serves.
    let _ghost = register(&swarm.address, "ghost", &[("unreachable", "content", 7)]);

    for (line, code, says) in [
        ("get nothing", 3, "nothing: nobody has it; `enxame ls --tracker "),
        ("get nothing -o new/", 3, "nobody has it"),
        ("get x", 4, "x: 2 different files fit"),
        ("get unreachable", 5, "ghost: "),
        ("get y", 7, "replace it with --overwrite"),
        ("get y -o missing/y", 7, "missing: there is no such folder"),
        ("get nothing x", 3, "nobody has it"),
        ("get x nothing", 4, "different files fit"),
        ("get x y -o -", 2, "one file"),
        ("get y -o - --json", 2, "choose one"),
    ] {
        let Ran { code: ended, stdout, stderr } = ran(swarm.command(&line.split(' ').collect::<Vec<_>>()));
        assert_eq!(ended, Some(code), "{line}: {stderr}");
        assert!(stderr.contains(says), "{line}: {stderr}");
        if !line.ends_with("--json") {
            assert_eq!(stdout, "", "{line}");
        }
    }
    assert_eq!(swarm.read("y"), b"another", "what stood there stands");
    assert!(!swarm.exists("x") && !swarm.exists("new") && !swarm.exists("missing"));
    assert_eq!(swarm.part_files(), [""; 0]);

    let choices = records(&swarm.run(&["get", "x", "--json"]).stdout);
    let error = choices.iter().find(|line| line["event"] == "error").unwrap();
    assert_eq!((&error["exit"], &error["what"]), (&json!(4), &json!("x")));
    let mut ids: Vec<&str> =
        error["candidates"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let mut expected = [hex(b"one"), hex(b"two")];
    expected.sort();
    assert_eq!(ids, expected);
    let message = error["message"].as_str().unwrap();
    let choice = message.split_whitespace().find(|word| word.starts_with("x@")).unwrap();
    assert_eq!(swarm.run(&["get", choice, "-q"]).code, Some(0), "{choice} can be typed as it was told");

    assert_eq!(swarm.run(&["get", "y", "--overwrite", "-q"]).code, Some(0));
    assert_eq!(swarm.read("y"), b"y");
}

#[test]
fn what_is_named_twice_is_fetched_and_told_of_once() {
    let swarm = Swarm::start();
    swarm.write("p1/files/x", b"x");
    let _p1 = swarm.peer("p1");
    let got = swarm.run(&["get", "x", "x", "-o", "one", "--json"]);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    for event in ["found", "done"] {
        let told = records(&got.stdout).into_iter().filter(|record| record["event"] == event).count();
        assert_eq!(told, 1, "{event}: {}", got.stdout);
    }
    assert_eq!(swarm.read("one"), b"x", "one file, whose path is told");
}

#[test]
fn a_get_to_stdout_ends_when_nobody_reads_on_and_fails_when_nothing_can_be_written() {
    let swarm = Swarm::start();
    fs::create_dir_all(swarm.dir.path().join("p1/files")).unwrap();
    // More than a pipe and the memory of a job hold together.
    fs::File::create(swarm.dir.path().join("p1/files/zeros")).unwrap().set_len(80 << 20).unwrap();
    let _p1 = swarm.peer("p1");

    let mut get = swarm.command(&["get", "zeros", "-o", "-", "-q"]);
    let mut child = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut get = swarm.command(&["get", "zeros", "-o", "-", "-q"]);
    let output = get.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "enxame: standard output: No space left on device\n"
    );
}

#[test]
fn an_interrupted_get_keeps_its_part_file_and_goes_on_from_it() {
    let swarm = Swarm::start();
    fs::create_dir_all(swarm.dir.path().join("p1/files")).unwrap();
    let size = 512 << 20;
    fs::File::create(swarm.dir.path().join("p1/files/zeros")).unwrap().set_len(size).unwrap();
    let p1 = swarm.peer("p1");
    let holder = Pid::from_child(&p1.child);

    let mut get = Role::start(swarm.command(&["get", "zeros", "--json"]));
    let mut have = 0;
    while have == 0 {
        let line: Value = serde_json::from_str(&get.line()).unwrap();
        have = line["have_bytes"].as_u64().unwrap_or(0);
    }
    // The holder falls silent, so that the download cannot end before the signal comes.
    kill_process(holder, Signal::STOP).unwrap();
    let (code, stderr) = get.end(Signal::INT);
    kill_process(holder, Signal::CONT).unwrap();
    assert_eq!(code, Some(130), "{stderr}");
    assert_eq!(
        stderr,
        "enxame: zeros: interrupted; what has arrived is kept, the same command goes on from there\n"
    );
    assert!(!swarm.exists("zeros"), "the final name is not there");
    assert_eq!(swarm.part_files().len(), 1);

    let resumed = swarm.run(&["get", "zeros", "--json"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let done = records(&resumed.stdout).into_iter().find(|line| line["event"] == "done").unwrap();
    let (kept, fetched) = (done["kept_bytes"].as_u64().unwrap(), done["fetched_bytes"].as_u64().unwrap());
    assert!(kept >= have && fetched > 0 && kept + fetched == size, "kept {kept}, fetched {fetched}");
    assert_eq!(swarm.part_files(), [""; 0]);
}

#[test]
fn a_peer_fetches_first_shares_on_and_ends_in_order() {
    let swarm = Swarm::start();
    swarm.write("p1/files/dir/x", b"content");
    let p1 = swarm.peer("p1");

    let args = ["peer", "p2", "--listen", "127.0.0.1:0", "--get", "dir/x", "--get", "nothing", "--json"];
    let mut p2 = Role::start(swarm.command(&args));
    let mut lines: Vec<Value> = Vec::new();
    while !["ready", "done", "error"].iter().all(|event| lines.iter().any(|line| line["event"] == *event)) {
        lines.push(serde_json::from_str(&p2.line()).unwrap());
    }
    let ready = lines.iter().find(|line| line["event"] == "ready").unwrap();
    assert_eq!((&ready["role"], &ready["peer"]), (&json!("peer"), &json!("p2")));
    let error = lines.iter().find(|line| line["event"] == "error").unwrap();
    assert_eq!((&error["exit"], &error["what"]), (&json!(3), &json!("nothing")));
    assert_eq!(swarm.read("p2/files/dir/x"), b"content", "under its whole name");

    // It shares what it fetched, also when the first holder is gone.
    assert_eq!(p1.end(Signal::TERM).0, Some(0));
    assert_eq!(swarm.run(&["get", "dir/x", "-q"]).code, Some(0));
    assert_eq!(swarm.read("x"), b"content");

    let taken = swarm.run(&["peer", "p2", "--root", "elsewhere", "--listen", "127.0.0.1:0"]);
    assert_eq!(taken.code, Some(1), "{}", taken.stderr);
    assert!(taken.stderr.contains("p2 is registered"), "{}", taken.stderr);

    let (code, stderr) = p2.end(Signal::INT);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(records(&swarm.run(&["peers", "--json"]).stdout), [] as [Value; 0], "both have left");
    assert_eq!(swarm.tracker.end(Signal::TERM), (Some(0), String::new()));
}

#[test]
fn a_peer_needs_a_tracker_and_a_folder_that_it_may_write() {
    let swarm = Swarm::start();
    swarm.write("file", b"x");
    let under_a_file = swarm.run(&["peer", "p1", "--root", "file", "--listen", "127.0.0.1:0"]);
    assert_eq!((under_a_file.code, under_a_file.stdout.as_str()), (Some(7), ""), "{}", under_a_file.stderr);
    assert!(under_a_file.stderr.starts_with("enxame: file/p1"), "{}", under_a_file.stderr);
}
