//! Accounts and containers.
//!
//! A container's record and its row in the account are both on stable storage at a majority when its
//! creation answers; the row comes second, so that a listed container always exists.

use std::time::Duration;

use kodiak_storage_api::{
    Directory, DirectoryChange, DirectoryInfo, DirectoryKey, DirectoryWrite, Entry, ListQuery, Mode,
    NodeError, PolicyIndex, Row, RowDurability, Timestamp,
};

use super::accounts::{Life, owner_of};
use super::shards::without_bounds;
use super::{Store, StoreError, Versioning, Weakness, quorum};
use kodiak_storage_api::Replica;

/// Times a container's row is written again because the container has changed meanwhile.
const SHOW_ATTEMPTS: usize = 4;
/// Times a replica is looked at again that has rows, and how long after.
const EMPTY_LOOKS: usize = 5;
const EMPTY_PAUSE: Duration = Duration::from_millis(50);
/// Times a record is changed again because another change has a newer time.
const CHANGE_ATTEMPTS: usize = 8;

impl Store {
    /// Creates an account or sets headers of it; whether it is new.
    pub async fn create_account(
        &self,
        account: &str,
        headers: Vec<(String, String)>,
    ) -> Result<bool, StoreError> {
        self.refuse_deleted(account).await?;
        let key = self.map().account(account);
        let change = DirectoryChange::Create { policy: PolicyIndex(0), headers };
        let (_, created) = self.change(self.map().account_replicas(key), key, account, change).await?;
        self.note_life(account);
        Ok(created.everywhere)
    }

    /// The account's record and totals.
    pub async fn account(&self, account: &str) -> Result<DirectoryInfo, StoreError> {
        let key = self.map().account(account);
        let info = self.directory(&self.map().account_replicas(key), key).await?;
        let lives = |info: &DirectoryInfo| info.directory.exists() && info.directory.doomed().is_none();
        info.filter(lives).ok_or(StoreError::NoAccount)
    }

    /// Sets headers of an account; an empty value removes.
    pub async fn update_account(
        &self,
        account: &str,
        headers: Vec<(String, String)>,
    ) -> Result<(), StoreError> {
        let key = self.map().account(account);
        let change = DirectoryChange::Update { headers };
        let changed = self.change(self.map().account_replicas(key), key, account, change).await;
        changed.map(drop).map_err(as_account)
    }

    /// Creates a container, and its account if there is none, or sets headers of it; whether it is new.
    pub async fn create_container(
        &self,
        account: &str,
        container: &str,
        policy: PolicyIndex,
        headers: Vec<(String, String)>,
    ) -> Result<(DirectoryInfo, bool), StoreError> {
        if let Err(StoreError::NoAccount) = self.account(account).await {
            self.create_account(account, Vec::new()).await?;
        }
        let path = format!("{account}/{container}");
        let key = self.map().container(&path);
        let change = DirectoryChange::Create { policy, headers };
        let _lock = self.locks.lock(key.hash).await;
        let unchanged = matches!(&change, DirectoryChange::Create { headers, .. } if headers.is_empty());
        let replicas = self.map().container_replicas(key);
        let several = replicas.len();
        let (info, created) = self.change(replicas, key, &path, change).await?;
        if created.somewhere {
            let shown = self.show_container(account, container).await;
            let own = account.starts_with('\0');
            let gone = shown == Err(StoreError::NoAccount)
                || own && self.life(owner_of(account)).await? != Life::Lives;
            if gone {
                // The account was deleted meanwhile: whoever empties it may have looked already.
                self.delete_empty(key, &path, DirectoryChange::Delete).await?;
                return Err(StoreError::AccountDeleted);
            }
            shown?;
        }
        // Of what was never there nobody has a record.
        let new = created.everywhere && info.directory.deleted == Timestamp::ZERO;
        if !new && (created.somewhere || !unchanged) {
            self.outlast_leases(several).await;
        }
        Ok((info, created.everywhere))
    }

