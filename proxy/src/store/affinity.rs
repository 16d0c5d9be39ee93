//! Which machines and devices are near.
//!
//! Source: Swift's documentation of `read_affinity`, `write_affinity` and `write_affinity_node_count`.

use std::fmt;
use std::str::FromStr;

use kodiak_storage_api::Seat;
use serde::{Deserialize, Serialize};

/// A region, `r1`, or a zone of one, `r1z2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Area {
    region: u32,
    zone: Option<u32>,
}

impl FromStr for Area {
    type Err = String;

    fn from_str(text: &str) -> Result<Area, String> {
        let bad = || format!("{text:?} names no region: write r1 for region 1, or r1z2 for its zone 2");
        let numbers = text.strip_prefix('r').ok_or_else(bad)?;
        let (region, zone) = match numbers.split_once('z') {
            Some((region, zone)) => (region, Some(zone)),
            None => (numbers, None),
        };
        let number = |digits: &str| digits.parse().map_err(|_| bad());
        Ok(Area { region: number(region)?, zone: zone.map(number).transpose()? })
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.region)?;
        self.zone.map_or(Ok(()), |zone| write!(f, "z{zone}"))
    }
}

fn list<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(read).collect()
}

/// How far away regions and zones are: `r1z1=100, r1=200, r2=300`, the lower the nearer; what is not named
/// is farthest. Empty, the default: this machine's zone, its region, all others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReadAffinity(Vec<(Area, u32)>);

impl ReadAffinity {
    /// How far a machine there (region and zone) is from one here.
    pub fn distance(&self, here: (u32, u32), there: (u32, u32)) -> u32 {
        let of = |zone| {
            let area = Area { region: there.0, zone };
            self.0.iter().find(|(named, _)| *named == area).map(|(_, distance)| *distance)
        };
        match here {
            _ if !self.0.is_empty() => of(Some(there.1)).or(of(None)).unwrap_or(u32::MAX),
            _ if here == there => 1,
            (region, _) if region == there.0 => 2,
            _ => 3,
        }
    }
}

impl TryFrom<String> for ReadAffinity {
    type Error = String;

    fn try_from(text: String) -> Result<ReadAffinity, String> {
        let read = |item: &str| {
            let bad =
                || format!("{item:?} is no read affinity: write r1=100 or r1z2=100, the lower the nearer");
            let (area, distance) = item.split_once('=').ok_or_else(bad)?;
            Ok((area.trim().parse()?, distance.trim().parse().map_err(|_| bad())?))
        };
        list(&text, read).map(ReadAffinity)
    }
}

impl From<ReadAffinity> for String {
    fn from(affinity: ReadAffinity) -> String {
        let items: Vec<String> =
            affinity.0.iter().map(|(area, distance)| format!("{area}={distance}")).collect();
        items.join(", ")
    }
}

/// Where blocks of new objects go at first: `r1, r2z1`. Empty, the default: to their own devices.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WriteAffinity(Vec<Area>);

impl WriteAffinity {
    /// Whether blocks go to their own devices at once.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn holds(&self, seat: &Seat) -> bool {
        let within =
            |area: &Area| area.region == seat.region && area.zone.is_none_or(|zone| zone == seat.zone);
        self.0.iter().any(within)
    }
}

impl TryFrom<String> for WriteAffinity {
    type Error = String;

    fn try_from(text: String) -> Result<WriteAffinity, String> {
        list(&text, str::parse).map(WriteAffinity)
    }
}

impl From<WriteAffinity> for String {
    fn from(affinity: WriteAffinity) -> String {
        let items: Vec<String> = affinity.0.iter().map(Area::to_string).collect();
        items.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ReadAffinity, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn the_own_zone_is_nearest_and_then_the_own_region() {
        let default = ReadAffinity::default();
        let far = |there| default.distance((1, 1), there);
        assert!(far((1, 1)) < far((1, 2)) && far((1, 2)) < far((2, 1)));
    }

    #[test]
    fn a_zone_counts_before_its_region_and_what_is_not_named_is_farthest() {
        let affinity = read("r1=200, r1z2=300,r2=100").expect("as Swift has it");
        let far = |there| affinity.distance((9, 9), there);
        assert_eq!([far((1, 1)), far((1, 2)), far((2, 7)), far((3, 1))], [200, 300, 100, u32::MAX]);
        assert_eq!(String::from(affinity), "r1=200, r1z2=300, r2=100");
    }

    #[test]
    fn what_is_no_affinity_is_refused_with_what_to_write() {
        for bad in ["1", "r", "rz1", "r1z", "r1=x", "r1", "r-1=2"] {
            assert!(read(bad).expect_err(bad).contains("r1"), "{bad}");
        }
        assert!(WriteAffinity::try_from("r1, x2".to_owned()).is_err());
        assert_eq!(String::from(WriteAffinity::try_from("r1,r2z3".to_owned()).expect("two")), "r1, r2z3");
    }
}
