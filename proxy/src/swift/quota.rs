//! Quotas of containers and accounts: uploads that would exceed them are refused with 413.
//!
//! Source: Swift's documentation of container_quotas and account_quotas. Owners limit their containers with
//! `X-Container-Meta-Quota-Bytes` and `-Count`; administrators of all accounts limit an account with
//! `X-Account-Quota-Bytes` and `-Count`, for all of it or for `-Policy-name`, and are not limited.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use kodiak_storage_api::{Directory, DirectoryInfo, PolicyIndex};
use parking_lot::RwLock;

use super::SwiftFront;
use super::call::Call;
use super::error::SwiftError;
use crate::http::header;
use crate::store::StoreError;

const KINDS: [&str; 2] = ["bytes", "count"];
/// The older name of an account's bytes; read and stored as metadata too.
const LEGACY: &str = "x-account-meta-quota-bytes";
const LEGACY_REMOVE: &str = "x-remove-account-meta-quota-bytes";
/// What the stored quotas of an account begin with.
const STORED: &str = "x-account-sysmeta-quota-";

/// How long an account counts as unlimited after a look at it: an upload then reads no account.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Accounts that are remembered at most.
const MAX_REMEMBERED: usize = 100_000;

/// The accounts that have no quota, as far as is remembered.
#[derive(Clone, Default)]
pub(super) struct Unlimited(Arc<RwLock<HashMap<String, Instant>>>);

impl Unlimited {
    fn holds(&self, account: &str) -> bool {
        self.0.read().get(account).is_some_and(|seen| seen.elapsed() < REMEMBERED)
    }

    fn remember(&self, account: &str) {
        let mut accounts = self.0.write();
        if accounts.len() >= MAX_REMEMBERED {
            accounts.clear();
        }
        accounts.insert(account.to_owned(), Instant::now());
    }

    pub(super) fn forget(&self, account: &str) {
        self.0.write().remove(account);
    }
}

impl SwiftFront {
    /// Refuses an upload of so many bytes that the container or the account has no room for.
    pub(super) async fn check_quotas(
        &self,
        call: &Call,
        container: &Directory,
        bytes: u64,
    ) -> Result<(), SwiftError> {
        let limit = |kind: &str| {
            let quota = container.header(&format!("x-container-meta-quota-{kind}"))?;
            quota.parse::<u64>().ok()
        };
        // Most containers have no metadata of this kind, and then no name is made to look it up.
        if has_any(container, "x-container-meta-quota-") {
            let (account, name) = container.name.split_once('/').unwrap_or_default();
            let info = self.store.container(account, name).await?;
            let used = info.stats.bytes + self.store.version_bytes(&info).await?;
            within(limit("bytes"), used.saturating_add(bytes))?;
            within(limit("count"), info.stats.rows + 1)?;
        }
        if self.unlimited.holds(call.account())
            || call.principal.as_ref().is_some_and(|principal| principal.reseller_admin)
        {
            return Ok(());
        }
        let account = match self.store.account(call.account()).await {
            Ok(info) => info,
            Err(StoreError::NoAccount) => return Ok(()),
            // Nobody knows what is used: the container's policy says that this is no hindrance.
            Err(StoreError::Unavailable(_)) if self.store.is_available(container.policy) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if !has_any(&account.directory, STORED) && account.directory.header(LEGACY).is_none() {
            self.unlimited.remember(call.account());
            return Ok(());
        }
        self.check_account(call, &account, container.policy, bytes).await
    }

    async fn check_account(
        &self,
        call: &Call,
        account: &DirectoryInfo,
        policy: PolicyIndex,
        bytes: u64,
    ) -> Result<(), SwiftError> {
        let limit = |name: &str| account.directory.header(name).and_then(|quota| quota.parse::<u64>().ok());
        let stored = |kind: &str| limit(&format!("{STORED}{kind}"));
        within(stored("bytes").or_else(|| limit(LEGACY)), account.stats.bytes.saturating_add(bytes))?;
        within(stored("count"), account.stats.objects + 1)?;
        let of_policy = |kind: &str| stored(&format!("{kind}-policy-{}", policy.0));
        let (max_bytes, max_count) = (of_policy("bytes"), of_policy("count"));
        if max_bytes.is_none() && max_count.is_none() {
            return Ok(());
        }
        let totals = self.store.policy_totals(call.account()).await?;
        let used = totals.get(&policy).copied().unwrap_or_default();
        within(max_bytes, used.bytes.saturating_add(bytes))?;
        within(max_count, used.objects + 1)
    }

    /// The changes that a request makes to the account's quotas: only for administrators of all accounts.
    pub(super) fn quota_changes(&self, call: &Call) -> Result<Vec<(String, String)>, SwiftError> {
        let (mut changes, policies) = (Vec::new(), self.store.policies());
        for kind in KINDS {
            let legacy = (kind == "bytes").then_some((LEGACY, LEGACY_REMOVE));
            let all = asked(&call.headers, &format!("account-quota-{kind}"));
            let all = all.or_else(|| {
                let (set, remove) = legacy?;
                asked_by(&call.headers, set, remove)
            });
            changes.extend(all.map(|quota| (format!("{STORED}{kind}"), quota)));
            for (index, policy) in policies.iter() {
                let (index, policy) = (index.0, policy.name.to_lowercase());
                let name = format!("account-quota-{kind}-policy-{policy}");
                let quota = asked(&call.headers, &name);
                changes.extend(quota.map(|quota| (format!("{STORED}{kind}-policy-{index}"), quota)));
            }
        }
        if changes.is_empty() {
            return Ok(changes);
        }
        self.require_reseller_admin(call)?;
        if changes.iter().any(|(_, quota)| !quota.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(SwiftError::bad_request("A quota is a number."));
        }
        Ok(changes)
    }

    /// An account's quotas as answers show them.
    pub(super) fn shown_quotas(&self, account: &Directory) -> Vec<(String, String)> {
        let (mut shown, policies) = (Vec::new(), self.store.policies());
        for kind in KINDS {
            let quota = account.header(&format!("{STORED}{kind}"));
            shown.extend(quota.map(|quota| (format!("x-account-quota-{kind}"), quota.to_owned())));
            for (index, policy) in policies.iter() {
                let (index, policy) = (index.0, &policy.name);
                let quota = account.header(&format!("{STORED}{kind}-policy-{index}"));
                let name = format!("x-account-quota-{kind}-policy-{policy}");
                shown.extend(quota.map(|quota| (name, quota.to_owned())));
            }
        }
        shown
    }
}

/// Checks the quotas that a request sets on a container.
pub(super) fn check_container(headers: &HeaderMap) -> Result<(), SwiftError> {
    for kind in KINDS {
        let quota = header(headers, &format!("x-container-meta-quota-{kind}")).unwrap_or("");
        if !quota.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SwiftError::bad_request(format!("Invalid {kind} quota.")));
        }
    }
    Ok(())
}

