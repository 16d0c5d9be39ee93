//! Amazon's S3 API.
//!
//! In the order a request meets them: [`S3Front`] reads it to a `call`, `sigv4` verifies who signed it,
//! then `bucket`, `list`, `object`, `put`, `copy`, `delete` or `multipart` does it. A bucket is the Swift
//! container of that name in the signer's account. Errors are rendered in `error` only.

mod acl;
mod attributes;
mod body;
mod bucket;
mod call;
mod canonical;
mod checksum;
mod chunked;
mod complete;
mod configuration;
mod copy;
mod delete;
mod error;
mod form;
#[doc(hidden)]
pub mod fuzzing;
mod list;
mod metadata;
mod multipart;
mod object;
mod post;
mod put;
mod query;
mod sigv2;
mod sigv4;
mod storage_class;
mod tags;
mod versions;
mod xml;

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use kodiak_auth::{AuthError, Authenticator, Credential, Principal};
use serde::{Deserialize, Serialize};

use crate::http::{Front, RequestBody, RequestContext, ResponseBody};
use crate::store::SharedStore;
use call::Call;
use error::{Answer, S3Error};
use sigv4::{Claim, Payload, SigningKeys, Verified};

/// Settings of the S3 front.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// The region that signatures must name.
    pub region: String,
    /// Domains whose first label is a bucket (virtual-host style). Default: `localhost`.
    pub domains: Vec<String>,
}

impl Default for S3Settings {
    fn default() -> S3Settings {
        S3Settings { region: "us-east-1".into(), domains: vec!["localhost".into()] }
    }
}

/// The S3 API over a store.
pub struct S3Front {
    store: SharedStore,
    authenticator: Arc<dyn Authenticator>,
    settings: S3Settings,
    keys: SigningKeys,
}

impl S3Front {
    /// The front for a store and its users.
    pub fn new(
        store: SharedStore,
        authenticator: Arc<dyn Authenticator>,
        settings: S3Settings,
    ) -> Arc<S3Front> {
        Arc::new(S3Front { store, authenticator, settings, keys: SigningKeys::default() })
    }

    async fn answer(&self, request: Request<()>, body: &mut RequestBody) -> Answer {
        let (parts, ()) = request.into_parts();
        if parts.method == Method::OPTIONS {
            let message = "CORSResponse: CORS is not enabled for this bucket.";
            return Err(S3Error::new(StatusCode::FORBIDDEN, "AccessForbidden", message));
        }
        if post::is_form(&parts) {
            let body = std::mem::replace(body, RequestBody::full(""));
            return self.post_object(parts, body).await;
        }
        let query = query::parse(parts.uri.query().unwrap_or(""))?;
        let (principal, signed) = self.authenticate(&parts, &query).await?;
        if !principal.owner && !principal.reseller_admin {
            return Err(S3Error::access_denied());
        }
        let call = Call::new(parts, query, &self.settings, principal, signed)?;
        call.check_owner()?;
        match (&call.bucket, &call.key) {
            (None, _) => self.service(&call).await,
            (Some(_), None) => self.bucket(&call, body).await,
            (Some(_), Some(_)) => self.object(&call, body).await,
        }
    }

    /// Who signed a request, and what the signature says of its body.
    async fn authenticate(
        &self,
        parts: &Parts,
        query: &[(String, String)],
    ) -> Result<(Principal, (Payload, Verified)), S3Error> {
        if let Some(claim) = sigv2::Claim::parse(parts, query)? {
            let credential = self.credential(&claim.access_key).await?;
            let host = crate::http::header(&parts.headers, "host").unwrap_or("");
            let bucket = call::bucket_of_host(host, &self.settings.domains);
            claim.verify(parts, query, bucket.as_deref(), (&credential.secret, self.store.now()))?;
            return Ok((credential.principal, (Payload::Unsigned, Verified::without_chunks())));
        }
        // Kodiak's buckets are private: an unsigned request may do nothing.
        let claim = Claim::parse(parts, query)?.ok_or_else(S3Error::access_denied)?;
        let credential = self.credential(&claim.access_key).await?;
        let now = (self.settings.region.as_str(), self.store.now());
        let verified = claim.verify(parts, &credential.secret, &self.keys, now)?;
        Ok((credential.principal, (claim.payload, verified)))
    }

    async fn credential(&self, access_key: &str) -> Result<Credential, S3Error> {
        match self.authenticator.credential(access_key).await {
            Ok(credential) => Ok(credential),
            Err(AuthError::Invalid) => Err(S3Error::no_such_access_key().with("AWSAccessKeyId", access_key)),
            Err(AuthError::Unavailable(why)) => {
                tracing::warn!(why, "the identity service does not answer");
                Err(S3Error::unavailable())
            }
        }
    }

    async fn service(&self, call: &Call) -> Answer {
        match call.method {
            Method::GET => self.list_buckets(call).await,
            _ => Err(S3Error::method_not_allowed()),
        }
    }
}

#[async_trait]
impl Front for S3Front {
    fn name(&self) -> &'static str {
        "s3"
    }

    async fn handle(&self, request: Request<RequestBody>, context: RequestContext) -> Response<ResponseBody> {
        let (parts, mut body) = request.into_parts();
        let head = parts.method == Method::HEAD;
        // Who waits for "100 Continue" has sent nothing yet: the answer is enough.
        let waits = parts.headers.contains_key("expect");
        let mut response = match self.answer(Request::from_parts(parts, ()), &mut body).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(id = context.id, code = error.code, message = error.message(), "refused");
                if !waits {
                    body.linger();
                }
                error.into_response(&context.id, head)
            }
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&context.id) {
            headers.insert("x-amz-request-id", id.clone());
            headers.insert("x-amz-id-2", id);
        }
        response
    }
}
