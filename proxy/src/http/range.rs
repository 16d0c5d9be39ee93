//! `Range` requests, RFC 9110 section 14.

use std::ops::Range;

/// More ranges than this in one request are an attack, not a request: all are ignored, as Swift does.
const MAX_RANGES: usize = 50;
/// Of those at most this many may overlap another.
const MAX_OVERLAPPING: usize = 2;

/// What a `Range` header asks of an object of a given length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// No usable `Range`: everything.
    Whole,
    /// These ranges, none of them empty.
    Parts(Vec<Range<u64>>),
    /// None of the ranges lies within: 416.
    Unsatisfiable,
}

/// A `Range` header whose syntax has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedRanges(Vec<(Option<u64>, Option<u64>)>);

impl RequestedRanges {
    /// Reads a header; none if it is not a list of byte ranges, which means: ignore it.
    pub fn parse(text: &str) -> Option<RequestedRanges> {
        let (unit, list) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut ranges = Vec::new();
        for part in list.split(',') {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let (first, last) = part.split_once('-')?;
            let (first, last) = (number(first.trim())?, number(last.trim())?);
            match (first, last) {
                (None, None) => return None,
                (Some(first), Some(last)) if last < first => return None,
                range => ranges.push(range),
            }
        }
        (!ranges.is_empty()).then_some(RequestedRanges(ranges))
    }

    /// The parts of an object of `length` bytes.
    pub fn of(&self, length: u64) -> Ranges {
        let cut = |&(first, last): &(Option<u64>, Option<u64>)| {
            let range = match (first, last) {
                (Some(first), last) => first..last.map_or(length, |last| length.min(last.saturating_add(1))),
                (None, suffix) => length.saturating_sub(suffix.unwrap_or(0))..length,
            };
            (range.start < range.end).then_some(range)
        };
        let parts: Vec<Range<u64>> = self.0.iter().filter_map(cut).collect();
        if parts.is_empty() {
            return Ranges::Unsatisfiable;
        }
        if parts.len() > MAX_RANGES || overlapping(&parts) > MAX_OVERLAPPING {
            return Ranges::Whole;
        }
        Ranges::Parts(parts)
    }
}

fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A number too large to hold lies beyond every object.
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

fn overlapping(parts: &[Range<u64>]) -> usize {
    let mut sorted: Vec<&Range<u64>> = parts.iter().collect();
    sorted.sort_by_key(|range| range.start);
    sorted.windows(2).filter(|pair| pair[1].start < pair[0].end).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, length: u64) -> Ranges {
        RequestedRanges::parse(text).map_or(Ranges::Whole, |ranges| ranges.of(length))
    }

    #[test]
    fn ranges_are_cut_to_the_object() {
        assert_eq!(of("bytes=0-9", 5), Ranges::Parts(vec![0..5]));
        assert_eq!(of("bytes=2-", 5), Ranges::Parts(vec![2..5]));
        assert_eq!(of("bytes=-2", 5), Ranges::Parts(vec![3..5]));
        assert_eq!(of("bytes=-9", 5), Ranges::Parts(vec![0..5]));
        assert_eq!(of("bytes=0-0, 7-8,-1", 5), Ranges::Parts(vec![0..1, 4..5]));
        assert_eq!(of("bytes=5-", 5), Ranges::Unsatisfiable);
        assert_eq!(of("bytes=-0", 5), Ranges::Unsatisfiable);
        assert_eq!(of("bytes=0-99999999999999999999999", 5), Ranges::Parts(vec![0..5]));
    }

    #[test]
    fn what_is_not_a_range_is_ignored() {
        for text in ["bytes=3-2", "bytes=-", "bytes=", "bytes=a-b", "items=0-1", "bytes=1-2,x", "bytes=+1-2"]
        {
            assert_eq!(of(text, 5), Ranges::Whole, "{text}");
        }
    }

    #[test]
    fn many_or_overlapping_ranges_are_an_attack() {
        let many = (0..60).map(|i| format!("{}-{}", i * 2, i * 2)).collect::<Vec<_>>().join(",");
        assert_eq!(of(&format!("bytes={many}"), 1000), Ranges::Whole);
        assert_eq!(of("bytes=0-,1-,2-,3-", 1000), Ranges::Whole);
    }
}
