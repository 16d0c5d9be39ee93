//! The cluster's map: the one document that all members agree on.
//!
//! Its bytes, which members store and send:
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `KODKCMAP` |
//! | 8 | 4 | format version, 2, little-endian |
//! | 12 | | [`ClusterMap`] in postcard's encoding; rings are ring files |
//! | end - 32 | 32 | BLAKE3 of everything before |

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use kodiak_ring::{Ring, RingBuilder, RingError};
use kodiak_storage_api::{Mode, Protection};
use serde::{Deserialize, Serialize};

use crate::{ClusterId, Digest, DiskId, Epoch, KeyDigest, TokenHash};

const MAGIC: &[u8; 8] = b"KODKCMAP";
const VERSION: u32 = 2;
const HEADER: usize = 12;
const CHECKSUM: usize = 32;
/// Longest name of a node: it is a label of its certificate's host name.
pub const MAX_NAME: usize = 63;
/// Most members of a cluster.
pub const MAX_MEMBERS: usize = 10_000;
/// Most members with a vote: any three of them can be away.
pub const MAX_VOTERS: usize = 7;

/// Members, rings and policies, as of one epoch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Number of this map.
    pub epoch: Epoch,
    /// The map that it follows.
    pub follows: Digest,
    /// Number that the next member's clock gets: none is ever used twice.
    pub next_clock: u32,
    /// By name.
    pub members: Vec<Member>,
    /// Members that were removed, the newest last, so that they can be told.
    pub removed: Vec<Removed>,
    /// Ring of the accounts.
    pub accounts: RingFile,
    /// Ring of the containers.
    pub containers: RingFile,
    /// Replicas of accounts and containers, once there are as many devices.
    pub directory_replicas: u16,
    /// Storage policies, by their index.
    pub policies: Vec<Policy>,
    /// Index of the policy of containers that name none.
    pub default_policy: u16,
    /// Join tokens that have not expired.
    pub tokens: Vec<Token>,
}

/// A machine of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its name in rings and certificates.
    pub name: String,
    /// Number of its clock.
    pub clock: u32,
    /// Where it serves the cluster; port 0 until it was up for the first time.
    pub address: SocketAddr,
    /// Region, the widest failure domain.
    pub region: u32,
    /// Zone within the region.
    pub zone: u32,
    /// Its devices.
    pub devices: Vec<MemberDevice>,
    /// Its public key: certificates of others are refused in its name.
    pub key: KeyDigest,
    /// What it is to the cluster.
    pub state: MemberState,
}

/// A device of a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberDevice {
    /// Its name in the rings.
    pub name: String,
    /// The disk that is in it.
    pub disk: DiskId,
    /// Share of the partitions that it is to have, in thousandths of the rings' weight.
    pub weight: u64,
}

impl MemberDevice {
    /// The weight as rings have it.
    pub fn ring_weight(&self) -> f64 {
        self.weight as f64 / 1000.0
    }
}

/// What a member is to the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// Admitted, but not up yet: it holds nothing and has no vote.
    Joining {
        /// The member whose place it takes when it is up.
        replaces: Option<String>,
    },
    /// It holds partitions and votes.
    Active,
    /// It gives its partitions away; it still votes.
    Draining,
}

/// Who is no member any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: KeyDigest,
    /// The first map without it.
    pub epoch: Epoch,
}

/// A storage policy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// How blocks are kept.
    pub protection: Protection,
    /// Copies of everything, once there are as many devices; with an erasure code its fragments.
    pub replicas: u16,
    /// What happens when a majority is gone.
    pub mode: Mode,
    /// Its ring.
    pub ring: RingFile,
    /// It keeps its objects, and new containers do not get it.
    pub deprecated: bool,
    /// Every partition still is where it was first: what a device lacks of it was never elsewhere.
    pub unmoved: bool,
}

/// A token with which one machine may join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Hash of its secret.
    pub hash: TokenHash,
    /// Second since 1970 from which on it is refused.
    pub expires: u64,
    /// Who has used it.
    pub used_by: Option<KeyDigest>,
}

/// A ring file's bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingFile(#[serde(with = "byte_string")] Bytes);

/// Bytes as one string of them.
pub(crate) mod byte_string {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Bytes::copy_from_slice)
    }
}

impl RingFile {
    /// Encodes a ring.
    pub fn of(ring: &RingBuilder) -> RingFile {
        RingFile(ring.to_bytes().into())
    }

    /// The ring for changing it.
    pub fn builder(&self) -> Result<RingBuilder, RingError> {
        RingBuilder::from_bytes(&self.0)
    }

    /// The ring for lookups.
    pub fn ring(&self) -> Result<Ring, RingError> {
        Ring::from_bytes(&self.0)
    }
}

