//! OpenStack's Swift API v1.
//!
//! In the order a request meets them: `domain_remap` reads the host, [`SwiftFront`] parses the rest to a
//! `call`, `tempurl` or `formpost` checks a signature or `auth` finds out who asks, and `acl` and
//! `account_acl` what they may. Then `account`, `container` or `object` does it, for browsers through
//! `staticweb`, or `bulk` and `extract` do many at once. `metadata` and `quota` have the limits and
//! `listing` the forms of listings. Errors are rendered in `error` only.

mod account;
mod account_acl;
mod acl;
mod auth;
mod bulk;
mod bulk_report;
mod call;
mod container;
mod copy;
mod cors;
mod dlo;
mod domain_remap;
mod error;
mod extract;
mod form;
mod formpost;
#[doc(hidden)]
pub mod fuzzing;
mod info;
mod listing;
mod metadata;
mod object;
mod policies;
mod put;
mod quota;
mod slo;
mod slo_put;
mod slo_report;
mod staticweb;
mod staticweb_page;
mod symlink;
mod tempurl;
mod unpack;
mod versions;

use std::net::IpAddr;
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
    /// Names of the storage policies of a store of one machine, by index; the first is the default.
    pub policies: Vec<String>,
    /// Domains below which a host names an account, `AUTH-account.domain`, or a container of it,
    /// `container.AUTH-account.domain`. Default: none.
    pub storage_domains: Vec<String>,
}

impl Default for SwiftSettings {
    fn default() -> SwiftSettings {
        SwiftSettings {
            scheme: "http".into(),
            policies: vec!["Policy-0".into()],
            storage_domains: Vec::new(),
        }
    }
}

/// The Swift API over a store.
#[derive(Clone)]
pub struct SwiftFront {
    store: SharedStore,
    authenticator: Arc<dyn Authenticator>,
    settings: SwiftSettings,
    unlimited: quota::Unlimited,
}

impl SwiftFront {
    /// The front for a store and its users.
    pub fn new(
        store: SharedStore,
        authenticator: Arc<dyn Authenticator>,
        settings: SwiftSettings,
    ) -> Arc<SwiftFront> {
        Arc::new(SwiftFront { store, authenticator, settings, unlimited: quota::Unlimited::default() })
    }

    async fn answer(&self, request: Request<()>, peer: IpAddr, body: &mut RequestBody) -> Answer {
        let (parts, ()) = request.into_parts();
        let remapped = self.remap(&parts)?;
        match parts.uri.path() {
            _ if remapped.is_some() => {}
            "/healthcheck" => return self.healthcheck(&parts.method),
            "/info" => return self.info(&parts.method),
            "/auth/v1.0" | "/auth/v1.0/" | "/auth/v1" => return self.log_in(&parts).await,
            _ => {}
        }
        let mut call = Call::parse(parts, remapped.as_deref())?;
        if call.method == Method::OPTIONS {
            return self.options(&call).await;
        }
        let temp_url = self.temp_url(&mut call, peer).await?;
        let form = formpost::boundary(&call).filter(|_| temp_url.is_none());
        if temp_url.is_none() && form.is_none() {
            call.principal = self.authenticate(&call).await?;
        }
        let mut answer = match form {
            Some(boundary) => self.form_post(&call, &boundary, body).await,
            None => self.dispatch(&call, body).await,
        };
        if let Some(temp_url) = temp_url {
            answer = temp_url.complete(&call, answer);
        }
        if call.header("origin").is_some()
            && let Ok(response) = &mut answer
        {
            self.expose(&call, response).await;
        }
        answer
    }

    async fn dispatch(&self, call: &Call, body: &mut RequestBody) -> Answer {
        match (&call.target.container, &call.target.object) {
            _ if self.is_archive(call) => self.extract_archive(call, body).await,
            _ if self.is_bulk_delete(call) => self.bulk_delete(call, body).await,
            (None, _) => self.account(call).await,
            _ if staticweb::asks(call) => self.web(call, body).await,
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

    fn claims(&self, host: &str) -> bool {
        domain_remap::labels(host, &self.settings.storage_domains).is_some()
    }

    async fn handle(&self, request: Request<RequestBody>, context: RequestContext) -> Response<ResponseBody> {
        let (parts, mut body) = request.into_parts();
        let head = parts.method == Method::HEAD;
        let waits = parts.headers.contains_key("expect");
        let response = match self.answer(Request::from_parts(parts, ()), context.peer.ip(), &mut body).await {
            Ok(response) => response,
            Err(error) => {
                if !waits {
                    body.linger();
                }
                error.into_response()
            }
        };
        if head { response.map(|_| crate::http::empty()) } else { response }
    }
}
