//! Listings as plain text, JSON and XML.

use futures_util::stream;
use http::StatusCode;
use kodiak_storage_api::{Entry, ListQuery, Policies, PolicyIndex, Row, Timestamp};
use quick_xml::escape::escape;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value, json};

use super::call::Call;
use super::error::{Answer, SwiftError};
use crate::http::{empty, full, iso_date, streamed};

/// Most entries of one page.
pub(super) const PAGE: usize = 10_000;

/// A listing's form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Text,
    Json,
    Xml,
}

impl Format {
    /// From `format=`, else from `Accept`.
    pub(super) fn of(call: &Call) -> Result<Format, SwiftError> {
        match call.query.get("format") {
            Some(format) if format.eq_ignore_ascii_case("json") => return Ok(Format::Json),
            Some(format) if format.eq_ignore_ascii_case("xml") => return Ok(Format::Xml),
            Some(_) => return Ok(Format::Text),
            None => {}
        }
        let Some(accept) = call.header("accept") else { return Ok(Format::Text) };
        let mut best: Option<(f32, Format)> = None;
        for element in accept.split(',') {
            let mut parts = element.split(';').map(str::trim);
            let range = parts.next().unwrap_or("");
            if !range.contains('/') {
                return Err(SwiftError::bad_request("Invalid Accept header"));
            }
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse);
            let quality: f32 = quality.map_err(|_| SwiftError::bad_request("Invalid Accept header"))?;
            let format = match range {
                "text/plain" | "text/*" | "*/*" => Format::Text,
                "application/json" | "application/*" => Format::Json,
                "application/xml" | "text/xml" => Format::Xml,
                _ => continue,
            };
            if best.is_none_or(|(held, _)| quality > held) {
                best = Some((quality, format));
            }
        }
        best.map(|(_, format)| format).ok_or_else(|| SwiftError::status(StatusCode::NOT_ACCEPTABLE))
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; charset=utf-8",
            Format::Json => "application/json; charset=utf-8",
            Format::Xml => "application/xml; charset=utf-8",
        }
    }
}

/// The page that a request asks for.
pub(super) fn query(call: &Call) -> Result<ListQuery, SwiftError> {
    let limit = match call.query.text("limit") {
        None => PAGE,
        Some(text) => match text.parse::<usize>() {
            Ok(limit) if limit <= PAGE => limit,
            Ok(_) => return Err(SwiftError::precondition(format!("Maximum limit is {PAGE}"))),
            Err(_) => PAGE,
        },
    };
    let mut query = ListQuery {
        prefix: call.query.text("prefix").unwrap_or_default(),
        delimiter: call.query.text("delimiter"),
        marker: call.query.text("marker"),
        end_marker: call.query.text("end_marker"),
        limit,
        reverse: call.query.is_true("reverse"),
        ..ListQuery::default()
    };
    if let Some(path) = call.query.get("path") {
        // The older way to ask for one pseudo-folder.
        query.prefix =
            if path.is_empty() { String::new() } else { format!("{}/", path.trim_end_matches('/')) };
        query.delimiter = Some("/".into());
    }
    Ok(query)
}

/// What a listing shows of one container.
fn container_value(row: &Row, policies: &Policies) -> Value {
    let created = row.extra("created").and_then(|micros| micros.parse().ok());
    let at = created.map_or(row.timestamp, |micros| Timestamp::from_micros(micros, 0));
    let mut value =
        json!({ "name": row.name, "count": row.objects, "bytes": row.bytes, "last_modified": iso_date(at) });
    let index = row.extra("policy").and_then(|index| index.parse().ok()).map(PolicyIndex);
    if let Some(policy) = index.map(|index| policies.name(index)).filter(|name| !name.is_empty()) {
        value["storage_policy"] = json!(policy);
    }
    value
}

/// Fields of a row that a listing shows by another name or not at all.
const HIDDEN: [&str; 1] = ["slo_bytes"];

/// Fields of an object that XML shows too; the others are for JSON.
const XML_FIELDS: [&str; 5] = ["name", "hash", "bytes", "content_type", "last_modified"];