impl std::fmt::Debug for RingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Why bytes are not a map that can be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Something else.
    #[error("these bytes are no cluster map")]
    NotAMap,
    /// A newer program's.
    #[error(
        "the cluster map has format {found}, this program knows {VERSION}: run the version of kodiak that the other members run"
    )]
    Version {
        /// Of the map.
        found: u32,
    },
    /// Changed since they were written.
    #[error("the cluster map is damaged: its checksum is wrong")]
    Checksum,
    /// A ring in it cannot be used.
    #[error("the {ring} ring of the cluster map cannot be used: {error}")]
    Ring {
        /// Which one.
        ring: String,
        /// What is wrong.
        error: RingError,
    },
    /// Its parts do not fit together.
    #[error("the cluster map contradicts itself: {0}")]
    Contradiction(String),
}

impl ClusterMap {
    /// Its bytes.
    ///
    /// # Errors
    /// When it cannot be encoded, which only lack of memory can cause.
    pub fn encode(&self) -> Result<Bytes, MapError> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let failed = |error: postcard::Error| MapError::Contradiction(error.to_string());
        let mut out = postcard::to_extend(self, out).map_err(failed)?;
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        Ok(out.into())
    }

    /// Reads a map's bytes. Any bytes give a map that holds together, or an error.
    ///
    /// # Errors
    /// When they are no map, of another version, damaged, or contradict themselves.
    pub fn decode(bytes: &[u8]) -> Result<ClusterMap, MapError> {
        if bytes.len() < HEADER + CHECKSUM || !bytes.starts_with(MAGIC) {
            return Err(MapError::NotAMap);
        }
        let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if blake3::hash(body).as_bytes() != checksum {
            return Err(MapError::Checksum);
        }
        let version = body[8..HEADER].try_into().map_or(0, u32::from_le_bytes);
        if version != VERSION {
            return Err(MapError::Version { found: version });
        }
        let contradicts = |error: postcard::Error| MapError::Contradiction(error.to_string());
        let (map, rest) = postcard::take_from_bytes::<ClusterMap>(&body[HEADER..]).map_err(contradicts)?;
        if !rest.is_empty() {
            return Err(MapError::Contradiction("it is longer than its parts".into()));
        }
        map.check()?;
        Ok(map)
    }

    /// What names this very map.
    ///
    /// # Errors
    /// See [`ClusterMap::encode`].
    pub fn digest(&self) -> Result<Digest, MapError> {
        Ok(Digest(*blake3::hash(&self.encode()?).as_bytes()))
    }

    /// The member of a name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| member.name.as_str().cmp(name)).ok()?;
        self.members.get(at)
    }

    pub(crate) fn member_mut(&mut self, name: &str) -> Option<&mut Member> {
        let at = self.members.binary_search_by(|member| member.name.as_str().cmp(name)).ok()?;
        self.members.get_mut(at)
    }

    /// The members that have been up: they hold partitions.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !matches!(member.state, MemberState::Joining { .. }))
    }

    /// Whose votes decide about the next map: all that have been up, or of many [`MAX_VOTERS`], of as many zones as there
    /// are, first those that have been members for longest, and last those that are about to leave. A map with its
    /// rings goes to each of them, within a few seconds.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        let mut active: Vec<&Member> = self.active().collect();
        if active.len() > MAX_VOTERS {
            active.sort_unstable_by_key(|member| (member.state == MemberState::Draining, member.clock));
            let mut of_zone: HashMap<(u32, u32), usize> = HashMap::new();
            let mut ranked: Vec<(bool, usize, &Member)> = active
                .into_iter()
                .map(|member| {
                    let before = of_zone.entry((member.region, member.zone)).or_default();
                    *before += 1;
                    (member.state == MemberState::Draining, *before, member)
                })
                .collect();
            // Stable: of one rank, the longest members come first.
            ranked.sort_by_key(|(leaving, rank, _)| (*leaving, *rank));
            active = ranked.into_iter().take(MAX_VOTERS).map(|(_, _, member)| member).collect();
        }
        active.into_iter()
    }

    /// Votes that decide: more than half.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Each ring with its name for messages and its replica count once there are enough devices.
    pub fn rings(&self) -> impl Iterator<Item = (String, &RingFile, u16)> {
        let directories = [("account", &self.accounts), ("container", &self.containers)];
        let directories =
            directories.into_iter().map(|(name, ring)| (name.to_owned(), ring, self.directory_replicas));
        let policies = self.policies.iter();
        directories.chain(policies.map(|p| (format!("object ({})", p.name), &p.ring, p.replicas)))
    }

    fn check(&self) -> Result<(), MapError> {
        let wrong = |text: String| Err(MapError::Contradiction(text));
        if self.policies.is_empty() {
            return wrong("it has no storage policy".into());
        }
        if self.policies.get(usize::from(self.default_policy)).is_none_or(|policy| policy.deprecated) {
            return wrong("its default storage policy takes no containers".into());
        }
        if self.members.is_empty() || self.members.len() > MAX_MEMBERS {
            return wrong(format!("it has {} members", self.members.len()));
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            return wrong(format!("members {} and {} are out of order", pair[0].name, pair[1].name));
        }
        let mut clocks: Vec<u32> = self.members.iter().map(|member| member.clock).collect();
        clocks.sort_unstable();
        if clocks.windows(2).any(|pair| pair[0] == pair[1])
            || clocks.last().is_some_and(|&last| last >= self.next_clock)
        {
            return wrong("two members have one clock".into());
        }
        if self.voters().next().is_none() {
            return wrong("nobody has a vote".into());
        }
        for member in &self.members {
            check_name(&member.name).map_err(MapError::Contradiction)?;
        }
        for (name, file, _) in self.rings() {
            let ring = file.ring().map_err(|error| MapError::Ring { ring: name.clone(), error })?;
            for device in ring.devices() {
                let member = self.member(&device.node);
                if !member.is_some_and(|m| m.devices.iter().any(|own| own.name == device.name)) {
                    let (device, node) = (&device.name, &device.node);
                    return wrong(format!(
                        "the {name} ring names device {device} of {node}, which is not there"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Checks a node's name.
///
/// # Errors
/// With what a person is to read.
pub fn check_name(name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > MAX_NAME || !letters || ends {
        return Err(format!(
            "{name:?} is no node name: up to {MAX_NAME} of a-z, 0-9 and -, which is neither first nor last"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let checksum = *blake3::hash(&body).as_bytes();
        body.extend_from_slice(&checksum);
        body
    }

    #[test]
    fn a_map_is_read_as_it_was_written_and_every_flipped_byte_is_noticed() {
        let map = testing::map(2, 1, 2, 3);
        let bytes = map.encode().unwrap();
        assert_eq!(ClusterMap::decode(&bytes).unwrap(), map);
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(ClusterMap::decode(&flipped).is_err(), "byte {at}");
        }
        assert!(matches!(ClusterMap::decode(&bytes[..20]), Err(MapError::NotAMap)));
    }

    #[test]
    fn of_many_members_seven_of_all_zones_have_a_vote_and_others_take_their_places() {
        let mut map = testing::map(9, 0, 1, 4);
        let names = |map: &ClusterMap| map.voters().map(|voter| voter.name.clone()).collect::<Vec<_>>();
        for (number, member) in map.members.iter_mut().enumerate() {
            member.zone = if number < 7 { 1 } else { 2 };
        }
        assert_eq!(names(&map), ["n1", "n8", "n2", "n9", "n3", "n4", "n5"]);
        assert_eq!(map.majority(), 4);
        map.members[1].state = MemberState::Draining;
        assert_eq!(names(&map), ["n1", "n8", "n3", "n9", "n4", "n5", "n6"]);
        map.members.truncate(7);
        assert_eq!(names(&map).len(), 7, "all of few have one");
    }

    #[test]
    fn each_fault_has_its_own_message() {
        let map = testing::map(2, 0, 1, 2);
        let bytes = map.encode().unwrap();
        let mut newer = bytes[..bytes.len() - CHECKSUM].to_vec();
        newer[8] = 9;
        assert!(matches!(ClusterMap::decode(&sealed(newer)), Err(MapError::Version { found: 9 })));
        let mut broken = map.clone();
        let mut ring = broken.policies[0].ring.0.to_vec();
        ring[70] ^= 1;
        broken.policies[0].ring = RingFile(ring.into());
        let error = ClusterMap::decode(&broken.encode().unwrap()).unwrap_err().to_string();
        assert!(error.contains("object (gold) ring") && error.contains("checksum"), "{error}");
        let contradiction = |change: fn(&mut ClusterMap)| {
            let mut map = map.clone();
            change(&mut map);
            ClusterMap::decode(&map.encode().unwrap()).unwrap_err().to_string()
        };
        let text = contradiction(|map| drop(map.members.pop()));
        assert!(text.contains("of n2, which is not there"), "{text}");
        let text = contradiction(|map| map.members[1].clock = 1);
        assert!(text.contains("one clock"), "{text}");
        let text = contradiction(|map| map.members.swap(0, 1));
        assert!(text.contains("out of order"), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let header = [&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat();
            let _ = ClusterMap::decode(&sealed(header));
            let _ = ClusterMap::decode(&bytes);
        }
    }
}
