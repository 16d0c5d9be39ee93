//! Partitions, and what is placed in them.

use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::MAX_PART_POWER;

/// Where a name is placed: the first 32 bits of its hash. It never changes; which partition it is in
/// depends on a ring's power.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place(pub u32);

impl Place {
    /// The partition at a power.
    pub fn partition(self, power: u8) -> Partition {
        let power = power.min(MAX_PART_POWER);
        Partition { power, number: self.0.checked_shr(32 - u32::from(power)).unwrap_or(0) }
    }
}

/// A slot of rings of one power: all names whose places share their top bits live on the same devices. It
/// names the power, so that it is never taken for one of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u32)", into = "(u8, u32)")]
pub struct Partition {
    power: u8,
    number: u32,
}

impl Partition {
    /// One of the 2^`power` partitions, by its number. What is beyond [`MAX_PART_POWER`] or the last number
    /// is cut off.
    pub fn new(power: u8, number: u32) -> Partition {
        let power = power.min(MAX_PART_POWER);
        Partition { power, number: number & (count(power) - 1) }
    }

    /// How many bits of a place choose it.
    pub fn power(self) -> u8 {
        self.power
    }

    /// Its number, from 0.
    pub fn number(self) -> u32 {
        self.number
    }

    /// What is placed in it.
    pub fn places(self) -> RangeInclusive<Place> {
        let first = self.number.checked_shl(32 - u32::from(self.power)).unwrap_or(0);
        Place(first)..=Place(first | u32::MAX >> self.power)
    }

    /// Whether everything that is placed in it is placed in `other` too.
    pub fn is_within(self, other: Partition) -> bool {
        other.power <= self.power && self.places().start().partition(other.power) == other
    }
}

fn count(power: u8) -> u32 {
    1 << power.min(MAX_PART_POWER)
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of 2^{}", self.number, self.power)
    }
}

impl TryFrom<(u8, u32)> for Partition {
    type Error = &'static str;

    fn try_from((power, number): (u8, u32)) -> Result<Partition, &'static str> {
        let partition = Partition::new(power, number);
        let is_one = (partition.power, partition.number) == (power, number);
        if is_one { Ok(partition) } else { Err("there is no such partition") }
    }
}

impl From<Partition> for (u8, u32) {
    fn from(partition: Partition) -> (u8, u32) {
        (partition.power, partition.number)
    }
}

/// Partitions of one power whose numbers follow one another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "(u8, Range<u32>)", into = "(u8, Range<u32>)")]
pub struct Partitions {
    power: u8,
    numbers: Range<u32>,
}

impl Partitions {
    /// All of a power.
    pub fn all(power: u8) -> Partitions {
        let power = power.min(MAX_PART_POWER);
        Partitions { power, numbers: 0..count(power) }
    }

    /// Their power.
    pub fn power(&self) -> u8 {
        self.power
    }

    /// Their numbers.
    pub fn numbers(&self) -> Range<u32> {
        self.numbers.clone()
    }

    /// The same, `many` at a time.
    pub fn chunks(&self, many: u32) -> impl Iterator<Item = Partitions> + use<> {
        let (power, Range { start, end }) = (self.power, self.numbers.clone());
        let many = many.max(1);
        let starts = (start..end).step_by(many as usize);
        starts.map(move |from| Partitions { power, numbers: from..end.min(from.saturating_add(many)) })
    }
}

impl From<Partition> for Partitions {
    fn from(one: Partition) -> Partitions {
        Partitions { power: one.power, numbers: one.number..one.number + 1 }
    }
}

impl Iterator for Partitions {
    type Item = Partition;

    fn next(&mut self) -> Option<Partition> {
        self.numbers.next().map(|number| Partition { power: self.power, number })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.numbers.size_hint()
    }
}

impl ExactSizeIterator for Partitions {}

impl TryFrom<(u8, Range<u32>)> for Partitions {
    type Error = &'static str;

    fn try_from((power, numbers): (u8, Range<u32>)) -> Result<Partitions, &'static str> {
        if power > MAX_PART_POWER || numbers.end > count(power) {
            return Err("there are no such partitions");
        }
        Ok(Partitions { power, numbers })
    }
}

impl From<Partitions> for (u8, Range<u32>) {
    fn from(partitions: Partitions) -> (u8, Range<u32>) {
        (partitions.power, partitions.numbers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_partition_is_the_top_bits_of_the_place() {
        let place = Place(0xA000_0001);
        assert_eq!(place.partition(3), Partition::new(3, 0b101));
        assert_eq!(place.partition(0), Partition::new(0, 0));
        assert_eq!(place.partition(24), Partition::new(24, 0xA0_0000));
        assert_eq!(place.partition(25), place.partition(MAX_PART_POWER), "no ring has more");
    }

    #[test]
    fn only_partitions_that_there_are_are_read() {
        let read = |text: &str| serde_json::from_str::<Partition>(text).is_ok();
        assert!(read("[3,7]") && !read("[3,8]") && !read("[25,0]"));
        let read = |text: &str| serde_json::from_str::<Partitions>(text).is_ok();
        assert!(read(r#"[3,{"start":2,"end":8}]"#) && !read(r#"[3,{"start":2,"end":9}]"#));
        assert!(!read(r#"[99,{"start":0,"end":0}]"#));
    }

    #[test]
    fn chunks_are_all_of_them_once() {
        let all = Partitions::all(5);
        let chunks: Vec<Partitions> = all.chunks(7).collect();
        assert_eq!(chunks.iter().map(Partitions::len).collect::<Vec<_>>(), [7, 7, 7, 7, 4]);
        assert!(chunks.into_iter().flatten().eq(all));
    }

    proptest! {
        #[test]
        fn a_place_is_in_one_partition_of_each_power_and_in_one_of_its_halves(place: u32, power in 0..=23u8) {
            let place = Place(place);
            let (whole, half) = (place.partition(power), place.partition(power + 1));
            prop_assert!(whole.places().contains(&place) && half.places().contains(&place));
            prop_assert!(half.is_within(whole) && !whole.is_within(half));
            prop_assert_eq!(half.number() / 2, whole.number());
            let first = 2 * whole.number();
            let (whole, halves) =
                (whole.places(), [first, first + 1].map(|number| Partition::new(power + 1, number).places()));
            prop_assert_eq!(whole.start(), halves[0].start());
            prop_assert_eq!(halves[0].end().0 + 1, halves[1].start().0);
            prop_assert_eq!(whole.end(), halves[1].end());
        }
    }
}
