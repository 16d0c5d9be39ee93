//! Who asks: [`Principal`], [`Secret`] and [`Authenticator`].
//!
//! Knows nothing of HTTP, S3 or Swift. The proxy asks an [`Authenticator`]; [`FixedUsers`] is the
//! one for a store that stands alone.

mod fixed;
mod secret;

use async_trait::async_trait;

pub use fixed::{FixedUser, FixedUsers, TokenLife};
pub use secret::Secret;

/// Somebody who has proved who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// `account:user`, as access lists name them.
    pub user: String,
    /// The storage account they belong to, `AUTH_account`.
    pub account: String,
    /// May do everything in their own account.
    pub owner: bool,
    /// May do everything in every account.
    pub reseller_admin: bool,
}

impl Principal {
    /// Whether the principal owns this storage account.
    pub fn owns(&self, account: &str) -> bool {
        self.reseller_admin || (self.owner && self.account == account)
    }

    /// Whether an access-list element names the principal: `account`, `account:user` or `*:user`…
    /// with `*` for all.
    pub fn is_named(&self, element: &str) -> bool {
        let (account, user) = self.user.split_once(':').unwrap_or((&self.user, ""));
        match element.split_once(':') {
            None => element == account,
            Some((a, u)) => (a == "*" || a == account) && (u == "*" || u == user),
        }
    }
}

/// The answer to a log-in.
#[derive(Clone, Debug)]
pub struct Login {
    /// For `X-Auth-Token`.
    pub token: Secret,
    /// Seconds it stays valid.
    pub expires_in: u64,
    /// Who logged in.
    pub principal: Principal,
}

/// A key pair for signed requests.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The secret that signs.
    pub secret: Secret,
    /// Whose it is.
    pub principal: Principal,
}

/// Why nobody could be authenticated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The user, key, token or access key is not valid.
    #[error("not a valid user, key or token")]
    Invalid,
    /// The authority could not be asked.
    #[error("the identity service does not answer: {0}")]
    Unavailable(String),
}

/// Knows the users.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Swift's v1 log-in with a user (`account:user`) and key.
    async fn login(&self, user: &str, key: &Secret) -> Result<Login, AuthError>;

    /// Who holds this token.
    async fn validate(&self, token: &str) -> Result<Principal, AuthError>;

    /// The key pair of an S3 access key.
    async fn credential(&self, access_key: &str) -> Result<Credential, AuthError>;
}
