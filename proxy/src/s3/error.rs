//! S3's errors: a code, a status and a message, rendered as XML.

use std::borrow::Cow;

use http::{Response, StatusCode};

use super::xml::Xml;
use crate::http::{RequestBodyError, ResponseBody, empty, full};
use crate::store::StoreError;

/// An answer that is not a success. Source of codes and statuses: the API's "Error responses".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct S3Error {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    message: Cow<'static, str>,
    /// Further elements of the answer.
    details: Vec<(&'static str, String)>,
    /// Further headers of the answer.
    headers: Vec<(&'static str, String)>,
}

pub(super) type Answer = Result<Response<ResponseBody>, S3Error>;

macro_rules! errors {
    ($($name:ident $status:ident $code:literal $message:literal;)*) => {
        impl S3Error {
            $(
                #[doc = concat!("`", $code, "`")]
                pub(super) fn $name() -> S3Error {
                    S3Error::new(StatusCode::$status, $code, $message)
                }
            )*
        }
    };
}

errors! {
    account_problem FORBIDDEN "AccountProblem" "The account was deleted.";
    access_denied FORBIDDEN "AccessDenied" "Access Denied.";
    bad_digest BAD_REQUEST "BadDigest" "The Content-MD5 or checksum that was given does not fit the content.";
    bucket_exists CONFLICT "BucketAlreadyOwnedByYou" "The bucket exists and is yours.";
    bucket_not_empty CONFLICT "BucketNotEmpty" "The bucket is not empty.";
    entity_too_large BAD_REQUEST "EntityTooLarge" "The object is larger than one request may store.";
    entity_too_small BAD_REQUEST "EntityTooSmall" "A part but the last is smaller than 5 MiB.";
    file_too_small BAD_REQUEST "EntityTooSmall" "The file is smaller than its policy allows.";
    incomplete_body BAD_REQUEST "IncompleteBody" "The body is shorter than its Content-Length.";
    internal INTERNAL_SERVER_ERROR "InternalError" "An internal error happened. Try again.";
    invalid_bucket_name BAD_REQUEST "InvalidBucketName" "The bucket's name is not valid.";
    invalid_digest BAD_REQUEST "InvalidDigest" "The Content-MD5 is not valid.";
    invalid_part BAD_REQUEST "InvalidPart" "A part was not found, or its ETag differs.";
    invalid_part_order BAD_REQUEST "InvalidPartOrder" "The parts are not in ascending order.";
    invalid_range RANGE_NOT_SATISFIABLE "InvalidRange" "The range lies outside the object.";
    key_too_long BAD_REQUEST "KeyTooLongError" "The key is too long.";
    malformed_xml BAD_REQUEST "MalformedXML" "The XML is not well-formed or not what this request takes.";
    metadata_too_large BAD_REQUEST "MetadataTooLarge" "The metadata is longer than 2 KiB.";
    method_not_allowed METHOD_NOT_ALLOWED "MethodNotAllowed" "This method is not allowed on this resource.";
    missing_length LENGTH_REQUIRED "MissingContentLength" "Content-Length is needed.";
    no_such_bucket NOT_FOUND "NoSuchBucket" "The bucket does not exist.";
    no_such_key NOT_FOUND "NoSuchKey" "The key does not exist.";
    no_such_upload NOT_FOUND "NoSuchUpload" "The multipart upload does not exist: completed, aborted, or never begun.";
    no_such_access_key FORBIDDEN "InvalidAccessKeyId" "The access key does not exist.";
    not_implemented NOT_IMPLEMENTED "NotImplemented" "The requested resource is not implemented";
    precondition_failed PRECONDITION_FAILED "PreconditionFailed" "A condition of the request does not hold.";
    request_timeout BAD_REQUEST "RequestTimeout" "The body came too slowly.";
    slow_down SERVICE_UNAVAILABLE "SlowDown" "Too busy. Reduce the rate of requests.";
    unavailable SERVICE_UNAVAILABLE "ServiceUnavailable" "Not available now. Try again.";
    bad_trailer BAD_REQUEST "MalformedTrailerError" "The trailers of the body are not well-formed, or are not those that x-amz-trailer announced.";
    invalid_uri BAD_REQUEST "InvalidURI" "The path could not be understood: it is not valid UTF-8, or holds a NUL.";
    malformed_acl BAD_REQUEST "MalformedACLError" "The access list is not well-formed.";
    missing_key BAD_REQUEST "UserKeyMustBeSpecified" "A key is missing.";
    no_room INSUFFICIENT_STORAGE "InsufficientStorage" "There is no room to store this.";
    signature FORBIDDEN "SignatureDoesNotMatch" "The signature that was given does not fit the request.";
    skewed FORBIDDEN "RequestTimeTooSkewed" "The request's time differs too much from the server's.";
    sha256_mismatch BAD_REQUEST "XAmzContentSHA256Mismatch" "The x-amz-content-sha256 that was given does not fit the content.";
}

impl S3Error {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> S3Error {
        S3Error { status, code, message: message.into(), details: Vec::new(), headers: Vec::new() }
    }

    pub(super) fn invalid_argument(message: impl Into<Cow<'static, str>>) -> S3Error {
        S3Error::new(StatusCode::BAD_REQUEST, "InvalidArgument", message)
    }

    pub(super) fn invalid_request(message: impl Into<Cow<'static, str>>) -> S3Error {
        S3Error::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
    }

    pub(super) fn denied(message: impl Into<Cow<'static, str>>) -> S3Error {
        S3Error::new(StatusCode::FORBIDDEN, "AccessDenied", message)
    }

    /// `BadDigest` for one of the API's checksums.
    pub(super) fn wrong_checksum(algorithm: &str) -> S3Error {
        let message = format!("The {algorithm} that was given does not fit the content.");
        S3Error::new(StatusCode::BAD_REQUEST, "BadDigest", message)
    }

    pub(super) fn with(mut self, element: &'static str, text: impl Into<String>) -> S3Error {
        self.details.push((element, text.into()));
        self
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> S3Error {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The answer to the request `id`; with `head`, without its body. As AWS's, it does not repeat the path.
    pub(super) fn into_response(self, id: &str, head: bool) -> Response<ResponseBody> {
        let builder = Response::builder().status(self.status);
        if self.status == StatusCode::NOT_MODIFIED {
            return builder.body(empty()).unwrap_or_default_response();
        }
        let mut xml = Xml::document();
        xml.open("Error");
        xml.element("Code", self.code);
        xml.element("Message", &self.message);
        for (name, text) in &self.details {
            xml.element(name, text);
        }
        xml.element("RequestId", id);
        xml.element("HostId", id);
        xml.close("Error");
        let body = xml.finish();
        let mut builder = builder.header("content-type", "application/xml");
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            builder = builder.header("retry-after", "1");
        }
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        let builder = builder.header("content-length", if head { 0 } else { body.len() });
        builder.body(if head { empty() } else { full(body) }).unwrap_or_default_response()
    }
}

/// Headers of our own making always fit; this keeps the compiler content without a panic.
trait OrDefault {
    fn unwrap_or_default_response(self) -> Response<ResponseBody>;
}

impl OrDefault for Result<Response<ResponseBody>, http::Error> {
    fn unwrap_or_default_response(self) -> Response<ResponseBody> {
        self.unwrap_or_else(|error| {
            tracing::error!(%error, "an answer could not be made");
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> S3Error {
        match error {
            StoreError::AccountDeleted => S3Error::account_problem(),
            StoreError::NoAccount | StoreError::NoContainer => S3Error::no_such_bucket(),
            StoreError::NoObject => S3Error::no_such_key(),
            StoreError::NotEmpty => S3Error::bucket_not_empty(),
            StoreError::PreconditionFailed => S3Error::precondition_failed(),
            StoreError::Conflict(_) => S3Error::new(
                StatusCode::CONFLICT,
                "ConditionalRequestConflict",
                "A newer write of the object exists.",
            ),
            StoreError::Refused(why) => S3Error::new(StatusCode::CONFLICT, "OperationAborted", why),
            StoreError::Denied => S3Error::access_denied(),
            StoreError::Full => S3Error::no_room(),
            StoreError::Corrupt(what) => {
                tracing::error!(what, "stored data is damaged");
                S3Error::internal()
            }
            StoreError::Overloaded => S3Error::slow_down(),
            StoreError::Unavailable(why) => {
                tracing::warn!(why, "not available");
                S3Error::unavailable()
            }
        }
    }
}

impl From<RequestBodyError> for S3Error {
    fn from(error: RequestBodyError) -> S3Error {
        match error {
            RequestBodyError::TimedOut => S3Error::request_timeout(),
            RequestBodyError::CutShort => S3Error::incomplete_body(),
        }
    }
}

/// An answer was to be made with a header that cannot be one: a bug, or a damaged record.
impl From<http::Error> for S3Error {
    fn from(error: http::Error) -> S3Error {
        tracing::error!(%error, "an answer could not be made");
        S3Error::internal()
    }
}
