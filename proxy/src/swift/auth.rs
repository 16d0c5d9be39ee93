//! Log-in, tokens, and who may do what.

use std::sync::Arc;

use http::{Method, Response, StatusCode, header::WWW_AUTHENTICATE};
use kodiak_auth::{AuthError, Principal, Secret};
use kodiak_storage_api::{Directory, DirectoryInfo};

use super::SwiftFront;
use super::account_acl::{self, Level};
use super::acl::AccessList;
use super::call::Call;
use super::error::{Answer, SwiftError};
use crate::http::{empty, header};
use crate::store::StoreError;

/// What somebody wants to do with a container or an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// Read objects.
    Read,
    /// List the container.
    List,
    /// Write or delete objects.
    Write,
    /// See or change the account or the container itself.
    Own,
}

impl SwiftFront {
    /// `GET /auth/v1.0`: a token for a user and a key.
    pub(super) async fn log_in(&self, parts: &http::request::Parts) -> Answer {
        if parts.method != Method::GET {
            return Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let text = |names: [&str; 2]| names.into_iter().find_map(|name| header(&parts.headers, name));
        let user = text(["x-auth-user", "x-storage-user"]);
        let key = text(["x-auth-key", "x-storage-pass"]);
        let (Some(user), Some(key)) = (user, key) else { return Err(unauthorized(None)) };
        let login = match self.authenticator.login(user, &Secret::new(key)).await {
            Ok(login) => login,
            Err(AuthError::Invalid) => return Err(unauthorized(None)),
            Err(AuthError::Unavailable(why)) => return Err(unavailable(&why)),
        };
        let host = header(&parts.headers, "host").unwrap_or("localhost");
        let token = login.token.expose();
        let response = Response::builder()
            .header(
                "x-storage-url",
                format!("{}://{host}/v1/{}", self.settings.scheme, login.principal.account),
            )
            .header("x-auth-token", token)
            .header("x-storage-token", token)
            .header("x-auth-token-expires", login.expires_in)
            .header("content-type", "text/plain; charset=UTF-8")
            .header("content-length", 0);
        Ok(response.body(empty())?)
    }

    /// Who holds the request's token; none without one.
    pub(super) async fn authenticate(&self, call: &Call) -> Result<Option<Principal>, SwiftError> {
        let token = call.header("x-auth-token").or_else(|| call.header("x-storage-token"));
        let Some(token) = token else { return Ok(None) };
        match self.authenticator.validate(token).await {
            Ok(principal) => Ok(Some(principal)),
            Err(AuthError::Invalid) => Err(unauthorized(Some(call))),
            Err(AuthError::Unavailable(why)) => Err(unavailable(&why)),
        }
    }

    /// Lets the owners of the account pass.
    pub(super) async fn require_owner(&self, call: &Call) -> Result<(), SwiftError> {
        self.consult_account(call).await?;
        if call.by_owner() { Ok(()) } else { Err(denied(call)) }
    }

    /// Lets those pass whom the account as a whole lets do this.
    pub(super) async fn require(&self, call: &Call, want: Want) -> Result<(), SwiftError> {
        self.consult_account(call).await?;
        if of_account(call, call.account(), want) { Ok(()) } else { Err(denied(call)) }
    }

    /// Looks up what the account's access list lets the asker do, unless that is known or does not matter:
    /// an owner's request reads no account.
    pub(super) async fn consult_account(&self, call: &Call) -> Result<(), SwiftError> {
        let Some(principal) = &call.principal else { return Ok(()) };
        if call.by_owner() || call.level.get().is_some() {
            return Ok(());
        }
        let level = match self.store.account(call.account()).await {
            Ok(info) => account_acl::level(&info.directory, principal),
            Err(StoreError::NoAccount) => Level::Nothing,
            Err(error) => return Err(error.into()),
        };
        // Whoever was first has read the same.
        let _ = call.level.set(level);
        Ok(())
    }

    /// Lets only administrators of all accounts pass.
    pub(super) fn require_reseller_admin(&self, call: &Call) -> Result<(), SwiftError> {
        match &call.principal {
            Some(principal) if principal.reseller_admin => Ok(()),
            _ => Err(denied(call)),
        }
    }

    /// Checks a request for a container or its objects against the access lists of the container, and
    /// then against that of the account.
    pub(super) async fn authorize(
        &self,
        call: &Call,
        container: &Directory,
        want: Want,
    ) -> Result<(), SwiftError> {
        if !allowed(call, container, want) {
            self.require(call, want).await?;
        }
        Ok(())
    }

    /// The call's container, for its objects, if the asker may do this with it. Somebody who may not is not
    /// told whether it exists.
    pub(super) async fn container_for(&self, call: &Call, want: Want) -> Result<Arc<Directory>, SwiftError> {
        match self.store.container_record(call.account(), call.container()).await {
            Ok(container) => {
                self.authorize(call, &container, want).await?;
                Ok(container)
            }
            Err(error) => Err(self.hide(call, want, error).await),
        }
    }

    /// The same with its totals.
    pub(super) async fn container_info(&self, call: &Call, want: Want) -> Result<DirectoryInfo, SwiftError> {
        match self.store.container(call.account(), call.container()).await {
            Ok(info) => {
                self.authorize(call, &info.directory, want).await?;
                Ok(info)
            }
            Err(error) => Err(self.hide(call, want, error).await),
        }
    }

    /// Why there is no container, for those who may know.
    async fn hide(&self, call: &Call, want: Want, error: StoreError) -> SwiftError {
        if call.preauthorized.is_none()
            && let Err(denied) = self.require(call, want).await
        {
            return denied;
        }
        error.into()
    }
}

/// Whether an account lets the asker do this with its containers. Only the list of the request's own
/// account is looked up: links into other accounts follow the lists of containers.
fn of_account(call: &Call, account: &str, want: Want) -> bool {
    let owned = call.principal.as_ref().is_some_and(|principal| principal.owns(account));
    owned || (account == call.account() && call.level.get().is_some_and(|level| level.permits(want)))
}

/// Whether the container's access lists let the asker do this, or that of the account, if it has been
/// looked up.
pub(super) fn allowed(call: &Call, container: &Directory, want: Want) -> bool {
    if let Some(scope) = &call.preauthorized {
        return scope.covers(&container.name);
    }
    // The container's account, which is not always the request's: links and segments lead elsewhere.
    let account = container.name.split('/').next().unwrap_or("");
    if of_account(call, account, want) {
        return true;
    }
    let list = match want {
        Want::Read | Want::List => container.header("x-container-read"),
        Want::Write => container.header("x-container-write"),
        Want::Own => None,
    };
    let list = AccessList::parse(list.unwrap_or(""));
    let named = call.principal.as_ref().is_some_and(|principal| list.names(principal));
    match want {
        Want::Read => named || list.allows_referrer(call.header("referer")),
        Want::List => named || (list.listings() && list.allows_referrer(call.header("referer"))),
        Want::Write => named,
        Want::Own => false,
    }
}

/// 403 for somebody we know, 401 for anybody else.
pub(super) fn denied(call: &Call) -> SwiftError {
    match call.principal {
        Some(_) => SwiftError::status(StatusCode::FORBIDDEN),
        None => unauthorized(Some(call)),
    }
}

pub(super) fn unauthorized(call: Option<&Call>) -> SwiftError {
    challenge(SwiftError::status(StatusCode::UNAUTHORIZED), call)
}

/// Names the realm that a 401 is of.
pub(super) fn challenge(error: SwiftError, call: Option<&Call>) -> SwiftError {
    let realm = call.map_or("unknown", |call| call.account());
    let realm = percent_encoding::utf8_percent_encode(realm, super::error::PATH);
    error.with(WWW_AUTHENTICATE, &format!("Swift realm=\"{realm}\""))
}

fn unavailable(why: &str) -> SwiftError {
    tracing::warn!(why, "the identity service does not answer");
    SwiftError::status(StatusCode::SERVICE_UNAVAILABLE)
}