    /// A container's record and totals, if its account lives.
    pub async fn container(&self, account: &str, container: &str) -> Result<DirectoryInfo, StoreError> {
        let info = self.own_directory(account, container).await?;
        self.with_shards(info).await
    }

    /// A container's record, and the totals of its own directory alone.
    pub(super) async fn own_directory(
        &self,
        account: &str,
        container: &str,
    ) -> Result<DirectoryInfo, StoreError> {
        let key = self.map().container(&format!("{account}/{container}"));
        let replicas = self.map().container_replicas(key);
        let info = match self.directory(&replicas, key).await {
            Err(NodeError::Unavailable(why)) => {
                Some(self.available_container(&replicas, key).await.ok_or(StoreError::Unavailable(why))?)
            }
            known => known?,
        };
        let info = info.filter(|info| info.directory.exists()).ok_or(StoreError::NoContainer)?;
        if self.lives(account).await { Ok(info) } else { Err(StoreError::NoContainer) }
    }

    /// Sets headers of a container; an empty value removes.
    pub async fn update_container(
        &self,
        account: &str,
        container: &str,
        headers: Vec<(String, String)>,
    ) -> Result<(), StoreError> {
        let path = format!("{account}/{container}");
        let key = self.map().container(&path);
        let change = DirectoryChange::Update { headers };
        let replicas = self.map().container_replicas(key);
        let several = replicas.len();
        self.change(replicas, key, &path, change).await?;
        self.outlast_leases(several).await;
        Ok(())
    }

    /// Deletes an empty container that has no versions either.
    pub async fn delete_container(&self, account: &str, container: &str) -> Result<(), StoreError> {
        let info = self.container(account, container).await?;
        if Versioning::of(&info.directory) != Versioning::Never {
            self.delete_versions_container(account, container).await?;
        }
        self.remove_container(account, container).await
    }

    /// Deletes a container if it has no rows.
    pub(super) async fn remove_container(&self, account: &str, container: &str) -> Result<(), StoreError> {
        let path = format!("{account}/{container}");
        let key = self.map().container(&path);
        let mut lock = self.locks.lock(key.hash).await;
        match self.delete_empty(key, &path, DirectoryChange::Delete).await {
            Err(NodeError::Moved) => {
                // Its listing is split: the shards have locks too.
                drop(lock);
                self.delete_split(&path).await?;
                lock = self.locks.lock(key.hash).await;
            }
            done => done?,
        }
        let replicas = self.map().container_replicas(key).len();
        let (shown, ()) =
            tokio::join!(self.show_container(account, container), self.outlast_leases(replicas));
        drop(lock);
        shown
    }

    /// Deletes a directory that has no rows. Each replica looks for itself: an acknowledged row is at a
    /// majority, so one of any majority refuses. What a minority has deleted is made again.
    pub(super) async fn delete_empty(
        &self,
        key: DirectoryKey,
        path: &str,
        change: DirectoryChange,
    ) -> Result<(), NodeError> {
        let replicas = self.map().container_replicas(key);
        let info = self.directory(&replicas, key).await?;
        let info = info.filter(|info| info.directory.exists()).ok_or(NodeError::NoDirectory)?;
        self.clock.observe(info.directory.created);
        let available = self.map().mode(info.directory.policy)? == Mode::Available;
        // Of a container that is `available` one replica may know rows that no other does: all are asked
        // first, and what is deleted all the same does not refuse older rows once it is made again.
        if available {
            self.require_empty(&replicas, key).await?;
        }
        let timestamp = if available { info.directory.created } else { self.clock.now() };
        let write = |_, replica: Replica| {
            let write = DirectoryWrite { key, name: path.to_owned(), timestamp, change: change.clone() };
            async move { replica.node.write_directory(replica.device, write).await }
        };
        let needed = if available { replicas.len() } else { quorum::majority(replicas.len()) };
        let (done, errors) = quorum::write_all(replicas.clone(), write).await;
        if done.len() >= needed {
            return Ok(());
        }
        let harmless = |error: &NodeError| {
            matches!(error, NodeError::NotEmpty | NodeError::NoDirectory | NodeError::Moved)
        };
        let undone = self.weakness != Weakness::MinorityDeletes;
        if undone && (!done.is_empty() || !errors.iter().all(harmless)) {
            let headers = without_bounds(&info);
            let again = DirectoryChange::Create { policy: info.directory.policy, headers };
            if let Err(error) = self.change(replicas, key, path, again).await {
                tracing::warn!(container = path, %error, "a refused deletion is not undone everywhere");
            }
        }
        Err(super::error::worst(errors))
    }

