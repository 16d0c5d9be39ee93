//! Names of an object's versions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Digits of a second's fraction that are not the node: microseconds and the logical count.
const FRACTION: usize = 10;
/// Fewest digits of the fraction: those of Swift's timestamps.
const MIN_FRACTION: usize = 5;

/// Which version of an object: the time at which it was made, which no other version of the name has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct VersionId(pub Timestamp);

/// Why a text is not a [`VersionId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version id")]
pub struct VersionIdError;

impl VersionId {
    /// A text of digits and one dot that sorts by the newest version first.
    pub fn inverted(self) -> String {
        let (hybrid, node) = parts(self.0);
        format!("{:020}.{:010}", !hybrid, !node)
    }

    /// The inverse of [`VersionId::inverted`].
    pub fn from_inverted(text: &str) -> Option<VersionId> {
        let (hybrid, node) = text.split_once('.')?;
        Some(VersionId(joined(!digits(hybrid)?, !u32::try_from(digits(node)?).ok()?)))
    }
}

fn parts(at: Timestamp) -> (u64, u32) {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = at.to_bytes();
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes([i, j, k, l]))
}

fn joined(hybrid: u64, node: u32) -> Timestamp {
    let mut bytes = [0; Timestamp::ENCODED_LEN];
    bytes[..8].copy_from_slice(&hybrid.to_be_bytes());
    bytes[8..].copy_from_slice(&node.to_be_bytes());
    Timestamp::from_bytes(bytes)
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// As a Swift timestamp (seconds and five decimals), with more digits where the time has more: six of
/// microseconds, four of the logical count, and then the node's number.
impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hybrid, node) = parts(self.0);
        let (micros, logical) = (self.0.micros(), hybrid & 0xfff);
        let mut fraction = format!("{:06}{logical:04}", micros % 1_000_000);
        if node > 0 {
            fraction.push_str(&node.to_string());
        }
        let used = fraction.trim_end_matches('0').len().max(MIN_FRACTION);
        let shown = if node > 0 { &fraction[..] } else { &fraction[..used] };
        write!(f, "{:010}.{shown}", micros / 1_000_000)
    }
}

impl FromStr for VersionId {
    type Err = VersionIdError;

    fn from_str(text: &str) -> Result<VersionId, VersionIdError> {
        let parse = || {
            let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
            let (fraction, node) = fraction.split_at_checked(FRACTION).unwrap_or((fraction, ""));
            let node = match node {
                "" => 0,
                _ if node.starts_with('0') => return None,
                _ => u32::try_from(digits(node)?).ok()?,
            };
            digits(fraction)?;
            let fraction = digits(&format!("{fraction:0<FRACTION$}"))?;
            let micros = digits(seconds)?.checked_mul(1_000_000)?.checked_add(fraction / 10_000)?;
            let logical = fraction % 10_000;
            let room = micros < 1 << 52 && logical < 1 << 12;
            room.then(|| VersionId(joined(micros << 12 | logical, node)))
        };
        parse().ok_or(VersionIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(hybrid: u64, node: u32) -> VersionId {
        VersionId(joined(hybrid, node))
    }

    #[test]
    fn an_id_is_read_as_it_was_written() {
        for (hybrid, node) in
            [(1_700_000_000_123_450 << 12, 0), (1_700_000_000_000_001 << 12 | 9, 0), (77, 1)]
                .into_iter()
                .chain([(1_700_000_000_123_456 << 12 | 4095, 120), (1_700_000_000_000_000 << 12, u32::MAX)])
        {
            let id = id(hybrid, node);
            assert_eq!(id.to_string().parse(), Ok(id), "{id}");
            assert_eq!(VersionId::from_inverted(&id.inverted()), Some(id));
        }
        assert_eq!(id(1_700_000_000_123_450 << 12, 0).to_string(), "1700000000.12345");
    }

    #[test]
    fn other_texts_are_no_ids() {
        for bad in
            ["", "null", "bad", "1.", ".5", "1.-5", "+1.5", "1.12345678900", "1.0000009999", "99999999999.0"]
        {
            assert_eq!(bad.parse::<VersionId>(), Err(VersionIdError), "{bad}");
        }
        assert!("1234567890.12345".parse::<VersionId>().is_ok());
    }

    #[test]
    fn newer_versions_sort_first() {
        assert!(id(2 << 12, 0).inverted() < id(1 << 12 | 5, 0).inverted());
        assert!(id(1, 2).inverted() < id(1, 1).inverted());
    }
}
