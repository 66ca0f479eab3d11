//! What somebody asks for, as it is typed: a name, an id, a prefix of an id, `name@prefix`, or `folder/`
//! for all that is in it.

use std::fmt;
use std::str::FromStr;

use super::id::{FileId, IdPrefix};
use super::name::{FileName, NameError};

/// One thing a tracker can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Files known by this name, of those the ones whose id begins with `prefix`.
    Name {
        /// The whole name.
        name: FileName,
        /// The choice behind the `@`, if one was made.
        prefix: Option<IdPrefix>,
    },
    /// Files whose id begins with these digits; all 64 name one file.
    Prefix(IdPrefix),
}

/// What was typed, and the one or two things it can mean.
///
/// A text can read as a name and as an id (`deadbeef`), or have an `@` of its own (`a@b.txt`), so
/// the meanings are kept in the order in which they count: the first one that anybody has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct What {
    text: String,
    questions: Vec<Question>,
    /// How the names begin that are meant, if many are: empty for all there are.
    tree: Option<String>,
}

impl What {
    /// All there is; it reads as the option by which it is asked for.
    pub fn everything() -> What {
        What { text: "--all".into(), questions: Vec::new(), tree: Some(String::new()) }
    }

    /// If a whole folder is meant, how the names in it begin: its path with a `/`, or nothing.
    pub fn tree(&self) -> Option<&str> {
        self.tree.as_deref()
    }

    /// What was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its meanings, the preferred one first; none for a folder, of which each file has its own.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }
}

impl From<FileId> for What {
    fn from(id: FileId) -> What {
        What { text: id.to_string(), questions: vec![Question::Prefix(id.into())], tree: None }
    }
}

/// The name as a name, even if it could be read as an id.
impl From<FileName> for What {
    fn from(name: FileName) -> What {
        let text = name.to_string();
        What { text, questions: vec![Question::Name { name, prefix: None }], tree: None }
    }
}

impl FromStr for What {
    type Err = WhatError;

    fn from_str(text: &str) -> Result<What, WhatError> {
        if let Some(folder) = text.strip_suffix('/')
            && folder.parse::<FileName>().is_ok()
        {
            return Ok(What { text: text.into(), questions: Vec::new(), tree: Some(text.into()) });
        }
        let mut questions = Vec::new();
        let bare = text.parse::<IdPrefix>().ok();
        if let Some(id) = bare.filter(|p| p.digits() == FileId::HEX_DIGITS) {
            questions.push(Question::Prefix(id));
        }
        let name = text.parse::<FileName>();
        if let Ok(name) = &name {
            questions.push(Question::Name { name: name.clone(), prefix: None });
        }
        if let Some(prefix) =
            bare.filter(|p| (IdPrefix::MIN_BARE_DIGITS..FileId::HEX_DIGITS).contains(&p.digits()))
        {
            questions.push(Question::Prefix(prefix));
        }
        let chosen = text.rsplit_once('@').and_then(|(name, prefix)| {
            Some(Question::Name { name: name.parse().ok()?, prefix: Some(prefix.parse().ok()?) })
        });
        questions.extend(chosen);
        match name {
            Err(why) if questions.is_empty() => Err(WhatError { text: text.into(), why }),
            _ => Ok(What { text: text.into(), questions, tree: None }),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// A text that can be neither a name nor an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhatError {
    text: String,
    why: NameError,
}

impl fmt::Display for WhatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither a name nor an id: {}", self.text, self.why)
    }
}

impl std::error::Error for WhatError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn meanings(text: &str) -> Vec<String> {
        let show = |question: &Question| match question {
            Question::Name { name, prefix: None } => format!("name {name}"),
            Question::Name { name, prefix: Some(prefix) } => format!("name {name} id {prefix}"),
            Question::Prefix(prefix) => format!("id {prefix}"),
        };
        text.parse::<What>().unwrap().questions().iter().map(show).collect()
    }

    #[test]
    fn each_form_has_its_meanings_in_order() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(meanings("a b/c.txt"), ["name a b/c.txt"]);
        assert_eq!(meanings("deadbeef"), ["name deadbeef", "id deadbeef"]);
        assert_eq!(meanings("deadbee"), ["name deadbee"], "seven digits are no prefix");
        assert_eq!(meanings(&id), [format!("id {id}"), format!("name {id}")]);
        assert_eq!(meanings("x.bin@ab1"), ["name x.bin@ab1", "name x.bin id ab1"]);
        assert_eq!(meanings("a@b@cafe"), ["name a@b@cafe", "name a@b id cafe"]);
        assert_eq!(meanings("a@host"), ["name a@host"]);
    }

    #[test]
    fn a_slash_at_the_end_means_all_that_is_in_a_folder() {
        let tree = |text: &str| text.parse::<What>().unwrap().tree().map(str::to_owned);
        assert_eq!(tree("a/"), Some("a/".into()));
        assert_eq!(tree("a b/c/"), Some("a b/c/".into()));
        assert_eq!(tree("a/c"), None);
        assert_eq!(What::everything().tree(), Some(""));
        assert_eq!(meanings("a/"), <[String; 0]>::default());
    }

    #[test]
    fn what_can_be_nothing_is_refused_with_the_reason() {
        for text in ["", "../x", "/etc/passwd", "/", "a//", "../a/"] {
            assert!(
                text.parse::<What>().unwrap_err().to_string().contains("neither a name nor an id"),
                "{text:?}"
            );
        }
    }
}
