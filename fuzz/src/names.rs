//! Names, ids and wishes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use enxame_actors::base::limits::{MAX_COMPONENT_BYTES, MAX_NAME_BYTES, MAX_NAME_DEPTH, RESERVED_PREFIX};
use enxame_actors::base::{FileId, FileName, IdPrefix, PeerId, What};
use enxame_actors::content::{Folder, clash_key, walk};
use enxame_actors::net::TrackerAddress;

/// A text that is taken for a name reads back the same bytes, stays below the folder, and a file of that
/// name can be made, is found by a walk and opened. A file of any other path is not.
pub fn names(bytes: &[u8]) {
    let name = str::from_utf8(bytes).ok().and_then(|text| {
        read_back(text);
        text.parse::<FileName>().ok().inspect(|name| is_harmless(name, text))
    });
    is_what_is_found_on_disk(bytes, name.as_ref());
}

fn is_harmless(name: &FileName, text: &str) {
    assert_eq!(name.as_str(), text);
    assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
    let parts: Vec<Component<'_>> = Path::new(text).components().collect();
    assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))));
    assert_eq!(parts.len(), name.components().count());
    assert!((1..=MAX_NAME_DEPTH).contains(&parts.len()));
    assert_eq!(name.components().next_back(), Some(name.last()));
    for part in name.components() {
        assert!((1..=MAX_COMPONENT_BYTES).contains(&part.len()));
        assert!(!part.chars().any(|c| c.is_control() || "/\\\u{202e}\u{2066}\u{feff}".contains(c)));
        assert!(!part.ends_with(['.', ' ']));
        assert!(!part.to_lowercase().starts_with(RESERVED_PREFIX));
        assert!(part.parse::<FileName>().is_ok(), "a part of a name is a name");
    }
    let key = clash_key(text);
    assert_eq!(clash_key(&key), key);
    let upper: String = key.chars().flat_map(char::to_uppercase).collect();
    assert_eq!(clash_key(&upper), key);
    assert!(text.as_bytes().get(1) != Some(&b':') || !text.as_bytes()[0].is_ascii_alphabetic());
}

/// What else people type.
fn read_back(text: &str) {
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.as_str(), text);
        assert!(Path::new(text).components().eq([Component::Normal(text.as_ref())]));
    }
    if let Ok(id) = text.parse::<FileId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(prefix) = text.parse::<IdPrefix>() {
        assert_eq!(prefix.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(what) = text.parse::<What>() {
        assert_eq!(what.to_string(), text);
        assert!(what.tree().is_some() == what.questions().is_empty());
    }
    if let Ok(address) = text.parse::<TrackerAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}

/// Makes a file at this path below a folder, where the system lets us, as any program could.
fn is_what_is_found_on_disk(bytes: &[u8], name: Option<&FileName>) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let share = root.path().join("files");
    fs::create_dir(&share).expect("it was just made");
    let path = Path::new(OsStr::from_bytes(bytes));
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    let made =
        is_below && path.parent().is_some_and(|parent| fs::create_dir_all(share.join(parent)).is_ok()) && {
            let path = share.join(path);
            !path.as_os_str().as_bytes().ends_with(b"/") && fs::write(path, "x").is_ok()
        };
    assert!(made || name.is_none(), "an accepted name is one that a file can have");
    let folder = Folder::open(&share).expect("it was just made");
    let scan = walk(&folder).expect("it was just made");
    // Where a path is written in another way than it is shown (`a//b`), it is another name.
    let found: Vec<&[u8]> = scan.files.iter().map(|(name, _)| name.as_str().as_bytes()).collect();
    match name {
        Some(name) => {
            assert_eq!(found, [bytes]);
            let (_, stamp) = folder.open_file(name).expect("it was found");
            assert_eq!(scan.files, [(name.clone(), stamp)]);
        }
        None => assert!(!found.contains(&bytes)),
    }
    let outside: Vec<_> = fs::read_dir(root.path()).expect("it was just made").collect();
    assert_eq!(outside.len(), 1, "nothing stands beside the folder");
}
