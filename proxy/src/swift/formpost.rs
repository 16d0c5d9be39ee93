//! Uploads from a browser's form, signed with a key of the account or the container.
//!
//! Source: Swift's documentation of formpost. The fields before a file say what it may be; the signature
//! covers them and the path.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::SwiftFront;
use super::call::{Call, Query, Target};
use super::error::{Answer, PATH, SwiftError, status_line};
use super::form::{self, Form, FormError, Part};
use super::tempurl::{DIGESTS, Scope, Signature};
use crate::http::{RequestBody, RequestBodyError, full};

/// Longest value of a field; the rest of it is passed over.
const MAX_VALUE: usize = 4096;
/// Most fields of a form.
const MAX_FIELDS: usize = 1000;
/// Pieces that wait between the client and the store.
const QUEUE: usize = 4;

/// What `/info` says of forms.
pub(super) fn info() -> Value {
    json!({ "allowed_digests": DIGESTS, "deprecated_digests": ["sha1"] })
}

/// The boundary of a request that is a form.
pub(super) fn boundary(call: &Call) -> Option<String> {
    if call.method != Method::POST {
        return None;
    }
    form::boundary(call.header("content-type")?)
}

/// What ends a form: an answer for the person who sent it.
struct Outcome {
    status: StatusCode,
    message: String,
}

impl Outcome {
    fn new(status: StatusCode, message: impl Into<String>) -> Outcome {
        Outcome { status, message: message.into() }
    }

    fn invalid(message: &str) -> Outcome {
        Outcome::new(StatusCode::BAD_REQUEST, message)
    }

    fn unauthorized(message: &str) -> Outcome {
        Outcome::new(StatusCode::UNAUTHORIZED, message)
    }
}

impl From<FormError> for Outcome {
    fn from(error: FormError) -> Outcome {
        match error {
            FormError::Malformed(what) => Outcome::invalid(what),
            FormError::Body(error) => {
                let error = SwiftError::from(error);
                Outcome::new(error.code(), "the form could not be read")
            }
        }
    }
}

/// The fields of a form so far.
#[derive(Default)]
struct Fields(HashMap<String, String>);

impl Fields {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A number; 0 if it is not given.
    fn number(&self, name: &str) -> Result<u64, Outcome> {
        let Some(text) = self.text(name) else { return Ok(0) };
        text.trim().parse().map_err(|_| Outcome::invalid(&format!("{name} not an integer")))
    }

    /// What the signature covers.
    fn signed(&self, path: &str) -> String {
        let number = |name| self.text(name).unwrap_or("0");
        let redirect = self.text("redirect").unwrap_or("");
        let (size, count) = (number("max_file_size"), number("max_file_count"));
        format!("{path}\n{redirect}\n{size}\n{count}\n{}", number("expires"))
    }
}

impl SwiftFront {
    pub(super) async fn form_post(&self, call: &Call, boundary: &str, body: &mut RequestBody) -> Answer {
        let keys = match call.target.container {
            Some(_) => self.temp_url_keys(call).await?,
            None => Vec::new(),
        };
        let mut fields = Fields::default();
        let outcome = match self.form_files(call, boundary, &keys, (body, &mut fields)).await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        body.drain().await;
        // Only where the owner of the key wants it: else anybody could send people anywhere.
        let redirect = fields.text("redirect").filter(|_| self.form_scope(call, &fields, &keys).is_ok());
        answer(&outcome, redirect)
    }

    async fn form_files(
        &self,
        call: &Call,
        boundary: &str,
        keys: &[(String, Scope)],
        (body, fields): (&mut RequestBody, &mut Fields),
    ) -> Result<Outcome, Outcome> {
        let mut form = Form::begin(body, boundary).await?;
        let mut files = 0;
        while let Some(part) = form.next().await? {
            let Some(filename) = &part.filename else {
                let value = value(&mut form).await?;
                if let Some(name) = &part.name
                    && fields.0.len() < MAX_FIELDS
                {
                    fields.0.insert(name.to_lowercase(), value);
                }
                continue;
            };
            files += 1;
            if files > fields.number("max_file_count")? {
                return Err(Outcome::invalid("max file count exceeded"));
            }
            let scope = self.form_scope(call, fields, keys)?;
            let put = form_put(call, scope, (fields, &part, filename))?;
            self.form_file(&put, fields.number("max_file_size")?, &mut form).await?;
        }
        match files {
            0 => Err(Outcome::invalid("no files to process")),
            _ => Ok(Outcome::new(StatusCode::CREATED, "")),
        }
    }

    /// What the form's signature opens.
    fn form_scope(&self, call: &Call, fields: &Fields, keys: &[(String, Scope)]) -> Result<Scope, Outcome> {
        let invalid = || Outcome::unauthorized("invalid signature");
        if fields.number("expires")? < self.store.now() {
            return Err(Outcome::unauthorized("form expired"));
        }
        let signature = Signature::parse(fields.text("signature").unwrap_or("")).ok_or_else(invalid)?;
        let message = fields.signed(&path(call));
        let found = keys.iter().find(|(key, _)| signature.is_of(key.as_bytes(), message.as_bytes()));
        found.map(|(_, scope)| scope.clone()).ok_or_else(invalid)
    }

