//! Names to places.

use serde::{Deserialize, Serialize};

use crate::Place;

/// Number of a storage policy; 0 is the cluster's first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PolicyIndex(pub u16);

/// The first 128 bits of the keyed BLAKE3 of a name: its identity on the devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    /// Where it is placed.
    pub fn place(self) -> Place {
        let [a, b, c, d, ..] = self.0;
        Place(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The cluster's secret that keys the placement hash, so that nobody outside can aim many names at
/// one partition. Never changes in a cluster's life.
#[derive(Clone)]
pub struct PlacementKey([u8; 32]);

impl PlacementKey {
    /// A key from its 32 bytes.
    pub fn new(bytes: [u8; 32]) -> PlacementKey {
        PlacementKey(bytes)
    }

    /// Hash of a full name: `account`, `account/container` or `account/container/object`.
    pub fn hash(&self, name: &[u8]) -> KeyHash {
        let digest = blake3::keyed_hash(&self.0, name);
        let mut out = [0; 16];
        out.copy_from_slice(&digest.as_bytes()[..16]);
        KeyHash(out)
    }
}

/// Never prints the secret.
impl std::fmt::Debug for PlacementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlacementKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_first_bits_of_the_hash() {
        let hash = KeyHash([0b1010_0000, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(hash.place(), Place(0xA000_0001));
    }

    #[test]
    fn another_key_places_a_name_elsewhere() {
        let (a, b) = (PlacementKey::new([1; 32]), PlacementKey::new([2; 32]));
        assert_ne!(a.hash(b"x"), b.hash(b"x"));
        assert_eq!(a.hash(b"x"), a.hash(b"x"));
    }
}
