//! Names that are two files here and one elsewhere.
//!
//! Some file systems take `README` and `readme` for one name, and some take `é` in one character and in
//! two for one. Who fetches both there gets one of them, or neither. So a folder shares one of them only.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// What is the same for names that clash: without case, and in one normal form. Not a name by itself.
///
/// It is a little stricter than case folding by the tables of Unicode (`ı` and `i` clash): of two such
/// names one is not shared, which can be seen, and no file is lost, which could not.
pub fn clash_key(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        // Most names are their own key.
        let has_case = name.bytes().any(|byte| byte.is_ascii_uppercase());
        return if has_case { name.to_ascii_lowercase().into() } else { name.into() };
    }
    // Upper case makes one of letters that have several lower-case forms (σ and ς, s and ſ), and before it
    // lower case does so with those that have several upper-case ones (ẞ and SS).
    let lower = name.nfd().flat_map(char::to_lowercase);
    lower.flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfd().collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_clash_by_case_and_by_normal_form_and_not_otherwise() {
        for (a, b, clash) in [
            ("README", "readme", true),
            ("a/B.txt", "A/b.TXT", true),
            ("Größe", "GRÖSSE", true),
            ("straße", "STRASSE", true),
            ("STRAẞE", "strasse", true),
            ("STRAẞE", "straße", true),
            ("\u{e9}", "e\u{301}", true),
            ("\u{e9}", "E\u{301}", true),
            ("ΣΑΣ", "σας", true),
            ("\u{212a}", "k", true),        // the sign for kelvin
            ("\u{1e9b}\u{323}", "ṩ", true), // marks in another order
            ("가", "\u{1100}\u{1161}", true),
            ("ǅ", "ǆ", true),
            ("ﬁ", "fi", true),
            ("a", "b", false),
            ("e", "é", false),
            ("a b", "ab", false),
            ("1", "¹", false),
            ("日本", "日木", false),
            ("ａ", "a", false), // full width
        ] {
            assert_eq!(clash_key(a) == clash_key(b), clash, "{a} and {b}");
        }
    }

    #[test]
    fn every_character_clashes_with_itself_in_either_case_and_with_its_key() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let key = clash_key(&c.to_string()).into_owned();
            let (upper, lower): (String, String) = (c.to_uppercase().collect(), c.to_lowercase().collect());
            for other in [&key, &upper, &lower] {
                assert_eq!(clash_key(other), key, "{c:?} and {other:?}");
            }
        }
    }
}
