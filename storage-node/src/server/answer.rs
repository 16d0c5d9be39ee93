//! One request: who may ask, how much at once, and in which words it is answered.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kodiak_storage_api::NodeError;
use kodiak_storage_api::remote::{BULK_PATH, Chunks, Frame, MAX_CALL, Received, Request, Response, collect};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::body::Body;

use super::connection::Caller;
use super::{Server, perform};

/// Why a request is not given to the node. No version of the protocol is needed to read it.
pub(super) enum Refusal {
    /// By what the caller is or says.
    Refused(String),
    /// Too much at once.
    Overloaded,
}

impl Server {
    pub(super) async fn answer(
        self: Arc<Self>,
        caller: Arc<Caller>,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        if request.uri().path() == BULK_PATH && request.method() == Method::POST {
            return self.block(caller, request).await;
        }
        text(StatusCode::NOT_FOUND, "no such service".into())
    }

    /// Lets the other service answer.
    pub(super) async fn extend(
        &self,
        caller: Arc<Caller>,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        match &self.extension {
            Some(extension) => extension.answer(caller.certificate.as_ref(), request).await,
            None => text(StatusCode::NOT_FOUND, "no such service".into()),
        }
    }

    /// Room for a call, if the caller may make one.
    pub(super) fn admit(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, Refusal> {
        caller.member(&self.party, &self.said).map_err(|why| {
            metrics::counter!("kodiak_node_calls_refused_total", "reason" => "caller").increment(1);
            tracing::debug!(why, "a call is refused");
            Refusal::Refused(why)
        })?;
        self.calls.clone().try_acquire_owned().map_err(|_| {
            metrics::counter!("kodiak_node_calls_refused_total", "reason" => "overload").increment(1);
            Refusal::Overloaded
        })
    }

    async fn block(
        self: Arc<Self>,
        caller: Arc<Caller>,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        let _room = match self.admit(&caller) {
            Ok(room) => room,
            Err(refusal) => {
                // The caller reads the answer only after it has sent everything.
                tokio::spawn(timeout(self.settings.receive, discard(request.into_body())));
                return match refusal {
                    Refusal::Refused(why) => text(StatusCode::FORBIDDEN, why),
                    Refusal::Overloaded => text(StatusCode::SERVICE_UNAVAILABLE, "too many calls".into()),
                };
            }
        };
        let received = match timeout(self.settings.receive, collect(request.into_body(), MAX_CALL)).await {
            Ok(Ok(received)) => received,
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, error.to_string()),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the block did not come in time".into()),
        };
        match self.call(&caller, received).await {
            Ok(frame) => http::Response::new(Body::new(Chunks::from(frame))),
            Err(why) => text(StatusCode::BAD_REQUEST, why),
        }
    }

    /// Reads a call, makes it, and says what came of it; or why it cannot be made.
    pub(super) async fn call(&self, caller: &Caller, received: Received) -> Result<Frame, String> {
        let name = caller.member(&self.party, &self.said)?;
        let request = received.read(self.party.versions());
        let request: Request = request.map_err(|error| format!("a call of {name}: {error}"))?;
        self.party.hear(name, &request.head)?;
        // It is answered in the words in which it was asked.
        let version = received.version();
        let patience = Duration::from_millis(request.patience.into()).min(self.settings.longest);
        let epoch = request.head.epoch;
        // A call that is given up is dropped: what its device's writer has already is written all the same.
        let perform = async {
            let _gate = self.party.gate().enter(epoch).await?;
            perform::perform(self, request, received.payload).await
        };
        let performed = timeout(patience, perform).await;
        let late = || Err(NodeError::Unavailable("not done in the time that the caller gave".into()));
        let (result, payload) = match performed.unwrap_or_else(|_| late()) {
            Ok((reply, payload)) => (Ok(reply), payload),
            Err(error) => (Err(error), Vec::new()),
        };
        let response = Response { head: self.party.head(self.party.view().epoch()), result };
        Frame::new(&response, payload, version).map_err(|error| error.to_string())
    }
}

/// Reads what a refused caller sends, within bounds.
async fn discard(mut body: Incoming) {
    let mut left = MAX_CALL;
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(len) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn text(status: StatusCode, text: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(http_body_util::Full::new(bytes::Bytes::from(text))));
    *response.status_mut() = status;
    response
}
