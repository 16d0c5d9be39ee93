//! The storage policies as clients see them.

use kodiak_ring::PolicyIndex;

/// Longest name of a policy: it is part of header names.
const MAX_NAME: usize = 64;
/// What S3 calls the default policy.
const STANDARD: &str = "standard";

/// Names of the storage policies, and which of them new containers may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policies {
    /// By [`PolicyIndex`].
    list: Vec<PolicyLabel>,
    default: PolicyIndex,
}

/// A storage policy to its users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyLabel {
    /// Its name.
    pub name: String,
    /// It keeps its objects and takes no new containers.
    pub deprecated: bool,
}

impl Policies {
    /// Policies by their index.
    pub fn new(list: Vec<PolicyLabel>, default: PolicyIndex) -> Policies {
        Policies { list, default }
    }

    /// Each policy.
    pub fn iter(&self) -> impl Iterator<Item = (PolicyIndex, &PolicyLabel)> {
        self.list.iter().enumerate().map(|(index, label)| (PolicyIndex(index as u16), label))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The policy of a name, in any case.
    pub fn find(&self, name: &str) -> Option<(PolicyIndex, &PolicyLabel)> {
        self.iter().find(|(_, label)| label.name.eq_ignore_ascii_case(name))
    }

    /// The name of a policy; empty if there is none.
    pub fn name(&self, index: PolicyIndex) -> &str {
        self.list.get(usize::from(index.0)).map_or("", |label| &label.name)
    }

    /// The policy of containers that name none.
    pub fn default_index(&self) -> PolicyIndex {
        self.default
    }
}

/// Checks a policy's name.
///
/// # Errors
/// With what a person is to read.
pub fn check_policy_name(name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if name.is_empty() || name.len() > MAX_NAME || !letters {
        return Err(format!(
            "{name:?} is no name of a policy: up to {MAX_NAME} letters, digits and -, since it is part of header names"
        ));
    }
    if name.eq_ignore_ascii_case(STANDARD) {
        return Err("S3 calls the default policy STANDARD, whatever its name: choose another name".into());
    }
    Ok(())
}
