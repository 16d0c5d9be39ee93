//! Storage classes: a bucket's storage policy, as S3 says it.
//!
//! The default policy is `STANDARD`, any other is known by its name in upper case, `-` as `_`. A bucket gets
//! its policy when it is made: by `x-amz-storage-class`, or as Ceph has it by a location constraint
//! `REGION:policy`. Objects have their bucket's.

use http::StatusCode;
use kodiak_storage_api::{Policies, PolicyIndex, PolicyLabel};

use super::S3Front;
use super::call::Call;
use super::error::S3Error;

const HEADER: &str = "x-amz-storage-class";
pub(super) const STANDARD: &str = "STANDARD";

/// The storage class of a policy.
fn class_of(policies: &Policies, policy: PolicyIndex) -> String {
    match policy == policies.default_index() {
        true => STANDARD.to_owned(),
        false => policies.name(policy).to_uppercase().replace('-', "_"),
    }
}

/// The policy of a storage class. The default policy has its name's class as well.
fn find<'p>(policies: &'p Policies, class: &str) -> Option<(PolicyIndex, &'p PolicyLabel)> {
    match class {
        STANDARD => policies.find(policies.name(policies.default_index())),
        _ if class.bytes().any(|byte| byte.is_ascii_lowercase()) => None,
        _ => policies.find(&class.replace('_', "-")),
    }
}

impl S3Front {
    /// The storage class of a policy.
    pub(super) fn class(&self, policy: PolicyIndex) -> String {
        class_of(&self.store.policies(), policy)
    }

    /// Refuses an object that asks for another class than its bucket's. `STANDARD`, which many tools say
    /// unasked, means the bucket's.
    pub(super) fn check_class(&self, call: &Call, policy: PolicyIndex) -> Result<(), S3Error> {
        let policies = self.store.policies();
        match call.header(HEADER) {
            None | Some(STANDARD) => Ok(()),
            Some(asked) if find(&policies, asked).is_some_and(|(index, _)| index == policy) => Ok(()),
            Some(_) => Err(invalid(format!(
                "The storage class is not valid: this bucket's objects are {}.",
                class_of(&policies, policy)
            ))),
        }
    }

    /// The policy of a bucket that is to be made.
    pub(super) fn chosen_policy(&self, call: &Call, location: Option<&str>) -> Result<PolicyIndex, S3Error> {
        let (region, named) = location.unwrap_or("").split_once(':').unwrap_or((location.unwrap_or(""), ""));
        if !region.is_empty() && region != self.settings.region {
            return Err(bad_location("The location constraint is not this cluster's region."));
        }
        let policies = self.store.policies();
        let named =
            Some(named).filter(|name| !name.is_empty()).map(|name| name.to_uppercase().replace('-', "_"));
        let (found, refusal) = match (call.header(HEADER), named) {
            (None, None) => return Ok(policies.default_index()),
            (None, Some(class)) => (
                find(&policies, &class),
                bad_location("The location constraint names no storage policy that takes new buckets."),
            ),
            (Some(class), _) => {
                let taking = policies.iter().filter(|(_, policy)| !policy.deprecated);
                let known: Vec<String> = taking.map(|(index, _)| class_of(&policies, index)).collect();
                let message = format!("The storage class is not valid. Known are: {}.", known.join(", "));
                (find(&policies, class), invalid(message))
            }
        };
        found.filter(|(_, policy)| !policy.deprecated).map(|(index, _)| index).ok_or(refusal)
    }
}

fn invalid(message: String) -> S3Error {
    S3Error::new(StatusCode::BAD_REQUEST, "InvalidStorageClass", message)
}

fn bad_location(message: &'static str) -> S3Error {
    S3Error::new(StatusCode::BAD_REQUEST, "InvalidLocationConstraint", message)
}
