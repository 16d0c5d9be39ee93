//! The hidden containers that hold versions.

use std::collections::HashMap;

use kodiak_storage_api::{DirectoryInfo, Entry, ListQuery, Mode, PolicyIndex};

use super::{ACCOUNT, Versioning, versions_container};
use crate::store::{Store, StoreError};

/// Hidden containers that are read at once.
const PAGE: usize = 10_000;

impl Store {
    /// Makes a container that is there, or is about to be, one that can keep versions: the container of
    /// the versions comes before the header that says so.
    pub async fn prepare_versions(
        &self,
        account: &str,
        container: &str,
        policy: PolicyIndex,
    ) -> Result<(), StoreError> {
        if self.map().mode(policy)? == Mode::Available {
            let why = "containers of this storage policy keep no versions: it is `available`, and versions need \
                       the promises of a `strict` one";
            return Err(StoreError::Refused(why.into()));
        }
        self.create_account(account, vec![(ACCOUNT.into(), "True".into())]).await?;
        self.make_versions_container(account, container, policy).await
    }

    /// It is there but after a crash in the middle of a container's deletion. The caller holds no lock.
    pub(super) async fn make_versions_container(
        &self,
        account: &str,
        container: &str,
        policy: PolicyIndex,
    ) -> Result<(), StoreError> {
        let versions = versions_container(container);
        match self.container(account, &versions).await {
            Ok(_) => Ok(()),
            Err(StoreError::NoContainer) => {
                self.create_container(account, &versions, policy, Vec::new()).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Before a container goes, that of its versions does; it is made again if the container stays.
    pub(in crate::store) async fn delete_versions_container(
        &self,
        account: &str,
        container: &str,
    ) -> Result<(), StoreError> {
        let versions = versions_container(container);
        match self.container(account, &versions).await {
            Ok(_) => self.remove_container(account, &versions).await,
            Err(StoreError::NoContainer) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Bytes of all versions of a container's objects, but those without an id.
    pub async fn version_bytes(&self, info: &DirectoryInfo) -> Result<u64, StoreError> {
        if Versioning::of(&info.directory) == Versioning::Never {
            return Ok(0);
        }
        let Some((account, container)) = info.directory.name.split_once('/') else { return Ok(0) };
        match self.container(account, &versions_container(container)).await {
            Ok(versions) => Ok(versions.stats.bytes),
            Err(StoreError::NoContainer) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Adds the bytes of versions to the containers of an account's page.
    pub async fn add_version_bytes(
        &self,
        account: &DirectoryInfo,
        page: &mut [Entry],
    ) -> Result<(), StoreError> {
        if account.directory.header(ACCOUNT).is_none() || page.is_empty() {
            return Ok(());
        }
        let mut names = page.iter().map(Entry::name);
        let Some(first) = names.next() else { return Ok(()) };
        let last = names.next_back().unwrap_or(first);
        let (low, high) = if first <= last { (first, last) } else { (last, first) };
        let (low, high) = (versions_container(low), format!("{}\0", versions_container(high)));
        // The marker itself is not in a page, but the name just before it is in none.
        let before = low.strip_suffix(|_: char| true).unwrap_or(&low).to_owned();
        let mut query = ListQuery {
            prefix: versions_container(""),
            marker: Some(before),
            end_marker: Some(high),
            limit: PAGE,
            ..ListQuery::default()
        };
        let mut bytes: HashMap<String, u64> = HashMap::new();
        loop {
            let found = self.list_all_containers(&account.directory.name, query.clone()).await?;
            query.marker = found.entries.last().map(|entry| entry.name().to_owned());
            for entry in found.entries {
                let Entry::Row(row) = entry else { continue };
                if let Some(of) = row.name.strip_prefix(&query.prefix) {
                    bytes.insert(of.to_owned(), row.bytes);
                }
            }
            if !found.truncated {
                break;
            }
        }
        for entry in page {
            if let Entry::Row(row) = entry {
                row.bytes += bytes.get(&row.name).copied().unwrap_or(0);
            }
        }
        Ok(())
    }
}