    /// An error unless every replica answers that it has no row. One may be about to get the last tombstone.
    async fn require_empty(&self, replicas: &[Replica], key: DirectoryKey) -> Result<(), NodeError> {
        for replica in replicas {
            let mut looks = 0;
            while let Some(info) = replica.node.read_directory(replica.device, key).await?
                && info.stats.rows > 0
            {
                looks += 1;
                if looks > EMPTY_LOOKS {
                    return Err(NodeError::NotEmpty);
                }
                tokio::time::sleep(EMPTY_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Gives the account a container's totals.
    pub(super) async fn report_totals(&self, info: &DirectoryInfo) -> Result<(), StoreError> {
        let Some((account, container)) = info.directory.name.split_once('/') else { return Ok(()) };
        let shown = {
            let _lock = self.locks.lock(self.map().container(&info.directory.name).hash).await;
            self.show_container(account, container).await
        };
        match shown {
            Err(StoreError::NoAccount) => Ok(()),
            Ok(()) => self.tell_container_of(account).await,
            other => other,
        }
    }

    /// Makes the account show a container as it is, or that it is gone. Others may do the same for what they
    /// have seen: each writes a row newer than the one that is there, and then looks whether it is still
    /// true. Whoever writes last makes it so.
    pub(super) async fn show_container(&self, account: &str, container: &str) -> Result<(), StoreError> {
        let key = self.map().container(&format!("{account}/{container}"));
        let state = async || self.undisputed(&self.map().container_replicas(key), key).await;
        let Some(mut info) = state().await? else { return Ok(()) };
        for _ in 0..SHOW_ATTEMPTS {
            self.observe_account_row(account, container).await?;
            let row = match info.directory.exists() {
                true => self.container_row(container, &info),
                false => Row::tombstone(container.to_owned(), self.clock.now()),
            };
            self.write_account_row(account, row).await?;
            let Some(now) = state().await? else { return Ok(()) };
            let shown = |info: &DirectoryInfo| (info.directory.exists(), info.stats);
            if shown(&now) == shown(&info) {
                return Ok(());
            }
            info = now;
        }
        // Totals that change faster than they are told are told again: their replicas queue them.
        Ok(())
    }

    /// Lets the clock know the row that an account has of a container.
    async fn observe_account_row(&self, account: &str, container: &str) -> Result<(), StoreError> {
        let key = self.map().account(account);
        let prefix = container.to_owned();
        let query = ListQuery { prefix, limit: 1, tombstones: true, ..ListQuery::default() };
        let ask = |_, replica: Replica| {
            let query = query.clone();
            async move { replica.node.list_rows(replica.device, key, query).await }
        };
        for (_, page) in quorum::read(&self.map().account_replicas(key), ask).await? {
            if let Some(Entry::Row(row)) = page.entries.first().filter(|entry| entry.name() == container) {
                self.clock.observe(row.timestamp);
            }
        }
        Ok(())
    }

    /// The row that shows a container in its account.
    fn container_row(&self, container: &str, info: &DirectoryInfo) -> Row {
        Row {
            name: container.to_owned(),
            timestamp: self.clock.now(),
            deleted: false,
            objects: info.stats.rows,
            bytes: info.stats.bytes,
            etag: String::new(),
            content_type: String::new(),
            extra: vec![
                ("created".into(), info.directory.created.micros().to_string()),
                ("policy".into(), info.directory.policy.0.to_string()),
            ],
        }
    }

    async fn write_account_row(&self, account: &str, row: Row) -> Result<(), StoreError> {
        let key = self.map().account(account);
        let write = |_, replica: Replica| {
            let rows = vec![row.clone()];
            async move { replica.node.write_rows(replica.device, key, rows, RowDurability::Synced).await }
        };
        let written = quorum::write(self.map().account_replicas(key), write).await;
        written.map(drop).map_err(|error| as_account(error.into()))
    }

    /// Changes a record, at a majority, by a time that is newer than that of what it replaces: proxies' clocks
    /// differ, and a change with an older time would be taken without having an effect.
    pub(super) async fn change(
        &self,
        replicas: Vec<Replica>,
        key: DirectoryKey,
        name: &str,
        change: DirectoryChange,
    ) -> Result<(DirectoryInfo, Created), StoreError> {
        let mut created = Created { somewhere: false, everywhere: false };
        for _ in 0..CHANGE_ATTEMPTS {
            let timestamp = self.clock.now();
            let write = |_, replica: Replica| {
                let write = DirectoryWrite { key, name: name.to_owned(), timestamp, change: change.clone() };
                async move { replica.node.write_directory(replica.device, write).await }
            };
            let answers = quorum::write(replicas.clone(), write).await?;
            created.somewhere |= answers.iter().any(|(_, created)| *created);
            created.everywhere |= answers.iter().all(|(_, created)| *created);
            let merged = merge(answers.into_iter().map(|(info, _)| info));
            let info = merged.ok_or_else(|| StoreError::Unavailable("no replica answered".into()))?;
            let newest = info.directory.newest();
            self.clock.observe(newest);
            let effective = match change {
                DirectoryChange::Delete => !info.directory.exists(),
                _ => newest <= timestamp,
            };
            if effective || self.weakness == Weakness::LostChanges {
                return Ok((info, created));
            }
        }
        Err(StoreError::Unavailable("others change it all the time".into()))
    }

    /// What is known of a directory. Where it depends on replicas that do not answer whether it was deleted,
    /// rows decide: it exists if a replica that has not deleted it has some.
    pub(super) async fn directory(
        &self,
        replicas: &[Replica],
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        let (mut infos, deletion) = self.ask_directory(replicas, key).await?;
        let rows = infos.iter().any(|info| info.directory.exists() && info.stats.rows > 0);
        if deletion == Deletion::Refused || deletion == Deletion::Disputed && rows {
            infos.retain(|info| info.directory.exists());
        }
        Ok(merge(infos.into_iter()))
    }

    /// As [`Store::directory`], where a dispute is no answer: what is written down must be true.
    pub(super) async fn undisputed(
        &self,
        replicas: &[Replica],
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, StoreError> {
        let (mut infos, deletion) = self.ask_directory(replicas, key).await?;
        match deletion {
            Deletion::None => {}
            Deletion::Refused => infos.retain(|info| info.directory.exists()),
            Deletion::Disputed => {
                return Err(StoreError::Unavailable("of those who know of a deletion too few answer".into()));
            }
        }
        match merge(infos.into_iter()) {
            Some(info) => self.with_shards(info).await.map(Some),
            None => Ok(None),
        }
    }

    /// What anybody knows of a container whose policy is `available`, where too few replicas answer.
    pub(super) async fn available_container(
        &self,
        replicas: &[Replica],
        key: DirectoryKey,
    ) -> Option<DirectoryInfo> {
        let ask = |_, replica: Replica| async move { replica.node.read_directory(replica.device, key).await };
        let answers = quorum::read_any(replicas, ask).await.ok()?;
        let info = merge(answers.into_iter().filter_map(|(_, info)| info))?;
        let mode = self.map().mode(info.directory.policy).ok()?;
        (mode == Mode::Available).then_some(info)
    }

    async fn ask_directory(
        &self,
        replicas: &[Replica],
        key: DirectoryKey,
    ) -> Result<(Vec<DirectoryInfo>, Deletion), NodeError> {
        if let [only] = replicas {
            let info = only.node.read_directory(only.device, key).await?;
            return Ok((info.into_iter().collect(), Deletion::None));
        }
        let ask = |_, replica: Replica| async move { replica.node.read_directory(replica.device, key).await };
        let mut answers = quorum::read(replicas, ask).await?;
        let verdict = |answers: &[(usize, Option<DirectoryInfo>)]| {
            let infos: Vec<&DirectoryInfo> = answers.iter().filter_map(|(_, info)| info.as_ref()).collect();
            deletion(&infos, replicas.len() - answers.len(), replicas.len())
        };
        if verdict(&answers) == Deletion::Disputed {
            let asked: Vec<usize> = answers.iter().map(|(index, _)| *index).collect();
            for (index, replica) in replicas.iter().enumerate().filter(|(index, _)| !asked.contains(index)) {
                if let Ok(info) = replica.node.read_directory(replica.device, key).await {
                    answers.push((index, info));
                }
            }
        }
        let deletion = match self.weakness {
            Weakness::MinorityDeletes => Deletion::None,
            _ => verdict(&answers),
        };
        Ok((answers.into_iter().filter_map(|(_, info)| info).collect(), deletion))
    }
}

/// Which of the replicas that answered did not have a directory before.
#[derive(Clone, Copy)]
pub(super) struct Created {
    somewhere: bool,
    everywhere: bool,
}

/// What replicas say of a directory that some have deleted and others have not.
#[derive(PartialEq, Eq, Debug)]
enum Deletion {
    /// They do not differ, or a majority has deleted it.
    None,
    /// Only a minority has: the deletion was refused.
    Refused,
    /// It depends on those that have not answered.
    Disputed,
}

fn deletion(infos: &[&DirectoryInfo], unknown: usize, replicas: usize) -> Deletion {
    let exists = |info: &&&DirectoryInfo| info.directory.exists();
    let Some(created) = infos.iter().filter(exists).map(|info| info.directory.created).max() else {
        return Deletion::None;
    };
    let later = infos.iter().filter(|info| info.directory.deleted >= created).count();
    let majority = quorum::majority(replicas);
    if later == 0 || later >= majority {
        Deletion::None
    } else if later + unknown >= majority {
        Deletion::Disputed
    } else {
        Deletion::Refused
    }
}

/// What several replicas know together: the newest of each field, and the totals of the fullest.
fn merge(infos: impl Iterator<Item = DirectoryInfo>) -> Option<DirectoryInfo> {
    let merged = infos.reduce(|mut a, b| {
        if b.directory.created > a.directory.created {
            a.directory.policy = b.directory.policy;
        }
        let Directory { created, deleted, headers, .. } = b.directory;
        a.directory.created = a.directory.created.max(created);
        a.directory.deleted = a.directory.deleted.max(deleted);
        for (name, value) in headers {
            let newer = a.directory.headers.get(&name).is_none_or(|held| held.timestamp < value.timestamp);
            if newer {
                a.directory.headers.insert(name, value);
            }
        }
        if b.stats.rows > a.stats.rows {
            a.stats = b.stats;
        }
        a
    });
    merged.map(|mut info| {
        // Those that a replica has which does not know of a deletion yet.
        info.directory.drop_old_headers();
        info
    })
}

fn as_account(error: StoreError) -> StoreError {
    match error {
        StoreError::NoContainer => StoreError::NoAccount,
        other => other,
    }
}
