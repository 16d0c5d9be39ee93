//! Log-in, tokens, and who may do what.

use http::{Method, Response, StatusCode, header::WWW_AUTHENTICATE};
use kodiak_auth::{AuthError, Principal, Secret};
use kodiak_storage_api::{Directory, DirectoryInfo};

use super::SwiftFront;
use super::acl::AccessList;
use super::call::Call;
use super::error::{Answer, SwiftError};
use crate::http::{empty, header};

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
    pub(super) fn require_owner(&self, call: &Call) -> Result<(), SwiftError> {
        if call.by_owner() { Ok(()) } else { Err(denied(call)) }
    }

    /// Lets only administrators of all accounts pass.
    pub(super) fn require_reseller_admin(&self, call: &Call) -> Result<(), SwiftError> {
        match &call.principal {
            Some(principal) if principal.reseller_admin => Ok(()),
            _ => Err(denied(call)),
        }
    }

    /// Checks a request for a container or its objects against the container's access lists.
    pub(super) fn authorize(&self, call: &Call, container: &Directory, want: Want) -> Result<(), SwiftError> {
        if allowed(call, container, want) { Ok(()) } else { Err(denied(call)) }
    }

    /// The call's container, if the asker may do this with it. Somebody who may not is not told
    /// whether it exists.
    pub(super) async fn container_for(&self, call: &Call, want: Want) -> Result<DirectoryInfo, SwiftError> {
        match self.store.container(call.account(), call.container()).await {
            Ok(info) => {
                self.authorize(call, &info.directory, want)?;
                Ok(info)
            }
            Err(error) => {
                if !call.preauthorized {
                    self.require_owner(call)?;
                }
                Err(error.into())
            }
        }
    }
}

/// Whether the container's access lists let the asker do this.
pub(super) fn allowed(call: &Call, container: &Directory, want: Want) -> bool {
    // The container's account, which is not always the request's: links and segments lead elsewhere.
    let account = container.name.split('/').next().unwrap_or("");
    if call.preauthorized || call.principal.as_ref().is_some_and(|principal| principal.owns(account)) {
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
    let realm = call.map_or("unknown", |call| call.account());
    let realm = percent_encoding::utf8_percent_encode(realm, super::error::PATH);
    SwiftError::status(StatusCode::UNAUTHORIZED).with(WWW_AUTHENTICATE, &format!("Swift realm=\"{realm}\""))
}

fn unavailable(why: &str) -> SwiftError {
    tracing::warn!(why, "the identity service does not answer");
    SwiftError::status(StatusCode::SERVICE_UNAVAILABLE)
}
