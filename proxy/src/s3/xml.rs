//! Writing XML answers and reading XML requests.

use std::fmt::Write;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::error::{Answer, S3Error};
use crate::http::{RequestBody, full};

/// Namespace of S3's documents.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// Longest XML of a request: a batch delete of 1,000 keys of 1,024 bytes, escaped, or 10,000 parts.
const MAX_REQUEST: usize = 8 << 20;

/// A document being written.
pub(super) struct Xml(String);

impl Xml {
    /// An empty document.
    pub(super) fn document() -> Xml {
        Xml("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".into())
    }

    /// A document with this root, in S3's namespace.
    pub(super) fn root(name: &str) -> Xml {
        let mut xml = Xml::document();
        // Writing to a string cannot fail, here and below.
        let _ = write!(xml.0, "<{name} xmlns=\"{NAMESPACE}\">");
        xml
    }

    pub(super) fn open(&mut self, name: &str) {
        self.0.push('<');
        self.0.push_str(name);
        self.0.push('>');
    }

    /// Opens an element with attributes, as they are.
    pub(super) fn open_with(&mut self, name: &str, attributes: &str) {
        let _ = write!(self.0, "<{name} {attributes}>");
    }

    pub(super) fn close(&mut self, name: &str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// An element with text.
    pub(super) fn element(&mut self, name: &str, text: &str) {
        self.open(name);
        self.text(text);
        self.close(name);
    }

    /// An element with something that prints as plain letters and digits.
    pub(super) fn value(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.0, "<{name}>{value}</{name}>");
    }

    /// Text, escaped.
    pub(super) fn text(&mut self, text: &str) {
        // Nearly all text is plain, and is copied at once.
        let plain = |byte: u8| byte >= b' ' && !matches!(byte, b'<' | b'>' | b'&' | b'"');
        if text.bytes().all(plain) {
            self.0.push_str(text);
            return;
        }
        for c in text.chars() {
            match c {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                // As S3 does: not legal in XML 1.0, so clients ask for encoding-type=url.
                c if c < ' ' && c != '\t' && c != '\n' => {
                    let _ = write!(self.0, "&#x{:x};", c as u32);
                }
                c => self.0.push(c),
            }
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    /// 200 with this document, whose root is `name`.
    pub(super) fn answer(mut self, name: &str) -> Answer {
        self.close(name);
        let builder = Response::builder()
            .status(StatusCode::OK)
            .header("content-type", "application/xml")
            .header("content-length", self.0.len());
        Ok(builder.body(full(self.0))?)
    }
}

/// Reads a request's body: not too long, no document type (no entities, hence no bombs).
pub(super) async fn body(body: &mut RequestBody) -> Result<Bytes, S3Error> {
    body.collect_up_to(MAX_REQUEST).await?.ok_or_else(S3Error::malformed_xml)
}

/// Parses a request's XML.
pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, S3Error> {
    let text = std::str::from_utf8(text).map_err(|_| S3Error::malformed_xml())?;
    if text.contains("<!DOCTYPE") || text.contains("<!ENTITY") {
        return Err(S3Error::malformed_xml());
    }
    quick_xml::de::from_str(text).map_err(|_| S3Error::malformed_xml())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Root {
        #[serde(rename = "Item", default)]
        items: Vec<String>,
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut xml = Xml::root("Root");
        xml.element("Item", "a<b>&\"c\" \u{e9}");
        xml.close("Root");
        let root: Root = parse(xml.finish().as_bytes()).expect("our own document");
        assert_eq!(root.items, ["a<b>&\"c\" \u{e9}"]);
    }

    #[test]
    fn spaces_around_a_name_are_part_of_it() {
        let root: Root =
            parse(b"<Root>\n  <Item> a </Item>\n  <Item>&#32;b&#10;</Item>\n</Root>").expect("XML");
        assert_eq!(root.items, [" a ", " b\n"]);
    }

    #[test]
    fn entities_are_refused() {
        let bomb = "<!DOCTYPE r [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Root><Item>&b;</Item></Root>";
        assert!(parse::<Root>(bomb.as_bytes()).is_err());
        assert!(parse::<Root>(b"<Root><Item></Root>").is_err());
        assert!(parse::<Root>(b"\xff").is_err());
    }
}
