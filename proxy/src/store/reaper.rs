//! The account reaper: what was in a deleted account goes, whoever dies meanwhile.
//!
//! The account's record says that it was deleted until nothing is left in it: that is all there is to
//! remember, and the first thing that any machine looks at. So a reaper may die anywhere, several may be at
//! it at once, and what is created meanwhile by somebody who had not heard of the deletion goes too.
//!
//! *Nothing of an account that lives is deleted.* Such an account may come after the deleted one, with
//! containers and objects of the same names, while a reaper has stood still for days. Three rules:
//! - a reaper begins when the mark is at a majority of the account's replicas: the deletion has happened;
//! - an object is deleted only at the ballot at which it was seen, and only if the account was seen as deleted
//!   after that. An account comes to life again only when it was empty, so what was there before is not its;
//! - containers and the account itself are deleted at the time of the mark (or of the container's creation, if
//!   that is newer), whoever does it and whenever: whatever is created afterwards is newer, or is not created.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kodiak_storage_api::{
    DeviceIndex, DirectoryChange, DirectoryInfo, DirectoryKey, DirectoryWrite, Entry, Health, ListQuery,
    Mode, NodeError, ObjectPath, PolicyIndex, Replica, Timestamp, Version,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::accounts::{Life, PARTS, UPLOADS, owner_of};
use super::register::{Draft, Register};
use super::{Store, StoreError, quorum};

/// How the reaper goes about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReaperSettings {
    /// Seconds from an account's deletion to that of what is in it. Default 0.
    pub delay: u64,
    /// Objects that this machine deletes a second at most. Default 500.
    pub rate: u64,
    /// Seconds from an account's deletion to when it may be created anew, once it is empty. Default 7 days.
    pub recent: u64,
}

impl Default for ReaperSettings {
    fn default() -> ReaperSettings {
        ReaperSettings { delay: 0, rate: 500, recent: 7 * 24 * 3600 }
    }
}

/// Objects that are looked at between two looks at the account.
const PAGE: usize = 500;
/// Objects that are deleted at once.
const AT_ONCE: usize = 16;
/// The account's first replica that is up reaps; each further one begins so many seconds later.
const TAKEOVER: u64 = 3600;

/// Lets so many objects a second through.
pub(super) type Pace = tokio::sync::Mutex<Option<Instant>>;

impl Store {
    /// How accounts are reaped from now on.
    pub fn set_reaper(&self, settings: ReaperSettings) {
        self.reaper.store(Arc::new(settings));
    }

    /// Whether it is for this device to reap an account that was deleted then.
    pub(super) fn reaps(&self, account: &str, device: DeviceIndex, since: Timestamp) -> bool {
        let key = self.map().account(account);
        let replicas = self.map().account_replicas(key);
        let up = replicas.iter().map(|replica| (replica.node.health(), replica.device));
        let mut up = up.filter(|(health, _)| *health != Health::Down);
        let rank = up.position(|(health, at)| health == Health::Local && at == device);
        let rank = rank.unwrap_or(replicas.len()) as u64;
        self.now() >= since.seconds() + self.reaper.load().delay + rank * TAKEOVER
    }

    /// Deletes everything in an account that was deleted, and then its record. Afterwards nothing of it is
    /// left, or this is an error; to be called again then.
    pub async fn reap_account(&self, account: &str) -> Result<(), StoreError> {
        let Life::Doomed(mark) = self.life(account).await? else { return Ok(()) };
        match self.mark(account, mark).await {
            // Somebody was quicker.
            Err(StoreError::NoAccount) => return Ok(()),
            marked => marked?,
        }
        tracing::info!(account, "a deleted account is emptied");
        // The uploads go before the account: its record is what reminds of them.
        for name in [account.to_owned(), format!("{UPLOADS}{account}"), format!("{PARTS}{account}")] {
            self.empty_account(&name, mark).await?;
        }
        for hidden in [UPLOADS, PARTS] {
            self.remove_account(&format!("{hidden}{account}"), mark).await?;
        }
        self.remove_account(account, mark).await?;
        metrics::counter!("kodiak_reaped_accounts_total").increment(1);
        tracing::info!(account, "a deleted account is empty");
        Ok(())
    }

    /// Deletes all containers of an account. One that fails does not keep the others.
    async fn empty_account(&self, account: &str, mark: Timestamp) -> Result<(), StoreError> {
        let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
        let mut failed = None;
        loop {
            let page = self.list_all_containers(account, query.clone()).await?;
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            for entry in page.entries {
                if let Err(error) = self.reap_container(account, entry.name(), mark).await {
                    tracing::debug!(account, container = entry.name(), %error, "a container is left for later");
                    failed = Some(error);
                }
            }
            if !page.truncated || query.marker.is_none() {
                return failed.map_or(Ok(()), Err);
            }
        }
    }

    /// A container whose account is gone: whoever made it died before the account had its row. To be called
    /// for those that change.
    pub(super) async fn reap_stray(&self, info: &DirectoryInfo) -> Result<(), StoreError> {
        let Some((account, container)) = info.directory.name.split_once('/') else { return Ok(()) };
        if self.lives(account).await {
            return Ok(());
        }
        match self.life(owner_of(account)).await? {
            Life::Gone(mark) => self.reap_container(account, container, mark).await,
            // Whoever empties the account comes to it.
            Life::Doomed(_) | Life::Lives => Ok(()),
        }
    }

