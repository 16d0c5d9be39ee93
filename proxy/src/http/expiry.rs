//! When an object ends: `X-Delete-After` and `X-Delete-At`, which both fronts take.

use http::HeaderMap;

/// The latest end of an object, as ten digits can say it.
const MAX_DELETE_AT: u64 = 9_999_999_999;

/// When the object of a request ends, in seconds since 1970 as `now` is; or why the request is wrong.
pub fn expires_at(headers: &HeaderMap, now: u64) -> Result<Option<u64>, &'static str> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(after) = text("x-delete-after") {
        let after: i64 = after.parse().map_err(|_| "Non-integer X-Delete-After")?;
        let after = u64::try_from(after).ok().filter(|after| *after > 0).ok_or("X-Delete-After in past")?;
        return Ok(Some(now.saturating_add(after).min(MAX_DELETE_AT)));
    }
    let Some(digits) = text("x-delete-at").filter(|digits| !digits.is_empty()) else { return Ok(None) };
    // Digits that do not fit lie in the far future.
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    let far = all_digits.then_some(MAX_DELETE_AT as i64);
    let at: i64 = digits.parse().ok().or(far).ok_or("Non-integer X-Delete-At")?;
    let at = u64::try_from(at).ok().filter(|at| *at > now).ok_or("X-Delete-At in past")?;
    Ok(Some(at.min(MAX_DELETE_AT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, value: &'static str) -> Result<Option<u64>, &'static str> {
        let value = http::HeaderValue::from_static(value);
        expires_at(&[(http::HeaderName::from_static(name), value)].into_iter().collect(), 100)
    }

    #[test]
    fn an_object_ends_in_the_future_or_not_at_all() {
        assert_eq!(of("x-delete-after", "5"), Ok(Some(105)));
        assert_eq!(of("x-delete-at", "101"), Ok(Some(101)));
        assert_eq!(of("x-delete-at", "99999999999999999999"), Ok(Some(MAX_DELETE_AT)));
        assert_eq!(of("x-delete-at", ""), Ok(None));
        assert_eq!(of("x-delete-at", "100"), Err("X-Delete-At in past"));
        assert_eq!(of("x-delete-at", "x"), Err("Non-integer X-Delete-At"));
        assert_eq!(of("x-delete-after", "-1"), Err("X-Delete-After in past"));
    }
}
