//! The name of a shared file: a path below `files/` that is safe to create on any machine.
//!
//! A name is checked here, once, on its way in from a message, a command line or a folder. What is
//! accepted can neither leave the folder, nor clash with what an operating system reserves, nor
//! look like another name to a person who reads it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::limits::{MAX_COMPONENT_BYTES, MAX_NAME_BYTES, MAX_NAME_DEPTH, RESERVED_PREFIX};
use super::plain::is_steering;

/// A path below `files/`: UTF-8 components separated by `/`, at most 1,024 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Arc<str>);

impl FileName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the slashes; there is at least one, and none is empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last part: the name under which `get` saves the file.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// A name is ordered, compared and hashed as its text, so a table of names can be searched with one.
impl Borrow<str> for FileName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<FileName, NameError> {
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong(text.len()));
        }
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let mut depth = 0;
        for component in text.split('/') {
            check_component(component)?;
            depth += 1;
        }
        if depth > MAX_NAME_DEPTH {
            return Err(NameError::TooDeep(depth));
        }
        Ok(FileName(text.into()))
    }
}

fn check_component(text: &str) -> Result<(), NameError> {
    match text {
        "" => return Err(NameError::EmptyComponent),
        "." | ".." => return Err(NameError::Dots),
        _ => {}
    }
    if text.len() > MAX_COMPONENT_BYTES {
        return Err(NameError::ComponentTooLong(text.len()));
    }
    // Most names are plain ASCII, which takes no look at each character.
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\');
    if !is_plain && let Some(c) = text.chars().find(|c| is_treacherous(*c)) {
        return Err(NameError::Character(c));
    }
    if text.ends_with(['.', ' ']) {
        return Err(NameError::Ending);
    }
    if is_reserved_on_windows(text) {
        return Err(NameError::Reserved);
    }
    // In every part, for the last one is a name by itself where a file is saved under it.
    if is_drive(text) {
        return Err(NameError::Drive);
    }
    // Compared without case, so that a folder that ignores case cannot be made to hit our files.
    let ours = text.get(..RESERVED_PREFIX.len());
    if ours.is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX)) {
        return Err(NameError::Ours);
    }
    Ok(())
}

/// Characters that end a line, move a cursor, turn the direction of text or separate folders elsewhere.
fn is_treacherous(c: char) -> bool {
    c == '\\' || is_steering(c)
}

/// `C:`, `C:name` and `C:/name`, which mean another disk on Windows.
fn is_drive(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':'
}

/// Device names of Windows, with any extension: <https://learn.microsoft.com/windows/win32/fileio/naming-a-file>.
fn is_reserved_on_windows(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or(text).trim_end_matches(' ');
    let is = |device: &str| stem.eq_ignore_ascii_case(device);
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].into_iter().any(is) {
        return true;
    }
    let Some((device, number)) = stem.split_at_checked(3) else { return false };
    let has_number = ["COM", "LPT"].iter().any(|with| device.eq_ignore_ascii_case(with));
    has_number && (matches!(number, "¹" | "²" | "³") || matches!(number.as_bytes(), [b'0'..=b'9']))
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileName({:?})", &*self.0)
    }
}

