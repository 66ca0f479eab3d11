//! A folder as a handle: every file in it is reached from the handle, never by a path that is put
//! together from a name, and no symbolic link below it is followed.
//!
//! Between a check of a path and its use somebody can swap a part of it for a link. So there is no
//! check: the kernel resolves the name below the handle (`openat2`), or, where it cannot, we do it
//! one component at a time, each from the handle of the one before.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fstat, linkat, mkdirat, openat, renameat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::base::FileName;

/// How a folder is opened that others are reached from.
const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How a file is opened to be read. `NONBLOCK`: opening a FIFO must not wait for a writer; reading a
/// regular file does not notice.
const READ_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What tells whether a file is still the one that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Number of the device.
    pub device: u64,
    /// Number of the file on it.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of content, names or rights, in nanoseconds since 1970; no program can set it.
    pub ctime_ns: i64,
}

impl Stamp {
    /// How far apart hashing and the last change have to be for a stamp to be trusted, where the
    /// file system keeps fractions of a second: their clock ticks every 1 to 10 ms.
    const FINE_TICK: Duration = Duration::from_millis(50);
    /// The same where it seems to keep whole seconds only: FAT counts in steps of two.
    const COARSE_TICK: Duration = Duration::from_secs(2);

    /// The stamp of an open file.
    ///
    /// # Errors
    /// fstat failed.
    pub fn of(file: &File) -> io::Result<Stamp> {
        Ok(Stamp::from_stat(&fstat(file)?))
    }

    /// The stamp in the answer of a stat call.
    // The types of the fields differ from one architecture to the next.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub(super) fn from_stat(stat: &Stat) -> Stamp {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether a change after `moment_ns` must show in the stamp.
    ///
    /// It does not if the file was changed last within the same tick of the file system's clock: a
    /// second change in that tick leaves the same time behind, and whoever hashed in between would
    /// take the old hash for the new content for ever. Git calls such entries racily clean. A time
    /// in the future is as good as one in the past: a change now gives another one.
    pub fn is_settled_at(&self, moment_ns: i64) -> bool {
        let whole_seconds = self.mtime_ns % 1_000_000_000 == 0;
        let tick = if whole_seconds { Stamp::COARSE_TICK } else { Stamp::FINE_TICK };
        !self.is_within(moment_ns, tick)
    }

    /// Whether the last change of content was less than `time` before (or after) the moment.
    pub fn is_within(&self, moment_ns: i64, time: Duration) -> bool {
        u128::from(moment_ns.abs_diff(self.mtime_ns)) < time.as_nanos()
    }
}

/// Whether an error says nothing of the file or folder that was to be opened: the process or the system
/// has no descriptors or no memory left at the moment.
pub fn is_passing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR].contains(&errno))
}

/// Whether an error says that no regular file of the folder stands under the name: nothing does, or
/// something else, or there is a link on the way.
pub fn is_no_file(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV].contains(&errno))
        || error.kind() == io::ErrorKind::InvalidInput
}

/// Now, in nanoseconds since 1970, as stamps count.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A folder that is shared, or into which is downloaded.
#[derive(Debug)]
pub struct Folder {
    dir: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder. Links on the way to it are followed: the path is the user's own.
    ///
    /// # Errors
    /// There is none, or it cannot be entered.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let dir = rustix::fs::open(path, FOLDER_FLAGS, Mode::empty())?;
        Ok(Folder { dir, path: path.to_owned() })
    }

    /// Opens a folder, creating it and those above it if they are missing.
    ///
    /// # Errors
    /// It can be neither opened nor created.
    pub fn open_or_create(path: &Path) -> io::Result<Folder> {
        DirBuilder::new().recursive(true).mode(0o777).create(path)?;
        Folder::open(path)
    }

    /// A folder that is open already; `path` is for messages.
    pub(super) fn at(dir: OwnedFd, path: &Path) -> Folder {
        Folder { dir, path: path.to_owned() }
    }

    /// Where the folder was when it was opened: for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file of this name is: for messages.
    pub fn path_of(&self, name: &FileName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// The handle, for the walk.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Device and inode: whether a path still leads to the same folder.
    ///
    /// # Errors
    /// fstat failed.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stamp = Stamp::from_stat(&fstat(&self.dir)?);
        Ok((stamp.device, stamp.inode))
    }

    /// Opens a regular file to read it. What is served is read from this handle, so what was
    /// stamped and hashed is what goes out, whatever happens to the name.
    ///
    /// # Errors
    /// It is missing or unreadable; it is no regular file, or a link is on the way to it
    /// ([`io::ErrorKind::InvalidInput`] or the system's own kind).
    pub fn open_file(&self, name: &FileName) -> io::Result<(File, Stamp)> {
        let file = File::from(open_below(self.dir(), name.as_str(), READ_FLAGS)?);
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((file, Stamp::from_stat(&stat)))
    }

    /// The handle of a folder below this one; the path is empty for this one, and may end in `/`.
    ///
    /// # Errors
    /// There is none, or a link is on the way to it.
    pub(super) fn open_folder(&self, path: &str) -> io::Result<OwnedFd> {
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { "." } else { path };
        open_below(self.dir(), path, FOLDER_FLAGS)
    }

    /// The handle of the folder in which `name` stands or will stand, created if it is missing.
    ///
    /// # Errors
    /// It can be neither opened nor created; a link or a file is where a folder has to be.
    pub(super) fn create_parents(&self, name: &FileName) -> io::Result<OwnedFd> {
        let mut dir = self.dir.try_clone()?;
        let parents = name.components().count() - 1;
        for component in name.components().take(parents) {
            match mkdirat(&dir, component, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = openat(&dir, component, FOLDER_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(dir)
    }
}

/// Opens what is at `path` below `dir`, which is followed nowhere else.
fn open_below(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {}
            done => return Ok(done?),
        }
    }
    open_by_component(dir, path, flags)
}

