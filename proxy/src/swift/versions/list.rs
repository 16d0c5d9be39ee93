//! `GET /v1/{account}/{container}?versions`.

use http::StatusCode;
use kodiak_storage_api::{DirectoryInfo, Row};
use serde_json::{Value, json};

use crate::http::{empty, full};
use crate::store::{VersionEntry, VersionMarker, VersionQuery, VersionRow, Versioning};
use crate::swift::SwiftFront;
use crate::swift::call::Call;
use crate::swift::error::{Answer, SwiftError};
use crate::swift::listing::{self, Format};

/// What ids are made of, and so no delimiter between parts of names.
const ID_CHARACTERS: &str = "0123456789.\0";

impl SwiftFront {
    /// A page of versions. `builder` has the container's headers.
    pub(in crate::swift) async fn list_versions(
        &self,
        call: &Call,
        info: &DirectoryInfo,
        builder: http::response::Builder,
    ) -> Answer {
        require_json(call)?;
        let query = query(call)?;
        let of = (call.account(), call.container());
        let page = self.store.list_versions(of, Versioning::of(&info.directory), &query).await?;
        let shown: Vec<Value> = page.entries.into_iter().map(shown).collect();
        let body = Value::Array(shown).to_string();
        let builder = builder
            .status(StatusCode::OK)
            .header("content-type", Format::Json.content_type())
            .header("vary", "Accept")
            .header("content-length", body.len());
        Ok(builder.body(if call.is_head() { empty() } else { full(body) })?)
    }
}

/// The listing has one form only.
fn require_json(call: &Call) -> Result<(), SwiftError> {
    let anything = call.query.get("format").is_none()
        && call
            .header("accept")
            .is_none_or(|accept| accept.contains("*/*") || accept.contains("application/*"));
    if anything || Format::of(call)? == Format::Json {
        return Ok(());
    }
    Err(SwiftError::status(StatusCode::NOT_ACCEPTABLE))
}

fn query(call: &Call) -> Result<VersionQuery, SwiftError> {
    let plain = listing::query(call)?;
    let at = match call.query.text("version_marker") {
        None => VersionMarker::Name,
        Some(null) if null == "null" => VersionMarker::Null,
        Some(id) => {
            let id = id.parse().map_err(|_| SwiftError::bad_request("invalid version_marker param"))?;
            VersionMarker::Id(id)
        }
    };
    if plain.marker.is_none() && at != VersionMarker::Name {
        return Err(SwiftError::bad_request("version_marker param requires marker"));
    }
    if plain.delimiter.as_ref().is_some_and(|delimiter| delimiter.contains(|c| ID_CHARACTERS.contains(c))) {
        return Err(SwiftError::bad_request("invalid delimiter param"));
    }
    Ok(VersionQuery {
        prefix: plain.prefix,
        delimiter: plain.delimiter,
        marker: plain.marker.map(|name| (name, at)),
        end_marker: plain.end_marker,
        limit: plain.limit,
        reverse: plain.reverse,
    })
}

fn shown(entry: VersionEntry) -> Value {
    match entry {
        VersionEntry::Prefix(prefix) => json!({ "subdir": prefix }),
        VersionEntry::Version(VersionRow { row, id, latest, .. }) => version(&row, id, latest),
    }
}

fn version(row: &Row, id: Option<kodiak_storage_api::VersionId>, latest: bool) -> Value {
    let mut value = listing::object_value(row);
    value["version_id"] = id.map_or_else(|| json!("null"), |id| json!(id.to_string()));
    value["is_latest"] = json!(latest);
    value
}
