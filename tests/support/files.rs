//! Contents for tests: random bytes that follow from a seed, of the sizes at which code goes wrong.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use enxame_actors::base::limits::MIN_SPAN_BLOCKS;
use enxame_actors::base::{BLOCK_LEN_BYTES, FileId, Geometry};
use enxame_actors::content::folder::Folder;
use enxame_actors::content::part::PartFile;
use enxame_actors::content::tree::{Proof, SpanHash};

use super::job::part_files;
use super::tree;

/// Length of a span of the files here.
pub const SPAN: usize = (MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES) as usize;

/// Sizes in bytes, each with what is special about it.
pub const SIZES: [(usize, &str); 10] = [
    (0, "nothing: one empty span"),
    (1, "a byte"),
    (4095, "a block but one byte"),
    (4096, "a block"),
    (4097, "a block and a byte"),
    (SPAN - 1, "a span but one byte"),
    (SPAN, "a span: the largest file without a manifest"),
    (SPAN + 1, "the smallest file with a manifest, its last span a byte"),
    (3 * SPAN, "several spans and no rest"),
    (5 * SPAN + 4096 + 7, "several spans, a block and a rest"),
];

/// A content, and what a holder knows of it.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its id, from `blake3::hash`.
    pub id: FileId,
    /// Its bytes.
    pub data: Bytes,
    /// Its blocks and spans.
    pub geometry: Geometry,
    /// The manifest: a chaining value per span; none for a file of one span.
    pub values: Vec<[u8; 32]>,
}

impl Content {
    /// `size` random bytes.
    pub fn random(rng: &mut fastrand::Rng, size: usize) -> Content {
        let mut data = vec![0; size];
        rng.fill(&mut data);
        Content::of(data)
    }

    /// These bytes.
    pub fn of(data: impl Into<Bytes>) -> Content {
        let data = data.into();
        let geometry = Geometry::new(data.len() as u64).expect("it fits into memory");
        let span_len = geometry.span_len_bytes() as usize;
        let values = if geometry.is_single() { Vec::new() } else { tree::span_values(&data, span_len) };
        let id = FileId::from_bytes(*blake3::hash(&data).as_bytes());
        Content { id, data, geometry, values }
    }

    /// What who lies about the size would send: other data under this id, with a manifest that goes with
    /// it. The true one fits every size of as many spans.
    pub fn forged(&self, size: usize) -> Content {
        let mut data = self.data.to_vec();
        data.resize(size, 0);
        let forged = Content::of(data);
        let fits = forged.geometry.spans() == self.geometry.spans();
        let values = if fits { self.values.clone() } else { forged.values.clone() };
        Content { id: self.id, values, ..forged }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.geometry.size()
    }

    /// The bytes of the span with this number, if the file has one.
    pub fn span(&self, number: u32) -> Option<Bytes> {
        let span = self.geometry.span(number.into())?;
        let start = self.geometry.offset(span) as usize;
        Some(self.data.slice(start..start + self.geometry.len_bytes(span)))
    }

    /// Writes it as `folder/name`, with the folders of the name.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("it is below the folder")).expect("a test's folder");
        std::fs::write(&path, &self.data).expect("a test's file");
        path
    }

    /// What proves it.
    pub fn proof(&self) -> Proof {
        let values = self.values.iter().map(|value| SpanHash::from_bytes(*value)).collect();
        Proof::new(self.id, self.geometry, values).expect("the values are right")
    }

    /// How many right bytes the part file of a download to `folder/x` holds; 0 if there is none.
    /// Nobody may be writing it.
    pub fn right_on_disk(&self, folder: &Path) -> u64 {
        if !folder.exists() || part_files(folder).is_empty() {
            return 0;
        }
        let folder = Folder::open(folder).expect("a test's folder");
        let part = PartFile::open(&folder, &"x".parse().expect("a name"), &self.proof()).expect("a part");
        part.recover(&AtomicBool::new(false)).expect("it can be read").len_bytes(&self.geometry)
    }

    /// Whether the file at `path` has exactly these bytes.
    pub fn stands_at(&self, path: &Path) -> bool {
        std::fs::read(path).is_ok_and(|data| data == self.data)
    }
}