    async fn reap_container(&self, account: &str, name: &str, mark: Timestamp) -> Result<(), StoreError> {
        let path = format!("{account}/{name}");
        let key = self.map().container(&path);
        let replicas = self.map().container_replicas(key);
        let info = self.undisputed(&replicas, key).await?.filter(|info| info.directory.exists());
        if let Some(info) = info {
            self.empty_container(account, name, info.directory.policy).await?;
            self.require_deleted(account).await?;
            let at = mark.max(info.directory.created);
            // Of a container that is `available` one replica may know rows that no other does.
            let needed = match self.map().mode(info.directory.policy)? {
                Mode::Strict => quorum::majority(replicas.len()),
                Mode::Available => replicas.len(),
            };
            self.remove_directory((&replicas, needed), key, &path, at).await?;
            metrics::counter!("kodiak_reaped_containers_total").increment(1);
        }
        match self.show_container(account, name).await {
            Ok(()) | Err(StoreError::NoAccount) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn empty_container(
        &self,
        account: &str,
        container: &str,
        policy: PolicyIndex,
    ) -> Result<(), StoreError> {
        let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
        let mut failed = None;
        loop {
            let page = self.list_objects(account, container, query.clone()).await?;
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            let paths = page.entries.iter().map(Entry::name);
            let paths: Vec<ObjectPath> =
                paths.map(|name| ObjectPath::new(account, container, name)).collect();
            let look = |path: ObjectPath| async move {
                let ballot = self.newest(&path, policy, false).await?.map(|stored| stored.stamp.ballot);
                Ok::<_, StoreError>((path, ballot))
            };
            let seen: Vec<_> = stream::iter(paths).map(look).buffer_unordered(AT_ONCE).collect().await;
            // What was seen so far was there before this.
            self.require_deleted(account).await?;
            let reap = |seen: Result<(ObjectPath, Option<Timestamp>), StoreError>| async move {
                let (path, ballot) = seen?;
                self.reap_object(&path, policy, ballot).await
            };
            let mut reaped = stream::iter(seen).map(reap).buffer_unordered(AT_ONCE);
            while let Some(reaped) = reaped.next().await {
                failed = reaped.err().or(failed);
            }
            drop(reaped);
            if !page.truncated || query.marker.is_none() {
                return failed.map_or(Ok(()), Err);
            }
        }
    }

    /// Deletes the version of this ballot, and its row. Where there is none, the row that says otherwise.
    async fn reap_object(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        ballot: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.take_turn().await;
        let register = Register::of(self, path, policy)?;
        let exactly = |seen: Option<&kodiak_storage_api::StoredVersion>| {
            if seen.map(|stored| stored.stamp.ballot) != ballot {
                return Err(StoreError::PreconditionFailed);
            }
            Ok(Draft { version: Version::Deleted(Timestamp::ZERO), inline: Vec::new(), at: None })
        };
        let _lock = self.locks.lock(self.map().object(path, policy)?.hash).await;
        match register.swap(false, exactly).await {
            Ok(_) | Err(StoreError::NoContainer) => {
                metrics::counter!("kodiak_reaped_objects_total").increment(1);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until another object may be deleted.
    async fn take_turn(&self) {
        let gap = Duration::from_secs(1) / self.reaper.load().rate.clamp(1, 1_000_000) as u32;
        let mut free_at = self.reaper_pace.lock().await;
        let begin = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
        *free_at = Some(begin + gap);
        drop(free_at);
        tokio::time::sleep_until(begin).await;
    }

    /// An error if the owner of this account lives.
    async fn require_deleted(&self, account: &str) -> Result<(), StoreError> {
        match self.life(owner_of(account)).await? {
            Life::Doomed(_) | Life::Gone(_) => Ok(()),
            Life::Lives => Err(StoreError::PreconditionFailed),
        }
    }

    async fn remove_account(&self, account: &str, mark: Timestamp) -> Result<(), StoreError> {
        let key = self.map().account(account);
        let replicas = self.map().account_replicas(key);
        let info = self.undisputed(&replicas, key).await?.filter(|info| info.directory.exists());
        let Some(info) = info else { return Ok(()) };
        let own = account.starts_with('\0');
        let at = if own { mark.max(info.directory.created) } else { mark };
        self.remove_directory((&replicas, quorum::majority(replicas.len())), key, account, at).await
    }

    /// Deletes a directory of which nothing is left, as it was at this time. Each replica looks for itself
    /// whether it has a row. What a minority has deleted stays so: the others follow in the next round.
    async fn remove_directory(
        &self,
        (replicas, needed): (&[Replica], usize),
        key: DirectoryKey,
        name: &str,
        timestamp: Timestamp,
    ) -> Result<(), StoreError> {
        let write = |_, replica: Replica| {
            let write =
                DirectoryWrite { key, name: name.to_owned(), timestamp, change: DirectoryChange::Delete };
            async move {
                match replica.node.write_directory(replica.device, write).await {
                    Ok(_) | Err(NodeError::NoDirectory) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        };
        let (done, errors) = quorum::write_all(replicas.to_vec(), write).await;
        if done.len() >= needed {
            return Ok(());
        }
        Err(super::error::worst(errors).into())
    }
}
