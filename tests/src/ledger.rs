//! What was asked of each name, and therefore what it may be after a crash.
//!
//! A name is a register: each PUT and DELETE is an attempt to set it, which begins, and ends when it is
//! acknowledged. After a crash it may hold the value of any attempt, acknowledged or not, that no
//! acknowledged one came wholly after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::Client;

/// A value of a name; none if it is deleted. Its bytes are made from name and number.
type Value = Option<u64>;

/// An operation on a name, and the instants at which it began and ended.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    value: Value,
    begun: u64,
    ended: Option<u64>,
}

/// Attempts of all names.
#[derive(Default)]
struct Names {
    instant: u64,
    attempts: BTreeMap<String, Vec<Attempt>>,
    /// Names that were written since the last verification.
    fresh: BTreeSet<String>,
}

/// What was asked of the names of a container.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Names>>);

/// How much of what was settled long ago is read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// So many names, chosen at random.
    Sample(usize),
    /// All of it.
    Everything,
}

/// The bytes of a value: anybody can make them again.
pub fn content(name: &str, number: u64) -> Bytes {
    let seed = name.bytes().fold(number, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut random = StdRng::seed_from_u64(seed);
    // Most lie with their record, some in a block of their own, a few in several.
    let size = match random.random_range(0..40) {
        0 => random.random_range(4_200_000..9_000_000),
        1..4 => random.random_range(262_145..1_000_000),
        _ => random.random_range(0..20_000),
    };
    let mut bytes = vec![0; 8 + size];
    random.fill_bytes(&mut bytes);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

impl Ledger {
    /// Notes that an operation begins.
    pub fn begin(&self, name: &str, value: Option<u64>) -> u64 {
        let mut names = self.0.lock();
        names.instant += 1;
        let begun = names.instant;
        names.attempts.entry(name.to_owned()).or_default().push(Attempt { value, begun, ended: None });
        names.fresh.insert(name.to_owned());
        begun
    }

    /// Notes that the operation that began at an instant was acknowledged.
    pub fn end(&self, name: &str, begun: u64) {
        let mut names = self.0.lock();
        names.instant += 1;
        let instant = names.instant;
        let attempts = names.attempts.get_mut(name).into_iter().flatten();
        attempts.filter(|attempt| attempt.begun == begun).for_each(|attempt| attempt.ended = Some(instant));
    }

    /// Names that were ever written.
    pub fn names(&self) -> usize {
        self.0.lock().attempts.len()
    }

    /// Operations that were acknowledged since the last verification.
    pub fn acknowledged(&self) -> usize {
        let names = self.0.lock();
        let fresh = names.fresh.iter().filter_map(|name| names.attempts.get(name)).flatten();
        fresh.filter(|attempt| attempt.begun > 0 && attempt.ended.is_some()).count()
    }

    /// Compares a container with what its names may be: the listing of all, the bytes of what was written
    /// since the last verification, and of older names to a depth. What is found is settled: nothing that
    /// was under way can come later.
    pub async fn verify(
        &self,
        client: &Client,
        container: &str,
        depth: Depth,
        random: &mut StdRng,
    ) -> Result<()> {
        let listed: BTreeSet<String> = client.list(container).await?.into_iter().collect();
        let (mut read, old) = self.split();
        match depth {
            Depth::Everything => read.extend(old.iter().cloned()),
            Depth::Sample(count) if !old.is_empty() => {
                read.extend((0..count).map(|_| old[random.random_range(0..old.len())].clone()));
            }
            Depth::Sample(_) => {}
        }
        for name in &old {
            let may = self.possible(name);
            let shown = listed.contains(name);
            ensure!(may.iter().any(|value| value.is_some() == shown), "{name}: listed: {shown}, not {may:?}");
        }
        for name in read {
            let found = read_value(client, container, &name).await?;
            let may = self.possible(&name);
            ensure!(may.contains(&found), "{name} is {found:?}, but may be one of {may:?}");
            ensure!(found.is_some() == listed.contains(&name), "{name} is {found:?}, the listing differs");
            self.settle(name, found);
        }
        let names = self.0.lock();
        let stranger = listed.iter().find(|name| !names.attempts.contains_key(*name));
        ensure!(stranger.is_none(), "{stranger:?} is listed, and nobody wrote it");
        Ok(())
    }

    /// Names that were written since the last verification, and the others.
    fn split(&self) -> (BTreeSet<String>, Vec<String>) {
        let mut names = self.0.lock();
        let fresh = std::mem::take(&mut names.fresh);
        let old = names.attempts.keys().filter(|name| !fresh.contains(*name)).cloned().collect();
        (fresh, old)
    }

    fn possible(&self, name: &str) -> Vec<Value> {
        let names = self.0.lock();
        let attempts = names.attempts.get(name).map(Vec::as_slice).unwrap_or_default();
        possible(attempts)
    }

    fn settle(&self, name: String, value: Value) {
        self.0.lock().attempts.insert(name, vec![Attempt { value, begun: 0, ended: Some(0) }]);
    }
}

/// The values that a name may have after these attempts.
fn possible(attempts: &[Attempt]) -> Vec<Value> {
    let replaced_since = |instant| attempts.iter().any(|a| a.ended.is_some() && a.begun > instant);
    let mut values: Vec<Value> =
        attempts.iter().filter(|a| !a.ended.is_some_and(replaced_since)).map(|a| a.value).collect();
    // A name begins as deleted; the first acknowledged attempt ends that.
    if attempts.iter().all(|attempt| attempt.ended.is_none()) {
        values.push(None);
    }
    values
}

/// The value that a name has, after a look at each of its bytes.
async fn read_value(client: &Client, container: &str, name: &str) -> Result<Value> {
    let answer = client.get(&format!("/{container}/{name}")).await?;
    match answer.status.as_u16() {
        404 => return Ok(None),
        200 => {}
        status => bail!("{name} answers {status}"),
    }
    let number = answer.body.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let Some(number) = number else { bail!("{name} is cut short") };
    ensure!(answer.body == content(name, number), "{name}: other bytes than were put");
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(value: Value, begun: u64, ended: Option<u64>) -> Attempt {
        Attempt { value, begun, ended }
    }

    #[test]
    fn an_acknowledged_value_stays_until_another_is_under_way() {
        assert_eq!(possible(&[attempt(Some(1), 1, Some(2))]), [Some(1)]);
        assert_eq!(possible(&[attempt(Some(1), 1, None)]), [Some(1), None]);
        let replaced = [attempt(Some(1), 1, Some(2)), attempt(Some(2), 3, Some(4))];
        assert_eq!(possible(&replaced), [Some(2)]);
        let under_way = [attempt(Some(1), 1, Some(2)), attempt(None, 3, None)];
        assert_eq!(possible(&under_way), [Some(1), None]);
        let together = [attempt(Some(1), 1, Some(4)), attempt(Some(2), 2, Some(3))];
        assert_eq!(possible(&together), [Some(1), Some(2)]);
        // It was under way when a later one was acknowledged: the two overlap, so it may still win.
        let late = [attempt(Some(1), 1, None), attempt(Some(2), 2, Some(3))];
        assert_eq!(possible(&late), [Some(1), Some(2)]);
    }
}
