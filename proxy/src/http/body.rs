//! Bodies in and out.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::store::StoreError;

/// The body of an answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, StoreError>;

/// No body.
pub fn empty() -> ResponseBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is in memory.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is made while it is sent. Its length goes into `Content-Length`.
pub fn streamed(stream: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static) -> ResponseBody {
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

/// Why a request's body cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestBodyError {
    /// Nothing came for too long.
    #[error("the request body took too long")]
    TimedOut,
    /// The connection broke, or the body ended before its length.
    #[error("the request body ended early")]
    CutShort,
}

/// Bytes of a body that are read although nobody wants them any more.
const DRAIN: u64 = 1 << 20;

/// What is read of a body after its request was refused, at most.
const LINGER_BYTES: usize = 128 << 20;
/// For how long.
const LINGER_TIME: Duration = Duration::from_secs(30);

enum Source {
    Incoming { body: hyper::body::Incoming, received: Counter },
    Full(Full<Bytes>),
    Pieces { pieces: Pieces, left: Option<u64> },
}

/// Bytes that another part of the program sends, or why there are no more.
pub type Pieces = mpsc::Receiver<Result<Bytes, RequestBodyError>>;

/// The body of a request: from a connection, or given whole.
pub struct RequestBody {
    source: Source,
    /// How long the client may send nothing.
    patience: Duration,
    idle: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// A body from a connection, whose client is given up when it sends nothing for `patience`. Its bytes
    /// are counted as they come.
    pub fn incoming(body: hyper::body::Incoming, patience: Duration, received: Counter) -> RequestBody {
        RequestBody { source: Source::Incoming { body, received }, patience, idle: None }
    }

    /// A body with these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> RequestBody {
        RequestBody { source: Source::Full(Full::new(bytes.into())), patience: Duration::MAX, idle: None }
    }

    /// A body that comes from elsewhere in the program. With a length, it is cut short if the sender goes
    /// away before; without one, that ends it.
    pub fn pieces(pieces: Pieces, length: Option<u64>) -> RequestBody {
        let source = Source::Pieces { pieces, left: length };
        // Whoever sends the pieces has its own patience with the client.
        RequestBody { source, patience: Duration::MAX, idle: None }
    }

    /// Its length, where it is known.
    pub fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// The next bytes; none at the end. Trailers are passed over.
    pub async fn data(&mut self) -> Option<Result<Bytes, RequestBodyError>> {
        loop {
            match self.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads on, up to 1 MiB, so that a client that sends before it listens gets its answer.
    pub async fn drain(&mut self) {
        let mut left = DRAIN;
        if self.length().is_some_and(|length| length > left) {
            return;
        }
        while let Some(Ok(data)) = self.data().await {
            left = left.saturating_sub(data.len() as u64);
            if left == 0 {
                return;
            }
        }
    }

    /// Reads on in the background while the answer is sent, for a client that sends all before it listens.
    pub fn linger(mut self) {
        if self.is_end_stream() {
            return;
        }
        let read = async move {
            let mut left = LINGER_BYTES;
            while let Some(Ok(data)) = self.data().await {
                left = left.saturating_sub(data.len());
                if left == 0 {
                    return;
                }
            }
        };
        tokio::spawn(tokio::time::timeout(LINGER_TIME, read));
    }

    /// The whole body if it has at most `limit` bytes; none if it has more.
    pub async fn collect_up_to(&mut self, limit: usize) -> Result<Option<Bytes>, RequestBodyError> {
        let mut all = bytes::BytesMut::new();
        while let Some(data) = self.data().await {
            let data = data?;
            if all.len() + data.len() > limit {
                return Ok(None);
            }
            all.extend_from_slice(&data);
        }
        Ok(Some(all.freeze()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Incoming { body, received } => {
                let polled = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &polled
                    && let Some(data) = frame.data_ref()
                {
                    received.increment(data.len() as u64);
                }
                polled
            }
            Source::Full(body) => return Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Source::Pieces { left: Some(0), .. } => return Poll::Ready(None),
            Source::Pieces { pieces, left } => {
                return pieces.poll_recv(cx).map(|piece| match piece {
                    Some(Ok(bytes)) => {
                        *left = left.map(|left| left.saturating_sub(bytes.len() as u64));
                        Some(Ok(Frame::data(bytes)))
                    }
                    Some(Err(error)) => Some(Err(error)),
                    None => left.map(|_| Err(RequestBodyError::CutShort)),
                });
            }
        };
        if let Poll::Ready(frame) = polled {
            this.idle = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| RequestBodyError::CutShort)));
        }
        let patience = this.patience;
        let idle = this.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        idle.as_mut().poll(cx).map(|()| Some(Err(RequestBodyError::TimedOut)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Incoming { body, .. } => body.is_end_stream(),
            Source::Full(body) => body.is_end_stream(),
            Source::Pieces { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Incoming { body, .. } => body.size_hint(),
            Source::Full(body) => body.size_hint(),
            Source::Pieces { left, .. } => left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}
