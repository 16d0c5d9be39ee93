//! OpenStack's Swift API v1.
//!
//! In the order a request meets them: [`SwiftFront`] parses it to a `call`, `auth` finds out who asks
//! and `acl` what they may, then `account`, `container` or `object` does it; `metadata` has the limits
//! and `listing` the forms of listings. Errors are rendered in `error` only.

mod account;
mod acl;
mod auth;
mod bulk;
mod call;
mod container;
mod copy;
mod cors;
mod dlo;
mod error;
mod info;
mod listing;
mod metadata;
mod object;
mod policies;
mod put;
mod slo;
mod slo_put;
mod slo_report;
mod symlink;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Request, Response};
use kodiak_auth::Authenticator;
use serde::{Deserialize, Serialize};

use crate::http::{Front, RequestBody, RequestContext, ResponseBody};
use crate::store::SharedStore;
use call::Call;
use error::Answer;

/// Settings of the Swift front.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwiftSettings {
    /// Scheme of the storage URL that a log-in answers: `http`, or `https` behind a TLS terminator.
    pub scheme: String,
    /// Names of the storage policies, by index; the first is the default.
    pub policies: Vec<String>,
}

impl Default for SwiftSettings {
    fn default() -> SwiftSettings {
        SwiftSettings { scheme: "http".into(), policies: vec!["Policy-0".into()] }
    }
}

/// The Swift API over a store.
#[derive(Clone)]
pub struct SwiftFront {
    store: SharedStore,
    authenticator: Arc<dyn Authenticator>,
    settings: SwiftSettings,
}

impl SwiftFront {
    /// The front for a store and its users.
    pub fn new(
        store: SharedStore,
        authenticator: Arc<dyn Authenticator>,
        settings: SwiftSettings,
    ) -> Arc<SwiftFront> {
        Arc::new(SwiftFront { store, authenticator, settings })
    }

    async fn answer(&self, request: Request<()>, body: &mut RequestBody) -> Answer {
        let (parts, ()) = request.into_parts();
        match parts.uri.path() {
            "/healthcheck" => return self.healthcheck(&parts.method),
            "/info" => return self.info(&parts.method),
            "/auth/v1.0" | "/auth/v1.0/" | "/auth/v1" => return self.log_in(&parts).await,
            _ => {}
        }
        let mut call = Call::parse(parts)?;
        if call.method == Method::OPTIONS {
            return self.options(&call).await;
        }
        call.principal = self.authenticate(&call).await?;
        let mut answer = self.dispatch(&call, body).await;
        if call.header("origin").is_some()
            && let Ok(response) = &mut answer
        {
            self.expose(&call, response).await;
        }
        answer
    }

    async fn dispatch(&self, call: &Call, body: &mut RequestBody) -> Answer {
        match (&call.target.container, &call.target.object) {
            _ if self.is_bulk_delete(call) => self.bulk_delete(call, body).await,
            (None, _) => self.account(call).await,
            (Some(_), None) => self.container(call).await,
            (Some(_), Some(_)) => self.object(call, body).await,
        }
    }
}

#[async_trait]
impl Front for SwiftFront {
    fn name(&self) -> &'static str {
        "swift"
    }

    async fn handle(&self, request: Request<RequestBody>, _: RequestContext) -> Response<ResponseBody> {
        let (parts, mut body) = request.into_parts();
        let head = parts.method == Method::HEAD;
        let response = match self.answer(Request::from_parts(parts, ()), &mut body).await {
            Ok(response) => response,
            Err(error) => {
                body.drain().await;
                error.into_response()
            }
        };
        if head { response.map(|_| crate::http::empty()) } else { response }
    }
}
