//! Which operations, and how often each.

use std::fmt;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::random::Random;

/// One kind of request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Write a whole object.
    Put,
    /// Read a whole object and verify it.
    Get,
    /// Read its metadata.
    Head,
    /// Delete it.
    Delete,
    /// Read a page of names.
    List,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 5] =
        [Operation::Put, Operation::Get, Operation::Head, Operation::Delete, Operation::List];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::Delete => "delete",
            Operation::List => "list",
        };
        f.pad(name)
    }
}

/// What `--op` takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OperationArg {
    /// Write new objects
    Put,
    /// Read prepared objects
    Get,
    /// Read the metadata of prepared objects
    Head,
    /// Delete prepared objects
    Delete,
    /// List prepared objects
    List,
    /// Several operations, weighted by --mix
    Mixed,
}

/// Operations with their weights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mix {
    parts: Vec<(Operation, u64)>,
    total: u64,
    /// Whether PUT writes objects again that are there.
    pub overwrite: bool,
}

impl Mix {
    /// Only one.
    pub fn only(operation: Operation) -> Mix {
        Mix { parts: vec![(operation, 1)], total: 1, overwrite: false }
    }

    /// What `--op` and `--mix` ask for.
    pub fn of(argument: OperationArg, mix: &str) -> anyhow::Result<Mix> {
        Ok(match argument {
            OperationArg::Put => Mix::only(Operation::Put),
            OperationArg::Get => Mix::only(Operation::Get),
            OperationArg::Head => Mix::only(Operation::Head),
            OperationArg::Delete => Mix::only(Operation::Delete),
            OperationArg::List => Mix::only(Operation::List),
            OperationArg::Mixed => Mix::parse(mix)?,
        })
    }

    /// `put=30,get=60,delete=5,head=5`.
    pub fn parse(text: &str) -> anyhow::Result<Mix> {
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (name, weight) =
                part.split_once('=').with_context(|| format!("{part:?} is no name=weight"))?;
            let operation = Operation::ALL.into_iter().find(|known| known.to_string() == name.trim());
            let operation = operation.with_context(|| format!("{name:?} is no operation of a mix"))?;
            let weight: u64 = weight.trim().parse().with_context(|| format!("{weight:?} is no weight"))?;
            parts.push((operation, weight));
        }
        let total = parts.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            bail!("the weights of {text:?} add up to nothing");
        }
        Ok(Mix { parts, total, overwrite: false })
    }

    /// The next operation.
    pub fn draw(&self, random: &mut Random) -> Operation {
        let mut draw = if self.parts.len() == 1 { 0 } else { random.below(self.total) };
        for &(operation, weight) in &self.parts {
            if draw < weight {
                return operation;
            }
            draw -= weight;
        }
        Operation::Get
    }

    /// Whether objects have to be there before it starts.
    pub fn needs_objects(&self) -> bool {
        self.overwrite || self.parts.iter().any(|part| part.0 != Operation::Put && part.1 > 0)
    }

    /// Whether it is this operation alone.
    pub fn is_only(&self, operation: Operation) -> bool {
        self.parts.iter().all(|part| part.0 == operation || part.1 == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_drawn_by_weight() {
        let mix = Mix::parse("put=30, get=60,delete=5,head=5").unwrap();
        let mut random = Random::new(1);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..100_000 {
            *counts.entry(mix.draw(&mut random)).or_insert(0) += 1;
        }
        for (operation, share) in [
            (Operation::Put, 30_000),
            (Operation::Get, 60_000),
            (Operation::Delete, 5_000),
            (Operation::Head, 5_000),
        ] {
            let count: i32 = counts[&operation];
            assert!((count - share).abs() < 1_000, "{operation}: {count}");
        }
        assert!(mix.needs_objects());
        assert!(!Mix::only(Operation::Put).needs_objects());
        assert!(Mix::parse("put=1,get=0").unwrap().is_only(Operation::Put));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "put", "put=x", "copy=5", "put=0"] {
            assert!(Mix::parse(text).is_err(), "{text}");
        }
    }
}
