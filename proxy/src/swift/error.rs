//! Swift's error answers.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::http::{RequestBodyError, ResponseBody, full};
use crate::store::StoreError;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct SwiftError {
    status: StatusCode,
    /// Plain text in place of the page that goes with the status.
    message: Option<Cow<'static, str>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

pub(super) type Answer = Result<Response<ResponseBody>, SwiftError>;

impl SwiftError {
    /// The status with its usual page.
    pub(super) fn status(status: StatusCode) -> SwiftError {
        SwiftError { status, message: None, headers: Vec::new() }
    }

    /// The status with an explanation.
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> SwiftError {
        SwiftError { status, message: Some(message.into()), headers: Vec::new() }
    }

    pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> SwiftError {
        SwiftError::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found() -> SwiftError {
        SwiftError::status(StatusCode::NOT_FOUND)
    }

    pub(super) fn precondition(message: impl Into<Cow<'static, str>>) -> SwiftError {
        SwiftError::new(StatusCode::PRECONDITION_FAILED, message)
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> SwiftError {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    pub(super) fn code(&self) -> StatusCode {
        self.status
    }

    /// What a report within another answer says of it.
    pub(super) fn explained(&self) -> String {
        match &self.message {
            Some(message) => message.clone().into_owned(),
            None => {
                let reason = self.status.canonical_reason().unwrap_or("Error");
                format!("{reason}\n{}", explanation(self.status))
            }
        }
    }

    pub(super) fn into_response(self) -> Response<ResponseBody> {
        let text = match self.message {
            Some(message) => message.into_owned(),
            None => page(self.status),
        };
        let body = if self.status == StatusCode::NOT_MODIFIED { String::new() } else { text };
        let length = body.len();
        let mut response = Response::new(full(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        for (name, value) in self.headers {
            match name {
                http::header::CONTENT_TYPE => drop(headers.insert(name, value)),
                _ => drop(headers.append(name, value)),
            }
        }
        response
    }
}

/// A status and its words, as Swift's reports have them.
pub(super) fn status_line(status: StatusCode) -> String {
    let reason = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        status => status.canonical_reason().unwrap_or("Error"),
    };
    format!("{} {reason}", status.as_u16())
}

fn page(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or("Error");
    format!("<html><h1>{reason}</h1><p>{}</p></html>", explanation(status))
}

fn explanation(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => {
            "The server could not comply with the request since it is either malformed or otherwise incorrect."
        }
        StatusCode::UNAUTHORIZED => "A valid token is needed to access this.",
        StatusCode::FORBIDDEN => "Access was denied to this resource.",
        StatusCode::GONE => "This resource is no longer available.",
        StatusCode::NOT_FOUND => "The resource could not be found.",
        StatusCode::CONFLICT => "There was a conflict when trying to complete your request.",
        StatusCode::PRECONDITION_FAILED => "A precondition of this request does not hold.",
        StatusCode::UNPROCESSABLE_ENTITY => "Unable to process the contained instructions",
        StatusCode::PAYLOAD_TOO_LARGE => "The body of the request is too large.",
        StatusCode::SERVICE_UNAVAILABLE => "The service cannot answer now. Try again later.",
        StatusCode::INSUFFICIENT_STORAGE => "There is no room to store this.",
        _ => "",
    }
}

impl From<StoreError> for SwiftError {
    fn from(error: StoreError) -> SwiftError {
        let status = match &error {
            StoreError::NoAccount
            | StoreError::AccountDeleted
            | StoreError::NoContainer
            | StoreError::NoObject => StatusCode::NOT_FOUND,
            StoreError::NotEmpty | StoreError::Conflict(_) => StatusCode::CONFLICT,
            StoreError::Refused(_) => StatusCode::BAD_REQUEST,
            StoreError::Denied => StatusCode::FORBIDDEN,
            StoreError::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            StoreError::Full => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::Corrupt(what) => {
                tracing::error!(what, "stored data is damaged");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            StoreError::Overloaded | StoreError::Unavailable(_) => {
                tracing::warn!(%error, "not available");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        match error {
            StoreError::Refused(why) => SwiftError::new(status, why),
            _ => SwiftError::status(status),
        }
    }
}

impl From<RequestBodyError> for SwiftError {
    fn from(error: RequestBodyError) -> SwiftError {
        match error {
            RequestBodyError::TimedOut => SwiftError::status(StatusCode::REQUEST_TIMEOUT),
            // Swift's own number for a client that went away.
            RequestBodyError::CutShort => {
                SwiftError::status(StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST))
            }
        }
    }
}

/// An answer was to be made with a header that cannot be one: a bug, or a damaged record.
impl From<http::Error> for SwiftError {
    fn from(error: http::Error) -> SwiftError {
        tracing::error!(%error, "an answer could not be made");
        SwiftError::status(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What is percent-encoded in paths that answers name.
pub(super) const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
