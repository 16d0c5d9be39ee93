//! GetObjectAttributes.

use http::Response;
use kodiak_storage_api::{Layout, ObjectRecord};

use super::S3Front;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::metadata::{CHECKSUM_TYPE, checksum, modified};
use super::versions::{Opened, with_version};
use super::xml::Xml;
use crate::http::{Payload, full, http_date};

const ROOT: &str = "GetObjectAttributesResponse";

impl S3Front {
    pub(super) async fn get_attributes(&self, call: &Call) -> Answer {
        let wanted = call.header("x-amz-object-attributes").unwrap_or("");
        let wanted: Vec<&str> = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let known = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
        if wanted.is_empty() || wanted.iter().any(|name| !known.contains(name)) {
            return Err(S3Error::invalid_argument("Invalid attribute name specified.")
                .with("ArgumentName", "x-amz-object-attributes"));
        }
        let Opened { object, large, version } = self.open(call).await?;
        let record = object.record();
        let mut xml = Xml::root(ROOT);
        for name in known.into_iter().filter(|name| wanted.contains(name)) {
            match name {
                "ETag" => {
                    xml.element("ETag", large.as_ref().map_or(record.etag.as_str(), |l| l.etag.as_str()))
                }
                "Checksum" => checksum_element(&mut xml, record),
                "ObjectParts" => parts(&mut xml, call, record)?,
                "StorageClass" => xml.element("StorageClass", &self.class(object.policy())),
                _ => xml.value("ObjectSize", large.as_ref().map_or(record.size, |l| l.segments.length())),
            }
        }
        xml.close(ROOT);
        let body = xml.finish();
        let builder = with_version(Response::builder(), version.as_deref())
            .header("last-modified", http_date(modified(record)))
            .header("content-type", "application/xml")
            .header("content-length", body.len());
        Ok(builder.body(full(body))?)
    }
}

fn checksum_element(xml: &mut Xml, record: &ObjectRecord) {
    let Some((algorithm, value)) = checksum(record) else { return };
    xml.open("Checksum");
    xml.element(algorithm.element(), value);
    xml.element("ChecksumType", record.header(CHECKSUM_TYPE).unwrap_or("FULL_OBJECT"));
    xml.close("Checksum");
}

fn parts(xml: &mut Xml, call: &Call, record: &ObjectRecord) -> Result<(), S3Error> {
    let Layout::Extents(extents) = &record.layout else { return Ok(()) };
    if !record.etag.contains('-') {
        return Ok(());
    }
    let number = |name: &str, default: usize| match call.header(name).map(str::parse::<usize>) {
        None => Ok(default),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(S3Error::invalid_argument(format!("{name} is not a number."))),
    };
    let marker = number("x-amz-part-number-marker", 0)?;
    let max = number("x-amz-max-parts", 1000)?.min(1000);
    let shown = extents.iter().enumerate().skip(marker).take(max);
    let last = (marker + max).min(extents.len());
    xml.open("ObjectParts");
    xml.value("PartsCount", extents.len());
    xml.value("PartNumberMarker", marker);
    xml.value("NextPartNumberMarker", last);
    xml.value("MaxParts", max);
    xml.value("IsTruncated", last < extents.len());
    for (index, extent) in shown {
        xml.open("Part");
        xml.value("PartNumber", index + 1);
        xml.value("Size", extent.len);
        xml.close("Part");
    }
    xml.close("ObjectParts");
    Ok(())
}
