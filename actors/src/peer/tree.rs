//! A wanted folder: what trackers list of it, and how much of that was taken up.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::limits::{MAX_PAGE_ENTRIES, MAX_TREE_FILES};
use crate::base::{FileId, FileName, What};
use crate::content::folder::Folder;
use crate::peer::downloader::Destination;
use crate::peer::events::JobError;
use crate::wire::tracker::ListedFile;

/// What is in it is taken up in the order of names, as much at a time as there may be.
pub(super) struct Tree {
    pub what: What,
    pub to: Destination,
    /// The last line that was listed.
    after: Option<(FileName, FileId)>,
    is_more: bool,
    is_listing: bool,
    /// Lines that were not taken up; those of one name stand together.
    listed: VecDeque<ListedFile>,
    /// Files whose holders are being asked for.
    pub resolving: usize,
    /// Lines that were listed, and how many it may be.
    lines: usize,
    most: usize,
    /// Whether there is more than a job takes.
    is_cut_off: bool,
}

impl Tree {
    /// Nothing of it is listed.
    pub(super) fn new(what: What, to: Destination) -> Tree {
        Tree {
            what,
            to,
            after: None,
            is_more: true,
            is_listing: false,
            listed: VecDeque::new(),
            resolving: 0,
            lines: 0,
            most: MAX_TREE_FILES,
            is_cut_off: false,
        }
    }

    /// Which page is to be asked for now, if one is: how its names begin, and behind which line. It counts
    /// as asked for from here on.
    pub(super) fn next_page(&mut self) -> Option<(String, Option<(FileName, FileId)>)> {
        if !self.is_more || self.is_listing || self.listed.len() > MAX_PAGE_ENTRIES {
            return None;
        }
        self.is_listing = true;
        Some((self.what.tree().unwrap_or_default().to_owned(), self.after.clone()))
    }

    /// Takes the page in, up to [`MAX_TREE_FILES`] lines in all.
    pub(super) fn list(&mut self, mut files: Vec<ListedFile>, is_more: bool) {
        self.is_listing = false;
        if self.is_cut_off {
            return;
        }
        let room = self.most - self.lines;
        self.is_cut_off = files.len() > room || (is_more && files.len() == room);
        files.truncate(room);
        self.is_more = is_more && !self.is_cut_off;
        self.lines += files.len();
        if let Some(last) = files.last() {
            self.after = Some((last.name.clone(), last.id));
        }
        for file in files {
            // That a name has several contents is all that counts here.
            let same = self.listed.iter().rev().take_while(|other| other.name == file.name).count();
            if same < 2 {
                self.listed.push_back(file);
            }
        }
    }

    /// There is no room for more of its files: what is listed is given up.
    pub(super) fn cut_off(&mut self) {
        self.is_cut_off = true;
        self.is_more = false;
        self.listed.clear();
    }

    /// The next names to take up, each with its content, if it has but one.
    pub(super) fn take(&mut self, most: usize) -> Vec<(FileName, Option<FileId>)> {
        let mut taken: Vec<(FileName, Option<FileId>)> = Vec::new();
        // Further contents of the last name may stand on the next page.
        let last = self.listed.back().filter(|_| self.is_more).map(|file| file.name.clone());
        while let Some(file) = self.listed.front().filter(|file| Some(&file.name) != last.as_ref()) {
            let is_full = taken.len() == most;
            match taken.last_mut() {
                Some((name, id)) if *name == file.name => *id = None,
                _ if is_full => break,
                _ => taken.push((file.name.clone(), Some(file.id))),
            }
            self.listed.pop_front();
        }
        taken
    }

