//! How the types of `base` look in MessagePack. They are parsed on the way in: a message that was
//! decoded has only valid names, ids and runs.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::{BlockRun, FileId, FileName, IdPrefix, PeerId, Question, plain_text};

impl Serialize for FileId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for FileId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileId, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = FileId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("32 bytes of an id")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<FileId, E> {
                let bytes = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                Ok(FileId::from_bytes(bytes))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Reads a value from its text form.
struct Text<T>(PhantomData<T>);

impl<T> Visitor<'_> for Text<T>
where
    T: FromStr<Err: fmt::Display>,
{
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a valid name")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                deserializer.deserialize_str(Text(PhantomData))
            }
        }
    )*};
}

as_text!(FileName, PeerId, IdPrefix);

/// A sentence for people: what was read can be shown as it is.
pub(super) fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Sentence;
    impl Visitor<'_> for Sentence {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sentence")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(plain_text(text))
        }
    }
    deserializer.deserialize_str(Sentence)
}

/// The fields of [`BlockRun`], by name.
#[derive(Serialize, Deserialize)]
#[serde(remote = "BlockRun")]
pub(super) struct BlockRunFields {
    first: u64,
    count: u32,
}

/// The forms of [`Question`], by name.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Question")]
pub(super) enum QuestionForms {
    Name { name: FileName, prefix: Option<IdPrefix> },
    Prefix(IdPrefix),
}
