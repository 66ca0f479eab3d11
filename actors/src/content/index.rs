//! The index of a shared folder: which content stands under which name, as of the last look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::cache::Cached;
use super::folder::Stamp;
use super::scan::Scan;
use super::tree::Proof;
use crate::base::{FileId, FileName};

/// A file of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the file looked like when it was hashed.
    pub stamp: Stamp,
    /// Its content.
    pub proof: Proof,
    /// Whether any change since then must show in the stamp (see [`Stamp::is_settled_at`]). If not,
    /// the file is hashed once more, and not entered in the cache until then.
    pub settled: bool,
}

/// Names and what stands under them, and the other way round.
#[derive(Debug, Default)]
pub struct Index {
    /// Shared with the comparison that runs on a blocking thread; a change meanwhile copies it.
    files: Arc<BTreeMap<FileName, Entry>>,
    names: HashMap<FileId, BTreeSet<FileName>>,
}

impl Index {
    /// What stands under a name.
    pub fn get(&self, name: &FileName) -> Option<&Entry> {
        self.files.get(name)
    }

    /// The names of a content, in order.
    pub fn names_of(&self, id: &FileId) -> impl Iterator<Item = &FileName> {
        self.names.get(id).into_iter().flatten()
    }

    /// All entries in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&FileName, &Entry)> {
        self.files.iter()
    }

    /// Enters a file; what stood under its name before.
    pub fn insert(&mut self, name: FileName, entry: Entry) -> Option<Entry> {
        let before = self.remove(&name);
        self.names.entry(entry.proof.id()).or_default().insert(name.clone());
        Arc::make_mut(&mut self.files).insert(name, entry);
        before
    }

    /// Takes a name out; what stood under it.
    pub fn remove(&mut self, name: &FileName) -> Option<Entry> {
        if !self.files.contains_key(name) {
            return None;
        }
        let entry = Arc::make_mut(&mut self.files).remove(name)?;
        let id = entry.proof.id();
        if let Some(names) = self.names.get_mut(&id) {
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&id);
            }
        }
        Some(entry)
    }

    /// The index as it is now, to compare a scan with.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(Arc::clone(&self.files))
    }
}

/// The index at one moment.
pub struct Snapshot(Arc<BTreeMap<FileName, Entry>>);

/// What a scan says that the index does not.
#[derive(Debug, Default)]
pub struct Changes {
    /// Names that are not there any more, with the stamp they had in the index.
    pub gone: Vec<(FileName, Stamp)>,
    /// Names that are new or whose file changed: to be hashed.
    pub fresh: Vec<(FileName, Stamp)>,
    /// Names that are new and whose content the cache knows.
    pub known: Vec<(FileName, Entry)>,
    /// Names that were hashed too soon after a change and can be hashed for good now.
    pub unsettled: Vec<(FileName, Stamp)>,
    /// Names that are new or changed, so lately that somebody may still be writing.
    pub busy: Vec<FileName>,
    /// Names that the cache knows and the folder does not have.
    pub forgotten: Vec<FileName>,
}

impl Snapshot {
    /// Compares with what a walk found, which began at `moment_ns`. A file whose content changed
    /// less than `quiet` ago counts as being written.
    pub fn compare(
        &self,
        mut scan: Scan,
        mut cached: HashMap<FileName, Cached>,
        moment_ns: i64,
        quiet: Duration,
    ) -> Changes {
        let mut changes = Changes::default();
        // In the order of the index: to walk both side by side, and to enter what is new in that order.
        scan.files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let gone = self.gone(&scan.files);
        for (name, stamp) in scan.files {
            let cached = cached.remove(&name);
            match self.0.get(&name) {
                Some(entry) if entry.stamp == stamp => {
                    if !entry.settled && stamp.is_settled_at(moment_ns) {
                        changes.unsettled.push((name, stamp));
                    }
                    continue;
                }
                Some(entry) => changes.gone.push((name.clone(), entry.stamp)),
                None => {}
            }
            if let Some(Cached { proof, .. }) = cached.filter(|cached| cached.stamp == stamp) {
                changes.known.push((name, Entry { stamp, proof, settled: true }));
            } else if stamp.is_within(moment_ns, quiet) {
                changes.busy.push(name);
            } else {
                changes.fresh.push((name, stamp));
            }
        }
        changes.gone.extend(gone);
        changes.forgotten = cached.into_keys().collect();
        changes
    }

