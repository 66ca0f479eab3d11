//! A digest of a list of files that can be kept up to date entry by entry.

use serde::{Deserialize, Serialize};

use super::tracker::Listing;

/// The sum, modulo 2^128, of a hash of each entry of a list: equal for equal lists in any order,
/// and cheap to keep as entries come and go.
///
/// It guards against lost and doubled changes, not against a peer that lies: each peer speaks for
/// its own list alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListDigest(u64, u64);

impl ListDigest {
    fn sum(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }

    fn from_sum(sum: u128) -> ListDigest {
        ListDigest((sum >> 64) as u64, sum as u64)
    }

    fn entry(listing: &Listing) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(listing.id.as_bytes());
        hasher.update(&listing.size.to_be_bytes());
        hasher.update(&[u8::from(listing.complete)]);
        hasher.update(listing.name.as_str().as_bytes());
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_be_bytes(first)
    }

    /// Counts an entry in.
    pub fn add(&mut self, listing: &Listing) {
        *self = ListDigest::from_sum(self.sum().wrapping_add(ListDigest::entry(listing)));
    }

    /// Takes an entry out that was counted in.
    pub fn remove(&mut self, listing: &Listing) {
        *self = ListDigest::from_sum(self.sum().wrapping_sub(ListDigest::entry(listing)));
    }
}

impl<'a> FromIterator<&'a Listing> for ListDigest {
    fn from_iter<I: IntoIterator<Item = &'a Listing>>(listings: I) -> ListDigest {
        let mut digest = ListDigest::default();
        listings.into_iter().for_each(|listing| digest.add(listing));
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FileId;

    #[test]
    fn it_follows_the_list_in_any_order_and_tells_every_field_apart() {
        let listing = |name: &str, id: u8, size, complete| Listing {
            name: name.parse().unwrap(),
            id: FileId::from_bytes([id; 32]),
            size,
            complete,
        };
        let a = listing("a", 1, 10, true);
        let others = [
            listing("b", 1, 10, true),
            listing("a", 2, 10, true),
            listing("a", 1, 11, true),
            listing("a", 1, 10, false),
        ];
        for b in &others {
            let mut digest: ListDigest = [&a, b].into_iter().collect();
            assert_eq!(digest, [b, &a].into_iter().collect());
            digest.remove(&a);
            assert_eq!(digest, [b].into_iter().collect());
            assert_ne!(digest, [&a].into_iter().collect());
            digest.remove(b);
            assert_eq!(digest, ListDigest::default());
        }
    }
}
