//! Which files and sockets of a test are open, among those of all tests that run in this process.
//!
//! A file is a test's if it is below the test's folder. A socket is a test's if one of its two
//! ports is a watched listener's; the harness knows which ports those are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Open files and folders below `folder`, removed ones too, in the order of their names: which descriptors they get
/// depends on what other tests of the process close.
pub fn open_files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = descriptors();
    files.retain(|target| target.starts_with(folder));
    files.sort_unstable();
    files
}

/// Inodes of all sockets that are open in this process.
pub fn socket_inodes() -> BTreeSet<u64> {
    let inode = |target: PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    descriptors().into_iter().filter_map(inode).collect()
}

/// Of these sockets those that are TCP's, by inode. Slow: the kernel walks its whole table, which
/// takes 20 ms on a large machine however few sockets there are.
pub fn tcp_sockets(inodes: &BTreeSet<u64>) -> BTreeMap<u64, Ports> {
    if inodes.is_empty() {
        return BTreeMap::new();
    }
    let mut sockets = tcp_table("/proc/self/net/tcp");
    sockets.extend(tcp_table("/proc/self/net/tcp6"));
    sockets.retain(|inode, _| inodes.contains(inode));
    sockets
}

/// What each descriptor of the process stands for, as the kernel names it.
fn descriptors() -> Vec<PathBuf> {
    // A descriptor that is closed meanwhile has no link any more.
    let entries = fs::read_dir("/proc/self/fd").expect("Linux has it");
    entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
}

/// The two ends of a socket; the remote one is 0 if it listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub local: u16,
    pub remote: u16,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            0 => write!(f, "the socket that listens on port {}", self.local),
            remote => write!(f, "the socket from port {} to port {remote}", self.local),
        }
    }
}

/// Reads `/proc/net/tcp`: <https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html>.
fn tcp_table(path: &str) -> BTreeMap<u64, Ports> {
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ports = Ports { local: port(fields.get(1)?)?, remote: port(fields.get(2)?)? };
        Some((fields.get(9)?.parse().ok()?, ports))
    };
    // A kernel without IPv6 has no second table.
    let table = fs::read_to_string(path).unwrap_or_default();
    table.lines().skip(1).map(|line| row(line).unwrap_or_else(|| panic!("{path}: {line}"))).collect()
}
