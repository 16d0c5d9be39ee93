//! Listings of a bucket, version 1 and 2.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kodiak_storage_api::{Entry, ListQuery, Page, Row, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;

use super::S3Front;
use super::bucket::owner;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::metadata::row_modified;
use super::xml::Xml;

/// Most keys of one page.
const MAX_KEYS: usize = 1000;
/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// What a listing asks for.
pub(super) struct Listing<'a> {
    call: &'a Call,
    class: String,
    pub(super) max_keys: usize,
    url: bool,
}

impl<'a> Listing<'a> {
    /// `class` is the bucket's.
    pub(super) fn of(call: &'a Call, class: String) -> Result<Listing<'a>, S3Error> {
        Ok(Listing { call, class, max_keys: max(call, "max-keys")?, url: url_encoded(call)? })
    }

    pub(super) fn text<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, str> {
        encoded(text, self.url)
    }

    fn query(&self, marker: Option<String>) -> ListQuery {
        ListQuery {
            prefix: self.call.query("prefix").unwrap_or("").to_owned(),
            delimiter: self.call.query("delimiter").filter(|d| !d.is_empty()).map(str::to_owned),
            marker: marker.filter(|marker| !marker.is_empty()),
            limit: self.max_keys,
            ..ListQuery::default()
        }
    }

    /// The beginning of a listing, in the order that Swift's clients check; `between`: what one form of it
    /// has of its own.
    pub(super) fn head(&self, xml: &mut Xml, truncated: bool, between: impl FnOnce(&mut Xml)) {
        xml.element("Name", self.call.bucket());
        xml.element("Prefix", &self.text(self.call.query("prefix").unwrap_or("")));
        between(xml);
        xml.value("MaxKeys", self.max_keys);
        let delimiter = self.call.query("delimiter").filter(|d| !d.is_empty() || self.call.has("versions"));
        if let Some(delimiter) = delimiter {
            xml.element("Delimiter", &self.text(delimiter));
        }
        if self.url {
            xml.element("EncodingType", "url");
        }
        xml.value("IsTruncated", truncated);
    }

    fn entries(&self, xml: &mut Xml, page: &Page, with_owner: bool) {
        for entry in &page.entries {
            if let Entry::Row(row) = entry {
                xml.open("Contents");
                self.fields(xml, row, with_owner);
                xml.close("Contents");
            }
        }
        for entry in &page.entries {
            if let Entry::Prefix(prefix) = entry {
                xml.open("CommonPrefixes");
                xml.element("Prefix", &self.text(prefix));
                xml.close("CommonPrefixes");
            }
        }
    }

    pub(super) fn fields(&self, xml: &mut Xml, row: &Row, with_owner: bool) {
        xml.element("Key", &self.text(&row.name));
        xml.element("LastModified", &iso_millis(row_modified(row)));
        let etag = row.extra("slo_etag").map_or(row.etag.as_str(), |etag| etag.trim_matches('"'));
        xml.open("ETag");
        xml.text("\"");
        xml.text(etag);
        xml.text("\"");
        xml.close("ETag");
        if let Some(algorithm) = row.extra("-checksum") {
            xml.element("ChecksumAlgorithm", algorithm);
            xml.element("ChecksumType", row.extra("-checksum-type").unwrap_or("FULL_OBJECT"));
        }
        let size = row.extra("slo_bytes").and_then(|size| size.parse().ok()).unwrap_or_else(|| row.size());
        xml.value("Size", size);
        if with_owner {
            owner(xml, "Owner", self.call);
        }
        xml.element("StorageClass", &self.class);
    }

    /// What is shown of a delete marker.
    pub(super) fn marker_fields(&self, xml: &mut Xml, row: &Row) {
        xml.element("Key", &self.text(&row.name));
        xml.element("LastModified", &iso_millis(row.timestamp));
        owner(xml, "Owner", self.call);
    }
}

impl S3Front {
    async fn page(&self, listing: &Listing<'_>, marker: Option<String>) -> Result<Page, S3Error> {
        if listing.max_keys == 0 {
            return Ok(Page::default());
        }
        let (account, bucket) = (listing.call.account(), listing.call.bucket());
        Ok(self.store.list_objects(account, bucket, listing.query(marker)).await?)
    }