    /// What is not among these files, which are in the order of their names.
    fn gone(&self, files: &[(FileName, Stamp)]) -> Vec<(FileName, Stamp)> {
        let mut files = files.iter().map(|(name, _)| name).peekable();
        let mut is_gone = |name: &FileName| {
            while files.next_if(|there| *there < name).is_some() {}
            files.peek() != Some(&name)
        };
        self.0
            .iter()
            .filter(|(name, _)| is_gone(name))
            .map(|(name, entry)| (name.clone(), entry.stamp))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::tree::tests::proof_of;
    use proptest::prelude::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn name(text: &str) -> FileName {
        text.parse().unwrap()
    }

    fn stamp(inode: u64, mtime_ns: i64) -> Stamp {
        Stamp { device: 1, inode, size: 3, mtime_ns, ctime_ns: mtime_ns }
    }

    fn entry(content: &str, stamp: Stamp, settled: bool) -> Entry {
        Entry { stamp, proof: proof_of(content.as_bytes()), settled }
    }

    #[test]
    fn each_difference_between_folder_and_index_is_told_once() {
        let now = 1000 * SECOND_NS;
        let old = |inode| stamp(inode, 10 * SECOND_NS + 1);
        let mut index = Index::default();
        index.insert(name("same"), entry("a", old(1), true));
        index.insert(name("changed"), entry("b", old(2), true));
        index.insert(name("gone"), entry("c", old(3), true));
        index.insert(name("racy"), entry("d", old(4), false));
        index.insert(name("racy still"), entry("e", stamp(5, now - 1), false));
        let scan = Scan {
            files: vec![
                (name("same"), old(1)),
                (name("changed"), stamp(2, 500 * SECOND_NS + 1)),
                (name("racy"), old(4)),
                (name("racy still"), stamp(5, now - 1)),
                (name("new"), old(6)),
                (name("known"), old(7)),
                (name("known otherwise"), old(8)),
                (name("being written"), stamp(9, now - 1)),
            ],
            skipped: vec![],
            ..Scan::default()
        };
        let known = Cached { stamp: old(7), proof: proof_of(b"f") };
        let cached = HashMap::from([
            (name("known"), known.clone()),
            (name("known otherwise"), known.clone()),
            (name("known and gone"), known),
        ]);
        let changes = index.snapshot().compare(scan, cached, now, Duration::from_millis(100));
        assert_eq!(changes.gone, [(name("changed"), old(2)), (name("gone"), old(3))]);
        let fresh = [
            (name("changed"), stamp(2, 500 * SECOND_NS + 1)),
            (name("known otherwise"), old(8)),
            (name("new"), old(6)),
        ];
        assert_eq!(changes.fresh, fresh);
        assert_eq!(changes.known, [(name("known"), entry("f", old(7), true))]);
        assert_eq!(changes.unsettled, [(name("racy"), old(4))]);
        assert_eq!(changes.busy, [name("being written")]);
        assert_eq!(changes.forgotten, [name("known and gone")]);
    }

    proptest! {
        #[test]
        fn both_directions_agree_whatever_is_entered_and_removed(
            steps in prop::collection::vec((any::<bool>(), 0u8..6, 0u8..3), 0..60)
        ) {
            let proofs: Vec<Proof> = (0u8..3).map(|content| proof_of(&[content])).collect();
            let mut index = Index::default();
            let mut model: BTreeMap<FileName, FileId> = BTreeMap::new();
            for (add, file, content) in steps {
                let name = name(&format!("n{file}"));
                let proof = proofs[usize::from(content)].clone();
                let before = if add {
                    let before = model.insert(name.clone(), proof.id());
                    prop_assert_eq!(index.insert(name, Entry { stamp: stamp(1, 1), proof, settled: true }).map(|e| e.proof.id()), before);
                    continue;
                } else {
                    model.remove(&name)
                };
                prop_assert_eq!(index.remove(&name).map(|e| e.proof.id()), before);
            }
            let ids: BTreeMap<FileName, FileId> = index.iter().map(|(n, e)| (n.clone(), e.proof.id())).collect();
            prop_assert_eq!(&ids, &model);
            for proof in &proofs {
                let named: Vec<&FileName> = index.names_of(&proof.id()).collect();
                let expected: Vec<&FileName> = model.iter().filter(|(_, id)| **id == proof.id()).map(|(n, _)| n).collect();
                prop_assert_eq!(named, expected);
            }
            prop_assert_eq!(index.names.values().map(BTreeSet::len).sum::<usize>(), model.len(), "no empty sets are kept");
        }
    }
}