    async fn form_file(&self, put: &Call, max: u64, form: &mut Form<'_>) -> Result<(), Outcome> {
        let (pieces, body) = mpsc::channel(QUEUE);
        // The body goes when the PUT ends: nobody sends to one that was refused.
        let store = async {
            let mut body = RequestBody::pieces(body, None);
            self.object(put, &mut body).await
        };
        let (sent, stored) = tokio::join!(send(form, pieces, max), store);
        sent?;
        match stored {
            Ok(_) => Ok(()),
            Err(error) => {
                let code = error.code();
                Err(Outcome::new(code, code.canonical_reason().unwrap_or("").to_lowercase()))
            }
        }
    }
}

/// The path that is signed, as the form names it.
fn path(call: &Call) -> String {
    let mut path = format!("/v1/{}/{}", call.account(), call.container());
    match &call.target.object {
        Some(prefix) => path.extend(["/", prefix]),
        None if call.uri.path().ends_with('/') => path.push('/'),
        None => {}
    }
    path
}

/// The PUT of a file: its name follows what the form's path names.
fn form_put(
    call: &Call,
    scope: Scope,
    (fields, part, filename): (&Fields, &Part, &str),
) -> Result<Call, Outcome> {
    let object = format!("{}{filename}", call.target.object.as_deref().unwrap_or(""));
    let target = Target { object: Some(object), ..call.target.clone() };
    target.check_lengths().map_err(|error| Outcome::new(error.code(), "the name is too long"))?;
    let mut put = call.with_target(Method::PUT, target);
    put.query = Query::default();
    put.principal = None;
    put.preauthorized = Some(scope);
    put.headers = HeaderMap::new();
    put.headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            put.headers.insert(name, value);
        }
    };
    for (field, name) in [("x_delete_at", "x-delete-at"), ("x_delete_after", "x-delete-after")] {
        if fields.text(field).is_some() {
            set(name, &fields.number(field)?.to_string());
        }
    }
    for name in ["content-type", "content-encoding"] {
        let own = crate::http::header(&part.headers, name);
        if let Some(value) = fields.text(name).or(own) {
            set(name, value);
        }
    }
    Ok(put)
}

/// Gives the part's bytes to the PUT; more than `max` break it off.
async fn send(
    form: &mut Form<'_>,
    pieces: mpsc::Sender<Result<Bytes, RequestBodyError>>,
    max: u64,
) -> Result<(), Outcome> {
    let mut sent = 0;
    loop {
        let bytes = match form.read().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(error) => {
                let _ = pieces.send(Err(RequestBodyError::CutShort)).await;
                return Err(error.into());
            }
        };
        sent += bytes.len() as u64;
        if sent > max {
            let _ = pieces.send(Err(RequestBodyError::CutShort)).await;
            return Err(Outcome::invalid("max_file_size exceeded"));
        }
        if pieces.send(Ok(bytes)).await.is_err() {
            // The PUT was refused, and says why.
            return Ok(());
        }
    }
}

async fn value(form: &mut Form<'_>) -> Result<String, Outcome> {
    let mut value = Vec::new();
    while let Some(bytes) = form.read().await? {
        let room = MAX_VALUE.saturating_sub(value.len());
        value.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    String::from_utf8(value).map_err(|_| Outcome::invalid("a field is not UTF-8"))
}

/// Sends the browser where the form says, or tells it what happened.
fn answer(outcome: &Outcome, redirect: Option<&str>) -> Answer {
    let code = outcome.status.as_u16();
    if let Some(redirect) = redirect {
        let join = if redirect.contains('?') { '&' } else { '?' };
        let message = percent_encoding::utf8_percent_encode(&outcome.message, PATH);
        let location = format!("{redirect}{join}status={code}&message={message}");
        let link = quick_xml::escape::escape(&location);
        let page = format!("<html><body><p><a href=\"{link}\">Click to continue...</a></p></body></html>");
        let builder = Response::builder()
            .status(StatusCode::SEE_OTHER)
            .header("content-type", "text/html; charset=UTF-8")
            .header("content-length", page.len());
        if let Ok(location) = HeaderValue::from_str(&location) {
            return Ok(builder.header("location", location).body(full(page))?);
        }
    }
    let mut text = status_line(outcome.status);
    if !outcome.message.is_empty() {
        text.push_str(&format!("\r\nFormPost: {}", outcome.message));
    }
    let builder = Response::builder()
        .status(outcome.status)
        .header("content-type", "text/plain")
        .header("content-length", text.len());
    Ok(builder.body(full(text))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_covers_path_and_limits() {
        let mut fields = Fields::default();
        assert_eq!(fields.signed("/v1/a/c/"), "/v1/a/c/\n\n0\n0\n0");
        for (name, value) in
            [("redirect", "http://h/"), ("max_file_size", "9"), ("max_file_count", "2"), ("expires", "7")]
        {
            fields.0.insert(name.into(), value.into());
        }
        assert_eq!(fields.signed("/v1/a/c/p"), "/v1/a/c/p\nhttp://h/\n9\n2\n7");
        fields.0.insert("max_file_size".into(), "x".into());
        assert!(fields.number("max_file_size").is_err());
    }
}
