//! Texts for people that others wrote: what they may be in a log or on a terminal.

use super::limits::MAX_FOREIGN_TEXT_BYTES;

/// Whether a character ends a line, moves a cursor or turns the direction of text.
pub(super) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' // marks of direction
            | '\u{2028}'..='\u{202e}' // separators of line and paragraph, embeddings and overrides
            | '\u{2066}'..='\u{2069}' // isolates
            | '\u{feff}') // byte order mark
}

/// A text from outside as it can be shown: in one line, steering nothing, and of at most
/// [`MAX_FOREIGN_TEXT_BYTES`] and a mark that it was longer. Characters that would steer are written out.
pub fn plain_text(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        let before = plain.len();
        if is_steering(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
        if plain.len() > MAX_FOREIGN_TEXT_BYTES {
            plain.truncate(before);
            plain.push('…');
            break;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_is_one_short_line_that_steers_nothing() {
        for (text, plain) in [
            ("", ""),
            ("disk is full: 3 → 4 🐝", "disk is full: 3 → 4 🐝"),
            ("ok\n[WARN] made up", "ok\\u{a}[WARN] made up"),
            ("\x1b[2J\r\0\x7f\u{9b}31m", "\\u{1b}[2J\\u{d}\\u{0}\\u{7f}\\u{9b}31m"),
            ("a\u{202e}cod.exe\u{2028}b\u{feff}", "a\\u{202e}cod.exe\\u{2028}b\\u{feff}"),
        ] {
            assert_eq!(plain_text(text), plain);
            assert_eq!(plain_text(plain), plain, "it stays as it is");
        }
        let most = "x".repeat(MAX_FOREIGN_TEXT_BYTES);
        assert_eq!(plain_text(&most), most);
        assert_eq!(plain_text(&format!("{most}x")), format!("{most}…"));
        let short = &most[1..];
        assert_eq!(plain_text(&format!("{short}🐝🐝")), format!("{short}…"), "no half of a character");
        assert_eq!(plain_text(&format!("{short}\n")), format!("{short}…"), "nor of what stands for one");
    }
}
