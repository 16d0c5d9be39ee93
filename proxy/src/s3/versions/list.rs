//! ListObjectVersions.

use crate::s3::S3Front;
use crate::s3::call::Call;
use crate::s3::error::{Answer, S3Error};
use crate::s3::list::Listing;
use crate::s3::xml::Xml;
use crate::store::{VersionEntry, VersionMarker, VersionQuery, VersionRow, Versioning};

impl S3Front {
    pub(in crate::s3) async fn list_versions(&self, call: &Call) -> Answer {
        let bucket = self.bucket_record(call).await?;
        let listing = Listing::of(call, self.class(bucket.policy))?;
        let (key_marker, query) = query(call, listing.max_keys)?;
        let of = (call.account(), call.bucket());
        let page = self.store.list_versions(of, Versioning::of(&bucket), &query).await?;
        let mut xml = Xml::root("ListVersionsResult");
        let next = page.entries.last().filter(|_| page.truncated);
        listing.head(&mut xml, page.truncated, |xml| {
            xml.element("KeyMarker", &listing.text(key_marker));
            xml.element("VersionIdMarker", call.query("version-id-marker").unwrap_or(""));
            if let Some(last) = next {
                xml.element("NextKeyMarker", &listing.text(last.name()));
            }
            if let Some(VersionEntry::Version(version)) = next {
                // The id even of a version that is shown as null: it says where that stands.
                let id = version.id.map_or_else(|| "null".to_owned(), |id| id.to_string());
                xml.element("NextVersionIdMarker", &id);
            }
        });
        for entry in &page.entries {
            match entry {
                VersionEntry::Version(row) => version(&mut xml, &listing, row),
                VersionEntry::Prefix(prefix) => {
                    xml.open("CommonPrefixes");
                    xml.element("Prefix", &listing.text(prefix));
                    xml.close("CommonPrefixes");
                }
            }
        }
        xml.answer("ListVersionsResult")
    }
}

fn query(call: &Call, limit: usize) -> Result<(&str, VersionQuery), S3Error> {
    let text = |name: &str| call.query(name).filter(|text| !text.is_empty());
    let at = match text("version-id-marker") {
        None => VersionMarker::Name,
        Some("null") => VersionMarker::Null,
        Some(id) => VersionMarker::Id(id.parse().map_err(|_| {
            S3Error::invalid_argument("Invalid version id specified")
                .with("ArgumentName", "version-id-marker")
                .with("ArgumentValue", id)
        })?),
    };
    let key_marker = text("key-marker");
    if key_marker.is_none() && at != VersionMarker::Name {
        let message = "A version-id marker cannot be specified without a key marker.";
        return Err(S3Error::invalid_argument(message).with("ArgumentName", "version-id-marker"));
    }
    let query = VersionQuery {
        prefix: call.query("prefix").unwrap_or("").to_owned(),
        delimiter: text("delimiter").map(str::to_owned),
        marker: key_marker.map(|key| (key.to_owned(), at)),
        end_marker: None,
        limit,
        reverse: false,
    };
    Ok((key_marker.unwrap_or(""), query))
}

fn version(xml: &mut Xml, listing: &Listing<'_>, version: &VersionRow) {
    let element = if version.marker { "DeleteMarker" } else { "Version" };
    let id = version.id.filter(|_| !version.null).map_or_else(|| "null".to_owned(), |id| id.to_string());
    xml.open(element);
    xml.element("VersionId", &id);
    xml.value("IsLatest", version.latest);
    if version.marker {
        listing.marker_fields(xml, &version.row);
    } else {
        listing.fields(xml, &version.row, true);
    }
    xml.close(element);
}
