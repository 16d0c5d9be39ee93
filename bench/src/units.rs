//! Sizes and durations as people write them.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::random::mix;

/// Bytes of `4KiB`, `10MB`, `512`.
pub fn parse_size(text: &str) -> anyhow::Result<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("{text:?} is no size such as 4KiB"))?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        other => bail!("{other:?} is no unit of size: use B, KiB, MiB, GiB, KB, MB or GB"),
    };
    number.checked_mul(factor).with_context(|| format!("{text} is too large"))
}

/// A duration such as `500ms`, `10s`, `2m`; a bare number is seconds.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no duration such as 10s"))?;
    let seconds = match unit.trim() {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        other => bail!("{other:?} is no unit of time: use ms, s, m or h"),
    };
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text} is too long"))
}

/// A size in its largest even unit: `4 KiB`.
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// Object sizes and how often each is drawn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    parts: Vec<(u64, u64)>,
    total: u64,
}

impl Sizes {
    /// Every object has this size.
    pub fn one(size: u64) -> Sizes {
        Sizes { parts: vec![(size, 1)], total: 1 }
    }

    /// `4KiB:80,1MiB:20`: sizes with their weights.
    pub fn parse(text: &str) -> anyhow::Result<Sizes> {
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let weight: u64 =
                weight.trim().parse().with_context(|| format!("{weight:?} is no weight in {text:?}"))?;
            parts.push((parse_size(size)?, weight));
        }
        let total = parts.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            bail!("the weights of {text:?} add up to nothing");
        }
        Ok(Sizes { parts, total })
    }

    /// The size of an object: always the same for a seed and a number.
    pub fn of(&self, seed: u64, number: u64) -> u64 {
        let mut draw = if self.parts.len() == 1 { 0 } else { mix(seed ^ mix(number)) % self.total };
        for &(size, weight) in &self.parts {
            if draw < weight {
                return size;
            }
            draw -= weight;
        }
        self.parts.last().map_or(0, |part| part.0)
    }

    /// The largest.
    pub fn largest(&self) -> u64 {
        self.parts.iter().map(|part| part.0).max().unwrap_or(0)
    }

    /// As text: `4 KiB 80 %, 1 MiB 20 %`.
    pub fn show(&self) -> String {
        if let [(size, _)] = self.parts.as_slice() {
            return show_size(*size);
        }
        let share = |weight: u64| weight as f64 * 100.0 / self.total as f64;
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|&(size, weight)| format!("{} {:.0} %", show_size(size), share(weight)))
            .collect();
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("4KiB", 4096),
            ("4 kib", 4096),
            ("1MiB", 1 << 20),
            ("3GB", 3_000_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "KiB", "4XiB", "-1", "99999999999GiB", "1.5MiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(show_size(4096), "4 KiB");
        assert_eq!(show_size(1500), "1500 B");
    }

    #[test]
    fn durations_are_parsed() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("2m").unwrap(), Duration::from_secs(120));
        assert!(parse_duration("2 weeks").is_err());
    }

    #[test]
    fn sizes_are_drawn_by_weight() {
        let sizes = Sizes::parse("4KiB:80,1MiB:20").unwrap();
        assert_eq!(sizes.largest(), 1 << 20);
        assert_eq!(sizes.show(), "4 KiB 80 %, 1 MiB 20 %");
        let small = (0..10_000).filter(|&number| sizes.of(7, number) == 4096).count();
        assert!((7_800..8_200).contains(&small), "{small}");
        assert_eq!(sizes.of(7, 3), sizes.of(7, 3));
        assert!(Sizes::parse("4KiB:0").is_err());
        assert!(Sizes::parse("4KiB:x").is_err());
    }
}
