//! Many small files at a time: each of one span, proved by its id alone, and had as soon as it is written.
//!
//! They are written under the hidden names of part files, then all of them are made durable by one
//! `syncfs`, then each gets its final name. So a final name never stands on data that a power loss
//! could take away, and nobody waits for the disk once per file. What is cut off in between leaves part
//! files, of which the next download takes what is right.
//!
//! A part that is written here is not locked and not kept open, for there are thousands. That nobody has
//! changed it shows in its stamp, which is looked at in front of the rename.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat, syncfs};
use rustix::io::Errno;

use super::folder::{Folder, Stamp, publish};
use super::part::{Existing, FINISHED_AGE, FINISHED_MODE, PartError, existing, part_name, remove};
use super::tree::Proof;
use crate::base::FileName;

/// A file whose data stands in its part file.
#[derive(Debug)]
pub struct Written {
    folder: Arc<Folder>,
    target: FileName,
    proof: Proof,
    stamp: Stamp,
}

/// What became of data that was to be written.
#[derive(Debug)]
pub enum Small {
    /// It is in the part file.
    Written(Written),
    /// It is not of the file. Nothing was written.
    Wrong,
    /// There is a part file already, or none can be made: this is for
    /// [`PartFile`](super::part::PartFile), which sees to that or says why not.
    Unusual,
}

/// The folder that was used last: files come in the order of their names.
#[derive(Default)]
pub struct SmallFiles {
    last: Option<(Arc<Folder>, String, OwnedFd)>,
}

/// The name of the folder in which a file stands, with its `/`.
fn parent(target: &FileName) -> &str {
    target.as_str().strip_suffix(target.last()).unwrap_or_default()
}

