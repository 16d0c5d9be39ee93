//! `multipart/form-data`, as browsers send it: small fields, then one file that is read as it comes.
//!
//! Source: RFC 7578, and what the S3 API's "POST Object" says of it.

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::error::S3Error;
use crate::http::{RequestBody, RequestBodyError};

/// Longest fields before the file together, as with AWS.
const MAX_FIELDS: usize = 20 * 1024;

/// A form being read.
pub(super) struct Form {
    body: RequestBody,
    buffer: BytesMut,
    /// Line end, two dashes and the boundary: what ends each part.
    delimiter: Vec<u8>,
}

/// The fields of a form, names in lower case, up to its file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) fields: Vec<(String, String)>,
    /// As the browser names it.
    pub(super) file_name: String,
}

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn malformed() -> S3Error {
    S3Error::new(
        http::StatusCode::BAD_REQUEST,
        "MalformedPOSTRequest",
        "The body of your POST request is not well-formed multipart/form-data.",
    )
}

/// The boundary that a content type names, if it is that of a form.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"')).filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
}

impl Form {
    pub(super) fn new(body: RequestBody, boundary: &str) -> Form {
        // The first part begins as if a line had ended before.
        Form { body, buffer: BytesMut::from("\r\n"), delimiter: format!("\r\n--{boundary}").into_bytes() }
    }

    /// Reads up to where the file begins.
    pub(super) async fn fields(&mut self) -> Result<Fields, S3Error> {
        let mut fields = Fields::default();
        let mut left = MAX_FIELDS;
        self.until_delimiter(&mut left).await?;
        loop {
            let head = self.line_end(&mut left).await?;
            let Some((name, file_name)) = disposition(&head) else { return Err(malformed()) };
            if name == "file" {
                fields.file_name = file_name;
                return Ok(fields);
            }
            let value = self.until_delimiter(&mut left).await?;
            let value = String::from_utf8(value.to_vec()).map_err(|_| malformed())?;
            fields.fields.push((name.to_ascii_lowercase(), value));
        }
    }

    /// More of the file; none at its end.
    pub(super) async fn file(&mut self) -> Option<Result<Bytes, RequestBodyError>> {
        loop {
            if let Some(end) = find(&self.buffer, &self.delimiter) {
                if end > 0 {
                    return Some(Ok(self.buffer.split_to(end).freeze()));
                }
                // Fields after the file count for nothing.
                return None;
            }
            // What could be the beginning of a delimiter waits for the rest of it.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if sure > 0 {
                return Some(Ok(self.buffer.split_to(sure).freeze()));
            }
            match self.body.data().await {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Err(RequestBodyError::CutShort)),
            }
        }
    }

    /// Sends the file to whoever stores it; what follows, or what nobody wants any more, is read and dropped.
    pub(super) async fn send(mut self, to: mpsc::Sender<Result<Bytes, RequestBodyError>>) {
        while let Some(piece) = self.file().await {
            let broken = piece.is_err();
            if to.send(piece).await.is_err() || broken {
                break;
            }
        }
        self.body.linger();
    }

    /// The bytes before the next delimiter, which is passed.
    async fn until_delimiter(&mut self, left: &mut usize) -> Result<Bytes, S3Error> {
        let delimiter = self.delimiter.clone();
        self.until(&delimiter, left).await
    }

    /// The head of the part that follows a delimiter.
    async fn line_end(&mut self, left: &mut usize) -> Result<String, S3Error> {
        let head = self.until(b"\r\n\r\n", left).await?;
        // Two dashes instead of a line end: the form ends without a file.
        if !head.starts_with(b"\r\n") {
            let message = "POST requires exactly one file upload per request.";
            return Err(S3Error::invalid_argument(message).with("ArgumentName", "file"));
        }
        String::from_utf8(head.to_vec()).map_err(|_| malformed())
    }

    async fn until(&mut self, end: &[u8], left: &mut usize) -> Result<Bytes, S3Error> {
        loop {
            if let Some(at) = find(&self.buffer, end) {
                let bytes = self.buffer.split_to(at).freeze();
                let _ = self.buffer.split_to(end.len());
                *left = left.checked_sub(at).ok_or_else(too_long)?;
                return Ok(bytes);
            }
            if self.buffer.len() > *left + end.len() {
                return Err(too_long());
            }
            match self.body.data().await {
                Some(data) => self.buffer.extend_from_slice(&data?),
                None => return Err(malformed()),
            }
        }
    }
}

fn too_long() -> S3Error {
    let message = "The fields before the file are longer than 20 KiB.";
    S3Error::new(http::StatusCode::BAD_REQUEST, "MaxPostPreDataLengthExceededError", message)
}

/// Where `wanted`, which begins with a carriage return, is in `text`.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == b'\r') {
        if text[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The names of a part and of its file.
fn disposition(head: &str) -> Option<(String, String)> {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let parameter = |name: &str| {
        let at = line.find(&format!("; {name}=\""))? + name.len() + 4;
        let text = &line[at..];
        Some(text[..text.find('"')?].replace("%22", "\""))
    };
    Some((parameter("name")?, parameter("filename").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--b0\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\nu/${filename}\r\n--b0\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"a b\"\r\nContent-Type: x/y\r\n\r\n\
        one\r\ntwo\r\n--b\r\n--b0--\r\n";

    async fn file(form: &mut Form) -> Result<Vec<u8>, RequestBodyError> {
        let mut all = Vec::new();
        while let Some(piece) = form.file().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn fields_come_before_the_file_whose_lines_are_its_own() {
        let mut form = Form::new(RequestBody::full(BODY), "b0");
        let fields = form.fields().await.expect("fields");
        assert_eq!((fields.get("key"), fields.file_name.as_str()), (Some("u/${filename}"), "a b"));
        assert_eq!(file(&mut form).await.expect("a file"), b"one\r\ntwo\r\n--b");
    }

    #[tokio::test]
    async fn what_is_no_form_or_is_cut_short_is_an_error() {
        let mut cut = Form::new(RequestBody::full(&BODY.as_bytes()[..BODY.len() - 10]), "b0");
        cut.fields().await.expect("fields");
        assert_eq!(file(&mut cut).await, Err(RequestBodyError::CutShort));
        for (body, code) in [
            ("", "MalformedPOSTRequest"),
            ("--b0\r\nno name\r\n\r\n", "MalformedPOSTRequest"),
            ("--b0--\r\n\r\n", "InvalidArgument"),
            (&format!("--b0\r\n{}", "x".repeat(30_000)), "MaxPostPreDataLengthExceededError"),
        ] {
            let error = Form::new(RequestBody::full(body.to_owned()), "b0").fields().await;
            assert_eq!(error.expect_err(body).code, code);
        }
    }

    #[test]
    fn a_boundary_is_named_by_the_content_type() {
        assert_eq!(boundary("multipart/form-data; charset=x; boundary=\"ab\""), Some("ab"));
        assert_eq!(boundary("multipart/mixed; boundary=ab"), None);
        assert_eq!(boundary("multipart/form-data"), None);
    }
}
