//! The name of a peer: also the name of its folder.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::limits::MAX_PEER_ID_BYTES;

/// The name of a peer: 1 to 64 bytes of letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(Arc<str>);

impl PeerId {
    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<PeerId, PeerIdError> {
        if text.is_empty() {
            return Err(PeerIdError::Empty);
        }
        if text.len() > MAX_PEER_ID_BYTES {
            return Err(PeerIdError::TooLong(text.len()));
        }
        if let Some(c) = text.chars().find(|c| !c.is_alphanumeric() && !"._-".contains(*c)) {
            return Err(PeerIdError::Character(c));
        }
        if !text.starts_with(char::is_alphanumeric) {
            return Err(PeerIdError::Start);
        }
        Ok(PeerId(text.into()))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.0)
    }
}

/// Why a text is no peer id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdError {
    /// Nothing at all.
    Empty,
    /// More bytes than [`MAX_PEER_ID_BYTES`].
    TooLong(usize),
    /// A character that is not allowed.
    Character(char),
    /// It begins with `.`, `_` or `-`.
    Start,
}

impl fmt::Display for PeerIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerIdError::Empty => write!(f, "a peer id cannot be empty"),
            PeerIdError::TooLong(n) => {
                write!(f, "a peer id has at most {MAX_PEER_ID_BYTES} bytes, this one has {n}")
            }
            PeerIdError::Character(c) => {
                write!(f, "{c:?} cannot stand in a peer id; use letters, digits, '.', '_' and '-'")
            }
            PeerIdError::Start => write!(f, "a peer id begins with a letter or a digit"),
        }
    }
}

impl std::error::Error for PeerIdError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_make_a_plain_folder_name_are_accepted() {
        for text in ["p1", "1", "gpu-07.rack_2", "José", &"a".repeat(64)] {
            assert_eq!(text.parse::<PeerId>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn ids_that_could_leave_the_folder_or_confuse_a_reader_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "-x",
            ".hidden",
            "_x",
            "a b",
            "a\nb",
            "a\0",
            "é\u{202e}",
            &"a".repeat(65),
        ] {
            assert!(text.parse::<PeerId>().is_err(), "{text:?}");
        }
    }
}