impl SmallFiles {
    /// The folder of a file, as `open` opens it if it is not the last one.
    fn dir(
        &mut self,
        folder: &Arc<Folder>,
        target: &FileName,
        open: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<&OwnedFd> {
        let last = self.last.take();
        let last = last.filter(|(of, path, _)| Arc::ptr_eq(of, folder) && path == parent(target));
        let last = match last {
            Some(last) => last,
            None => (Arc::clone(folder), parent(target).to_owned(), open()?),
        };
        Ok(&self.last.insert(last).2)
    }

    /// Verifies the data of a file of one span, and writes it into a new part file.
    ///
    /// # Errors
    /// Writing failed; the part is gone again.
    pub fn write(
        &mut self,
        folder: &Arc<Folder>,
        target: &FileName,
        proof: &Proof,
        data: &[u8],
    ) -> io::Result<Small> {
        if !proof.geometry().is_single() || !proof.verify(proof.geometry().last_span(), data) {
            return Ok(Small::Wrong);
        }
        let Ok(dir) = self.dir(folder, target, || folder.create_parents(target)) else {
            return Ok(Small::Unusual);
        };
        let part = part_name(proof.id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // The rights that it will have: what is in it was verified.
        let Ok(file) = openat(dir, &part, flags, Mode::from_raw_mode(FINISHED_MODE)) else {
            return Ok(Small::Unusual);
        };
        let mut file = File::from(file);
        let written = file.write_all(data).and_then(|()| {
            if let Err(error) = file.set_modified(SystemTime::now() - FINISHED_AGE) {
                log::debug!("{part}: its time cannot be set: {error}");
            }
            Stamp::of(&file)
        });
        match written {
            Ok(stamp) => {
                let (folder, target, proof) = (Arc::clone(folder), target.clone(), proof.clone());
                Ok(Small::Written(Written { folder, target, proof, stamp }))
            }
            Err(error) => {
                remove(dir, &part)?;
                Err(error)
            }
        }
    }
}

/// Makes all that was written durable, and gives each file its final name. If the same content stands
/// there already, that is as good: the part goes. The answers are in the order of the files.
pub fn publish_all(files: Vec<Written>, overwrite: bool) -> Vec<Result<Stamp, PartError>> {
    let mut folders = SmallFiles::default();
    // One error for all of a file system: which files it took, nobody tells.
    let mut synced: BTreeMap<u64, Result<(), Errno>> = BTreeMap::new();
    for file in &files {
        if let Ok(dir) = folders.dir(&file.folder, &file.target, || file.open_dir()) {
            synced.entry(file.stamp.device).or_insert_with(|| syncfs(dir));
        }
    }
    let published = files.into_iter().map(|file| {
        let disk = |source| PartError::Disk { path: file.path(), source };
        let dir = folders.dir(&file.folder, &file.target, || file.open_dir()).map_err(disk)?;
        match synced.get(&file.stamp.device) {
            Some(Ok(())) => file.publish(dir, overwrite),
            failed => {
                // What the kernel shows of it may not be what the disk has: it has to be fetched again.
                remove(dir, &part_name(file.proof.id())).map_err(disk)?;
                let error = failed.and_then(|synced| synced.err()).unwrap_or(Errno::IO);
                Err(disk(error.into()))
            }
        }
    });
    published.collect()
}

impl Written {
    fn open_dir(&self) -> io::Result<OwnedFd> {
        self.folder.open_folder(parent(&self.target))
    }

    fn path(&self) -> PathBuf {
        self.folder.path_of(&self.target)
    }

    fn publish(&self, dir: &OwnedFd, overwrite: bool) -> Result<Stamp, PartError> {
        let disk = |source| PartError::Disk { path: self.path(), source };
        let stamp_of = |name: &str| {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.map(|stat| Stamp::from_stat(&stat)).map_err(|error| disk(error.into()))
        };
        let part = part_name(self.proof.id());
        if stamp_of(&part)? != self.stamp {
            return Err(PartError::Locked(self.path().with_file_name(part)));
        }
        match publish(dir, &part, self.target.last(), overwrite) {
            Ok(()) => stamp_of(self.target.last()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let (id, size) = (self.proof.id(), self.proof.geometry().size());
                let never = AtomicBool::new(false);
                match existing(&self.folder, &self.target, id, size, &never).map_err(disk)? {
                    Existing::Same(stamp) => {
                        remove(dir, &part).map_err(disk)?;
                        Ok(stamp)
                    }
                    Existing::Other | Existing::Nothing => Err(PartError::TargetExists(self.path())),
                }
            }
            Err(error) => Err(disk(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::part::PartFile;
    use crate::content::tree::tests::{SPAN, data, proof_of};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    struct Place {
        root: tempfile::TempDir,
        folder: Arc<Folder>,
    }

    impl Place {
        fn new() -> Place {
            let root = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::open(root.path()).unwrap());
            Place { root, folder }
        }

        fn write(&self, files: &mut SmallFiles, name: &str, bytes: &[u8]) -> Small {
            files.write(&self.folder, &name.parse().unwrap(), &proof_of(bytes), bytes).unwrap()
        }

        fn written(&self, name: &str, bytes: &[u8]) -> Written {
            match self.write(&mut SmallFiles::default(), name, bytes) {
                Small::Written(written) => written,
                other => panic!("{name}: {other:?}"),
            }
        }

        fn read(&self, name: &str) -> Option<Vec<u8>> {
            fs::read(self.root.path().join(name)).ok()
        }

        /// Every name but those of folders.
        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.root.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !self.root.path().join(name).is_dir())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_final_name_appears_with_the_whole_content_and_not_before_it_is_published() {
        let place = Place::new();
        let mut files = SmallFiles::default();
        let mut written = Vec::new();
        for (name, size) in [("a/x", 0), ("a/y", 1), ("b/x", 4097), ("top", SPAN), ("a/z", 4096)] {
            match place.write(&mut files, name, &data(size)) {
                Small::Written(file) => written.push(file),
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(place.read(name), None, "{name}");
        }
        for published in publish_all(written, false) {
            published.unwrap();
        }
        for (name, size) in [("a/x", 0), ("a/y", 1), ("b/x", 4097), ("top", SPAN), ("a/z", 4096)] {
            assert_eq!(place.read(name).as_deref(), Some(&data(size)[..]), "{name}");
            let (file, stamp) = place.folder.open_file(&name.parse().unwrap()).unwrap();
            assert!(stamp.is_settled_at(super::super::folder::now_ns()), "{name}");
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o666 & !super::super::part::umask(), "{name}");
        }
        assert_eq!(place.names(), ["top"], "no part file is left");
    }

    #[test]
    fn wrong_data_reaches_no_disk_and_an_older_part_file_is_for_others() {
        let place = Place::new();
        let (right, mut wrong) = (data(4096), data(4096));
        wrong[4095] ^= 1;
        let mut files = SmallFiles::default();
        let name: FileName = "x".parse().unwrap();
        let wrote = files.write(&place.folder, &name, &proof_of(&right), &wrong).unwrap();
        assert!(matches!(wrote, Small::Wrong));
        let large = data(2 * SPAN);
        let wrote = files.write(&place.folder, &name, &proof_of(&large), &large).unwrap();
        assert!(matches!(wrote, Small::Wrong), "it is not of one span");
        assert_eq!(place.names(), <[String; 0]>::default());

        let part = PartFile::open(&place.folder, &name, &proof_of(&right)).unwrap();
        assert!(matches!(place.write(&mut files, "x", &right), Small::Unusual));
        drop(part);
        assert!(matches!(place.write(&mut files, "x", &right), Small::Unusual), "locked or not");
        fs::write(place.root.path().join("file"), "in the way of a folder").unwrap();
        assert!(matches!(place.write(&mut files, "file/x", &data(1)), Small::Unusual));
    }

    #[test]
    fn what_stands_there_or_was_changed_meanwhile_is_not_replaced_by_accident() {
        let place = Place::new();
        let [same, other, replaced, changed] = [1, 2, 3, 4].map(data);
        let written = vec![place.written("same", &same), place.written("other", &other)];
        place.folder.open_file(&"same".parse().unwrap()).unwrap_err();
        fs::write(place.root.path().join("same"), &same).unwrap();
        fs::write(place.root.path().join("other"), "mine").unwrap();
        let published = publish_all(written, false);
        assert!(matches!(published[..], [Ok(_), Err(PartError::TargetExists(_))]), "{published:?}");
        assert_eq!(place.read("other").as_deref(), Some(&b"mine"[..]));

        let written = place.written("replaced", &replaced);
        fs::write(place.root.path().join("replaced"), "older").unwrap();
        publish_all(vec![written], true).pop().unwrap().unwrap();
        assert_eq!(place.read("replaced"), Some(replaced));

        let written = place.written("changed", &changed);
        let part = place.root.path().join(part_name(proof_of(&changed).id()));
        fs::write(part, "something else").unwrap();
        let published = publish_all(vec![written], false);
        assert!(matches!(published[..], [Err(PartError::Locked(_))]), "{published:?}");
        assert_eq!(place.read("changed"), None);
    }
}
