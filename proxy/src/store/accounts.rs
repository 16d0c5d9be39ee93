//! Accounts that were deleted: what shows them, and what refuses to change them.
//!
//! A deletion sets a mark ([`DELETED`]) on the account's record. From then on it counts as gone, and the
//! reaper ([`super::reaper`]) empties it; then the record is deleted at the time of the mark. For some time
//! it cannot be created anew ([`ReaperSettings::recent`]).
//!
//! Requests for containers and objects look up whether the account lives, from memory: another proxy's
//! deletion is noticed within [`FRESH`].

use std::collections::HashMap;
use std::time::Duration;

use kodiak_storage_api::{DELETED, DirectoryChange, DirectoryInfo, DirectoryWrite, Replica, Timestamp};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::{Store, StoreError, quorum};

#[cfg(doc)]
use super::ReaperSettings;

/// What is known of an account is taken as true for so long.
const FRESH: Duration = Duration::from_secs(5);
/// Accounts that are remembered at most.
const MAX_REMEMBERED: usize = 100_000;

/// Prefix of the account that holds a user account's multipart uploads.
pub const UPLOADS: &str = "\0uploads\0";
/// Prefix of the account that holds their parts.
pub const PARTS: &str = "\0parts\0";

/// The account to which an account of the cluster's own belongs; itself, if it is a user's.
pub(super) fn owner_of(account: &str) -> &str {
    account.strip_prefix(UPLOADS).or_else(|| account.strip_prefix(PARTS)).unwrap_or(account)
}

/// Whether accounts live, as far as is remembered.
#[derive(Default)]
pub(super) struct Living(RwLock<HashMap<String, (bool, Instant)>>);

impl Living {
    fn get(&self, account: &str) -> Option<(bool, Duration)> {
        self.0.read().get(account).map(|(lives, seen)| (*lives, seen.elapsed()))
    }

    fn note(&self, account: &str, lives: bool) {
        let mut accounts = self.0.write();
        if accounts.len() >= MAX_REMEMBERED {
            accounts.clear();
        }
        accounts.insert(account.to_owned(), (lives, Instant::now()));
    }
}

/// What has become of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// It is there, or never was.
    Lives,
    /// It was deleted at this time and is being emptied.
    Doomed(Timestamp),
    /// It was deleted and emptied.
    Gone(Timestamp),
}

impl Life {
    pub(super) fn of(info: Option<&DirectoryInfo>) -> Life {
        match info.map(|info| &info.directory) {
            Some(directory) if !directory.exists() => Life::Gone(directory.deleted),
            Some(directory) => directory.doomed().map_or(Life::Lives, Life::Doomed),
            None => Life::Lives,
        }
    }
}

impl Store {
    /// An account was made.
    pub(super) fn note_life(&self, account: &str) {
        self.living.note(owner_of(account), true);
    }

    /// What has become of an account, from a majority of its replicas.
    pub(super) async fn life(&self, account: &str) -> Result<Life, StoreError> {
        let key = self.map().account(account);
        let life = Life::of(self.undisputed(&self.map().account_replicas(key), key).await?.as_ref());
        self.living.note(account, life == Life::Lives);
        Ok(life)
    }

    /// Whether such an account was deleted a short time ago, or is still being emptied.
    pub async fn account_is_deleted(&self, account: &str) -> Result<bool, StoreError> {
        Ok(match self.life(account).await? {
            Life::Lives => false,
            Life::Doomed(_) => true,
            Life::Gone(at) => at.seconds() + self.reaper.load().recent > self.now(),
        })
    }

    /// [`StoreError::AccountDeleted`] if such an account was deleted a short time ago. The cluster's own come
    /// and go with their owner's.
    pub(super) async fn refuse_deleted(&self, account: &str) -> Result<(), StoreError> {
        let own = account.starts_with('\0');
        if !own && self.account_is_deleted(account).await? {
            return Err(StoreError::AccountDeleted);
        }
        Ok(())
    }

    /// Whether an account lives, from memory where that is not old. Where nobody can tell, it does: objects
    /// may be there though their account's replicas are not.
    pub(super) async fn lives(&self, account: &str) -> bool {
        let account = owner_of(account);
        let known = self.living.get(account);
        if let Some((lives, age)) = known
            && age < FRESH
        {
            return lives;
        }
        // One request looks, and the others do not wait for it.
        let assumed = known.is_none_or(|(lives, _)| lives);
        self.living.note(account, assumed);
        self.life(account).await.map_or(assumed, |life| life == Life::Lives)
    }

    /// Marks an account as deleted: on stable storage at a majority of its replicas when this returns. What
    /// it has is deleted later.
    pub async fn delete_account(&self, account: &str) -> Result<(), StoreError> {
        let info = self.account(account).await?;
        // The mark is newer than everything that the record says.
        self.clock.observe(info.directory.created.max(info.directory.deleted));
        self.mark(account, self.clock.now()).await?;
        self.living.note(account, false);
        Ok(())
    }

    /// Sets the mark of this time at a majority, where the account is still there.
    pub(super) async fn mark(&self, account: &str, timestamp: Timestamp) -> Result<(), StoreError> {
        let key = self.map().account(account);
        let write = |_, replica: Replica| {
            let change = DirectoryChange::Update { headers: vec![(DELETED.into(), "True".into())] };
            let write = DirectoryWrite { key, name: account.to_owned(), timestamp, change };
            async move { replica.node.write_directory(replica.device, write).await }
        };
        match quorum::write(self.map().account_replicas(key), write).await.map_err(StoreError::from) {
            Ok(_) => Ok(()),
            Err(StoreError::NoContainer) => Err(StoreError::NoAccount),
            Err(error) => Err(error),
        }
    }
}