fn open_by_component(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let (parents, leaf) = path.rsplit_once('/').map_or((None, path), |(parents, leaf)| (Some(parents), leaf));
    let mut below: Option<OwnedFd> = None;
    for component in parents.into_iter().flat_map(|parents| parents.split('/')) {
        let from = below.as_ref().map_or(dir, |dir| dir.as_fd());
        below = Some(openat(from, component, FOLDER_FLAGS | OFlags::NOFOLLOW, Mode::empty())?);
    }
    let from = below.as_ref().map_or(dir, |dir| dir.as_fd());
    Ok(openat(from, leaf, flags | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Gives the file `part` of a folder the name `target` in the same folder, in one step: the name
/// shows either what it showed before or the whole new file.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is something and it may not be replaced; the system's
/// own errors.
pub(super) fn publish(dir: &OwnedFd, part: &str, target: &str, overwrite: bool) -> io::Result<()> {
    if overwrite {
        return Ok(renameat(dir, part, dir, target)?);
    }
    match renameat_with(dir, part, dir, target, RenameFlags::NOREPLACE) {
        // NFS and some others know no such rename. A link to an existing name fails just the same.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => publish_by_link(dir, part, target),
        done => Ok(done?),
    }
}

/// If this is cut short between its steps, the file has both names; whoever opens the part next
/// sees that (see [`PartFile::open`](super::PartFile::open)).
fn publish_by_link(dir: &OwnedFd, part: &str, target: &str) -> io::Result<()> {
    linkat(dir, part, dir, target, AtFlags::empty())?;
    Ok(unlinkat(dir, part, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn name(text: &str) -> FileName {
        text.parse().unwrap()
    }

    fn make_fifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    /// A share with what belongs there and what does not.
    fn share() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        let files = root.path().join("files");
        fs::create_dir_all(files.join("sub/deep")).unwrap();
        fs::write(files.join("plain"), "plain").unwrap();
        fs::write(files.join("sub/deep/file"), "deep").unwrap();
        symlink("/etc/passwd", files.join("passwd")).unwrap();
        symlink("plain", files.join("alias")).unwrap();
        symlink("nowhere", files.join("dangling")).unwrap();
        symlink("..", files.join("up")).unwrap();
        symlink("sub", files.join("sub-alias")).unwrap();
        make_fifo(&files.join("fifo"));
        let folder = Folder::open(&files).unwrap();
        (root, folder)
    }

    #[test]
    fn only_regular_files_below_the_folder_open_with_either_way_to_resolve() {
        let (_root, folder) = share();
        let (file, stamp) = folder.open_file(&name("sub/deep/file")).unwrap();
        assert_eq!(stamp, Stamp::of(&file).unwrap());
        assert_eq!(stamp.size, 4);
        for refused in [
            "passwd",
            "alias",
            "dangling",
            "up/secret",
            "sub-alias/deep/file",
            "fifo",
            "sub",
            "none",
            "plain/x",
        ] {
            assert!(folder.open_file(&name(refused)).is_err(), "{refused}");
        }
        for (path, opens) in [
            ("plain", true),
            ("sub/deep/file", true),
            ("fifo", true), // opens at once; open_file refuses it by its type
            ("passwd", false),
            ("alias", false),
            ("dangling", false),
            ("up/secret", false),
            ("sub-alias/deep/file", false),
            ("plain/x", false),
        ] {
            let open = open_by_component(folder.dir(), path, READ_FLAGS);
            assert_eq!(open.is_ok(), opens, "{path}");
            assert_eq!(open_below(folder.dir(), path, READ_FLAGS).is_ok(), opens, "{path}");
        }
    }

    #[test]
    fn a_folder_that_is_swapped_for_a_link_all_the_time_never_leads_out() {
        let root = tempfile::tempdir().unwrap();
        let files = root.path().join("files");
        let outside = root.path().join("outside");
        fs::create_dir_all(files.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(files.join("real/file"), "inside").unwrap();
        fs::write(outside.join("file"), "secret!").unwrap();
        symlink(&outside, files.join("link")).unwrap();
        let folder = Folder::open(&files).unwrap();
        let (device, _) = folder.identity().unwrap();
        let outside = Folder::open(&outside).unwrap().identity().unwrap();
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let (real, link) = (files.join("real"), files.join("link"));
                for _ in 0..10_000 {
                    renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let (mut opened, mut refused) = (0, 0);
            while !swapper.is_finished() || opened == 0 || refused == 0 {
                match folder.open_file(&name("real/file")) {
                    Ok((_, stamp)) => {
                        assert_eq!(stamp.size, 6);
                        opened += 1;
                    }
                    Err(_) => refused += 1,
                }
                if let Ok(fd) = open_by_component(folder.dir(), "real/file", READ_FLAGS) {
                    assert_eq!(Stamp::of(&File::from(fd)).unwrap().size, 6);
                }
                if let Ok(dir) = folder.create_parents(&name("real/x")) {
                    let stamp = Stamp::from_stat(&fstat(&dir).unwrap());
                    assert_eq!(stamp.device, device);
                    assert_ne!((stamp.device, stamp.inode), outside);
                }
                assert!(!swapper.is_finished() || opened * refused > 0, "the race never happened");
            }
        });
    }

    #[test]
    fn parents_are_created_but_never_through_a_link() {
        let (root, folder) = share();
        folder.create_parents(&name("x/y/z/file")).unwrap();
        folder.create_parents(&name("x/y/z/file")).unwrap();
        assert!(root.path().join("files/x/y/z").is_dir());
        assert!(folder.create_parents(&name("up/new/file")).is_err());
        assert!(folder.create_parents(&name("plain/file")).is_err());
        assert!(!root.path().join("new").exists());
    }

    #[test]
    fn publishing_replaces_nothing_unless_told_to() {
        let (root, folder) = share();
        let files = root.path().join("files");
        let dir = folder.create_parents(&name("any")).unwrap();
        for by_link in [false, true] {
            let publish = |target: &str| {
                fs::write(files.join("part"), "new").unwrap();
                if by_link {
                    publish_by_link(&dir, "part", target)
                } else {
                    publish(&dir, "part", target, false)
                }
            };
            for taken in ["plain", "dangling", "alias", "sub", "fifo"] {
                assert_eq!(publish(taken).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{taken}");
            }
            publish("fresh").unwrap();
            assert_eq!(fs::read_to_string(files.join("fresh")).unwrap(), "new");
            assert!(!files.join("part").exists());
            fs::remove_file(files.join("fresh")).unwrap();
        }
        assert_eq!(fs::read_to_string(files.join("plain")).unwrap(), "plain");
        fs::write(files.join("part"), "new").unwrap();
        publish(&dir, "part", "plain", true).unwrap();
        assert_eq!(fs::read_to_string(files.join("plain")).unwrap(), "new");
    }

    #[test]
    fn a_stamp_is_trusted_only_away_from_the_tick_of_the_last_change() {
        let at = |mtime_ns| Stamp { device: 1, inode: 1, size: 1, mtime_ns, ctime_ns: mtime_ns };
        let second = 1_000_000_000;
        // kept in whole seconds: two seconds' distance, before or after
        assert!(!at(100 * second).is_settled_at(100 * second));
        assert!(!at(100 * second).is_settled_at(102 * second - 1));
        assert!(at(100 * second).is_settled_at(102 * second));
        assert!(at(100 * second).is_settled_at(90 * second));
        // kept in fractions: 50 ms
        assert!(!at(100 * second + 7).is_settled_at(100 * second + 10_000_000));
        assert!(at(100 * second + 7).is_settled_at(100 * second + 60_000_000));
        assert!(at(i64::MIN + 1).is_settled_at(i64::MAX));
    }
}
