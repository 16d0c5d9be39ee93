//! Storage policies by their names, and what an account has in each.

use std::collections::BTreeMap;

use http::response::Builder;
use kodiak_storage_api::{DirectoryInfo, PolicyIndex};

use super::SwiftFront;
use super::error::SwiftError;

impl SwiftFront {
    /// The policy of a name, in any case.
    pub(super) fn policy_index(&self, name: &str) -> Option<PolicyIndex> {
        let found = self.settings.policies.iter().position(|policy| policy.eq_ignore_ascii_case(name));
        found.and_then(|index| u16::try_from(index).ok()).map(PolicyIndex)
    }

    /// The name of a policy.
    pub(super) fn policy_name(&self, index: PolicyIndex) -> &str {
        self.settings.policies.get(usize::from(index.0)).map_or("", String::as_str)
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
        let totals = match self.settings.policies.len() {
            0 | 1 => BTreeMap::from([(PolicyIndex(0), info.stats)]),
            _ => self.store.policy_totals(account).await?,
        };
        for (policy, stats) in totals {
            let prefix = format!("x-account-storage-policy-{}", self.policy_name(policy).to_lowercase());
            builder = builder
                .header(format!("{prefix}-container-count"), stats.rows)
                .header(format!("{prefix}-object-count"), stats.objects)
                .header(format!("{prefix}-bytes-used"), stats.bytes);
        }
        Ok(builder)
    }
}
