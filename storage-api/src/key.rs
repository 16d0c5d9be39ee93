//! Names and where they are placed.

use std::fmt;
use std::sync::Arc;

use kodiak_ring::{KeyHash, Place, PolicyIndex};
use serde::{Deserialize, Serialize};

/// `account/container/object`, cheap to clone. The object's name may hold slashes; the others not.
///
/// Names that begin with a NUL byte are the cluster's own (multipart uploads, versions); clients
/// can neither name nor list them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectPath {
    full: Arc<str>,
    account: usize,
    container: usize,
}

/// Why a string is not an [`ObjectPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not account/container/object")]
pub struct PathError(String);

impl ObjectPath {
    /// Joins three names. The caller has checked that account and container hold no slash and that
    /// nothing is empty.
    pub fn new(account: &str, container: &str, object: &str) -> ObjectPath {
        let mut full = String::with_capacity(account.len() + container.len() + object.len() + 2);
        full.push_str(account);
        full.push('/');
        full.push_str(container);
        full.push('/');
        full.push_str(object);
        ObjectPath {
            full: full.into(),
            account: account.len(),
            container: account.len() + 1 + container.len(),
        }
    }

    /// Splits a full name.
    pub fn parse(full: &str) -> Result<ObjectPath, PathError> {
        let bad = || PathError(full.to_owned());
        let account = full.find('/').ok_or_else(bad)?;
        let container = account + 1 + full[account + 1..].find('/').ok_or_else(bad)?;
        if account == 0 || container == account + 1 || container + 1 == full.len() {
            return Err(bad());
        }
        Ok(ObjectPath { full: full.into(), account, container })
    }

    /// The whole `account/container/object`.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The account's name.
    pub fn account(&self) -> &str {
        &self.full[..self.account]
    }

    /// The container's name, without the account's.
    pub fn container(&self) -> &str {
        &self.full[self.account + 1..self.container]
    }

    /// `account/container`.
    pub fn container_path(&self) -> &str {
        &self.full[..self.container]
    }

    /// The object's name, without account and container.
    pub fn object(&self) -> &str {
        &self.full[self.container + 1..]
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.full)
    }
}

impl Serialize for ObjectPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.full)
    }
}

impl<'de> Deserialize<'de> for ObjectPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ObjectPath, D::Error> {
        let full = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        ObjectPath::parse(&full).map_err(serde::de::Error::custom)
    }
}

/// Where an object's record lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Storage policy of the object's container.
    pub policy: PolicyIndex,
    /// Hash of the full name.
    pub hash: KeyHash,
}

impl ObjectKey {
    /// Its place in the policy's object ring.
    pub fn place(&self) -> Place {
        self.hash.place()
    }
}

/// Where an account or a container lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DirectoryKey {
    /// Hash of `account` or `account/container`.
    pub hash: KeyHash,
}

impl DirectoryKey {
    /// Its place in the account or container ring.
    pub fn place(&self) -> Place {
        self.hash.place()
    }
}

/// Identity of the bytes that one upload wrote: random, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DataId(pub [u8; 16]);

/// Where one block lies. Blocks are immutable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BlockKey {
    /// Storage policy of the object that owns the block.
    pub policy: PolicyIndex,
    /// Its place in the policy's object ring, from the hash of `data` and `index`.
    pub place: Place,
    /// The upload that wrote it.
    pub data: DataId,
    /// Its place in the upload, from 0 ([`BlockKey::number`]), and which fragment of it it is, if its
    /// policy cuts blocks into fragments ([`BlockKey::fragment`]).
    pub index: u32,
}

/// Bits of [`BlockKey::index`] below the fragment.
const NUMBER_BITS: u32 = 24;

impl BlockKey {
    /// Blocks of one upload at most.
    pub const MAX_BLOCKS: u32 = 1 << NUMBER_BITS;

    /// The block's place in the upload.
    pub fn number(&self) -> u32 {
        self.index % Self::MAX_BLOCKS
    }

    /// Which fragment of the block it is; none if it is the block itself.
    pub fn fragment(&self) -> Option<usize> {
        (self.index >> NUMBER_BITS).checked_sub(1).map(|fragment| fragment as usize)
    }

    /// The key of a fragment of this block.
    pub fn of_fragment(self, fragment: usize) -> BlockKey {
        BlockKey { index: self.number() | (fragment as u32 + 1) << NUMBER_BITS, ..self }
    }

    /// The bytes whose placement hash chooses the block's place.
    pub fn placement_name(data: DataId, index: u32) -> [u8; 20] {
        let mut name = [0; 20];
        name[..16].copy_from_slice(&data.0);
        name[16..].copy_from_slice(&index.to_be_bytes());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_at_its_first_two_slashes() {
        let path = ObjectPath::parse("AUTH_a/c/d/e/").expect("three names");
        assert_eq!((path.account(), path.container(), path.object()), ("AUTH_a", "c", "d/e/"));
        assert_eq!(path.container_path(), "AUTH_a/c");
        assert_eq!(path, ObjectPath::new("AUTH_a", "c", "d/e/"));
    }

    #[test]
    fn a_fragment_knows_its_block() {
        let block = BlockKey { policy: PolicyIndex(1), place: Place(2), data: DataId([3; 16]), index: 77 };
        assert_eq!((block.number(), block.fragment()), (77, None));
        for fragment in [0, 5, 31] {
            let key = block.of_fragment(fragment);
            assert_eq!((key.number(), key.fragment()), (77, Some(fragment)));
            assert_eq!(BlockKey { index: key.number(), ..key }, block);
        }
    }

    #[test]
    fn a_path_needs_three_names() {
        for bad in ["", "a", "a/b", "a/b/", "/b/c", "a//c"] {
            assert!(ObjectPath::parse(bad).is_err(), "{bad}");
        }
    }
}
