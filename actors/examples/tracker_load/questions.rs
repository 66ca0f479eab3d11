//! What is shared and what is asked, made from numbers.

use enxame_actors::base::{FileId, FileName, Question};
use enxame_actors::wire::encode;
use enxame_actors::wire::tracker::{Listing, ToTracker};

use crate::Failure;
use crate::config::Config;

/// Questions that are made in advance and asked again and again.
const QUESTIONS: usize = 1 << 16;

/// The name of a file.
fn name(file: usize) -> Result<FileName, Failure> {
    Ok(format!("models/set-{:05}/shard-{file:08}.safetensors", file / 100).parse()?)
}

/// A made-up id. Its digits are spread as those of a hash are, so that tables look as they do in use.
fn id(file: usize) -> FileId {
    let mut rng = fastrand::Rng::with_seed(file as u64);
    FileId::from_bytes(std::array::from_fn(|_| rng.u8(..)))
}

/// The list of a peer: each file is in the lists of as many peers as it has holders.
pub(crate) fn list(config: &Config, peer: usize) -> Result<Vec<Listing>, Failure> {
    let first = peer * config.files_per_peer();
    let files = (first..first + config.files_per_peer()).map(|at| at % config.files());
    files.map(|file| Ok(Listing { name: name(file)?, id: id(file), size: 1 << 20, complete: true })).collect()
}

/// Encoded questions, one behind another in a ring.
#[derive(Debug)]
pub(crate) struct Questions {
    asked: Vec<Asked>,
    bytes: Vec<u8>,
    /// Where each of them ends in `bytes`.
    ends: Vec<usize>,
}

/// What a question asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: FileName,
    pub(crate) id: FileId,
}

impl Questions {
    /// Half by name, half by id, each for a random file that somebody has.
    pub(crate) fn new(config: &Config) -> Result<Questions, Failure> {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut questions = Questions { asked: Vec::new(), bytes: Vec::new(), ends: Vec::new() };
        for number in 0..QUESTIONS {
            let file = rng.usize(..config.files());
            let asked = Asked { name: name(file)?, id: id(file) };
            let question = if number % 2 == 0 {
                Question::Name { name: asked.name.clone(), prefix: None }
            } else {
                Question::Prefix(asked.id.into())
            };
            encode(&ToTracker::WhoHas { question }, &mut questions.bytes)?;
            questions.ends.push(questions.bytes.len());
            questions.asked.push(asked);
        }
        Ok(questions)
    }

    /// The bytes of at most `count` questions from the one at `at` on, and how many they are: fewer at
    /// the end of the ring.
    pub(crate) fn bytes(&self, at: usize, count: usize) -> (&[u8], usize) {
        let first = at % QUESTIONS;
        let last = (first + count).min(QUESTIONS);
        let start = if first == 0 { 0 } else { self.ends[first - 1] };
        (&self.bytes[start..self.ends[last - 1]], last - first)
    }

    /// The question at `at`.
    pub(crate) fn asked(&self, at: usize) -> &Asked {
        &self.asked[at % QUESTIONS]
    }
}
