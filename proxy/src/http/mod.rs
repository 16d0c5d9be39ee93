//! What both fronts need of HTTP: bodies, ranges, conditions, dates.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// The body of a request: from a connection, or given whole (tests, requests made by the proxy itself).
pub enum RequestBody {
    /// From a connection.
    Incoming(hyper::body::Incoming),
    /// Given whole.
    Full(http_body_util::Full<Bytes>),
}

impl RequestBody {
    /// A body with these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> RequestBody {
        RequestBody::Full(http_body_util::Full::new(bytes.into()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            RequestBody::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Incoming(body) => body.is_end_stream(),
            RequestBody::Full(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Incoming(body) => body.size_hint(),
            RequestBody::Full(body) => body.size_hint(),
        }
    }
}

/// What the server knows of a request besides its message.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Goes into the answer and every log line: `tx` and hex, as Swift's transaction ids.
    pub id: String,
    /// The client.
    pub peer: SocketAddr,
}

/// A protocol: Swift or S3.
#[async_trait]
pub trait Front: Send + Sync + 'static {
    /// A short name for logs and metrics: `swift`, `s3`.
    fn name(&self) -> &'static str;

    /// Answers one request. Never fails: errors are answers.
    async fn handle(
        &self,
        request: http::Request<RequestBody>,
        context: RequestContext,
    ) -> http::Response<ResponseBody>;
}
