//! Who held which content when we last heard of it: for the time when no tracker answers, and for
//! getters that ask us whom else to ask.

use std::collections::{BTreeMap, HashMap};

use crate::base::limits::{MAX_ANSWER_HOLDERS, MAX_ANSWER_NAMES, MAX_REMEMBERED_FILES};
use crate::base::{FileId, FileName, PeerId, Question, What};
use crate::wire::tracker::{Candidate, Holder};

/// A content, as a tracker tells it.
type Key = (FileId, u64);

/// Contents and their holders: those heard of last, as many as there may be.
#[derive(Debug, Default)]
pub struct Remembered {
    /// By when they were last heard of, the oldest first.
    by_age: BTreeMap<u64, Candidate>,
    ages: HashMap<Key, u64>,
    next_age: u64,
}

impl Remembered {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// Enters what trackers answered to a question. Nothing is forgotten because nobody has it now: a
    /// tracker that was just restarted knows nobody.
    pub fn learn(&mut self, question: &Question, candidates: &[Candidate]) {
        if let (Question::Name { name, prefix: None }, false) = (question, candidates.is_empty()) {
            self.rename(name, candidates);
        }
        candidates.iter().for_each(|candidate| self.enter(candidate));
    }

    /// Enters a content and holders of it.
    pub fn enter(&mut self, told: &Candidate) {
        let key = (told.id, told.size);
        let known = self.ages.remove(&key).and_then(|age| self.by_age.remove(&age));
        let mut candidate = told.clone();
        if let Some(known) = known {
            candidate.names.extend(known.names);
            candidate.names.sort_unstable();
            candidate.names.dedup();
            let is_told = |holder: &Holder| told.holders.iter().any(|told| told.peer == holder.peer);
            candidate.holders.extend(known.holders.into_iter().filter(|holder| !is_told(holder)));
        }
        candidate.names.truncate(MAX_ANSWER_NAMES);
        // Those that were told just now stand in front.
        candidate.holders.truncate(MAX_ANSWER_HOLDERS);
        candidate.holder_count = candidate.holders.len() as u32;
        if candidate.holders.is_empty() {
            return;
        }
        self.ages.insert(key, self.next_age);
        self.by_age.insert(self.next_age, candidate);
        self.next_age += 1;
        if self.by_age.len() > MAX_REMEMBERED_FILES
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.ages.remove(&(oldest.id, oldest.size));
        }
    }

    /// A name stands for these contents now, and for no others any more.
    fn rename(&mut self, name: &FileName, now: &[Candidate]) {
        for known in self.by_age.values_mut() {
            if !now.iter().any(|candidate| candidate.id == known.id) {
                known.names.retain(|known| known != name);
            }
        }
    }

    /// What fits, as a tracker would answer: for the first meaning that anything fits.
    pub fn find(&self, what: &What) -> Vec<Candidate> {
        let fits = |question: &Question, candidate: &Candidate| match question {
            Question::Name { name, prefix } => {
                candidate.names.contains(name) && prefix.is_none_or(|prefix| prefix.matches(&candidate.id))
            }
            Question::Prefix(prefix) => prefix.matches(&candidate.id),
        };
        let mut fitting = what.questions().iter().map(|question| {
            let mut found: Vec<Candidate> =
                self.by_age.values().filter(|candidate| fits(question, candidate)).cloned().collect();
            found.sort_unstable_by_key(|candidate| (candidate.id, candidate.size));
            found
        });
        fitting.find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// Who holds this content, besides `asker`: those heard of last first, each once.
    pub fn holders(&self, id: &FileId, asker: &PeerId) -> Vec<Holder> {
        let mut holders: Vec<Holder> = Vec::new();
        for candidate in self.find(&What::from(*id)) {
            for holder in candidate.holders {
                if holder.peer != *asker && !holders.iter().any(|known| known.peer == holder.peer) {
                    holders.push(holder);
                }
            }
        }
        holders.truncate(MAX_ANSWER_HOLDERS);
        holders
    }

    /// All of it, what was heard of last first.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.by_age.values().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(peer: &str, port: u16) -> Holder {
        Holder { peer: peer.parse().unwrap(), address: ([10, 0, 0, 1], port).into(), complete: true }
    }

    fn id(number: u32) -> FileId {
        let mut bytes = [0xab; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        FileId::from_bytes(bytes)
    }

    fn candidate(number: u32, name: &str, holders: Vec<Holder>) -> Candidate {
        let names = vec![name.parse().unwrap()];
        Candidate { id: id(number), size: 5, names, holder_count: holders.len() as u32, holders }
    }

    fn by_name(name: &str) -> Question {
        Question::Name { name: name.parse().unwrap(), prefix: None }
    }

    fn what(text: &str) -> What {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_told_is_found_by_name_id_and_prefix() {
        let mut known = Remembered::default();
        let told = candidate(7, "dir/a", vec![holder("p1", 1)]);
        known.learn(&by_name("dir/a"), std::slice::from_ref(&told));
        for text in ["dir/a".to_string(), id(7).to_string(), id(7).to_string()[..8].into(), "dir/a@00".into()]
        {
            assert_eq!(known.find(&what(&text)), std::slice::from_ref(&told), "{text}");
        }
        for text in ["a", "dir/a@01", &id(8).to_string()] {
            assert_eq!(known.find(&what(text)), [], "{text}");
        }
    }

    #[test]
    fn holders_told_last_stand_in_front_and_the_others_are_kept_up_to_the_cap() {
        let mut known = Remembered::default();
        known.enter(&candidate(1, "a", vec![holder("p1", 1), holder("p2", 2)]));
        known.enter(&candidate(1, "b", vec![holder("p3", 3), holder("p1", 9)]));
        let found = known.find(&what("a"));
        assert_eq!(found[0].holders, [holder("p3", 3), holder("p1", 9), holder("p2", 2)]);
        assert_eq!(found[0].holder_count, 3);
        assert_eq!(known.holders(&id(1), &"p1".parse().unwrap()), [holder("p3", 3), holder("p2", 2)]);
        let many = (0..60).map(|n| holder(&format!("q{n}"), 1)).collect();
        known.enter(&candidate(1, "a", many));
        let told = known.holders(&id(1), &"x".parse().unwrap());
        assert_eq!((told.len(), told[0].peer.as_str()), (MAX_ANSWER_HOLDERS, "q0"));
    }

    #[test]
    fn a_name_that_got_another_content_is_not_ambiguous_afterwards() {
        let mut known = Remembered::default();
        known.learn(&by_name("a"), &[candidate(1, "a", vec![holder("p1", 1)])]);
        known.learn(&by_name("a"), &[]);
        assert_eq!(known.find(&what("a")).len(), 1, "a tracker that knows nobody takes nothing away");
        known.learn(&by_name("a"), &[candidate(2, "a", vec![holder("p1", 1)])]);
        assert_eq!(known.find(&what("a")), [candidate(2, "a", vec![holder("p1", 1)])]);
        assert_eq!(known.find(&What::from(id(1))).len(), 1, "its old content is known by its id");
    }

    #[test]
    fn the_contents_heard_of_least_recently_make_room() {
        let mut known = Remembered::default();
        for number in 0..MAX_REMEMBERED_FILES as u32 {
            known.enter(&candidate(number, "a", vec![holder("p1", 1)]));
        }
        known.enter(&candidate(0, "a", vec![holder("p1", 1)]));
        known.enter(&candidate(5000, "a", vec![holder("p1", 1)]));
        assert_eq!(known.iter().count(), MAX_REMEMBERED_FILES);
        assert_eq!(known.ages.len(), MAX_REMEMBERED_FILES);
        assert_eq!(known.find(&What::from(id(0))).len(), 1, "it was heard of again");
        assert_eq!(known.find(&What::from(id(1))), []);
        assert_eq!(known.iter().next().unwrap().id, id(5000));
    }

    #[test]
    fn a_content_without_holders_is_not_remembered() {
        let mut known = Remembered::default();
        known.enter(&candidate(1, "a", Vec::new()));
        assert!(known.is_empty() && known.ages.is_empty());
    }
}