/// What a listing shows of one object. Serialized in place: a page has thousands.
struct Object<'a>(&'a Row);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.0;
        let bytes = row.extra("slo_bytes").and_then(|bytes| bytes.parse().ok());
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("name", &row.name)?;
        fields.serialize_entry("hash", &row.etag)?;
        fields.serialize_entry("bytes", &bytes.unwrap_or_else(|| row.size()))?;
        fields.serialize_entry("content_type", &row.content_type)?;
        fields.serialize_entry("last_modified", &iso_date(row.timestamp))?;
        for (name, field) in &row.extra {
            match name.as_str() {
                hidden if HIDDEN.contains(&hidden) || hidden.starts_with('-') => {}
                "symlink_bytes" => fields.serialize_entry(name, &field.parse::<u64>().unwrap_or(0))?,
                "version_symlink" => fields.serialize_entry(name, &(field == "true"))?,
                _ => fields.serialize_entry(name, field)?,
            }
        }
        fields.end()
    }
}

/// What a listing shows of one object, to be added to.
pub(super) fn object_value(row: &Row) -> Value {
    json!(Object(row))
}

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Listed<'a> {
    /// The containers of an account; with the names of the storage policies.
    Containers(&'a Policies),
    Objects,
}

/// The answer with a page. `builder` has the directory's headers.
pub(super) fn answer(
    builder: http::response::Builder,
    format: Format,
    (listed, name): (Listed<'_>, &str),
    entries: &[Entry],
    head: bool,
) -> Answer {
    let builder = builder.header("content-type", format.content_type()).header("vary", "Accept");
    if head || (format == Format::Text && entries.is_empty()) {
        // Swift's clients look for the length of an empty listing; hyper sends it with a stream only.
        let nothing = if head { empty() } else { streamed(stream::empty()) };
        return Ok(builder.status(StatusCode::NO_CONTENT).header("content-length", 0).body(nothing)?);
    }
    let body = match format {
        Format::Text => text(entries),
        Format::Json => json(listed, entries)?,
        Format::Xml => xml(listed, name, entries),
    };
    Ok(builder.status(StatusCode::OK).header("content-length", body.len()).body(full(body))?)
}

fn value(listed: Listed<'_>, entry: &Entry) -> Value {
    match (entry, listed) {
        (Entry::Prefix(prefix), _) => json!({ "subdir": prefix }),
        (Entry::Row(row), Listed::Containers(policies)) => container_value(row, policies),
        (Entry::Row(row), Listed::Objects) => object_value(row),
    }
}

fn json(listed: Listed<'_>, entries: &[Entry]) -> Result<String, SwiftError> {
    let shown = entries.iter().map(|entry| match (entry, listed) {
        (Entry::Row(row), Listed::Objects) => Shown::Object(Object(row)),
        _ => Shown::Other(value(listed, entry)),
    });
    let mut out = Vec::with_capacity(entries.len() * 256);
    let written = serde_json::Serializer::new(&mut out).collect_seq(shown).map(|()| String::from_utf8(out));
    match written {
        Ok(Ok(text)) => Ok(text),
        _ => Err(SwiftError::status(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Object(Object<'a>),
    Other(Value),
}

fn text(entries: &[Entry]) -> String {
    let mut out = String::with_capacity(entries.iter().map(|entry| entry.name().len() + 1).sum());
    for entry in entries {
        out.push_str(entry.name());
        out.push('\n');
    }
    out
}

fn xml(listed: Listed<'_>, name: &str, entries: &[Entry]) -> String {
    let (root, item) = match listed {
        Listed::Containers(_) => ("account", "container"),
        Listed::Objects => ("container", "object"),
    };
    let mut out =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} name=\"{}\">", attribute(name));
    for entry in entries {
        if let Entry::Prefix(prefix) = entry {
            let (quoted, text) = (attribute(prefix), escape_text(prefix));
            out.push_str(&format!("<subdir name=\"{quoted}\"><name>{text}</name></subdir>"));
            continue;
        }
        out.push_str(&format!("<{item}>"));
        let fields = value(listed, entry);
        let shown = |field: &str| listed != Listed::Objects || XML_FIELDS.contains(&field);
        for (field, value) in fields.as_object().into_iter().flatten().filter(|(field, _)| shown(field)) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push_str(&format!("<{field}>{}</{field}>", escape_text(&value)));
        }
        out.push_str(&format!("</{item}>"));
    }
    out.push_str(&format!("</{root}>"));
    out
}

/// Control characters cannot stand in XML 1.0, not even escaped.
fn escape_text(text: &str) -> String {
    let clean: String =
        text.chars().map(|c| if c < ' ' && !"\t\n\r".contains(c) { '\u{fffd}' } else { c }).collect();
    escape(&clean).into_owned()
}

fn attribute(text: &str) -> String {
    escape_text(text).replace('\n', "&#10;").replace('\r', "&#13;").replace('\t', "&#9;")
}
