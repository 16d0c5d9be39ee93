//! Hybrid-logical-clock timestamps: every write has one, and they order all writes of a key.
//!
//! Source: Kulkarni et al., "Logical Physical Clocks" (2014). The physical part is microseconds,
//! the low bits count events within one microsecond, and the node breaks ties, so that no two
//! writes of a cluster ever carry the same timestamp.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Bits of the hybrid clock that count events within one microsecond.
const LOGICAL_BITS: u32 = 12;

/// When a write happened: totally ordered, unique in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Microseconds since 1970, shifted left by 12 bits, plus a logical counter.
    hybrid: u64,
    /// Number of the clock's owner; breaks ties.
    node: u32,
}

impl Timestamp {
    /// Before every write.
    pub const ZERO: Timestamp = Timestamp { hybrid: 0, node: 0 };
    /// Bytes of [`Timestamp::to_bytes`].
    pub const ENCODED_LEN: usize = 12;

    /// A timestamp at a wall-clock time, logical count zero.
    pub fn from_micros(micros: u64, node: u32) -> Timestamp {
        Timestamp { hybrid: micros << LOGICAL_BITS, node }
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> u64 {
        self.hybrid >> LOGICAL_BITS
    }

    /// The next one in the order: no clock issues it that has observed this one.
    #[must_use]
    pub fn just_after(self) -> Timestamp {
        match self.node.checked_add(1) {
            Some(node) => Timestamp { node, ..self },
            None => Timestamp { hybrid: self.hybrid + 1, node: 0 },
        }
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> u64 {
        self.micros() / 1_000_000
    }

    /// The wall-clock part.
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.micros())
    }

    /// Big-endian, so that bytes order as timestamps do.
    pub fn to_bytes(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[..8].copy_from_slice(&self.hybrid.to_be_bytes());
        out[8..].copy_from_slice(&self.node.to_be_bytes());
        out
    }

    /// The inverse of [`Timestamp::to_bytes`].
    pub fn from_bytes(bytes: [u8; Self::ENCODED_LEN]) -> Timestamp {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Timestamp {
            hybrid: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            node: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

/// As Swift's `X-Timestamp`: seconds with five decimals.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.micros();
        write!(f, "{:010}.{:05}", micros / 1_000_000, micros % 1_000_000 / 10)
    }
}

/// Issues timestamps that never go back, whatever the wall clock does.
pub struct Clock {
    last: AtomicU64,
    node: u32,
    wall: Wall,
}

/// A source of microseconds since 1970.
pub type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.node)
    }
}

impl Clock {
    /// A clock on the system's time.
    pub fn system(node: u32) -> Clock {
        Clock::with_wall(node, Arc::new(system_micros))
    }

    /// A clock on any source of microseconds since 1970, for simulation.
    pub fn with_wall(node: u32, wall: Wall) -> Clock {
        Clock { last: AtomicU64::new(0), node, wall }
    }

    /// A timestamp later than every one this clock has issued or observed.
    pub fn now(&self) -> Timestamp {
        let physical = (self.wall)() << LOGICAL_BITS;
        let next = |last: u64| Some(physical.max(last + 1));
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let last = last.unwrap_or_else(|unchanged| unchanged);
        Timestamp { hybrid: physical.max(last + 1), node: self.node }
    }

    /// The newest timestamp that it has issued or observed.
    pub fn last(&self) -> Timestamp {
        Timestamp { hybrid: self.last.load(Ordering::Acquire), node: self.node }
    }

    /// Makes every later [`Clock::now`] greater than `seen`.
    pub fn observe(&self, seen: Timestamp) {
        self.last.fetch_max(seen.hybrid, Ordering::AcqRel);
    }

    /// The wall clock, microseconds since 1970.
    pub fn wall_micros(&self) -> u64 {
        (self.wall)()
    }
}

fn system_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_repeats_or_goes_back_even_when_the_wall_stands_still() {
        let clock = Clock::with_wall(3, Arc::new(|| 1_000_000));
        let (a, b) = (clock.now(), clock.now());
        assert!(a < b);
        clock.observe(Timestamp::from_micros(2_000_000, 9));
        assert!(clock.now() > Timestamp::from_micros(2_000_000, 9));
    }

    #[test]
    fn bytes_keep_the_order_and_the_value() {
        let a = Timestamp::from_micros(77, 1);
        let b = Timestamp::from_micros(77, 2);
        assert!(a.to_bytes() < b.to_bytes());
        assert_eq!(Timestamp::from_bytes(b.to_bytes()), b);
        assert_eq!(Timestamp::from_micros(1_234_567_890_123_456, 0).to_string(), "1234567890.12345");
    }
}
