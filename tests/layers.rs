//! The layers of ARCHITECTURE.md hold, and what the project banned stays out.
//!
//! Looked for in the text of the sources, comments and strings aside: a rule that the compiler
//! cannot be asked for. Each violation is printed with its file and line.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a rule holds, below the root of the workspace, and what may not be named there.
struct Rule {
    why: &'static str,
    folders: &'static [&'static str],
    /// Files of these folders in which it does not hold.
    but: &'static [&'static str],
    banned: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        why: "base uses std alone, and names no layer above it",
        folders: &["actors/src/base"],
        but: &[],
        banned: &[
            "crate::wire",
            "crate::content",
            "crate::plan",
            "crate::net",
            "crate::peer",
            "crate::tracker",
            "serde",
            "tokio",
            "actix",
            "bytes::",
            "blake3",
            "rustix",
            "std::fs",
            "std::net",
            "Instant",
            "SystemTime",
        ],
    },
    Rule {
        why: "wire is bytes and types: no socket, no clock, no file, no actor, no layer above or beside it",
        folders: &["actors/src/wire"],
        but: &[],
        banned: &[
            "crate::content",
            "crate::plan",
            "crate::net",
            "crate::peer",
            "crate::tracker",
            "tokio",
            "actix",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "Instant::now",
            "SystemTime",
            "std::thread::spawn",
        ],
    },
    Rule {
        why: "content is files and hashes, synchronous: no socket, no actor, no layer above or beside it",
        folders: &["actors/src/content"],
        but: &[],
        banned: &[
            "crate::wire",
            "crate::plan",
            "crate::net",
            "crate::peer",
            "crate::tracker",
            "tokio",
            "actix",
            "std::net",
            "async fn",
        ],
    },
    Rule {
        why: "plan decides and touches nothing: time is passed in, no socket, no file, no actor",
        folders: &["actors/src/plan"],
        but: &[],
        banned: &[
            "crate::content",
            "crate::net",
            "crate::peer",
            "crate::tracker",
            "tokio",
            "actix",
            "std::fs",
            "std::net::Tcp",
            "Instant::now",
            "SystemTime::now",
            "std::thread",
            "async fn",
        ],
    },
    Rule {
        why: "net owns sockets and knows no actor and nobody above it",
        folders: &["actors/src/net"],
        but: &[],
        banned: &["crate::peer", "crate::tracker", "actix"],
    },
    Rule {
        why: "the tracker never dials anybody, and is nothing of a peer's",
        folders: &["actors/src/tracker"],
        // Tests: somebody has to dial it.
        but: &["actors/src/tracker/deaths.rs"],
        banned: &["crate::peer", "TcpStream::connect", "net::dial", "net::address::dial"],
    },
    Rule {
        why: "a peer is nothing of a tracker's: it speaks to one",
        folders: &["actors/src/peer"],
        but: &[],
        banned: &["crate::tracker"],
    },
    Rule {
        why: "the binary is a command line over enxame_actors: it owns no socket",
        folders: &["src"],
        but: &[],
        banned: &["tokio::net", "std::net::Tcp", "std::net::Udp", "rmp_serde", "blake3"],
    },
    Rule {
        why: "every queue has a bound, sockets belong to tasks, state has one owner",
        folders: &["actors/src", "src"],
        but: &[],
        banned: &[
            "unbounded_channel",
            "mpsc::channel()",
            "actix::io",
            "FramedWrite",
            "SinkWrite",
            "Supervisor",
            "SystemService",
            "ArbiterService",
            "SyncArbiter",
            "Mutex",
            "RwLock",
            "thread::sleep",
        ],
    },
    Rule {
        why: "tests wait for events; only the kit's slow counterparts and its deadline have timers",
        folders: &["tests"],
        but: &[
            "tests/support/proxy.rs",
            "tests/support/holder.rs",
            "tests/support/harness.rs",
            "tests/layers.rs",
        ],
        banned: &["sleep(", "sleep_until(", "tokio::time::interval"],
    },
    Rule {
        why: "a port that is written down is taken by somebody else one day",
        folders: &["tests"],
        but: &["tests/layers.rs"],
        banned: &[
            "bind(\"127.0.0.1:1",
            "bind(\"127.0.0.1:2",
            "bind(\"127.0.0.1:3",
            "bind(\"127.0.0.1:4",
            "bind(\"127.0.0.1:5",
            "bind(\"127.0.0.1:6",
            "bind(\"127.0.0.1:7",
            "bind(\"127.0.0.1:8",
            "bind(\"127.0.0.1:9",
        ],
    },
];

/// A line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    line: usize,
    names: &'static str,
    why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {:?}, but {}", self.file.display(), self.line, self.names, self.why)
    }
}

#[test]
fn no_file_breaks_a_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut violations = Vec::new();
    let mut read = 0;
    for rule in RULES {
        for file in rule.folders.iter().flat_map(|folder| sources(&root.join(folder))) {
            let shown = file.strip_prefix(root).expect("it is below the root");
            if rule.but.iter().any(|but| Path::new(but) == shown) {
                continue;
            }
            read += 1;
            violations.extend(broken(rule, shown, &fs::read_to_string(&file).expect("a source is text")));
        }
    }
    for violation in &violations {
        eprintln!("{violation}");
    }
    assert!(read > 30, "only {read} files were read: the folders have moved");
    assert!(violations.is_empty(), "{} lines break a rule; they are listed above", violations.len());
}

