//! The file of remembered holders, in the state folder of a peer.
//!
//! It is a convenience: a file that is damaged or cannot be read is passed over, and replaced by the
//! next one. It is written whole, beside the old one, and renamed; nothing is synced. The layout: a
//! line that names it, the BLAKE3 hash of what follows, and a control frame per content, the one
//! heard of last first.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use rustix::fs::OFlags;

use crate::base::limits::MAX_REMEMBERED_BYTES;
use crate::plan::Remembered;
use crate::wire::codec::take;
use crate::wire::encode;
use crate::wire::frame::FrameLimits;
use crate::wire::tracker::Candidate;

const FILE_NAME: &str = "holders";
const NEW_NAME: &str = "holders.new";
/// The number is the version of the layout: another one is passed over.
const FIRST_LINE: &[u8] = b"enxame-holders-1\n";

/// What is remembered, from the file in this folder; nothing if there is none. What cannot be used is
/// warned of.
pub(super) fn load(folder: &Path) -> Remembered {
    let path = folder.join(FILE_NAME);
    let candidates = match read(&path) {
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Remembered::default(),
        Err(error) => Err(error.to_string()),
    };
    let mut remembered = Remembered::default();
    match candidates {
        // Entered last, it counts as heard of last.
        Ok(candidates) => candidates.iter().rev().for_each(|candidate| remembered.enter(candidate)),
        Err(why) => log::warn!("{}: remembered holders are not used: {why}", path.display()),
    }
    remembered
}

/// Writes the file, for nobody else to read. The folder is made if it is not there, but not the one
/// around it: a peer's folder that is gone stays gone.
///
/// # Errors
/// What the system says.
pub(super) fn save(folder: &Path, file: &[u8]) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let new = folder.join(NEW_NAME);
    // Left by a process that was killed while it wrote.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?.write_all(file)?;
    fs::rename(new, folder.join(FILE_NAME))
}

/// The file's bytes: as many contents as fit, those heard of last.
pub(super) fn to_bytes(remembered: &Remembered) -> Vec<u8> {
    let mut body = Vec::new();
    for candidate in remembered.iter() {
        let before = body.len();
        if encode(candidate, &mut body).is_err() || body.len() > MAX_REMEMBERED_BYTES {
            body.truncate(before);
            break;
        }
    }
    [FIRST_LINE, blake3::hash(&body).as_bytes(), &body].concat()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(2 * MAX_REMEMBERED_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Vec<Candidate>, String> {
    let rest = bytes.strip_prefix(FIRST_LINE).ok_or("it is not such a file, or of another version")?;
    let (hash, body) = rest.split_first_chunk::<32>().ok_or("it is cut short")?;
    if blake3::hash(body) != *hash {
        return Err("it is damaged".into());
    }
    let mut body = BytesMut::from(body);
    let mut candidates = Vec::new();
    while !body.is_empty() {
        let candidate = take(&mut body, FrameLimits::CONTROL).map_err(|error| error.to_string())?;
        candidates.push(candidate.ok_or("it is cut short")?);
    }
    Ok(candidates)
}

/// The folder in which a peer remembers, and whether it has to be written.
#[derive(Debug)]
pub struct Memory {
    /// Where the file is.
    pub folder: PathBuf,
    /// What was in it.
    pub remembered: Remembered,
}

impl Memory {
    /// Reads what is there.
    pub fn load(folder: PathBuf) -> Memory {
        let remembered = load(&folder);
        Memory { folder, remembered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FileId;
    use crate::wire::tracker::Holder;
    use std::os::unix::fs::PermissionsExt;

    fn candidate(number: u32, name_len: usize) -> Candidate {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let holder = |peer: &str| Holder {
            peer: peer.parse().unwrap(),
            address: "[2001:db8::7]:9".parse().unwrap(),
            complete: peer == "p1",
        };
        let part = "n".repeat(200) + "/";
        let name = part.repeat(name_len / 201) + &number.to_string();
        let holders = vec![holder("p1"), holder("p2")];
        Candidate {
            id: FileId::from_bytes(id),
            size: u64::from(number),
            names: vec![name.parse().unwrap()],
            holder_count: 2,
            holders,
        }
    }

    fn remembered(candidates: &[Candidate]) -> Remembered {
        let mut remembered = Remembered::default();
        candidates.iter().for_each(|candidate| remembered.enter(candidate));
        remembered
    }

    fn all(remembered: &Remembered) -> Vec<Candidate> {
        remembered.iter().cloned().collect()
    }

    #[test]
    fn what_was_saved_is_there_again_in_its_order_and_for_nobody_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(".enxame");
        assert!(load(&folder).is_empty(), "no file is no memory, and no warning");
        let known = remembered(&[candidate(1, 5), candidate(2, 900), candidate(3, 5)]);
        for _ in 0..2 {
            save(&folder, &to_bytes(&known)).unwrap();
            assert_eq!(all(&load(&folder)), all(&known));
        }
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(folder.join(FILE_NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(folder.join(NEW_NAME), "half of a fi").unwrap();
        save(&folder, &to_bytes(&remembered(&[candidate(9, 5)]))).unwrap();
        assert_eq!(all(&load(&folder)), [candidate(9, 5)]);
    }

    #[test]
    fn a_peers_folder_that_is_gone_is_not_made_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("p1/.enxame");
        assert_eq!(save(&folder, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!root.path().join("p1").exists());
    }

    #[test]
    fn damage_anywhere_in_the_file_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let whole = to_bytes(&remembered(&[candidate(1, 5), candidate(2, 5)]));
        let read_as = |bytes: &[u8]| {
            fs::write(root.path().join(FILE_NAME), bytes).unwrap();
            load(root.path())
        };
        assert!(!read_as(&whole).is_empty());
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(read_as(&damaged).is_empty(), "byte {at}");
            assert!(read_as(&whole[..at]).is_empty(), "cut at {at}");
        }
        // Frames that are no candidates, with the right hash.
        let body = b"\0\0\0\x01\0\xc0";
        let foreign = [FIRST_LINE, blake3::hash(body).as_bytes(), body].concat();
        assert!(read_as(&foreign).is_empty());
        fs::remove_file(root.path().join(FILE_NAME)).unwrap();
        fs::create_dir(root.path().join(FILE_NAME)).unwrap();
        assert!(load(root.path()).is_empty(), "a folder of that name");
    }

    #[test]
    fn a_file_has_at_most_so_many_bytes_and_keeps_what_was_heard_of_last() {
        let mut known = Remembered::default();
        for number in 0..900 {
            let mut candidate = candidate(number, 1000);
            let name = |n: usize| format!("{n}/{}", candidate.names[0].as_str().split_at(201).1);
            candidate.names = (0..16).map(|n| name(n).parse().unwrap()).collect();
            known.enter(&candidate);
        }
        let bytes = to_bytes(&known);
        assert!(bytes.len() < MAX_REMEMBERED_BYTES + 100 && bytes.len() > MAX_REMEMBERED_BYTES / 2);
        let read = parse(&bytes).unwrap();
        assert_eq!(read[0], *known.iter().next().unwrap());
        assert!((100..900).contains(&read.len()), "{}", read.len());
    }
}
