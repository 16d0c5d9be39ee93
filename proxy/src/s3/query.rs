//! The query of a request.

use percent_encoding::percent_decode_str;

use super::error::S3Error;

/// Decodes a query: percent-encoding, and `+` for a space.
pub(super) fn parse(query: &str) -> Result<Vec<(String, String)>, S3Error> {
    let text = |text: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_| S3Error::invalid_argument("The query is not valid UTF-8."))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((text(name)?, text(value)?))
        })
        .collect()
}
