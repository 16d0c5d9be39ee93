//! Accounts: `/v1/{account}`.

use http::{Method, Response, StatusCode};
use kodiak_storage_api::{DirectoryInfo, Timestamp};

use super::SwiftFront;
use super::account_acl;
use super::auth::Want;
use super::call::Call;
use super::error::{Answer, SwiftError};
use super::listing::{self, Format, Listed};
use super::metadata::{self, Kind};
use crate::http::empty;
use crate::store::StoreError;

impl SwiftFront {
    pub(super) async fn account(&self, call: &Call) -> Answer {
        match call.method {
            Method::GET | Method::HEAD => self.read_account(call).await,
            Method::POST => self.post_account(call).await,
            Method::PUT => self.put_account(call).await,
            Method::DELETE => self.delete_account(call).await,
            _ => Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED)),
        }
    }

    async fn read_account(&self, call: &Call) -> Answer {
        self.require(call, Want::Read).await?;
        let format = Format::of(call)?;
        let query = listing::query(call)?;
        let info = match self.store.account(call.account()).await {
            Ok(info) => Some(info),
            // An account that nothing was written to answers as an empty one, as with Swift's
            // account_autocreate; one that was deleted does not.
            Err(StoreError::NoAccount) if !self.store.account_is_deleted(call.account()).await? => None,
            Err(StoreError::NoAccount) => return Err(SwiftError::status(StatusCode::GONE)),
            Err(error) => return Err(error.into()),
        };
        let builder = account_headers(info.as_ref(), call.by_owner());
        let mut builder = self.policy_headers(builder, call.account(), info.as_ref()).await?;
        for (name, quota) in info.iter().flat_map(|info| self.shown_quotas(&info.directory)) {
            builder = builder.header(name, quota);
        }
        let entries = match &info {
            Some(info) if !call.is_head() => {
                let mut page = self.store.list_containers(call.account(), query).await?.entries;
                self.store.add_version_bytes(info, &mut page).await?;
                page
            }
            _ => Vec::new(),
        };
        listing::answer(
            builder,
            format,
            (Listed::Containers(&self.store.policies()), call.account()),
            &entries,
            call.is_head(),
        )
    }

    async fn post_account(&self, call: &Call) -> Answer {
        self.require_owner(call).await?;
        let changes = self.account_changes(call)?;
        match self.store.account(call.account()).await {
            Ok(info) => check_merged(&info, Kind::Account, &changes)?,
            Err(StoreError::NoAccount) => {}
            Err(error) => return Err(error.into()),
        }
        self.store.create_account(call.account(), changes).await?;
        self.unlimited.forget(call.account());
        done(StatusCode::NO_CONTENT)
    }

    async fn put_account(&self, call: &Call) -> Answer {
        self.require_reseller_admin(call)?;
        let changes = self.account_changes(call)?;
        let created = match self.store.create_account(call.account(), changes).await {
            Err(StoreError::AccountDeleted) => {
                return Err(SwiftError::new(StatusCode::FORBIDDEN, "Recently deleted"));
            }
            created => created?,
        };
        self.unlimited.forget(call.account());
        done(if created { StatusCode::CREATED } else { StatusCode::ACCEPTED })
    }

    fn account_changes(&self, call: &Call) -> Result<Vec<(String, String)>, SwiftError> {
        metadata::check(&call.headers, Kind::Account)?;
        let mut changes = metadata::directory_changes(&call.headers, Kind::Account, true)?;
        changes.extend(account_acl::change(&call.headers)?);
        changes.extend(self.quota_changes(call)?);
        Ok(changes)
    }

    async fn delete_account(&self, call: &Call) -> Answer {
        self.require_reseller_admin(call)?;
        // As in Swift: a request that was meant for something else must not delete an account.
        if !call.query.is_empty() {
            return Err(SwiftError::status(StatusCode::BAD_REQUEST));
        }
        self.store.delete_account(call.account()).await?;
        done(StatusCode::NO_CONTENT)
    }
}

/// An answer without a body.
pub(super) fn done(status: StatusCode) -> Answer {
    let builder = Response::builder().status(status).header("content-type", "text/html; charset=UTF-8");
    Ok(if status == StatusCode::NO_CONTENT {
        builder.body(empty())?
    } else {
        builder.header("content-length", 0).body(empty())?
    })
}

/// Checks the metadata that a directory would have after these changes.
pub(super) fn check_merged(
    info: &DirectoryInfo,
    kind: Kind,
    changes: &[(String, String)],
) -> Result<(), SwiftError> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut merged: std::collections::BTreeMap<&str, &str> =
        info.directory.headers.iter().map(|(name, held)| (name.as_str(), held.value.as_str())).collect();
    merged.extend(changes.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let items = merged.iter().filter(|(name, value)| name.starts_with(kind.prefix()) && !value.is_empty());
    let (count, overall) = items.fold((0, 0), |(count, overall), (name, value)| {
        (count + 1, overall + name.len() - kind.prefix().len() + value.len())
    });
    metadata::check_totals(count, overall)
}

fn account_headers(info: Option<&DirectoryInfo>, owner: bool) -> http::response::Builder {
    let stats = info.map(|info| info.stats).unwrap_or_default();
    let created = info.map_or(Timestamp::ZERO, |info| info.directory.created);
    let mut builder = Response::builder()
        .header("x-account-container-count", stats.rows)
        .header("x-account-object-count", stats.objects)
        .header("x-account-bytes-used", stats.bytes)
        .header("x-timestamp", created.to_string())
        .header("accept-ranges", "bytes");
    if let Some(list) = info.and_then(|info| account_acl::shown(&info.directory)).filter(|_| owner) {
        builder = builder.header(account_acl::HEADER, list);
    }
    for (name, held) in info.iter().flat_map(|info| &info.directory.headers) {
        let secret = name.starts_with("x-account-meta-temp-url-key") && !owner;
        if name.starts_with("x-account-meta-") && !held.value.is_empty() && !secret {
            builder = builder.header(name, held.value.as_bytes());
        }
    }
    builder
}
