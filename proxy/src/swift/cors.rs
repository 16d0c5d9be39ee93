//! Cross-origin requests: what a container's metadata lets browsers do.
//!
//! Source: Swift's CORS documentation. Allowed origins are in `X-Container-Meta-Access-Control-Allow-Origin`.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use kodiak_storage_api::Directory;

use super::SwiftFront;
use super::call::Call;
use super::error::{Answer, SwiftError};
use crate::http::{ResponseBody, empty};

const ORIGINS: &str = "x-container-meta-access-control-allow-origin";
const MAX_AGE: &str = "x-container-meta-access-control-max-age";
const EXPOSED: &str = "x-container-meta-access-control-expose-headers";
/// Headers that a browser's script may see without being told so.
const SIMPLE: &str = "cache-control, content-language, content-type, expires, last-modified, pragma, etag, \
                      x-timestamp, x-trans-id, x-openstack-request-id";

/// The value of `Access-Control-Allow-Origin`, if the container allows the origin.
fn allowed<'a>(container: &'a Directory, origin: &'a str) -> Option<&'a str> {
    let origins = container.header(ORIGINS)?;
    origins.split_whitespace().find_map(|allowed| match allowed {
        "*" => Some("*"),
        _ if allowed == origin => Some(origin),
        _ => None,
    })
}

impl SwiftFront {
    /// A preflight, or a plain question for the methods.
    pub(super) async fn options(&self, call: &Call) -> Answer {
        let methods = match call.target.container {
            None => "HEAD, GET, POST, PUT, DELETE, OPTIONS",
            Some(_) => "HEAD, GET, PUT, POST, COPY, OPTIONS, DELETE",
        };
        let refused = || SwiftError::status(StatusCode::UNAUTHORIZED).with(header::ALLOW, methods);
        let Some(origin) = call.header("origin") else {
            let builder = Response::builder().header("allow", methods).header("content-length", 0);
            return Ok(builder.body(empty())?);
        };
        let wanted = call.header("access-control-request-method").ok_or_else(refused)?;
        let record = self.store.container_record(call.account(), call.container()).await;
        let container = record.map_err(|_| refused())?;
        let origin = allowed(&container, origin).ok_or_else(refused)?;
        if !methods.split(", ").any(|method| method == wanted) {
            return Err(refused());
        }
        let mut builder = Response::builder()
            .header("allow", methods)
            .header("access-control-allow-origin", origin)
            .header("access-control-allow-methods", methods)
            .header("vary", "Origin, Access-Control-Request-Headers")
            .header("content-length", 0);
        if let Some(headers) = call.header("access-control-request-headers") {
            builder = builder.header("access-control-allow-headers", headers);
        }
        if let Some(age) = container.header(MAX_AGE) {
            builder = builder.header("access-control-max-age", age);
        }
        Ok(builder.body(empty())?)
    }

    /// Adds what a browser needs to give an answer to a script of another origin.
    pub(super) async fn expose(&self, call: &Call, response: &mut Response<ResponseBody>) {
        let (Some(origin), Some(container)) = (call.header("origin"), &call.target.container) else { return };
        let Ok(container) = self.store.container_record(call.account(), container).await else { return };
        let Some(origin) = allowed(&container, origin) else { return };
        let exposed = exposed(response.headers(), container.header(EXPOSED));
        let headers = response.headers_mut();
        if let (Ok(origin), Ok(exposed)) = (HeaderValue::from_str(origin), HeaderValue::from_str(&exposed)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

fn exposed(headers: &HeaderMap, more: Option<&str>) -> String {
    let metadata = headers.keys().map(|name| name.as_str()).filter(|name| name.contains("-meta-"));
    let more = more.into_iter().flat_map(str::split_whitespace);
    metadata.chain(more).fold(SIMPLE.to_owned(), |list, name| format!("{list}, {name}"))
}
