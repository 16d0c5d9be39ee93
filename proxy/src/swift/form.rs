//! Reads a `multipart/form-data` body as it comes: parts, and the bytes of each.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use memchr::memmem;

use crate::http::{RequestBody, RequestBodyError};

/// Longest headers of a part.
const MAX_HEAD: usize = 16 * 1024;
/// Longest boundary that RFC 2046 allows.
const MAX_BOUNDARY: usize = 70;

/// Why a form cannot be read on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FormError {
    Body(RequestBodyError),
    /// It is no form of this boundary.
    Malformed(&'static str),
}

impl From<RequestBodyError> for FormError {
    fn from(error: RequestBodyError) -> FormError {
        FormError::Body(error)
    }
}

/// The boundary of a form's content type; none if it is no form.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = split(content_type);
    let boundary = parameter(&parameters, "boundary")?;
    let fits = !boundary.is_empty() && boundary.len() <= MAX_BOUNDARY;
    (kind == "multipart/form-data" && fits).then(|| boundary.to_owned())
}

/// A value such as `form-data; name="a"`: what comes first, and the parameters.
fn split(value: &str) -> (String, Vec<(String, String)>) {
    let (kind, mut rest) = value.split_once(';').unwrap_or((value, ""));
    let mut parameters = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (text, left) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (text, left) = after.split_once(';').unwrap_or((after, ""));
                (text.trim().to_owned(), left)
            }
        };
        parameters.push((name.trim().to_lowercase(), text));
        rest = left.trim_start().trim_start_matches(';');
    }
    (kind.trim().to_lowercase(), parameters)
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, &quoted[at + 1..]),
            '\\' => text.extend(chars.next().map(|(_, c)| c)),
            c => text.push(c),
        }
    }
    (text, "")
}

fn parameter<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// What a part says of itself.
pub(super) struct Part {
    pub(super) name: Option<String>,
    pub(super) filename: Option<String>,
    pub(super) headers: HeaderMap,
}

/// A form that is being read.
pub(super) struct Form<'a> {
    body: &'a mut RequestBody,
    buffer: BytesMut,
    /// What ends a part.
    delimiter: Vec<u8>,
    within: bool,
}

impl<'a> Form<'a> {
    /// Reads the body's first line.
    pub(super) async fn begin(body: &'a mut RequestBody, boundary: &str) -> Result<Form<'a>, FormError> {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter has no line before it.
        let mut form = Form { body, buffer: BytesMut::from("\r\n"), delimiter, within: false };
        form.fill(form.delimiter.len()).await?;
        if !form.buffer.starts_with(&form.delimiter) {
            return Err(FormError::Malformed("invalid starting boundary"));
        }
        let _ = form.buffer.split_to(form.delimiter.len());
        Ok(form)
    }

    /// The next part; none after the last. What is left of the current one is passed over.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, FormError> {
        while self.read().await?.is_some() {}
        self.fill(2).await?;
        if self.buffer.starts_with(b"--") {
            return Ok(None);
        }
        // The empty line ends the headers; there may be none.
        let end = loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(FormError::Malformed("the headers of a part are too long"));
            }
            self.fill(self.buffer.len() + 1).await?;
        };
        let head = self.buffer.split_to(end + 4);
        self.within = true;
        let headers = headers(&String::from_utf8_lossy(&head));
        let disposition = headers.get("content-disposition");
        let disposition = disposition.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let (kind, parameters) = split(&disposition.unwrap_or_default());
        let text = |name| parameter(&parameters, name).filter(|_| kind == "form-data").map(str::to_owned);
        Ok(Some(Part { name: text("name"), filename: text("filename").filter(|n| !n.is_empty()), headers }))
    }

    /// The next bytes of the part; none at its end.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>, FormError> {
        while self.within {
            match memmem::find(&self.buffer, &self.delimiter) {
                Some(0) => {
                    let _ = self.buffer.split_to(self.delimiter.len());
                    self.within = false;
                }
                Some(end) => return Ok(Some(self.buffer.split_to(end).freeze())),
                None => {
                    // The last bytes may be the beginning of the delimiter.
                    let sure = (self.buffer.len() + 1).saturating_sub(self.delimiter.len());
                    if sure > 0 {
                        return Ok(Some(self.buffer.split_to(sure).freeze()));
                    }
                    self.fill(self.buffer.len() + 1).await?;
                }
            }
        }
        Ok(None)
    }

    /// Reads until so many bytes are there.
    async fn fill(&mut self, length: usize) -> Result<(), FormError> {
        while self.buffer.len() < length {
            let data = self.body.data().await.ok_or(FormError::Malformed("the form ends early"))??;
            self.buffer.extend_from_slice(&data);
        }
        Ok(())
    }
}

fn headers(head: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.trim().as_bytes()), HeaderValue::from_bytes(value.trim().as_bytes()))
        {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// A body that comes in pieces of `size` bytes.
    fn body(text: &str, size: usize) -> RequestBody {
        let (send, pieces) = mpsc::channel(10_000);
        for piece in text.as_bytes().chunks(size) {
            send.try_send(Ok(Bytes::copy_from_slice(piece))).expect("room");
        }
        RequestBody::pieces(pieces, None)
    }

    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n\
        --b\r\nContent-Disposition: form-data; name=f; filename=\"x\\\"y\"\r\nContent-Type: t/p\r\n\r\n\
        \r\n--\r\n--x\r\n--b\r\nContent-Disposition: form-data; name=\"e\"\r\n\r\n\r\n--b--\r\n";

    #[tokio::test]
    async fn parts_are_read_wherever_the_pieces_are_cut() {
        for size in [1, 2, 3, 5, 7, 64, 1000] {
            let mut body = body(FORM, size);
            let mut form = Form::begin(&mut body, "b").await.expect("a form");
            let mut parts = Vec::new();
            while let Some(part) = form.next().await.expect("a part") {
                let mut data = Vec::new();
                while let Some(bytes) = form.read().await.expect("bytes") {
                    data.extend_from_slice(&bytes);
                }
                parts.push((part.name, part.filename, String::from_utf8(data).expect("text")));
            }
            let some = |text: &str| Some(text.to_owned());
            let expected = vec![
                (some("a"), None, "one".to_owned()),
                (some("f"), some("x\"y"), "\r\n--\r\n--x".to_owned()),
                (some("e"), None, String::new()),
            ];
            assert_eq!(parts, expected, "{size}");
        }
    }

    #[tokio::test]
    async fn a_form_that_is_none_or_ends_early_is_an_error() {
        assert!(Form::begin(&mut body("--c\r\n", 9), "b").await.is_err());
        let mut body = body(&FORM[..100], 9);
        let mut form = Form::begin(&mut body, "b").await.expect("a form");
        while let Ok(part) = form.next().await {
            assert!(part.is_some(), "the form does not end");
        }
    }

    #[test]
    fn a_boundary_is_found_in_the_content_type() {
        let found = |text: &str| boundary(text);
        assert_eq!(found("multipart/form-data; boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(found("Multipart/Form-Data;charset=x; boundary=ab; c=d").as_deref(), Some("ab"));
        assert_eq!(found("text/plain; boundary=ab"), None);
        assert_eq!(found("multipart/form-data"), None);
    }
}
