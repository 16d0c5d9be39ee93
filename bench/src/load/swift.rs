//! Swift: the v1 login.

use anyhow::{Context, bail};
use http::{HeaderValue, Method, Request};

use super::connection::{Address, Connection, read_text};
use super::content::Payload;

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where, such as `http://127.0.0.1:8080/auth/v1.0`.
    pub auth_url: String,
    /// `X-Auth-User`.
    pub user: String,
    /// `X-Auth-Key`.
    pub key: String,
}

/// What a login gives.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where the account is.
    pub storage_url: String,
    /// `X-Auth-Token`.
    pub token: HeaderValue,
}

impl Login {
    /// Logs in.
    pub async fn session(&self) -> anyhow::Result<Session> {
        let (address, path) = Address::parse(&self.auth_url)?;
        let mut connection = Connection::open(&address, false).await?;
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header("host", address.host())
            .header("x-auth-user", &self.user)
            .header("x-auth-key", &self.key)
            .body(Payload::default())?;
        let response = connection.send(request).await.context("no answer to the login")?;
        if !response.status().is_success() {
            let status = response.status();
            bail!("the login at {} was answered with {status}: {}", self.auth_url, read_text(response).await);
        }
        let header = |name: &str| {
            response.headers().get(name).cloned().with_context(|| format!("the login gave no {name}"))
        };
        let mut token = header("x-auth-token")?;
        token.set_sensitive(true);
        Ok(Session { storage_url: header("x-storage-url")?.to_str()?.to_string(), token })
    }
}