/// Why a path cannot be the name of a shared file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No characters.
    Empty,
    /// More bytes than [`MAX_NAME_BYTES`].
    TooLong(usize),
    /// More parts than [`MAX_NAME_DEPTH`].
    TooDeep(usize),
    /// Nothing between two slashes, before the first or behind the last.
    EmptyComponent,
    /// A part is `.` or `..`.
    Dots,
    /// A part has more bytes than [`MAX_COMPONENT_BYTES`].
    ComponentTooLong(usize),
    /// A backslash, control character or mark of text direction.
    Character(char),
    /// A part ends with a dot or a space, which Windows drops.
    Ending,
    /// A part is a device name of Windows.
    Reserved,
    /// A part begins with a drive letter.
    Drive,
    /// A part begins as enxame's own hidden files do.
    Ours,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "the name is empty"),
            NameError::TooLong(n) => {
                write!(f, "the name has {n} bytes, at most {MAX_NAME_BYTES} are allowed")
            }
            NameError::TooDeep(n) => {
                write!(f, "the name has {n} parts, at most {MAX_NAME_DEPTH} are allowed")
            }
            NameError::EmptyComponent => {
                write!(
                    f,
                    "the name begins or ends with '/' or has two in a row; names are relative to the shared folder"
                )
            }
            NameError::Dots => write!(f, "'.' and '..' cannot be parts of a name"),
            NameError::ComponentTooLong(n) => {
                write!(f, "a part of the name has {n} bytes, at most {MAX_COMPONENT_BYTES} are allowed")
            }
            NameError::Character(c) => write!(f, "the character {c:?} cannot stand in a name"),
            NameError::Ending => write!(f, "a part of the name ends with a dot or a space"),
            NameError::Reserved => write!(f, "a part of the name is reserved on Windows"),
            NameError::Drive => write!(f, "a part of the name begins with a drive letter"),
            NameError::Ours => write!(f, "names that begin with {RESERVED_PREFIX:?} are enxame's own"),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of names: accepted (`None`) or refused, and why.
    fn table() -> Vec<(String, Option<NameError>)> {
        use NameError::*;
        let mut rows: Vec<(String, Option<NameError>)> = Vec::new();
        for fine in [
            "a",
            "model.bin",
            "a b.txt",
            " leading space",
            "foo... bar",
            "...a",
            "..a",
            ".hidden",
            ".a/.b",
            "a/b/c/d.txt",
            "Größe.txt",
            "naïve",
            "日本語/ファイル",
            "🐝.tar",
            "👩‍👩‍👧.png",
            "e\u{301}",
            "12:30.log",
            "ab:c",
            "console",
            "com",
            "com10",
            "COMA",
            "lpt",
            "nulls",
            "auxiliary/x",
            "a@b",
            "a@deadbeef",
            "-rf",
            "--help",
            "~",
            "~root",
            "$HOME",
            "`id`",
            "a;b",
            "a|b",
            "a*b?",
            "'quoted'",
            "\"quoted\"",
            "%2e%2e%2f",
            "&amp;",
            "a=b",
            "a,b",
            "#1",
            "[x]",
            "{x}",
            "(x)",
            "a+b",
            "enxame",
            ".enxam",
            "x.enxame-1",
            "tab-less",
            "1",
            "0",
        ] {
            rows.push((fine.into(), None));
        }
        rows.push(("a".repeat(255), None));
        rows.push((vec!["a"; 32].join("/"), None));
        for (name, why) in [
            ("", Empty),
            ("/", EmptyComponent),
            ("/etc/passwd", EmptyComponent),
            ("//a", EmptyComponent),
            ("a//b", EmptyComponent),
            ("a/", EmptyComponent),
            ("a/b/", EmptyComponent),
            (".", Dots),
            ("..", Dots),
            ("../a", Dots),
            ("a/..", Dots),
            ("a/../b", Dots),
            ("a/../../b", Dots),
            ("./a", Dots),
            ("a/.", Dots),
            ("a/./b", Dots),
            ("../../../../etc/passwd", Dots),
            ("a\\b", Character('\\')),
            ("..\\a", Character('\\')),
            ("C:\\x", Character('\\')),
            ("\\\\host\\share", Character('\\')),
            ("a\0", Character('\0')),
            ("\0", Character('\0')),
            ("a\nb", Character('\n')),
            ("a\rb", Character('\r')),
            ("a\tb", Character('\t')),
            ("a\u{1b}[2J", Character('\u{1b}')),
            ("a\u{7f}", Character('\u{7f}')),
            ("a\u{85}", Character('\u{85}')),
            ("a\u{9b}x", Character('\u{9b}')),
            ("gpj\u{202e}exe.txt", Character('\u{202e}')),
            ("\u{202a}a", Character('\u{202a}')),
            ("a\u{202b}", Character('\u{202b}')),
            ("a\u{202c}", Character('\u{202c}')),
            ("a\u{202d}", Character('\u{202d}')),
            ("a\u{2066}b", Character('\u{2066}')),
            ("a\u{2067}b", Character('\u{2067}')),
            ("a\u{2068}b", Character('\u{2068}')),
            ("a\u{2069}b", Character('\u{2069}')),
            ("a\u{200e}b", Character('\u{200e}')),
            ("a\u{200f}b", Character('\u{200f}')),
            ("a\u{61c}b", Character('\u{61c}')),
            ("a\u{2028}b", Character('\u{2028}')),
            ("a\u{2029}b", Character('\u{2029}')),
            ("\u{feff}a", Character('\u{feff}')),
            ("a.", Ending),
            ("a ", Ending),
            ("...", Ending),
            ("a/b./c", Ending),
            ("a /b", Ending),
            (". .", Ending),
            ("CON", Reserved),
            ("con", Reserved),
            ("con.txt", Reserved),
            ("a/aux", Reserved),
            ("prn.tar.gz", Reserved),
            ("NUL", Reserved),
            ("nul.", Ending),
            ("Com1", Reserved),
            ("com9.x", Reserved),
            ("com0", Reserved),
            ("LPT1", Reserved),
            ("lpt¹", Reserved),
            ("con .txt", Reserved),
            ("conin$", Reserved),
            ("CONOUT$", Reserved),
            ("C:", Drive),
            ("c:a", Drive),
            ("c:/a", Drive),
            ("Z:/..a", Drive),
            ("a/C:x", Drive),
            ("a/b/z:", Drive),
            (".enxame-x", Ours),
            (".enxame", Ours),
            (".ENXAME-x.part", Ours),
            ("a/.enxame-0", Ours),
        ] {
            rows.push((name.into(), Some(why)));
        }
        rows.push(("a".repeat(256), Some(ComponentTooLong(256))));
        rows.push((format!("a/{}", "é".repeat(128)), Some(ComponentTooLong(256))));
        rows.push((vec!["a"; 33].join("/"), Some(TooDeep(33))));
        rows.push((vec!["abc"; 257].join("/"), Some(TooLong(1027))));
        rows
    }

    /// Rows 1 and 3 of SECURITY.md.
    #[test]
    fn each_name_of_the_table_has_its_verdict_and_its_reason() {
        let rows = table();
        assert!(rows.len() >= 120, "{} names", rows.len());
        for (name, refusal) in rows {
            assert_eq!(name.parse::<FileName>().err(), refusal, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_reads_back_the_same_bytes_and_stays_below(text in "[a./\\\\ \u{202e}é:C\0]{0,12}|\\PC{0,40}") {
            if let Ok(name) = text.parse::<FileName>() {
                prop_assert_eq!(name.as_str(), &text);
                let path = std::path::Path::new(name.as_str());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(path.components().count(), name.components().count());
                // Files are saved under it.
                prop_assert!(name.last().parse::<FileName>().is_ok());
            }
        }
    }
}
