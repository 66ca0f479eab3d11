//! The file id: the BLAKE3-256 hash of a file's content, and prefixes of it as people type them.

use std::fmt;
use std::str::FromStr;

/// The BLAKE3-256 hash of a file's whole content; shown as 64 lower-case hex digits, as `b3sum` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId([u8; 32]);

impl FileId {
    /// Digits of an id in its text form.
    pub const HEX_DIGITS: usize = 64;

    /// The id with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> FileId {
        FileId(bytes)
    }

    /// The 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight digits: enough to recognise an id in a log line.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(IdPrefix::MIN_BARE_DIGITS);
        text
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(text(&hex(&self.0)))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileId({})", self.short())
    }
}

impl FromStr for FileId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<FileId, IdError> {
        let prefix: IdPrefix = text.parse()?;
        if prefix.digits() == FileId::HEX_DIGITS {
            Ok(FileId(prefix.bytes))
        } else {
            Err(IdError::Length(prefix.digits()))
        }
    }
}

/// The digits of 32 bytes.
fn hex(bytes: &[u8; 32]) -> [u8; FileId::HEX_DIGITS] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; FileId::HEX_DIGITS];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    hex
}

fn text(hex: &[u8; FileId::HEX_DIGITS]) -> &str {
    str::from_utf8(hex).expect("hex digits are ASCII")
}

/// The first 1 to 64 hex digits of a file id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdPrefix {
    /// The digits, packed from the front; zero behind them.
    bytes: [u8; 32],
    digits: u8,
}

impl IdPrefix {
    /// A prefix that stands alone (not behind `name@`) has at least this many digits.
    pub const MIN_BARE_DIGITS: usize = 8;

    /// How many hex digits the prefix has: 1 to 64.
    pub fn digits(&self) -> usize {
        usize::from(self.digits)
    }

    /// Whether `id` begins with this prefix.
    pub fn matches(&self, id: &FileId) -> bool {
        let whole = self.digits() / 2;
        id.0[..whole] == self.bytes[..whole]
            && (self.digits().is_multiple_of(2) || id.0[whole] >> 4 == self.bytes[whole] >> 4)
    }

    /// The smallest id with this prefix: where a search in an ordered table begins.
    pub fn first_id(&self) -> FileId {
        FileId(self.bytes)
    }
}

impl From<FileId> for IdPrefix {
    fn from(id: FileId) -> IdPrefix {
        IdPrefix { bytes: id.0, digits: FileId::HEX_DIGITS as u8 }
    }
}

impl FromStr for IdPrefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<IdPrefix, IdError> {
        let mut bytes = [0u8; 32];
        let mut digits = 0;
        for digit in text.bytes() {
            // What is in front of a character that is no digit is one byte per character.
            let no_digit = || text[digits..].chars().next().map_or(IdError::Length(digits), IdError::Digit);
            let value = char::from(digit).to_digit(16).ok_or_else(no_digit)? as u8;
            let byte = bytes.get_mut(digits / 2).ok_or_else(|| IdError::Length(text.chars().count()))?;
            *byte |= if digits.is_multiple_of(2) { value << 4 } else { value };
            digits += 1;
        }
        if digits == 0 {
            return Err(IdError::Length(0));
        }
        Ok(IdPrefix { bytes, digits: digits as u8 })
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(&hex(&self.bytes))[..self.digits()])
    }
}

impl fmt::Debug for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdPrefix({self})")
    }
}

/// Why a text is no id or id prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdError {
    /// A character that is no hex digit.
    Digit(char),
    /// Another number of digits than an id (64) or a prefix (1 to 64) has.
    Length(usize),
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdError::Digit(c) => write!(f, "{c:?} is no hex digit"),
            IdError::Length(n) => write!(f, "{n} hex digits where an id has 64"),
        }
    }
}

impl std::error::Error for IdError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text_in_either_case() {
        let id = FileId::from_bytes(std::array::from_fn(|i| (i * 37) as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert_eq!(id.short().len(), 8);
    }

    #[test]
    fn a_text_of_another_length_or_alphabet_is_no_id() {
        assert_eq!("".parse::<FileId>(), Err(IdError::Length(0)));
        assert_eq!("ab".parse::<FileId>(), Err(IdError::Length(2)));
        assert_eq!("a".repeat(65).parse::<FileId>(), Err(IdError::Length(65)));
        assert_eq!("g".repeat(64).parse::<FileId>(), Err(IdError::Digit('g')));
    }

    #[test]
    fn a_prefix_matches_by_digits_not_by_bytes() {
        let id = FileId::from_bytes([0xab; 32]);
        for digits in 1..=64 {
            let prefix: IdPrefix = id.to_string()[..digits].parse().unwrap();
            assert!(prefix.matches(&id), "{prefix}");
            assert_eq!(prefix.to_string().len(), digits);
            let mut other = *id.as_bytes();
            other[(digits - 1) / 2] ^= if digits % 2 == 1 { 0x10 } else { 0x01 };
            assert!(!prefix.matches(&FileId::from_bytes(other)), "{prefix}");
        }
    }
}
