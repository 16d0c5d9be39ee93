//! Which versions of the nodes' protocol a build speaks, and how two builds agree on one.
//!
//! A caller offers a protocol of TLS (ALPN) for each version that it speaks, the newest first; the server takes the
//! newest that it knows too, and that is the version of the connection. So machines can be upgraded one after the
//! other: a build speaks its own version and the one before. Two that have none in common are refused in the
//! handshake, before anything is sent.
//!
//! A change that a build of the version before would misread needs a new version: a new [`super::Call`] is one. What
//! is to be said to a peer of the version before is written as that version has it.

use std::fmt;

/// The newest version of this source.
pub const PROTOCOL: u8 = 2;

/// Versions of the nodes' protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The oldest one that is still spoken.
    pub oldest: u8,
    /// The newest one.
    pub newest: u8,
}

/// What a connection carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carries {
    /// Messages, many at once.
    Messages,
    /// Blocks, one at a time.
    Blocks,
}

impl Versions {
    /// Those of this source. Version 1 is no longer spoken: its keys named partitions.
    pub const CURRENT: Versions = Versions { oldest: PROTOCOL, newest: PROTOCOL };

    /// Whether it is one of them.
    pub fn contain(self, version: u8) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// The protocols of TLS for these versions, the newest first.
    pub fn offered(self, carries: Carries) -> Vec<Vec<u8>> {
        (self.oldest..=self.newest).rev().map(|version| name(carries, version).into_bytes()).collect()
    }

    /// What a protocol of TLS stands for, if these versions have it.
    pub fn agreed(self, protocol: &[u8]) -> Option<(Carries, u8)> {
        let of = |carries| {
            let mut versions = self.oldest..=self.newest;
            let found = versions.find(|version| name(carries, *version).as_bytes() == protocol);
            found.map(|version| (carries, version))
        };
        of(Carries::Messages).or_else(|| of(Carries::Blocks))
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "version {}", self.newest),
            false => write!(f, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

fn name(carries: Carries, version: u8) -> String {
    match carries {
        Carries::Messages => format!("kodiak/{version}"),
        Carries::Blocks => format!("kodiak-blocks/{version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Versions = Versions { oldest: 1, newest: 1 };
    const BOTH: Versions = Versions { oldest: 1, newest: 2 };

    #[test]
    fn the_newest_is_offered_first_and_each_is_understood() {
        let offered = BOTH.offered(Carries::Blocks);
        assert_eq!(offered, [b"kodiak-blocks/2".to_vec(), b"kodiak-blocks/1".to_vec()]);
        assert_eq!(BOTH.agreed(&offered[0]), Some((Carries::Blocks, 2)));
        assert_eq!(OLD.agreed(&offered[0]), None);
        assert_eq!(OLD.agreed(b"kodiak/1"), Some((Carries::Messages, 1)));
        assert_eq!(OLD.agreed(b"http/1.1"), None);
        assert_eq!((OLD.to_string(), BOTH.to_string()), ("version 1".into(), "versions 1 to 2".into()));
    }
}
