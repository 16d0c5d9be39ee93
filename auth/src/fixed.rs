//! Users from the configuration, as Swift's TempAuth has them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::{AuthError, Authenticator, Credential, Login, Principal, Secret};

/// One user of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedUser {
    /// The account, without the `AUTH_` of its storage account.
    pub account: String,
    /// The user's name within the account.
    pub name: String,
    /// The key: Swift's password, and the secret of the S3 access key `account:name`.
    pub key: Secret,
    /// One more S3 access key, with `key` as its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Owns the account (Swift's `.admin`).
    #[serde(default)]
    pub admin: bool,
    /// Owns every account (Swift's `.reseller_admin`).
    #[serde(default)]
    pub reseller_admin: bool,
}

/// How long a token lives.
#[derive(Clone, Copy, Debug)]
pub struct TokenLife(pub Duration);

struct Token {
    principal: Principal,
    ends: Instant,
}

/// An [`Authenticator`] over a fixed list. Tokens live in memory: a restart asks for a new log-in.
pub struct FixedUsers {
    users: HashMap<String, (Secret, Principal)>,
    access_keys: HashMap<String, (Secret, Principal)>,
    tokens: Mutex<HashMap<String, Token>>,
    life: Duration,
}

/// Tokens held at most; the log-in after it drops the ones that have ended, then refuses.
const MAX_TOKENS: usize = 100_000;

impl FixedUsers {
    /// An authenticator for these users.
    pub fn new(users: &[FixedUser], life: TokenLife) -> FixedUsers {
        let mut by_name = HashMap::new();
        let mut access_keys = HashMap::new();
        for user in users {
            let name = format!("{}:{}", user.account, user.name);
            let principal = Principal {
                user: name.clone(),
                account: format!("AUTH_{}", user.account),
                owner: user.admin,
                reseller_admin: user.reseller_admin,
            };
            for access_key in [Some(name.clone()), user.access_key.clone()].into_iter().flatten() {
                access_keys.insert(access_key, (user.key.clone(), principal.clone()));
            }
            by_name.insert(name, (user.key.clone(), principal));
        }
        FixedUsers { users: by_name, access_keys, tokens: Mutex::new(HashMap::new()), life: life.0 }
    }

    fn current_token(&self, user: &str) -> Option<(String, Duration)> {
        let now = Instant::now();
        let tokens = self.tokens.lock();
        let (token, held) = tokens.iter().find(|(_, t)| t.principal.user == user && t.ends > now)?;
        Some((token.clone(), held.ends - now))
    }

    fn issue(&self, principal: &Principal) -> Result<(String, Duration), AuthError> {
        let mut random = [0; 24];
        rand::rng().fill_bytes(&mut random);
        let token = random.iter().fold("AUTH_tk".to_owned(), |token, byte| format!("{token}{byte:02x}"));
        let mut tokens = self.tokens.lock();
        if tokens.len() >= MAX_TOKENS {
            let now = Instant::now();
            tokens.retain(|_, t| t.ends > now);
        }
        if tokens.len() >= MAX_TOKENS {
            return Err(AuthError::Unavailable("too many tokens".into()));
        }
        tokens
            .insert(token.clone(), Token { principal: principal.clone(), ends: Instant::now() + self.life });
        Ok((token, self.life))
    }
}

#[async_trait]
impl Authenticator for FixedUsers {
    async fn login(&self, user: &str, key: &Secret) -> Result<Login, AuthError> {
        let (secret, principal) = self.users.get(user).ok_or(AuthError::Invalid)?;
        if secret != key {
            return Err(AuthError::Invalid);
        }
        // As TempAuth does, a log-in gets the token that is still valid, so that tokens do not pile up.
        let (token, left) = match self.current_token(user) {
            Some(current) => current,
            None => self.issue(principal)?,
        };
        Ok(Login { token: Secret::new(token), expires_in: left.as_secs(), principal: principal.clone() })
    }

    async fn validate(&self, token: &str) -> Result<Principal, AuthError> {
        // Found by its hash-map slot: 192 random bits leave nothing to learn from the time it takes.
        let mut tokens = self.tokens.lock();
        match tokens.get(token) {
            Some(held) if held.ends > Instant::now() => Ok(held.principal.clone()),
            Some(_) => {
                tokens.remove(token);
                Err(AuthError::Invalid)
            }
            None => Err(AuthError::Invalid),
        }
    }

    async fn credential(&self, access_key: &str) -> Result<Credential, AuthError> {
        let (secret, principal) = self.access_keys.get(access_key).ok_or(AuthError::Invalid)?;
        Ok(Credential { secret: secret.clone(), principal: principal.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> FixedUsers {
        let user = FixedUser {
            account: "test".into(),
            name: "tester".into(),
            key: Secret::new("testing"),
            access_key: Some("AK".into()),
            admin: true,
            reseller_admin: false,
        };
        FixedUsers::new(&[user], TokenLife(Duration::from_secs(60)))
    }

    #[tokio::test]
    async fn the_right_key_gets_a_token_that_validates() {
        let users = users();
        let login = users.login("test:tester", &Secret::new("testing")).await.unwrap();
        let again = users.login("test:tester", &Secret::new("testing")).await.unwrap();
        assert_eq!(login.token, again.token);
        let principal = users.validate(login.token.expose()).await.unwrap();
        assert!(principal.owns("AUTH_test") && !principal.owns("AUTH_other"));
        assert!(
            principal.is_named("test") && principal.is_named("*:tester") && !principal.is_named("test:x")
        );
    }

    #[tokio::test]
    async fn a_wrong_key_user_token_or_access_key_is_invalid() {
        let users = users();
        assert_eq!(users.login("test:tester", &Secret::new("no")).await.unwrap_err(), AuthError::Invalid);
        assert_eq!(users.login("test:none", &Secret::new("testing")).await.unwrap_err(), AuthError::Invalid);
        assert_eq!(users.validate("AUTH_tk0").await.unwrap_err(), AuthError::Invalid);
        assert_eq!(users.credential("none").await.unwrap_err(), AuthError::Invalid);
        assert_eq!(users.credential("AK").await.unwrap().secret, Secret::new("testing"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hidden")), "Secret(..)");
    }
}