/// A promise without a test is none: each row of the table names some, and they are there.
#[test]
fn each_test_that_security_md_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text: String = ["actors", "tests", "src"]
        .into_iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .map(|file| fs::read_to_string(file).expect("a source can be read"))
        .collect();
    let security = fs::read_to_string(root.join("SECURITY.md")).expect("it is there");
    let (cases, limits) = security.split_once("## The limits").expect("they are told");
    assert_eq!(rows_of(cases).inspect(|row| assert_tests_are_there(row, &text)).count(), 23);
    assert!(rows_of(limits).inspect(|row| assert_tests_are_there(row, &text)).count() > 50);
}

/// The rows of the tables in a text of which each names something.
fn rows_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with("| ") && line.contains('`'))
}

/// Fails if a row names no test in its last column, or one that is not in `text`, or what is not there.
fn assert_tests_are_there(row: &str, text: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = named(row.rsplit(" | ").next().unwrap_or(row));
    let (scripts, tests): (Vec<&str>, Vec<&str>) = tests.partition(|name| name.contains('/'));
    // Others are names of fuzz targets, which are folders.
    let (tests, targets): (Vec<&str>, Vec<&str>) =
        tests.into_iter().partition(|name| name.matches('_').count() > 2);
    assert!(!tests.is_empty() || !scripts.is_empty(), "no test: {row}");
    for test in tests {
        assert!(text.contains(&format!("fn {test}(")), "there is no test {test}");
    }
    for script in scripts {
        assert!(root.join(script).is_file(), "there is no {script}");
    }
    for target in targets {
        assert!(root.join("fuzz/corpus").join(target).is_dir(), "there is no target {target}");
    }
}

/// What is in `limits.rs` is a limit that a test reaches, or a pace of our own work.
#[test]
fn each_limit_has_a_row_in_security_md() {
    let limits = include_str!("../actors/src/base/limits.rs");
    let names: BTreeSet<&str> =
        limits.lines().filter_map(|line| Some(line.strip_prefix("pub const ")?.split_once(':')?.0)).collect();
    let (_, told) = include_str!("../SECURITY.md").split_once("## The limits").expect("they are told");
    let (rows, paces) = told.split_once("These are paces").expect("behind the table");
    let tested =
        rows_of(rows).flat_map(|row| named(row.trim_start_matches("| ").split(" | ").next().unwrap_or(row)));
    let mut seen = BTreeSet::new();
    for name in tested.chain(named(paces)) {
        assert!(names.contains(name), "there is no limit {name}");
        assert!(seen.insert(name), "{name} is told twice");
    }
    let missing: Vec<_> = names.difference(&seen).collect();
    assert!(missing.is_empty(), "these have no row: {missing:?}");
    let is_cap = |name: &str| name.starts_with("MAX_") || name.ends_with("_TIMEOUT");
    assert!(!named(paces).any(is_cap), "a cap is no pace");
}

/// What stands in backquotes.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All Rust files below a folder. A folder that is not there yet has none.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The lines of a file that break a rule. The tests of a layer (a file `tests.rs`, a module at the
/// end of a source file) are not the layer: they need a clock to start from, or a thread.
fn broken(rule: &Rule, file: &Path, text: &str) -> Vec<Violation> {
    let own = if file.ends_with("tests.rs") { Some(0) } else { text.find("\n#[cfg(test)]\nmod ") };
    let text = own.map_or(text, |end| &text[..end]);
    let mut violations = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line_of_code = code(line);
        let found = rule.banned.iter().filter(|banned| names(line_of_code, banned));
        violations.extend(found.map(|names| Violation {
            file: file.into(),
            line: number + 1,
            names,
            why: rule.why,
        }));
    }
    violations
}

/// The part of a line in front of a comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Whether the code names this, as a word: `crate::net` is not in `crate::network`.
fn names(code: &str, banned: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(banned).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + banned.len()..].chars().next();
        let open_start = banned.starts_with(is_word) && before.is_some_and(is_word);
        let open_end = banned.ends_with(is_word) && after.is_some_and(is_word);
        !open_start && !open_end
    })
}

#[test]
fn a_rule_finds_what_breaks_it_and_nothing_else() {
    let rule = Rule { why: "", folders: &[], but: &[], banned: &["crate::net", "Mutex", "sleep("] };
    let lines = |text: &str| -> Vec<usize> {
        broken(&rule, Path::new("actors/src/base/x.rs"), text)
            .iter()
            .map(|violation| violation.line)
            .collect()
    };
    assert_eq!(lines("use crate::net;\n\nuse crate::net::link::X;\nlet m: Mutex<u8>;"), [1, 3, 4]);
    assert_eq!(lines("    sleep(Duration::ZERO).await; // why"), [1]);
    assert_eq!(lines("use crate::network;\n// crate::net\n//! Mutex\nMutexGuard\nsleepy(1); asleep(1)"), []);
    assert_eq!(lines("a\n\n#[cfg(test)]\nmod tests {\n    use crate::net;\n}"), []);
}
