//! What both fronts need of HTTP: bodies, ranges, conditions, dates.

mod body;
mod conditions;
mod date;
mod payload;
mod range;

use std::net::SocketAddr;

use async_trait::async_trait;

pub use body::{RequestBody, RequestBodyError, ResponseBody, empty, full, streamed};
pub use conditions::{Conditions, Decision, etags};
pub use date::{http_date, iso_date, parse_http_date};
pub use payload::{Payload, payload};
pub use range::{Ranges, RequestedRanges};

/// What the server knows of a request besides its message.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Goes into the answer and every log line: `tx`, random hex, and the time in hex.
    pub id: String,
    /// The client.
    pub peer: SocketAddr,
}

/// A protocol: Swift or S3.
#[async_trait]
pub trait Front: Send + Sync + 'static {
    /// A short name for logs and metrics: `swift`, `s3`.
    fn name(&self) -> &'static str;

    /// Whether requests for this host are the front's, whatever their path.
    fn claims(&self, _host: &str) -> bool {
        false
    }

    /// Answers one request. Never fails: errors are answers.
    async fn handle(
        &self,
        request: http::Request<RequestBody>,
        context: RequestContext,
    ) -> http::Response<ResponseBody>;
}

/// The value of a header, if it is there and is text.
pub fn header<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?;
    std::str::from_utf8(value.as_bytes()).ok()
}
