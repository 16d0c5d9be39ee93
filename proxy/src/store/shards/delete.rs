//! Deleting a container whose listing is split.
//!
//! All its directories are closed first, each replica looking for itself whether it has rows, by the same rule
//! as for a container in one piece. When a majority of each has none and takes none, the container is deleted,
//! at replicas that are still closed by just that map. Otherwise they are opened again, by a newer one.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kodiak_storage_api::{DirectoryChange, Home, ListQuery, ShardMap, Timestamp, Version};

use super::grow::age;
use super::{ATTEMPTS, Newest, POLICY, home_path, is_stored, map_path, shards_account};
use crate::store::register::{Draft, Register};
use crate::store::{Store, StoreError};

/// Another deletion may be under way for so long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

impl Store {
    /// Deletes a container that has no rows anywhere; [`StoreError::NotEmpty`] otherwise.
    pub(in crate::store) fn delete_split<'s>(
        &'s self,
        path: &'s str,
    ) -> BoxFuture<'s, Result<(), StoreError>> {
        self.close_and_delete(path).boxed()
    }

    async fn close_and_delete(&self, path: &str) -> Result<(), StoreError> {
        let key = self.map().container(path);
        for _ in 0..ATTEMPTS {
            let Newest { map, info, .. } = self.newest_map(path).await?;
            if map.version == Timestamp::ZERO {
                return Ok(self.delete_empty(key, path, DirectoryChange::Delete).await?);
            }
            if map.closing {
                if age(map.version, self.clock.wall_micros()) < PATIENCE {
                    return Err(StoreError::Unavailable("the container is being deleted".into()));
                }
                self.reopen(path, &info).await?;
                continue;
            }
            self.install(path, &map).await?;
            if self.has_objects(path).await? {
                return Err(StoreError::NotEmpty);
            }
            // What is on its way counts where it was.
            if !self.finish_moves(path).await? {
                return Err(StoreError::Unavailable("a part of the listing is moving: try again".into()));
            }
            let Newest { map, stored, .. } = self.newest_map(path).await?;
            if map.closing || map.moving().next().is_some() {
                continue;
            }
            let closed = map.closed(true, self.clock.now());
            if !self.swap_map(path, stored, &closed).await? {
                continue;
            }
            return match self.delete_closed(path, &closed).await {
                Ok(()) => self.clear_shards(path, &closed).await,
                Err(error) => {
                    self.reopen(path, &info).await?;
                    Err(error)
                }
            };
        }
        Err(StoreError::Overloaded)
    }

    async fn has_objects(&self, path: &str) -> Result<bool, StoreError> {
        let Some((account, container)) = path.split_once('/') else { return Ok(false) };
        let first = ListQuery { limit: 1, ..ListQuery::default() };
        Ok(!self.list_objects(account, container, first).await?.entries.is_empty())
    }

    async fn delete_closed(&self, path: &str, map: &ShardMap) -> Result<(), StoreError> {
        self.install(path, map).await?;
        let key = self.map().container(path);
        let remove = DirectoryChange::Remove { closed: map.version };
        Ok(self.delete_empty(key, path, remove).await?)
    }

    /// Removes what is left of the listing of a container that was deleted.
    pub(super) async fn clear_shards(&self, path: &str, map: &ShardMap) -> Result<(), StoreError> {
        self.shards.forget(path);
        let register = Register::of(self, &map_path(path), POLICY)?;
        let swapped = register.swap(true, |seen| {
            is_stored(seen, map.version)?;
            Ok(Draft { version: Version::Deleted(Timestamp::ZERO), inline: Vec::new(), at: None })
        });
        match swapped.await {
            Ok(_) => {}
            // Another container of that name has one of its own.
            Err(StoreError::PreconditionFailed) => return Ok(()),
            Err(error) => return Err(error),
        }
        let Some(account) = shards_account(path) else { return Ok(()) };
        for range in &map.ranges {
            let Home::Shard(id) = range.home else { continue };
            match self.remove_container(&account, &id.to_string()).await {
                Ok(()) | Err(StoreError::NoContainer) => {}
                Err(error) => {
                    let shard = home_path(path, range.home);
                    tracing::warn!(shard, %error, "an empty shard of a deleted container stays");
                }
            }
        }
        Ok(())
    }
}
