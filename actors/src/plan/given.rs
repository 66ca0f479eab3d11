//! What a holder has given to whom, so that those who fetch together from a lone holder take each
//! span from it once before any takes one twice, and pass on to each other what they took.
//!
//! The holder counts and tells, the getter decides: who asks for spans that nobody else was given
//! (a *fresh* request) is answered TAKEN at the first that somebody was, with the set of all of
//! them, and so knows at once what is left to ask for. What a getter was given counts as long as its
//! connection lives: then it can pass it on.

use std::collections::HashMap;
use std::ops::Range;

use crate::base::{FileId, Geometry, SpanSet};

/// One upload connection; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u64);

/// What this holder has given of each file, to the getters that are connected.
#[derive(Debug, Default)]
pub struct Given {
    files: HashMap<FileId, Vec<(UploadId, SpanSet)>>,
}

impl Given {
    /// Up to which of these spans (of a file of this geometry, and not none) the getter may be sent
    /// now: to the end, or for a fresh request to the first that another one was given. They count
    /// as given to it from here on.
    pub fn give(
        &mut self,
        to: UploadId,
        id: FileId,
        geometry: &Geometry,
        spans: Range<u32>,
        is_fresh: bool,
    ) -> u32 {
        let getters = self.files.entry(id).or_default();
        let position = getters.iter().position(|(upload, _)| *upload == to).unwrap_or_else(|| {
            getters.push((to, SpanSet::empty(geometry)));
            getters.len() - 1
        });
        let mut end = spans.start;
        for span in spans.filter_map(|number| geometry.span(u64::from(number))) {
            let is_ours = getters[position].1.contains(span);
            if is_fresh && !is_ours && getters.iter().any(|(_, given)| given.contains(span)) {
                break;
            }
            getters[position].1.insert(span);
            end = span.number() + 1;
        }
        end
    }

    /// The spans of a file that others than this getter were given.
    pub fn to_others(&self, than: UploadId, id: FileId, geometry: &Geometry) -> SpanSet {
        let mut all = SpanSet::empty(geometry);
        let others = self.files.get(&id).into_iter().flatten().filter(|(upload, _)| *upload != than);
        others.for_each(|(_, given)| all.add_all(given));
        all
    }

    /// A getter is gone: what it alone was given was given to nobody.
    pub fn end(&mut self, upload: UploadId) {
        self.files.retain(|_, getters| {
            getters.retain(|(of, _)| *of != upload);
            !getters.is_empty()
        });
    }

    /// A getter has closed a file.
    pub fn close(&mut self, upload: UploadId, id: FileId) {
        if let Some(getters) = self.files.get_mut(&id) {
            getters.retain(|(of, _)| *of != upload);
            if getters.is_empty() {
                self.files.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = FileId::from_bytes([1; 32]);
    const A: UploadId = UploadId(1);
    const B: UploadId = UploadId(2);

    fn geometry() -> Geometry {
        Geometry::new(10 * 262_144).unwrap()
    }

    fn numbers(set: &SpanSet) -> Vec<u32> {
        geometry().all_spans().filter(|span| set.contains(*span)).map(|span| span.number()).collect()
    }

    #[test]
    fn a_fresh_request_ends_in_front_of_what_another_getter_was_given() {
        let (mut given, g) = (Given::default(), geometry());
        assert_eq!(given.give(A, ID, &g, 4..6, true), 6);
        assert_eq!(given.give(B, ID, &g, 2..8, true), 4);
        assert_eq!(given.give(B, ID, &g, 5..8, true), 5, "none of it");
        assert_eq!(numbers(&given.to_others(B, ID, &g)), [4, 5]);
        assert_eq!(numbers(&given.to_others(A, ID, &g)), [2, 3]);
        assert_eq!(given.give(A, ID, &g, 4..6, true), 6, "what it was given itself it may ask for again");
        assert_eq!(given.give(B, ID, &g, 3..6, false), 6, "who insists is given it");
        assert_eq!(given.give(B, FileId::from_bytes([2; 32]), &g, 3..6, true), 6, "another file");
    }

    #[test]
    fn what_a_getter_was_given_that_is_gone_is_fresh_again_and_nothing_is_kept_of_it() {
        let (mut given, g) = (Given::default(), geometry());
        given.give(A, ID, &g, 0..4, true);
        given.give(B, ID, &g, 4..6, true);
        given.give(B, ID, &g, 0..1, false);
        given.end(A);
        assert_eq!(numbers(&given.to_others(A, ID, &g)), [0, 4, 5]);
        given.close(B, ID);
        assert_eq!(given.files.len(), 0);
    }
}
