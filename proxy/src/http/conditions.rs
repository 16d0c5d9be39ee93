//! Conditional requests, as RFC 9110 section 13 orders them.

use http::HeaderMap;

use super::{header, parse_http_date};

/// The conditions of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`, without quotes.
    pub if_match: Option<Vec<String>>,
    /// `If-None-Match`, without quotes.
    pub if_none_match: Option<Vec<String>>,
    /// `If-Modified-Since`, seconds since 1970.
    pub if_modified_since: Option<u64>,
    /// `If-Unmodified-Since`, seconds since 1970.
    pub if_unmodified_since: Option<u64>,
}

/// What conditions say of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer it.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

impl Conditions {
    /// The conditions of these headers, whose names may begin with a prefix (`x-amz-copy-source-`).
    pub fn from_headers(headers: &HeaderMap, prefix: &str) -> Conditions {
        let named = |name: &str| header(headers, &format!("{prefix}{name}"));
        if prefix.is_empty()
            && !["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]
                .iter()
                .any(|name| headers.contains_key(*name))
        {
            return Conditions::default();
        }
        Conditions {
            if_match: named("if-match").map(etags),
            if_none_match: named("if-none-match").map(etags),
            if_modified_since: named("if-modified-since").and_then(parse_http_date),
            if_unmodified_since: named("if-unmodified-since").and_then(parse_http_date),
        }
    }

    /// What they say of a version with these ETags (any may match), modified at `modified` seconds.
    pub fn decide(&self, current: &[&str], modified: u64) -> Decision {
        let matches =
            |wanted: &[String]| wanted.iter().any(|tag| tag == "*" || current.contains(&tag.as_str()));
        match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) if !matches(tags) => return Decision::PreconditionFailed,
            (None, Some(since)) if modified > since => return Decision::PreconditionFailed,
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) if matches(tags) => Decision::NotModified,
            (None, Some(since)) if modified <= since => Decision::NotModified,
            _ => Decision::Proceed,
        }
    }
}

/// The ETags of a list, without quotes and weakness.
pub fn etags(list: &str) -> Vec<String> {
    let tag = |tag: &str| {
        let tag = tag.trim();
        tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned()
    };
    list.split(',').map(tag).filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(pairs: &[(&'static str, &str)]) -> Conditions {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a header value"));
        }
        Conditions::from_headers(&headers, "")
    }

    #[test]
    fn etags_win_over_dates() {
        let date = "Tue, 13 May 2014 16:53:21 GMT";
        let both = conditions(&[("if-none-match", "\"b\""), ("if-modified-since", date)]);
        assert_eq!(both.decide(&["a"], 0), Decision::Proceed);
        assert_eq!(both.decide(&["b"], u64::MAX), Decision::NotModified);
        let both = conditions(&[("if-match", "a, W/\"c\""), ("if-unmodified-since", date)]);
        assert_eq!(both.decide(&["c"], u64::MAX), Decision::Proceed);
        assert_eq!(both.decide(&["d"], 0), Decision::PreconditionFailed);
    }

    #[test]
    fn dates_compare_whole_seconds() {
        let since = conditions(&[("if-modified-since", "Tue, 13 May 2014 16:53:21 GMT")]);
        assert_eq!(since.decide(&["a"], 1_400_000_001), Decision::NotModified);
        assert_eq!(since.decide(&["a"], 1_400_000_002), Decision::Proceed);
    }
}
