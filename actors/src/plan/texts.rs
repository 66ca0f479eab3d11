//! The texts of many names, close together.
//!
//! A text of its own on the heap costs a pointer, a length and what the allocator adds, which for a name
//! of usual length is as much again. Here a text is a place of eight bytes' granularity among others of
//! its length, and a place that is given up is taken again.

/// Texts are stored in steps of so many bytes.
const STEP_BYTES: usize = 8;
/// Fewer free bytes than this are left as they are.
const WORTH_MOVING_BYTES: usize = 16 << 20;

/// All texts.
#[derive(Debug)]
pub(super) struct Texts {
    /// Those of 1 to 8 bytes, those of 9 to 16, and so on.
    classes: Vec<Class>,
    /// Bytes of places in which there are texts, and of those that are free.
    kept_bytes: usize,
    free_bytes: usize,
}

#[derive(Debug, Default)]
struct Class {
    bytes: Vec<u8>,
    /// Places of texts that were removed.
    free: Vec<u32>,
}

/// Where a text stands; valid until it is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    place: u32,
    len_bytes: u16,
}

impl Text {
    fn class(self) -> usize {
        usize::from(self.len_bytes).div_ceil(STEP_BYTES)
    }

    fn start(self) -> usize {
        self.place as usize * self.class() * STEP_BYTES
    }

    /// Its length in bytes.
    pub(super) fn len_bytes(self) -> usize {
        usize::from(self.len_bytes)
    }
}

impl Texts {
    pub(super) const fn new() -> Texts {
        Texts { classes: Vec::new(), kept_bytes: 0, free_bytes: 0 }
    }

    /// Bytes that the places of texts have.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    #[cfg(test)]
    pub(super) fn place_bytes_in_all(&self) -> usize {
        self.kept_bytes + self.free_bytes
    }

    /// Bytes of the place that a text has or would have.
    pub(super) fn place_bytes(len_bytes: usize) -> usize {
        len_bytes.next_multiple_of(STEP_BYTES)
    }

    /// Whether more is free than is kept, and worth moving what is kept: whoever lists names of one length
    /// after the other, and leaves one of each, would have the free places of all lengths add up.
    pub(super) fn is_mostly_free(&self) -> bool {
        self.free_bytes > self.kept_bytes.max(WORTH_MOVING_BYTES)
    }

    /// Keeps a text of at most 65,535 bytes.
    pub(super) fn insert(&mut self, text: &str) -> Text {
        let len_bytes = u16::try_from(text.len()).expect("the cap on a name's length is far below 2^16");
        let mut kept = Text { place: 0, len_bytes };
        if self.classes.len() <= kept.class() {
            self.classes.resize_with(kept.class() + 1, Class::default);
        }
        let class_bytes = kept.class() * STEP_BYTES;
        let class = &mut self.classes[kept.class()];
        self.kept_bytes += class_bytes;
        kept.place = match class.free.pop() {
            Some(place) => {
                self.free_bytes -= class_bytes;
                place
            }
            None => {
                let place = class.bytes.len().checked_div(class_bytes).unwrap_or_default();
                class.bytes.resize(class.bytes.len() + class_bytes, 0);
                u32::try_from(place).expect("the catalogue's caps are far below 2^32")
            }
        };
        class.bytes[kept.start()..][..text.len()].copy_from_slice(text.as_bytes());
        kept
    }

    /// The bytes of a text.
    pub(super) fn get(&self, text: Text) -> &[u8] {
        &self.classes[text.class()].bytes[text.start()..][..text.len_bytes()]
    }

    /// Gives a text's place up.
    pub(super) fn remove(&mut self, text: Text) {
        let class = &mut self.classes[text.class()];
        class.free.push(text.place);
        let place_bytes = text.class() * STEP_BYTES;
        self.kept_bytes -= place_bytes;
        self.free_bytes += place_bytes;
        if class.free.len() * place_bytes == class.bytes.len() {
            self.free_bytes -= class.bytes.len();
            *class = Class::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_read_back_and_their_places_are_taken_again(
            steps in prop::collection::vec(("[a-z🐝]{0,20}", prop::option::of(0usize..8)), 0..60),
        ) {
            let mut texts = Texts::new();
            let mut kept: Vec<(Text, String)> = Vec::new();
            let mut most = 0;
            for (text, remove) in steps {
                if let Some(at) = remove && at < kept.len() {
                    texts.remove(kept.swap_remove(at).0);
                } else {
                    kept.push((texts.insert(&text), text));
                }
                for (place, text) in &kept {
                    prop_assert_eq!(texts.get(*place), text.as_bytes());
                }
                most = most.max(kept.len());
                let place_bytes = |(_, text): &(Text, String)| Texts::place_bytes(text.len());
                prop_assert_eq!(texts.kept_bytes(), kept.iter().map(place_bytes).sum::<usize>());
                let stored: usize = texts.classes.iter().map(|class| class.bytes.len()).sum();
                prop_assert_eq!(texts.kept_bytes + texts.free_bytes, stored);
            }
            let stored: usize = texts.classes.iter().map(|class| class.bytes.len()).sum();
            prop_assert!(stored <= most * 11 * STEP_BYTES);
            kept.into_iter().for_each(|(place, _)| texts.remove(place));
            prop_assert!(texts.classes.iter().all(|class| class.bytes.is_empty() && class.free.is_empty()));
        }
    }
}
