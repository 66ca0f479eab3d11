//! Several trackers are asked the same: their answers as one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::base::limits::{MAX_ANSWER_CANDIDATES, MAX_ANSWER_NAMES};
use crate::base::{FileId, FileName};
use crate::wire::tracker::{Candidate, Holder, ListedFile};

/// The candidates of all answers: each content once, in the order of ids and sizes, with the names and
/// holders of all; a holder once, where the first answer that names it says, and complete if any
/// says so. What several trackers count may be the same peers, so the count is the largest of theirs, or
/// how many are named.
pub fn merge_candidates(answers: impl IntoIterator<Item = Vec<Candidate>>) -> Vec<Candidate> {
    let mut merged: BTreeMap<(FileId, u64), Candidate> = BTreeMap::new();
    for candidate in answers.into_iter().flatten() {
        match merged.entry((candidate.id, candidate.size)) {
            Entry::Vacant(place) => {
                place.insert(candidate);
            }
            Entry::Occupied(mut place) => add(place.get_mut(), candidate),
        }
    }
    merged.into_values().take(MAX_ANSWER_CANDIDATES).collect()
}

fn add(to: &mut Candidate, from: Candidate) {
    to.names.extend(from.names);
    to.names.sort_unstable();
    to.names.dedup();
    to.names.truncate(MAX_ANSWER_NAMES);
    add_holders(&mut to.holders, from.holders);
    to.holder_count = to.holder_count.max(from.holder_count).max(to.holders.len() as u32);
}

fn add_holders(to: &mut Vec<Holder>, from: Vec<Holder>) {
    for holder in from {
        match to.iter_mut().find(|known| known.peer == holder.peer) {
            Some(known) => known.complete |= holder.complete,
            None => to.push(holder),
        }
    }
}

/// The pages that several trackers list behind the same line, as one page, and whether there is more.
/// Behind the end of a page that is not a tracker's last one nothing is taken: on its next page there
/// may be lines in front of it. The holders that two trackers count may be the same, so the larger
/// count is told.
pub fn merge_pages(pages: Vec<(Vec<ListedFile>, bool)>) -> (Vec<ListedFile>, bool) {
    let key = |file: &ListedFile| (file.name.clone(), file.id);
    // An empty page has nothing to go on behind.
    let ends = pages.iter().filter(|(_, is_more)| *is_more).filter_map(|(files, _)| files.last());
    let end = ends.map(key).min();
    let mut merged: BTreeMap<(FileName, FileId), ListedFile> = BTreeMap::new();
    for file in pages.into_iter().flat_map(|(files, _)| files) {
        let key = key(&file);
        if end.as_ref().is_some_and(|end| key > *end) {
            continue;
        }
        match merged.entry(key) {
            Entry::Occupied(known) if known.get().holders >= file.holders => {}
            Entry::Occupied(mut known) => *known.get_mut() = file,
            Entry::Vacant(place) => {
                place.insert(file);
            }
        }
    }
    (merged.into_values().collect(), end.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(peer: &str, port: u16, complete: bool) -> Holder {
        Holder { peer: peer.parse().unwrap(), address: ([10, 0, 0, 1], port).into(), complete }
    }

    fn candidate(id: u8, size: u64, names: &[&str], count: u32, holders: Vec<Holder>) -> Candidate {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        Candidate { id: FileId::from_bytes([id; 32]), size, names, holder_count: count, holders }
    }

    fn listed(name: &str, holders: u32) -> ListedFile {
        ListedFile { name: name.parse().unwrap(), id: FileId::from_bytes([1; 32]), size: 1, holders }
    }

    #[test]
    fn pages_of_several_trackers_are_one_page_that_leaves_no_line_out() {
        let short = vec![listed("a", 1), listed("c", 2)];
        let long = vec![listed("b", 1), listed("c", 3), listed("d", 1), listed("e", 1)];
        let all = vec![listed("a", 1), listed("b", 1), listed("c", 3), listed("d", 1), listed("e", 1)];
        let merged = |a: bool, b: bool| merge_pages(vec![(short.clone(), a), (long.clone(), b)]);
        assert_eq!(merged(false, false), (all.clone(), false));
        // Behind "c" the first one may have what nobody has told yet.
        assert_eq!(merged(true, false), (all[..3].to_vec(), true));
        assert_eq!(merged(false, true), (all.clone(), true));
        assert_eq!(merge_pages(vec![]), (vec![], false));
        assert_eq!(merge_pages(vec![(vec![], true)]), (vec![], false));
    }

    #[test]
    fn a_content_is_one_candidate_with_all_names_and_each_holder_once() {
        let first = vec![
            candidate(2, 9, &["b", "z"], 2, vec![holder("p1", 1, false), holder("p2", 2, true)]),
            candidate(1, 5, &["b"], 1, vec![holder("p9", 9, true)]),
        ];
        let second =
            vec![candidate(2, 9, &["a", "b"], 2, vec![holder("p1", 7, true), holder("p3", 3, false)])];
        assert_eq!(
            merge_candidates([first, Vec::new(), second]),
            [
                candidate(1, 5, &["b"], 1, vec![holder("p9", 9, true)]),
                candidate(
                    2,
                    9,
                    &["a", "b", "z"],
                    3,
                    vec![holder("p1", 1, true), holder("p2", 2, true), holder("p3", 3, false)]
                ),
            ]
        );
    }

    #[test]
    fn holders_that_state_another_size_stay_a_candidate_of_their_own() {
        let of = |size| vec![candidate(1, size, &["a"], 1, vec![holder("p1", 1, true)])];
        let sizes: Vec<u64> = merge_candidates([of(7), of(6), of(7)]).iter().map(|c| c.size).collect();
        assert_eq!(sizes, [6, 7]);
    }

    #[test]
    fn what_trackers_count_of_the_same_peers_is_not_added_up() {
        let of = |count, peer| vec![candidate(1, 1, &["a"], count, vec![holder(peer, 1, true)])];
        assert_eq!(merge_candidates([of(60, "p1"), of(55, "p2")])[0].holder_count, 60);
    }

    #[test]
    fn a_merged_answer_has_the_caps_of_a_single_one() {
        let many = |from: u8| (from..from + 60).map(|id| candidate(id, 1, &["a"], 1, Vec::new())).collect();
        assert_eq!(merge_candidates([many(0), many(60)]).len(), MAX_ANSWER_CANDIDATES);
        let names = |from: u32| {
            let names: Vec<String> = (from..from + 12).map(|n| n.to_string()).collect();
            vec![candidate(1, 1, &names.iter().map(String::as_str).collect::<Vec<_>>(), 1, Vec::new())]
        };
        assert_eq!(merge_candidates([names(100), names(200)])[0].names.len(), MAX_ANSWER_NAMES);
    }
}
