//! Compare and set: a version that depends on the one before it.

use bytes::Bytes;
use kodiak_storage_api::{Stamp, StoredVersion, Timestamp, Version};

use super::read::PATIENCE;
use super::resolve::Fate;
use super::{ATTEMPTS, Proposal, Register, has_blocks, timed, undecided};
use crate::store::{StoreError, Weakness};

/// What is to be written, given what is there.
pub(in crate::store) struct Draft {
    /// The version; its time is set.
    pub(in crate::store) version: Version,
    /// Its bytes.
    pub(in crate::store) inline: Vec<Bytes>,
    /// Its time, where that is not its ballot's.
    pub(in crate::store) at: Option<Timestamp>,
}

impl Register<'_> {
    /// Reads the name (with its bytes if `data`), lets `decide` look at it, and replaces exactly that by
    /// what it answers; begins again if something else came in between. An error of `decide` is the answer,
    /// and as true as a read.
    pub(in crate::store) async fn swap(
        &self,
        data: bool,
        mut decide: impl FnMut(Option<&StoredVersion>) -> Result<Draft, StoreError>,
    ) -> Result<Version, StoreError> {
        if self.available {
            return self.swap_available(data, &mut decide).await;
        }
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.pause(attempt).await;
            }
            let seen = self.read(data).await?;
            let Draft { version, inline, at } = decide(seen.as_ref())?;
            let seen = seen.map_or(Timestamp::ZERO, |stored| stored.stamp.ballot);
            self.store.clock.observe(seen);
            let ballot = self.store.clock.now();
            let single = self.replicas.len() == 1;
            if !single && !self.is_weak(Weakness::NoPrepare) {
                // A majority takes nothing older from now on; whatever it took before is in its answers.
                let Some(promises) = self.prepare(ballot, ballot, false).await? else { continue };
                if promises.newest().map_or(Timestamp::ZERO, |(_, held)| held.ballot) != seen {
                    // A remnant that those who are read from do not have.
                    if attempt >= PATIENCE {
                        self.adopt(&promises).await?;
                    }
                    continue;
                }
            }
            let proposal = Proposal {
                version: timed(version, at.unwrap_or(ballot)),
                stamp: Stamp::first(ballot),
                inline,
                expect: single.then_some(seen),
            };
            if self.try_swap(&proposal, attempt).await? {
                return Ok(proposal.version);
            }
        }
        Err(StoreError::Overloaded)
    }

    /// Whether it was done; if not, nothing was.
    async fn try_swap(&self, proposal: &Proposal, attempt: u32) -> Result<bool, StoreError> {
        let round = self.accept(proposal, &[]).await;
        if round.chosen() {
            self.finish(proposal, &round).await?;
            return Ok(true);
        }
        self.learn(&round);
        if round.never() {
            return Ok(false);
        }
        if !round.contested() {
            return Err(round.error().into());
        }
        for attempt in attempt..attempt + ATTEMPTS {
            self.pause(attempt).await;
            match self.resolve(proposal).await? {
                Fate::Done => return Ok(true),
                Fate::Open(_) if has_blocks(&proposal.version) => return Err(undecided()),
                Fate::Open(fence) if self.bury(proposal, &fence).await? => return Ok(false),
                Fate::Open(_) => {}
            }
        }
        Err(undecided())
    }
}
