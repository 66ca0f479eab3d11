//! Small disks that a test may fill, in a mount namespace of its own: nothing of it is seen outside,
//! and nothing stays mounted, whatever happens to the test. And a network of one machine, in the same way.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::leave_panics_to_libtest;

/// Set in the process that runs one test in its own namespace.
const ALONE: &str = "ENXAME_TEST_ALONE";
/// Set where a test that cannot mount is to fail instead of being skipped.
const MUST_MOUNT: &str = "ENXAME_TESTS_MUST_MOUNT";

/// Runs `body`, the whole of the calling test, where it may mount: in a process of its own, which is
/// this test again. Where the system forbids that, it says so on the terminal, captured or not.
pub fn with_mounts(body: impl FnOnce()) {
    let must = std::env::var_os(MUST_MOUNT).is_some();
    alone_where(MOUNTS, can_mount, "no file system can be mounted here", must, body);
}

/// [`with_mounts`], where it can have a [`QuotaDisk`] too.
pub fn with_quotas(body: impl FnOnce()) {
    alone_where(
        MOUNTS,
        can_limit,
        "no file system with quotas can be mounted here (btrfs-progs)",
        false,
        body,
    );
}

/// [`with_mounts`], where this machine reaches itself and nobody else.
pub fn with_no_network(body: impl FnOnce()) {
    alone_where(NETWORK, can_network, "no network of its own can be had here (iproute2)", false, || {
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
        body();
    });
}

fn alone_where(
    ways_to_unshare: [&[&str]; 2],
    can: fn(&&[&str]) -> bool,
    why_not: &str,
    must: bool,
    body: impl FnOnce(),
) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    leave_panics_to_libtest();
    let name = std::thread::current().name().expect("libtest names the thread of a test").to_string();
    let Some(unshare) = ways_to_unshare.into_iter().find(can) else {
        assert!(!must, "{name}: {why_not}");
        // Not by a macro: libtest would keep what it prints to itself.
        let _ = writeln!(std::io::stderr(), "\nskipped: {name}: {why_not}");
        return;
    };
    let binary = std::env::current_exe().expect("a test is a program");
    let mut alone = Command::new("unshare");
    alone.args(unshare).arg("--").arg(binary).args([&name, "--exact", "--nocapture", "--test-threads=2"]);
    let output = alone.env(ALONE, "1").output().expect("unshare was there a moment ago");
    let said = String::from_utf8_lossy(&output.stdout);
    let is_passed = output.status.success() && said.contains("1 passed");
    assert!(is_passed, "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// As root, and as anybody where the system lets them have a user namespace.
const MOUNTS: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
const NETWORK: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];

fn can_network(unshare: &&[&str]) -> bool {
    can_run(unshare, "ip link set lo up")
}

fn can_mount(unshare: &&[&str]) -> bool {
    can_run(unshare, "mount -t tmpfs -o size=64k tmpfs .")
}

fn can_limit(unshare: &&[&str]) -> bool {
    can_run(unshare, &format!("{MAKE_QUOTA_DISK} && umount at"))
}

fn can_run(unshare: &&[&str], script: &str) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("unshare");
    command.args(*unshare).args(["--", "sh", "-c", script]).current_dir(folder.path());
    command.output().is_ok_and(|output| output.status.success())
}

/// Makes a disk with quotas in a file of the current folder, and mounts it below. Of the file systems
/// that have them, this one asks the least of the kernel. Its smallest size is 109 MiB.
const MAKE_QUOTA_DISK: &str = "truncate -s 128M image && mkfs.btrfs -q -M image && mkdir -p at && \
    mount -o loop image at && btrfs -q quota enable at && btrfs -q subvolume create at/to";

/// A folder of which only so much may be used, though its disk has more.
pub struct QuotaDisk {
    mounted: PathBuf,
    /// The folder.
    pub to: PathBuf,
}

impl QuotaDisk {
    /// Makes and mounts it below this folder.
    pub fn mount(below: &Path, bytes: u64) -> QuotaDisk {
        run(Command::new("sh").args(["-c", MAKE_QUOTA_DISK]).current_dir(below));
        let mounted = below.join("at");
        let disk = QuotaDisk { to: mounted.join("to"), mounted };
        disk.limit(bytes);
        disk
    }

    /// Lets so much be used.
    pub fn limit(&self, bytes: u64) {
        let mut command = Command::new("btrfs");
        run(command.args(["-q", "qgroup", "limit", &bytes.to_string()]).arg(&self.to));
    }
}

impl Drop for QuotaDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.mounted));
    }
}

/// A file system in memory, of a fixed size.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it on this folder, with room for so many bytes of files.
    pub fn mount(at: &Path, bytes: u64) -> SmallDisk {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("mode=755,size={bytes}"), "tmpfs"])
            .arg(at));
        SmallDisk(at.to_path_buf())
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, bytes: u64) {
        self.remount(&format!("size={bytes}"));
    }

    /// Has it refuse all writing, or not any more. Nothing may be open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        self.remount(if read_only { "ro" } else { "rw" });
    }

    fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("mount and umount are there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
