//! Containers: `/v1/{account}/{container}`.

use http::{Method, Response, StatusCode};
use kodiak_storage_api::{DirectoryInfo, Entry, ListQuery};

use super::SwiftFront;
use super::account::{check_merged, done};
use super::auth::Want;
use super::call::Call;
use super::error::{Answer, SwiftError};
use super::listing::{self, Format, Listed};
use super::metadata::{self, Kind};
use super::{quota, versions};
use crate::http::http_date;
use crate::store::StoreError;

/// Stored with a container so that its newest header tells when it was last written.
const MODIFIED: &str = "x-container-sysmeta-modified";

impl SwiftFront {
    pub(super) async fn container(&self, call: &Call) -> Answer {
        match call.method {
            Method::GET | Method::HEAD => self.read_container(call).await,
            Method::PUT => self.put_container(call).await,
            Method::POST => self.post_container(call).await,
            Method::DELETE => self.delete_container(call).await,
            _ => Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED)),
        }
    }

    async fn read_container(&self, call: &Call) -> Answer {
        let format = Format::of(call)?;
        let info = self.with_versions(self.container_info(call, Want::List).await?).await?;
        if call.query.has("versions") && !call.is_head() {
            let builder = self.container_headers(&info, call.by_owner());
            return self.list_versions(call, &info, builder).await;
        }
        let query = listing::query(call)?;
        let entries = if call.is_head() {
            Vec::new()
        } else {
            let prefix = query.prefix.clone();
            let page = self.store.list_objects(call.account(), call.container(), query).await?;
            let mut entries = self.pseudo_folders(call, prefix, page.entries).await?;
            versions::show_links(call, &mut entries);
            entries
        };
        let builder = self.container_headers(&info, call.by_owner());
        listing::answer(builder, format, (Listed::Objects, call.container()), &entries, call.is_head())
    }

    /// With `path=`, shows a pseudo-folder by the object that marks it, if there is one, instead of by
    /// its prefix.
    async fn pseudo_folders(
        &self,
        call: &Call,
        folder: String,
        entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, SwiftError> {
        if !call.query.has("path") {
            return Ok(entries);
        }
        let mut shown = Vec::with_capacity(entries.len());
        for entry in entries {
            let Entry::Prefix(prefix) = entry else {
                // The folder's own marker is not in it.
                shown.extend(Some(entry).filter(|entry| entry.name() != folder));
                continue;
            };
            let query = ListQuery { prefix: prefix.clone(), limit: 1, ..ListQuery::default() };
            let first = self.store.list_objects(call.account(), call.container(), query).await?;
            shown.extend(first.entries.into_iter().filter(|entry| entry.name() == prefix));
        }
        Ok(shown)
    }

    fn container_headers(&self, info: &DirectoryInfo, owner: bool) -> http::response::Builder {
        let directory = &info.directory;
        let newest = directory.headers.values().map(|held| held.timestamp).max();
        let modified = newest.map_or(directory.created, |newest| newest.max(directory.created));
        let mut builder = Response::builder()
            .header("x-container-object-count", info.stats.rows)
            .header("x-container-bytes-used", info.stats.bytes)
            .header("x-timestamp", directory.created.to_string())
            .header("last-modified", http_date(modified))
            .header("x-storage-policy", self.store.policies().name(directory.policy))
            .header("accept-ranges", "bytes");
        builder = self.versioning_headers(directory, builder);
        for (name, held) in directory.headers.iter().filter(|(_, held)| !held.value.is_empty()) {
            let owners =
                ["x-container-read", "x-container-write", "x-container-sync-key", "x-container-sync-to"];
            let shown = match name.as_str() {
                name if name.starts_with("x-container-meta-temp-url-key") => owner,
                name if name.starts_with("x-container-meta-") => true,
                name => owner && owners.contains(&name),
            };
            if shown {
                builder = builder.header(name, held.value.as_bytes());
            }
        }
        builder
    }

    async fn put_container(&self, call: &Call) -> Answer {
        self.require(call, Want::Own).await?;
        let mut changes = self.container_changes(call)?;
        let policy = self.wanted_policy(call)?;
        let existing = match self.store.container(call.account(), call.container()).await {
            Ok(info) => {
                if policy.is_some_and(|policy| policy != info.directory.policy) {
                    return Err(SwiftError::status(StatusCode::CONFLICT));
                }
                check_merged(&info, Kind::Container, &changes)?;
                Some(info)
            }
            Err(StoreError::NoContainer) => None,
            Err(error) => return Err(error.into()),
        };
        let held = existing.as_ref().map(|info| info.directory.policy);
        let policy = policy.or(held).unwrap_or_else(|| self.store.policies().default_index());
        self.versioning_changes(call, existing.as_ref(), policy, &mut changes).await?;
        let created = self.store.create_container(call.account(), call.container(), policy, changes).await?.1;
        done(if created { StatusCode::CREATED } else { StatusCode::ACCEPTED })
    }

    async fn post_container(&self, call: &Call) -> Answer {
        let info = self.container_info(call, Want::Own).await?;
        let mut changes = self.container_changes(call)?;
        check_merged(&info, Kind::Container, &changes)?;
        self.versioning_changes(call, Some(&info), info.directory.policy, &mut changes).await?;
        self.store.update_container(call.account(), call.container(), changes).await?;
        done(StatusCode::NO_CONTENT)
    }

    async fn delete_container(&self, call: &Call) -> Answer {
        self.container_for(call, Want::Own).await?;
        self.store.delete_container(call.account(), call.container()).await?;
        done(StatusCode::NO_CONTENT)
    }

    fn container_changes(&self, call: &Call) -> Result<Vec<(String, String)>, SwiftError> {
        metadata::check(&call.headers, Kind::Container)?;
        quota::check_container(&call.headers)?;
        let mut changes = metadata::directory_changes(&call.headers, Kind::Container, call.by_owner())?;
        // Every PUT and POST is a modification, even one that changes nothing.
        changes.push((MODIFIED.into(), self.store.now().to_string()));
        Ok(changes)
    }
}