    pub(super) async fn list_v1(&self, call: &Call) -> Answer {
        let policy = self.bucket_record(call).await?.policy;
        let listing = Listing::of(call, self.class(policy))?;
        let marker = call.query("marker").unwrap_or("");
        let page = self.page(&listing, Some(marker.to_owned())).await?;
        let mut xml = Xml::root("ListBucketResult");
        let next = page.entries.last().filter(|_| page.truncated);
        listing.head(&mut xml, page.truncated, |xml| {
            xml.element("Marker", &listing.text(marker));
            if let Some(last) = next {
                xml.element("NextMarker", &listing.text(last.name()));
            }
        });
        listing.entries(&mut xml, &page, true);
        xml.answer("ListBucketResult")
    }

    pub(super) async fn list_v2(&self, call: &Call) -> Answer {
        let policy = self.bucket_record(call).await?.policy;
        let listing = Listing::of(call, self.class(policy))?;
        let token = call.query("continuation-token").filter(|token| !token.is_empty());
        let after = call.query("start-after");
        let marker = match token {
            Some(token) => Some(decode_token(token)?),
            None => after.map(str::to_owned),
        };
        let page = self.page(&listing, marker).await?;
        let mut xml = Xml::root("ListBucketResult");
        let next = page.entries.last().filter(|_| page.truncated);
        listing.head(&mut xml, page.truncated, |xml| {
            if let Some(last) = next {
                xml.element("NextContinuationToken", &encode_token(last.name()));
            }
            if let Some(token) = token {
                xml.element("ContinuationToken", token);
            }
            if let Some(after) = after {
                xml.element("StartAfter", &listing.text(after));
            }
            xml.value("KeyCount", page.entries.len());
        });
        listing.entries(&mut xml, &page, call.query("fetch-owner") == Some("true"));
        xml.answer("ListBucketResult")
    }
}

/// A token from which a listing continues after `name`.
pub(super) fn encode_token(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// The name of a token.
pub(super) fn decode_token(token: &str) -> Result<String, S3Error> {
    let wrong = || S3Error::invalid_argument("The continuation token provided is incorrect");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A page size parameter, at most [`MAX_KEYS`].
pub(super) fn max(call: &Call, name: &'static str) -> Result<usize, S3Error> {
    let Some(text) = call.query(name).filter(|text| !text.is_empty()) else { return Ok(MAX_KEYS) };
    match text.parse::<i32>() {
        Ok(number) if number >= 0 => Ok((number as usize).min(MAX_KEYS)),
        _ => {
            Err(S3Error::invalid_argument(format!("Provided {name} not an integer or within integer range"))
                .with("ArgumentName", name)
                .with("ArgumentValue", text))
        }
    }
}

/// Whether names are to be percent-encoded.
pub(super) fn url_encoded(call: &Call) -> Result<bool, S3Error> {
    match call.query("encoding-type") {
        None | Some("") => Ok(false),
        Some("url") => Ok(true),
        Some(other) => Err(S3Error::invalid_argument("Invalid Encoding Method specified in Request")
            .with("ArgumentName", "encoding-type")
            .with("ArgumentValue", other)),
    }
}

/// A name, percent-encoded if that was asked for.
pub(super) fn encoded(text: &str, url: bool) -> std::borrow::Cow<'_, str> {
    if url { utf8_percent_encode(text, URL).to_string().into() } else { text.into() }
}

/// ISO 8601 with milliseconds.
pub(super) fn iso_millis(at: Timestamp) -> String {
    // Rounded up to seconds, as Last-Modified is: clients compare the two.
    let seconds = at.micros().div_ceil(1_000_000);
    let Ok(at) = OffsetDateTime::from_unix_timestamp(seconds as i64) else { return String::new() };
    let (hour, minute, second) = at.to_hms();
    let (year, month, day) = at.to_calendar_date();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z", u8::from(month))
}