/// Whether the directory has headers that begin so.
fn has_any(directory: &Directory, prefix: &str) -> bool {
    let from =
        directory.headers.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
    from.take_while(|(name, _)| name.starts_with(prefix)).any(|(_, held)| !held.value.is_empty())
}

/// What a request asks for one quota: empty removes it.
fn asked(headers: &HeaderMap, name: &str) -> Option<String> {
    asked_by(headers, &format!("x-{name}"), &format!("x-remove-{name}"))
}

fn asked_by(headers: &HeaderMap, set: &str, remove: &str) -> Option<String> {
    match header(headers, remove) {
        Some(value) if !value.is_empty() => Some(String::new()),
        _ => header(headers, set).map(str::to_owned),
    }
}

fn within(limit: Option<u64>, would_be: u64) -> Result<(), SwiftError> {
    match limit {
        Some(limit) if would_be > limit => {
            Err(SwiftError::new(StatusCode::PAYLOAD_TOO_LARGE, "Upload exceeds quota."))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_quota_is_digits() {
        let mut headers = HeaderMap::new();
        headers.insert("x-container-meta-quota-bytes", HeaderValue::from_static("10"));
        assert!(check_container(&headers).is_ok());
        headers.insert("x-container-meta-quota-count", HeaderValue::from_static("-1"));
        assert!(check_container(&headers).is_err());
    }

    #[test]
    fn removing_wins_over_setting() {
        let mut headers = HeaderMap::new();
        assert_eq!(asked(&headers, "account-quota-bytes"), None);
        headers.insert("x-account-quota-bytes", HeaderValue::from_static("5"));
        assert_eq!(asked(&headers, "account-quota-bytes").as_deref(), Some("5"));
        headers.insert("x-remove-account-quota-bytes", HeaderValue::from_static("t"));
        assert_eq!(asked(&headers, "account-quota-bytes").as_deref(), Some(""));
    }

    #[test]
    fn an_upload_may_fill_a_quota_exactly() {
        assert!(within(Some(10), 10).is_ok() && within(None, u64::MAX).is_ok());
        assert_eq!(within(Some(10), 11).map_err(|error| error.code()), Err(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
