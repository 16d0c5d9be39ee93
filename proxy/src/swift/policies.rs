//! Storage policies by their names, and what an account has in each.

use std::collections::BTreeMap;

use http::response::Builder;
use kodiak_storage_api::{DirectoryInfo, PolicyIndex};

use super::SwiftFront;
use super::call::Call;
use super::error::SwiftError;

impl SwiftFront {
    /// The policy that a new container is to have, if the call names one.
    pub(super) fn wanted_policy(&self, call: &Call) -> Result<Option<PolicyIndex>, SwiftError> {
        let Some(name) = call.header("x-storage-policy").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        match self.store.policies().find(name) {
            None => Err(SwiftError::bad_request("Invalid X-Storage-Policy header, no such policy")),
            Some((_, policy)) if policy.deprecated => {
                Err(SwiftError::bad_request(format!("Storage Policy '{}' is deprecated", policy.name)))
            }
            Some((index, _)) => Ok(Some(index)),
        }
    }

    /// `X-Account-Storage-Policy-*`: an account's totals by policy. The account keeps only those of all
    /// policies together, so that with several its containers are added up.
    pub(super) async fn policy_headers(
        &self,
        mut builder: Builder,
        account: &str,
        info: Option<&DirectoryInfo>,
    ) -> Result<Builder, SwiftError> {
        let Some(info) = info.filter(|info| info.stats.rows > 0) else { return Ok(builder) };
        let policies = self.store.policies();
        let totals = match policies.count() {
            0 | 1 => BTreeMap::from([(PolicyIndex(0), info.stats)]),
            _ => self.store.policy_totals(account).await?,
        };
        for (policy, stats) in totals {
            let prefix = format!("x-account-storage-policy-{}", policies.name(policy).to_lowercase());
            builder = builder
                .header(format!("{prefix}-container-count"), stats.rows)
                .header(format!("{prefix}-object-count"), stats.objects)
                .header(format!("{prefix}-bytes-used"), stats.bytes);
        }
        Ok(builder)
    }
}
