//! The names that stand in any list.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};

use crate::base::FileName;
use crate::plan::links::{First, Links};
use crate::plan::slab::{Handle, Slab};
use crate::plan::sorted::{Entry, Sorted};
use crate::plan::texts::{Text, Texts};

/// All names, each with what stands under it.
#[derive(Debug)]
pub(super) struct Names {
    names: Slab<Name>,
    texts: Texts,
    /// From names to the contents that stand under them, and in how many lists each does.
    contents: Links<u32>,
    /// In the order of the names, for pages of them.
    in_order: Sorted<InOrder>,
    /// In the order of (hash, name): what is looked up is mostly found by its hash alone, and the
    /// search looks at one name, not at one in each step.
    by_hash: Sorted<(u32, Handle)>,
}

#[derive(Debug)]
struct Name {
    text: Text,
    content: First<u32>,
}

impl Names {
    pub(super) const fn new() -> Names {
        Names {
            names: Slab::new(),
            texts: Texts::new(),
            contents: Links::new(),
            in_order: Sorted::new(),
            by_hash: Sorted::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    #[cfg(test)]
    pub(super) fn place_bytes(&self) -> usize {
        self.texts.place_bytes_in_all()
    }

    #[cfg(test)]
    pub(super) fn are_gone(&self) -> bool {
        self.len() == 0 && self.in_order.len() == 0 && self.by_hash.len() == 0 && self.contents.is_empty()
    }

    /// The name with this text.
    pub(super) fn get(&self, text: &FileName) -> Option<Handle> {
        let hash = hash(text.as_str());
        let order = by_hash(&self.names, &self.texts, hash, text.as_str());
        self.by_hash.get(hash, order).map(|(_, name)| name)
    }

    /// Makes the name with this text, which must not be there, with nothing under it.
    pub(super) fn insert(&mut self, text: &FileName) -> Handle {
        let text = text.as_str();
        let name = Name { text: self.texts.insert(text), content: First::default() };
        let name = self.names.insert(name);
        let hash = hash(text);
        self.by_hash.insert((hash, name), by_hash(&self.names, &self.texts, hash, text));
        self.in_order.insert(InOrder(name), by_text(&self.names, &self.texts, text.as_bytes()));
        name
    }

    /// Forgets a name under which nothing stands.
    pub(super) fn remove(&mut self, name: Handle) {
        let text = self.names[name].text;
        let bytes = self.texts.get(text);
        self.in_order.remove(0, by_text(&self.names, &self.texts, bytes));
        let utf8 = str::from_utf8(bytes).expect("these are the bytes of a str");
        let hash = hash(utf8);
        self.by_hash.remove(hash, by_hash(&self.names, &self.texts, hash, utf8));
        self.names.remove(name);
        self.texts.remove(text);
        if self.texts.is_mostly_free() {
            self.move_texts();
        }
    }

    /// Puts all texts close together again.
    fn move_texts(&mut self) {
        let mut texts = Texts::new();
        for name in self.names.values_mut() {
            let text = str::from_utf8(self.texts.get(name.text)).expect("these are the bytes of a str");
            name.text = texts.insert(text);
        }
        self.texts = texts;
    }

    /// Bytes that all names take.
    pub(super) fn text_bytes(&self) -> usize {
        self.texts.kept_bytes()
    }

    /// Bytes that those names would take which are not there, each once.
    pub(super) fn new_text_bytes<'n>(&self, names: impl Iterator<Item = &'n FileName>) -> usize {
        let new: BTreeSet<&FileName> = names.filter(|name| self.get(name).is_none()).collect();
        new.iter().map(|name| Texts::place_bytes(name.as_str().len())).sum()
    }

    /// The contents that stand under a name, and in how many lists each does.
    pub(super) fn contents(&self, name: Handle) -> impl Iterator<Item = (Handle, u32)> {
        self.contents.iter(name, &self.names[name].content)
    }

    /// A content stands under a name in one more list.
    pub(super) fn add(&mut self, name: Handle, content: Handle) {
        *self.contents.entry(name, &mut self.names[name].content, content) += 1;
    }

    /// A content stands under a name in one list less; whether it was the last one.
    pub(super) fn take(&mut self, name: Handle, content: Handle) -> bool {
        let first = &mut self.names[name].content;
        let lists = self.contents.entry(name, first, content);
        *lists -= 1;
        let was_last = *lists == 0;
        if was_last {
            self.contents.remove(name, first, content);
        }
        was_last
    }

    /// Whether nothing stands under a name.
    pub(super) fn is_bare(&self, name: Handle) -> bool {
        self.names[name].content.is_none()
    }

    /// Where a name's text stands.
    pub(super) fn place(&self, name: Handle) -> Text {
        self.names[name].text
    }

    /// The text that stands there.
    pub(super) fn text(&self, place: Text) -> &[u8] {
        self.texts.get(place)
    }

    /// A name as such.
    pub(super) fn file_name(&self, name: Handle) -> FileName {
        let text = str::from_utf8(self.text(self.place(name))).expect("these are the bytes of a str");
        text.parse().expect("it was the text of a name when it came")
    }

    /// The names from `first` on in their order.
    pub(super) fn from(&self, first: &str) -> impl Iterator<Item = Handle> {
        self.in_order.from(0, by_text(&self.names, &self.texts, first.as_bytes())).map(|InOrder(name)| name)
    }
}

/// Equal for equal names and mostly different for others; who makes them equal makes a search as
/// long as one by names is.
fn hash(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish() as u32
}

/// A name among all of them in their order.
#[derive(Clone, Copy, Debug)]
struct InOrder(Handle);

impl Entry for InOrder {
    fn weight(&self) -> u32 {
        // Names begin alike; nothing of them says where in a chunk one stands.
        0
    }
}

/// How an entry stands to a name, by (hash, name).
fn by_hash(names: &Slab<Name>, texts: &Texts, hash: u32, text: &str) -> impl Fn(&(u32, Handle)) -> Ordering {
    let then = by_text(names, texts, text.as_bytes());
    move |(other, name)| other.cmp(&hash).then_with(|| then(&InOrder(*name)))
}

/// How an entry stands to a name.
fn by_text(names: &Slab<Name>, texts: &Texts, text: &[u8]) -> impl Fn(&InOrder) -> Ordering {
    move |InOrder(name)| texts.get(names[*name].text).cmp(text)
}
