//! Where `get` puts what it fetches: what `-o PATH` means.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::failure::Failure;

/// Where the files of one `get` go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Into this folder, each under the last part of its name; of a wanted folder, what is in it.
    Folder(PathBuf),
    /// Into the current folder, as nobody has named another: a wanted folder becomes one there.
    Here,
    /// To this path.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

impl Destination {
    /// What `-o output` means for so many wanted files, with `--json` or without; a wanted folder is
    /// several files.
    ///
    /// # Errors
    /// Several files for one path, two uses of standard output; a folder that is missing or is none.
    pub(crate) fn new(output: Option<&Path>, wanted: usize, json: bool) -> Result<Destination, Failure> {
        let Some(path) = output else {
            return Ok(Destination::Here);
        };
        if path == Path::new("-") {
            return match (wanted, json) {
                (1, false) => Ok(Destination::Stdout),
                (1, true) => Err(usage("--json and -o - both want standard output; choose one")),
                _ => {
                    Err(usage("-o - writes one file to standard output; ask for one WHAT, or name a folder"))
                }
            };
        }
        if path.as_os_str().is_empty() {
            return Err(usage("-o needs a PATH; leave it out for the current folder"));
        }
        let says_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.is_dir() {
            Ok(Destination::Folder(path.into()))
        } else if wanted > 1 && path.exists() {
            Err(Failure::new(
                Exit::Disk,
                format!("{}: is no folder; several files need one, name it with -o", path.display()),
            ))
        } else if wanted > 1 || says_folder {
            require_parent(path)?;
            Ok(Destination::Folder(path.into()))
        } else {
            require_parent(path)?;
            Ok(Destination::File(path.into()))
        }
    }

    /// The folder into which files are put; none for standard output.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Destination::Folder(path) => Some(path),
            Destination::Here => Some(Path::new(".")),
            Destination::File(path) => Some(parent(path)),
            Destination::Stdout => None,
        }
    }

    /// Makes the folder if it is not there, for as long as the guard lives or something is in it:
    /// a command that fetched nothing leaves nothing behind.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn make_folder(&self) -> Result<Option<MadeFolder>, Failure> {
        let Destination::Folder(path) = self else { return Ok(None) };
        match fs::create_dir(path) {
            Ok(()) => Ok(Some(MadeFolder(path.clone()))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(Failure::disk(path, &error)),
        }
    }
}

/// A folder that was made for this command; it is removed again if nothing was put into it.
pub(crate) struct MadeFolder(PathBuf);

impl Drop for MadeFolder {
    fn drop(&mut self) {
        // Removes empty folders only, which is what is wanted.
        let _ = fs::remove_dir(&self.0);
    }
}

fn usage(message: &str) -> Failure {
    Failure::new(Exit::Usage, message)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn require_parent(path: &Path) -> Result<(), Failure> {
    let parent = parent(path);
    if parent.is_dir() {
        return Ok(());
    }
    let what = if parent.exists() { "is no folder" } else { "there is no such folder; make it first" };
    Err(Failure::new(Exit::Disk, format!("{}: {what}", parent.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(output: &Path, wanted: usize) -> Result<Destination, (Exit, String)> {
        Destination::new(Some(output), wanted, false).map_err(|failure| (failure.exit, failure.message))
    }

    #[test]
    fn a_path_is_a_folder_if_it_is_one_or_says_so_or_has_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();

        assert_eq!(Destination::new(None, 3, true).unwrap(), Destination::Here);
        assert_eq!(choose(dir.path(), 1), Ok(Destination::Folder(dir.path().into())));
        assert_eq!(choose(&at("new/"), 1), Ok(Destination::Folder(at("new/"))));
        assert_eq!(choose(&at("new"), 2), Ok(Destination::Folder(at("new"))));
        assert_eq!(choose(&at("new"), 1), Ok(Destination::File(at("new"))));
        assert_eq!(choose(&at("file"), 1), Ok(Destination::File(at("file"))));
        assert_eq!(choose(Path::new("new"), 1), Ok(Destination::File("new".into())));
        assert_eq!(choose(Path::new("-"), 1), Ok(Destination::Stdout));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "choosing makes nothing");
    }

    #[test]
    fn a_path_that_cannot_work_is_refused_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();

        for (path, wanted, exit, says) in [
            (at("missing/x"), 1, Exit::Disk, "missing: there is no such folder"),
            (at("missing/x"), 2, Exit::Disk, "missing: there is no such folder"),
            (at("missing/x/"), 1, Exit::Disk, "missing: there is no such folder"),
            (at("file/x"), 1, Exit::Disk, "file: is no folder"),
            (at("file"), 2, Exit::Disk, "file: is no folder"),
            ("-".into(), 2, Exit::Usage, "one file"),
            ("".into(), 1, Exit::Usage, "-o needs a PATH"),
        ] {
            let (code, message) = choose(&path, wanted).unwrap_err();
            assert_eq!(code, exit, "{}", path.display());
            assert!(message.contains(says), "{}: {message}", path.display());
        }
        let both = Destination::new(Some(Path::new("-")), 1, true).unwrap_err();
        assert_eq!(both.exit, Exit::Usage);
    }

    #[test]
    fn a_made_folder_stays_only_if_something_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Destination::Folder(dir.path().join("new"));
        let path = dir.path().join("new");

        let made = folder.make_folder().unwrap();
        assert!(path.is_dir());
        drop(made);
        assert!(!path.exists(), "an empty one is removed again");

        let made = folder.make_folder().unwrap();
        fs::write(path.join("x"), "x").unwrap();
        drop(made);
        assert!(path.join("x").exists());
        assert!(folder.make_folder().unwrap().is_none(), "it was there before");

        let blocked = Destination::Folder(path.join("x")).make_folder();
        assert!(blocked.is_ok_and(|made| made.is_none()), "what stands there is looked at when it is used");
    }
}
