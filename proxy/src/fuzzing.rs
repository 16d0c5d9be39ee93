//! Ways into the parsers of untrusted bytes, for `fuzz/`. Not an interface.

pub use crate::s3::fuzzing as s3;
pub use crate::swift::fuzzing as swift;

/// `Range` and the conditions, of any headers: a line each.
pub fn headers(text: &str, length: u64) {
    use crate::http::{Conditions, RequestedRanges, etags, parse_http_date};
    let mut map = http::HeaderMap::new();
    const NAMES: [&str; 4] = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
    for (line, name) in text.lines().zip(NAMES.iter().cycle()) {
        if let Ok(value) = http::HeaderValue::from_str(line) {
            map.insert(*name, value);
        }
        if let Some(crate::http::Ranges::Parts(parts)) =
            RequestedRanges::parse(line).map(|ranges| ranges.of(length))
        {
            assert!(parts.iter().all(|part| part.start < part.end && part.end <= length), "{line}");
        }
        etags(line);
        parse_http_date(line);
    }
    let conditions = Conditions::from_headers(&map, "");
    conditions.decide(&["d41d8cd98f00b204e9800998ecf8427e"], 1_700_000_000);
}
