//! Dates as HTTP and listings write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kodiak_storage_api::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// An HTTP date, rounded up to whole seconds as Swift rounds `Last-Modified`: a client that sends it
/// back in `If-Unmodified-Since` means this version.
pub fn http_date(at: Timestamp) -> String {
    let seconds = at.micros().div_ceil(1_000_000);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// ISO 8601 with microseconds and no zone, as Swift's listings have it.
pub fn iso_date(at: Timestamp) -> String {
    let at = OffsetDateTime::from(at.system_time());
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, micro) = at.to_hms_micro();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}", u8::from(month))
}

/// Seconds since 1970 of an HTTP date, or of a mail's, which some clients send (`-0000` for `GMT`); none
/// if it is neither or lies before 1970.
pub fn parse_http_date(text: &str) -> Option<u64> {
    let of_mail = || OffsetDateTime::parse(text, &Rfc2822).ok().map(SystemTime::from);
    let at = httpdate::parse_http_date(text).ok().or_else(of_mail)?;
    Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_modified_rounds_up_and_listings_do_not() {
        let at = Timestamp::from_micros(1_400_000_000_000_001, 0);
        assert_eq!(http_date(at), "Tue, 13 May 2014 16:53:21 GMT");
        assert_eq!(iso_date(at), "2014-05-13T16:53:20.000001");
        assert_eq!(parse_http_date("Tue, 13 May 2014 16:53:21 GMT"), Some(1_400_000_001));
        assert_eq!(parse_http_date("Tue, 13 May 2014 16:53:21 -0000"), Some(1_400_000_001));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
