//! Who of those that download the same file fetches which span from a complete holder.
//!
//! A complete holder has to send each span once, if those that download it pass it on. So each span
//! falls to one of them, by rendezvous hashing: the one with the highest weight for the span. Nobody
//! has to be asked, and somebody who comes or goes changes only the spans that fall to him.
//! (Thaler and Ravishankar, 1998: "Using name-based mappings to increase hit rates".)

use crate::base::{FileId, PeerId};

/// A peer's place in the division of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// The share of this peer in this file; everybody computes the same.
    pub fn of(peer: &PeerId, file: &FileId) -> Share {
        // FNV-1a: spread enough for what the mixing below does with it.
        let bytes = peer.as_str().bytes().chain(file.as_bytes().iter().copied());
        Share(
            bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            }),
        )
    }

    /// The weight of a span in this share.
    pub fn weight(self, span: u32) -> u64 {
        // The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
        let mut mixed = self.0.wrapping_add(u64::from(span).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_falls_to_one_of_eight_and_each_has_about_an_eighth() {
        let file = FileId::from_bytes([7; 32]);
        let shares: Vec<Share> =
            (1..=8).map(|n| Share::of(&format!("p{n}").parse().unwrap(), &file)).collect();
        let mut counts = [0; 8];
        for span in 0..8000 {
            let highest = (0..8).max_by_key(|n| shares[*n].weight(span)).unwrap();
            counts[highest] += 1;
        }
        assert!(counts.iter().all(|count| (900..=1100).contains(count)), "{counts:?}");
    }
}
