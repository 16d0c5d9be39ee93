//! Accounts and containers.
//!
//! A container's record and its row in the account are both on stable storage at a majority when its
//! creation answers; the row comes second, so that a listed container always exists.

use kodiak_storage_api::{
    Directory, DirectoryChange, DirectoryInfo, DirectoryKey, DirectoryWrite, NodeError, PolicyIndex, Row,
    RowDurability,
};

use super::{Store, StoreError, Versioning, quorum};
use kodiak_storage_api::Replica;

impl Store {
    /// Creates an account or sets headers of it; whether it is new.
    pub async fn create_account(
        &self,
        account: &str,
        headers: Vec<(String, String)>,
    ) -> Result<bool, StoreError> {
        let key = self.map().account(account);
        let change = DirectoryChange::Create { policy: PolicyIndex(0), headers };
        let (_, created) = self.change(self.map().account_replicas(key), key, account, change).await?;
        Ok(created)
    }

    /// The account's record and totals.
    pub async fn account(&self, account: &str) -> Result<DirectoryInfo, StoreError> {
        let key = self.map().account(account);
        let info = self.directory(&self.map().account_replicas(key), key).await?;
        info.filter(|info| info.directory.exists()).ok_or(StoreError::NoAccount)
    }

    /// Whether there was such an account once, and it is deleted.
    pub async fn account_is_deleted(&self, account: &str) -> Result<bool, StoreError> {
        let key = self.map().account(account);
        let info = self.directory(&self.map().account_replicas(key), key).await?;
        Ok(info.is_some_and(|info| !info.directory.exists()))
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

    /// Deletes an account that has no containers ([`StoreError::NotEmpty`] otherwise).
    pub async fn delete_account(&self, account: &str) -> Result<(), StoreError> {
        self.account(account).await?;
        let key = self.map().account(account);
        let deleted = self.change(self.map().account_replicas(key), key, account, DirectoryChange::Delete);
        deleted.await.map(drop).map_err(as_account)
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
        let (info, created) = self.change(self.map().container_replicas(key), key, &path, change).await?;
        if created {
            self.write_account_row(account, self.container_row(container, &info)).await?;
        }
        Ok((info, created))
    }

    /// A container's record and totals.
    pub async fn container(&self, account: &str, container: &str) -> Result<DirectoryInfo, StoreError> {
        let key = self.map().container(&format!("{account}/{container}"));
        let info = self.directory(&self.map().container_replicas(key), key).await?;
        info.filter(|info| info.directory.exists()).ok_or(StoreError::NoContainer)
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
        self.change(self.map().container_replicas(key), key, &path, change).await.map(drop)
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
        let _lock = self.locks.lock(key.hash).await;
        self.change(self.map().container_replicas(key), key, &path, DirectoryChange::Delete).await?;
        let row = Row::tombstone(container.to_owned(), self.clock.now());
        self.write_account_row(account, row).await
    }

    /// Gives the account a container's totals.
    pub(super) async fn report_totals(&self, info: &DirectoryInfo) -> Result<(), StoreError> {
        let Some((account, container)) = info.directory.name.split_once('/') else { return Ok(()) };
        let _lock = self.locks.lock(self.map().container(&info.directory.name).hash).await;
        let info = match self.container(account, container).await {
            Ok(info) => info,
            Err(StoreError::NoContainer) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.write_account_row(account, self.container_row(container, &info)).await {
            Err(StoreError::NoAccount) => Ok(()),
            other => other,
        }
    }

    /// The row that shows a container in its account. Made, as every change of that row, under the
    /// container's lock: so the order of rows' timestamps is the order of what they show.
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

    async fn change(
        &self,
        replicas: Vec<Replica>,
        key: DirectoryKey,
        name: &str,
        change: DirectoryChange,
    ) -> Result<(DirectoryInfo, bool), StoreError> {
        let timestamp = self.clock.now();
        let write = |_, replica: Replica| {
            let write = DirectoryWrite { key, name: name.to_owned(), timestamp, change: change.clone() };
            async move { replica.node.write_directory(replica.device, write).await }
        };
        let answers = quorum::write(replicas, write).await?;
        let created = answers.iter().all(|(_, created)| *created);
        let merged = merge(answers.into_iter().map(|(info, _)| info));
        let none = || StoreError::Unavailable("no replica answered".into());
        Ok((merged.ok_or_else(none)?, created))
    }

    async fn directory(
        &self,
        replicas: &[Replica],
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        if let [only] = replicas {
            return only.node.read_directory(only.device, key).await;
        }
        let ask = |_, replica: Replica| async move { replica.node.read_directory(replica.device, key).await };
        let answers = quorum::read(replicas, ask).await?;
        Ok(merge(answers.into_iter().filter_map(|(_, info)| info)))
    }
}

/// What several replicas know together: the newest of each field, and the totals of the fullest.
fn merge(infos: impl Iterator<Item = DirectoryInfo>) -> Option<DirectoryInfo> {
    infos.reduce(|mut a, b| {
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
    })
}

fn as_account(error: StoreError) -> StoreError {
    match error {
        StoreError::NoContainer => StoreError::NoAccount,
        other => other,
    }
}
