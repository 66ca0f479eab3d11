//! The walk through a shared folder: what is there, and what cannot be shared and why.

use std::cmp::Reverse;
use std::collections::hash_map::{Entry, HashMap};
use std::ffi::CStr;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::clash::clash_key;
use super::folder::{Folder, Stamp, is_passing};
use super::part::NOTE_SUFFIX;
use crate::base::limits::MAX_FILES_PER_PEER;
use crate::base::{FileName, NameError};

/// What a walk found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The regular files that can be shared, in no order.
    pub files: Vec<(FileName, Stamp)>,
    /// What cannot: its path below the folder, made readable, and why.
    pub skipped: Vec<(String, SkipReason)>,
    /// Paths below the folder of notes that unfinished downloads left, see [`super::part`].
    pub notes: Vec<String>,
}

/// Why something in the folder is not shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Its name is not UTF-8.
    NotUtf8,
    /// Its name (or a folder's, and then all in it) cannot be the name of a shared file.
    Name(NameError),
    /// It is a link, a pipe, a socket or a device.
    NotRegular,
    /// It cannot be read, and what the system says.
    Unreadable(String),
    /// On some systems its name and this one are the same, and this one is shared.
    Clash(FileName),
    /// There are more files than one peer may share.
    TooMany,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::NotUtf8 => f.write_str("the name is not UTF-8"),
            SkipReason::Name(why) => why.fmt(f),
            SkipReason::NotRegular => f.write_str("only regular files are shared, and no link is followed"),
            SkipReason::Unreadable(why) => write!(f, "it cannot be read: {why}"),
            SkipReason::Clash(other) => {
                write!(f, "some systems take its name and {other} for one; rename one of them")
            }
            SkipReason::TooMany => write!(f, "more than {MAX_FILES_PER_PEER} files"),
        }
    }
}

/// Walks through a folder. Links are not followed, our own hidden files are passed over.
///
/// The walk is one readdir and one stat per file; nothing is opened, so whether a file can be read
/// shows when it is hashed. What comes and goes meanwhile may or may not be in the answer.
///
/// # Errors
/// The folder itself cannot be read, or there are no descriptors left for those below it (see
/// [`is_passing`]). A folder below it that cannot be read is listed as skipped instead.
pub fn walk(folder: &Folder) -> io::Result<Scan> {
    let mut scan = Scan::default();
    scan.read_folder(folder.dir(), "")?;
    scan.refuse_clashes();
    Ok(scan)
}

