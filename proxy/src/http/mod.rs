//! What both fronts need of HTTP: bodies, ranges, conditions, dates.

mod body;
mod conditions;
mod date;
mod expiry;
mod payload;
mod range;

use std::borrow::Cow;
use std::net::SocketAddr;

use async_trait::async_trait;

pub use body::{RequestBody, RequestBodyError, ResponseBody, empty, full, streamed};
pub use conditions::{Conditions, Decision, etags};
pub use date::{http_date, iso_date, parse_http_date};
pub use expiry::expires_at;
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

/// A header's value as text that can be stored. One that is not UTF-8 is kept byte by byte behind a NUL,
/// which no header holds.
pub fn stored_value(value: &http::HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            std::iter::once('\0').chain(value.as_bytes().iter().map(|byte| char::from(*byte))).collect()
        }
    }
}

/// The value of a header that was stored by [`stored_value`].
pub fn value_bytes(stored: &str) -> Cow<'_, [u8]> {
    match stored.strip_prefix('\0') {
        None => stored.as_bytes().into(),
        Some(bytes) => bytes.chars().filter_map(|byte| u8::try_from(byte).ok()).collect(),
    }
}

/// The value of a header, if it is there and is text.
pub fn header<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?;
    std::str::from_utf8(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_stored_byte_by_byte() {
        for bytes in [&b"plain"[..], "\u{e4}".as_bytes(), b"\xe4\xff cut", b""] {
            let value = http::HeaderValue::from_bytes(bytes).expect("a value");
            assert_eq!(&*value_bytes(&stored_value(&value)), bytes);
        }
    }
}
