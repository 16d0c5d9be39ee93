//! What can go wrong in the store, by meaning.

use kodiak_storage_api::{NodeError, Timestamp};

/// Why an operation of the store was refused or failed; each front renders it in its own protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The account does not exist.
    #[error("no such account")]
    NoAccount,
    /// The account was deleted a short time ago.
    #[error("the account was deleted")]
    AccountDeleted,
    /// The container does not exist.
    #[error("no such container")]
    NoContainer,
    /// The object does not exist (or has expired).
    #[error("no such object")]
    NoObject,
    /// A container with objects, or an account with containers, cannot be deleted.
    #[error("the container is not empty")]
    NotEmpty,
    /// A condition of the request does not hold.
    #[error("a precondition failed")]
    PreconditionFailed,
    /// A newer write of the same object is stored, and the caller had chosen the timestamp.
    #[error("a newer write ({0}) of the object exists")]
    Conflict(Timestamp),
    /// The object may not be changed in this way; a front's own rule.
    #[error("{0}")]
    Refused(String),
    /// The asker may not read what this object is made of.
    #[error("a segment may not be read")]
    Denied,
    /// No room.
    #[error("insufficient storage")]
    Full,
    /// No intact replica of the data is left.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Too much is waiting; try again.
    #[error("too busy")]
    Overloaded,
    /// A majority of the replicas did not answer.
    #[error("a majority of replicas does not answer: {0}")]
    Unavailable(String),
}

impl From<NodeError> for StoreError {
    fn from(error: NodeError) -> StoreError {
        match error {
            NodeError::Stale(refusal) => StoreError::Conflict(refusal.barrier),
            NodeError::NoDirectory => StoreError::NoContainer,
            NodeError::NotEmpty => StoreError::NotEmpty,
            NodeError::NoBlock => StoreError::Corrupt("a block is missing".into()),
            NodeError::Full => StoreError::Full,
            NodeError::Corrupt(what) => StoreError::Corrupt(what),
            NodeError::Overloaded => StoreError::Overloaded,
            NodeError::Unavailable(why) => StoreError::Unavailable(why),
            NodeError::Moved => StoreError::Unavailable("the listing is being split".into()),
        }
    }
}

/// Of several replicas' errors, the one that explains most.
pub(super) fn worst(errors: Vec<NodeError>) -> NodeError {
    let rank = |error: &NodeError| match error {
        NodeError::Stale(_) => 0,
        // Whoever has newer bounds knows more than the others.
        NodeError::Moved => 1,
        NodeError::NoDirectory => 2,
        NodeError::NotEmpty => 3,
        NodeError::Full => 4,
        NodeError::Corrupt(_) => 5,
        NodeError::NoBlock => 6,
        NodeError::Overloaded => 7,
        NodeError::Unavailable(_) => 8,
    };
    let none = || NodeError::Unavailable("no replica".into());
    errors.into_iter().min_by_key(rank).unwrap_or_else(none)
}