impl Scan {
    /// Descends as deep as names may be: at most 32 handles are open.
    fn read_folder(&mut self, dir: BorrowedFd<'_>, prefix: &str) -> io::Result<()> {
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let leaf = entry.file_name();
            if leaf == c"." || leaf == c".." {
                continue;
            }
            let Ok(text) = leaf.to_str() else {
                self.skip(prefix, leaf, SkipReason::NotUtf8);
                continue;
            };
            // A folder's path obeys the rules of names too, or no file in it could.
            let name: FileName = match format!("{prefix}{text}").parse() {
                Ok(name) => name,
                Err(NameError::Ours) => {
                    if text.ends_with(NOTE_SUFFIX) && self.notes.len() < MAX_FILES_PER_PEER {
                        self.notes.push(format!("{prefix}{text}"));
                    }
                    continue;
                }
                Err(why) => {
                    self.skip(prefix, leaf, SkipReason::Name(why));
                    continue;
                }
            };
            match self.read_entry(dir, leaf, entry.file_type(), &name).map_err(io::Error::from) {
                Err(error) if is_passing(&error) => return Err(error),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.skip(prefix, leaf, SkipReason::Unreadable(error.to_string()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn read_entry(
        &mut self,
        dir: BorrowedFd<'_>,
        leaf: &CStr,
        kind: FileType,
        name: &FileName,
    ) -> Result<(), Errno> {
        let mut stat = None;
        let kind = match kind {
            // Not every file system says it with the name.
            FileType::Unknown | FileType::RegularFile => {
                let found = statat(dir, leaf, AtFlags::SYMLINK_NOFOLLOW)?;
                stat = Some(found);
                FileType::from_raw_mode(found.st_mode)
            }
            known => known,
        };
        match (kind, stat) {
            (FileType::RegularFile, Some(_)) if self.files.len() >= MAX_FILES_PER_PEER => {
                // Said once: a list of all that did not fit would have no bound.
                if !self.skipped.iter().any(|(_, why)| *why == SkipReason::TooMany) {
                    self.skipped.push((name.to_string(), SkipReason::TooMany));
                }
            }
            (FileType::RegularFile, Some(stat)) => self.files.push((name.clone(), Stamp::from_stat(&stat))),
            (FileType::Directory, _) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(dir, leaf, flags, Mode::empty())?;
                if let Err(error) = self.read_folder(below.as_fd(), &format!("{name}/")) {
                    if let Some(errno) = Errno::from_io_error(&error).filter(|_| is_passing(&error)) {
                        return Err(errno);
                    }
                    self.skipped.push((name.to_string(), SkipReason::Unreadable(error.to_string())));
                }
            }
            _ => self.skipped.push((name.to_string(), SkipReason::NotRegular)),
        }
        Ok(())
    }

    /// Of names that clash, the first one in their order stays: whoever looks sees the same.
    fn refuse_clashes(&mut self) {
        let hasher = RandomState::new();
        // Not the keys themselves: there may be a million, and next to none clash.
        let mut hashes: Vec<(u64, usize)> = (self.files.iter().enumerate())
            .map(|(place, (name, _))| (hasher.hash_one(clash_key(name.as_str())), place))
            .collect();
        hashes.sort_unstable();
        let mut refused = Vec::new();
        for group in hashes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let mut names: Vec<(&FileName, usize)> =
                group.iter().map(|(_, place)| (&self.files[*place].0, *place)).collect();
            names.sort_unstable();
            let mut first = HashMap::new();
            for (name, place) in names {
                match first.entry(clash_key(name.as_str())) {
                    Entry::Vacant(entry) => drop(entry.insert(name)),
                    Entry::Occupied(entry) => refused.push((place, FileName::clone(entry.get()))),
                }
            }
        }
        // From behind, so that the places in front stay what they are.
        refused.sort_unstable_by_key(|(place, _)| Reverse(*place));
        for (place, other) in refused {
            let (name, _) = self.files.swap_remove(place);
            self.skipped.push((name.to_string(), SkipReason::Clash(other)));
        }
    }

    fn skip(&mut self, prefix: &str, leaf: &CStr, why: SkipReason) {
        let path = format!("{prefix}{}", leaf.to_bytes().escape_ascii());
        // A name that is UTF-8 is shown as it is, but never so that it can move a cursor.
        let path = leaf.to_str().map_or(path, |text| format!("{prefix}{}", text.escape_debug()));
        self.skipped.push((path, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_finds_regular_files_only_and_says_why_the_rest_is_not_shared() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("sub/empty")).unwrap();
        fs::create_dir_all(path("con")).unwrap();
        fs::create_dir_all(path(".enxame")).unwrap();
        for name in [
            "plain",
            "sub/größe 🐝",
            "con/file",
            "bad\nname",
            ".enxame/index",
            ".enxame-1.part",
            "sub/.enxame-1.want",
        ] {
            fs::write(path(name), "12345").unwrap();
        }
        fs::write(root.path().join(OsStr::from_bytes(b"sub/\xff")), "x").unwrap();
        symlink("/etc/passwd", path("passwd")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink("/etc", path("etc")).unwrap();
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();

        let folder = Folder::open(root.path()).unwrap();
        let Scan { mut files, mut skipped, notes } = walk(&folder).unwrap();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["plain", "sub/größe 🐝"]);
        assert_eq!(notes, ["sub/.enxame-1.want"]);
        for (name, stamp) in &files {
            assert_eq!(*stamp, folder.open_file(name).unwrap().1, "the walk and the handle agree");
        }
        skipped.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("bad\\nname", SkipReason::Name(NameError::Character('\n'))),
            ("con", SkipReason::Name(NameError::Reserved)),
            ("dangling", SkipReason::NotRegular),
            ("etc", SkipReason::NotRegular),
            ("fifo", SkipReason::NotRegular),
            ("passwd", SkipReason::NotRegular),
            ("socket", SkipReason::NotRegular),
            ("sub/\\xff", SkipReason::NotUtf8),
        ];
        assert_eq!(skipped, expected.map(|(path, why)| (path.to_owned(), why)));
    }

    #[test]
    fn of_names_that_are_one_elsewhere_the_first_is_shared_and_the_others_name_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        for name in ["README", "ReadMe", "readme", "sub/é", "sub/e\u{301}", "sub/E", "e", "other"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let folder = Folder::open(root.path()).unwrap();
        let Scan { mut files, mut skipped, .. } = walk(&folder).unwrap();
        files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["README", "e", "other", "sub/E", "sub/e\u{301}"]);
        skipped.sort_by(|a, b| a.0.cmp(&b.0));
        let clash = |with: &str| SkipReason::Clash(with.parse().unwrap());
        let expected =
            [("ReadMe", clash("README")), ("readme", clash("README")), ("sub/é", clash("sub/e\u{301}"))];
        assert_eq!(skipped, expected.map(|(path, why)| (path.to_owned(), why)));
        assert!(skipped[0].1.to_string().contains("README"));
    }

    #[test]
    fn it_goes_as_deep_as_names_may_and_no_deeper() {
        let root = tempfile::tempdir().unwrap();
        let deep = |folders: usize| vec!["d"; folders].join("/");
        fs::create_dir_all(root.path().join(deep(40))).unwrap();
        fs::write(root.path().join(deep(31)).join("file"), "").unwrap();
        fs::write(root.path().join(deep(32)).join("file"), "").unwrap();
        let scan = walk(&Folder::open(root.path()).unwrap()).unwrap();
        assert_eq!(scan.files.len(), 1);
        // The 32nd folder is entered, what is in it is refused.
        assert!(scan.skipped.iter().all(|(_, why)| *why == SkipReason::Name(NameError::TooDeep(33))));
        assert_eq!(scan.skipped.len(), 2);
    }
}