    /// Where a file of it goes: to this folder, under this name.
    pub(super) fn place_of(&self, name: &FileName) -> Option<(Arc<Folder>, FileName)> {
        let rest = name.as_str().strip_prefix(self.what.tree()?)?;
        match &self.to {
            Destination::Share(folder) => Some((Arc::clone(folder), name.clone())),
            Destination::Folder(folder) => Some((Arc::clone(folder), rest.parse().ok()?)),
            Destination::File { folder, name } => {
                Some((Arc::clone(folder), format!("{name}/{rest}").parse().ok()?))
            }
            Destination::Stream(_) => None,
        }
    }

    /// Whether all that is listed was taken up, and nothing else will be listed.
    pub(super) fn is_over(&self) -> bool {
        !self.is_more && !self.is_listing && self.listed.is_empty() && self.resolving == 0
    }

    /// Why it is not the whole folder that was taken up, when it is over.
    pub(super) fn failure(&self) -> Option<JobError> {
        match self {
            Tree { is_cut_off: true, .. } => Some(JobError::TooManyFiles(self.most)),
            Tree { lines: 0, .. } => Some(JobError::NobodyHasIt),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(numbers: std::ops::Range<u32>) -> Vec<ListedFile> {
        let line = |number| ListedFile {
            name: format!("tree/{number:07}").parse().unwrap(),
            id: FileId::from_bytes([1; 32]),
            size: 1,
            holders: 1,
        };
        numbers.map(line).collect()
    }

    /// A folder of which so many lines are read.
    fn tree(most: usize) -> Tree {
        let folder = Arc::new(Folder::open(std::path::Path::new("/")).unwrap());
        Tree { most, ..Tree::new("tree/".parse().unwrap(), Destination::Folder(folder)) }
    }

    /// Lists pages without an end, as long as it asks for them, and takes up what it can; how many files
    /// that is, and the most lines that it ever had.
    fn list_for_ever(tree: &mut Tree, page_len: u32) -> (usize, usize) {
        let (mut next, mut taken, mut most) = (0, 0, 0);
        while !tree.is_over() {
            if let Some((prefix, after)) = tree.next_page() {
                assert_eq!(prefix, "tree/");
                assert_eq!(after.map(|(name, _)| name), page(0..next).pop().map(|last| last.name));
                tree.list(page(next..next + page_len), true);
                next += page_len;
            }
            most = most.max(tree.listed.len());
            taken += tree.take(7).len();
        }
        (taken, most)
    }

    #[test]
    fn a_folder_without_an_end_is_taken_up_to_the_cap_and_told_as_too_large() {
        for page_len in [1, 7, 10, 1000] {
            let mut tree = tree(100);
            let (taken, most) = list_for_ever(&mut tree, page_len);
            assert_eq!(taken, 100, "pages of {page_len}");
            assert!(most <= MAX_PAGE_ENTRIES + page_len as usize);
            let failure = tree.failure().unwrap();
            assert!(matches!(failure, JobError::TooManyFiles(100)) && !failure.may_pass());
        }
    }

    #[test]
    fn a_folder_that_fills_the_cap_exactly_is_whole() {
        let mut tree = tree(100);
        tree.next_page().unwrap();
        tree.list(page(0..100), false);
        assert_eq!(tree.take(1000).len(), 100);
        assert!(tree.is_over() && tree.failure().is_none());
    }

    #[test]
    fn a_folder_that_is_cut_off_asks_for_no_more_and_is_over_when_its_answers_are_there() {
        let mut tree = tree(100);
        tree.next_page().unwrap();
        tree.list(page(0..20), true);
        tree.resolving = tree.take(10).len();
        tree.cut_off();
        assert!(tree.next_page().is_none() && tree.take(10).is_empty() && !tree.is_over());
        tree.resolving = 0;
        assert!(tree.is_over() && matches!(tree.failure(), Some(JobError::TooManyFiles(100))));
    }

    #[test]
    fn an_empty_folder_is_nobodys() {
        let mut tree = tree(100);
        tree.next_page().unwrap();
        tree.list(Vec::new(), false);
        assert!(tree.is_over() && matches!(tree.failure(), Some(JobError::NobodyHasIt)));
    }
}
