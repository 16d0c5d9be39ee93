//! Storage classes: a bucket's storage policy, as S3 says it.
//!
//! The first policy is `STANDARD`, any other is known by its name in upper case, `-` as `_`. A bucket gets
//! its policy when it is made: by `x-amz-storage-class`, or as Ceph has it by a location constraint
//! `REGION:policy`. Objects have their bucket's.

use http::StatusCode;
use kodiak_storage_api::PolicyIndex;

use super::S3Front;
use super::call::Call;
use super::error::S3Error;

const HEADER: &str = "x-amz-storage-class";
pub(super) const STANDARD: &str = "STANDARD";

/// The storage classes of policies with these names.
pub(super) fn classes(policies: &[String]) -> Vec<String> {
    let named = policies.iter().skip(1).map(|name| name.to_uppercase().replace('-', "_"));
    std::iter::once(STANDARD.to_owned()).chain(named).collect()
}

impl S3Front {
    /// The storage class of a policy.
    pub(super) fn class(&self, policy: PolicyIndex) -> &str {
        self.classes.get(usize::from(policy.0)).map_or(STANDARD, String::as_str)
    }

    /// Refuses an object that asks for another class than its bucket's. `STANDARD`, which many tools say
    /// unasked, means the bucket's.
    pub(super) fn check_class(&self, call: &Call, policy: PolicyIndex) -> Result<(), S3Error> {
        let class = self.class(policy);
        match call.header(HEADER) {
            None | Some(STANDARD) => Ok(()),
            Some(asked) if asked == class => Ok(()),
            Some(_) => {
                Err(invalid(format!("The storage class is not valid: this bucket's objects are {class}.")))
            }
        }
    }

    /// The policy of a bucket that is to be made.
    pub(super) fn chosen_policy(&self, call: &Call, location: Option<&str>) -> Result<PolicyIndex, S3Error> {
        let (region, named) = location.unwrap_or("").split_once(':').unwrap_or((location.unwrap_or(""), ""));
        if !region.is_empty() && region != self.settings.region {
            return Err(bad_location("The location constraint is not this cluster's region."));
        }
        let find = |class: &str| self.classes.iter().position(|known| known == class);
        let found = match (call.header(HEADER), named) {
            (None, "") => Some(0),
            (None, name) => {
                let found = find(&name.to_uppercase().replace('-', "_"));
                Some(found.ok_or_else(|| bad_location("The location constraint names no storage policy."))?)
            }
            (Some(class), _) => find(class),
        };
        let known =
            || invalid(format!("The storage class is not valid. Known are: {}.", self.classes.join(", ")));
        found.and_then(|index| u16::try_from(index).ok()).map(PolicyIndex).ok_or_else(known)
    }
}

fn invalid(message: String) -> S3Error {
    S3Error::new(StatusCode::BAD_REQUEST, "InvalidStorageClass", message)
}

fn bad_location(message: &'static str) -> S3Error {
    S3Error::new(StatusCode::BAD_REQUEST, "InvalidLocationConstraint", message)
}
