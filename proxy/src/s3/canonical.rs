//! The canonical form of a request that signature version 4 signs.

use http::request::Parts;
use percent_encoding::percent_decode;

use super::error::S3Error;

/// Writes the canonical request to `out`.
pub(super) fn canonical_request(
    parts: &Parts,
    signed_headers: &str,
    presigned: bool,
    out: &mut String,
) -> Result<(), S3Error> {
    out.push_str(parts.method.as_str());
    out.push('\n');
    encode(parts.uri.path().as_bytes(), true, out);
    out.push('\n');
    query(parts.uri.query().unwrap_or(""), out);
    out.push('\n');
    headers(parts, signed_headers, presigned, out)?;
    out.push('\n');
    out.push_str(signed_headers);
    out.push('\n');
    match parts.headers.get("x-amz-content-sha256").map(|value| value.to_str()) {
        Some(Ok(hash)) => out.push_str(hash),
        Some(Err(_)) => return Err(S3Error::signature()),
        None => out.push_str(hash_of_query(parts.uri.query()).unwrap_or("UNSIGNED-PAYLOAD")),
    }
    Ok(())
}

/// The hash of the payload that a presigned URL names; it is plain letters, or cannot fit.
fn hash_of_query(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Content-Sha256="))
}

/// Undoes percent-encoding and does it again in the one way that is signed.
fn encode(text: &[u8], keep_slash: bool, out: &mut String) {
    for byte in percent_decode(text) {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b'/' if keep_slash => out.push('/'),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

fn query(text: &str, out: &mut String) {
    if text.is_empty() {
        return;
    }
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (mut n, mut v) = (String::with_capacity(name.len()), String::with_capacity(value.len()));
        encode(name.as_bytes(), false, &mut n);
        encode(value.as_bytes(), false, &mut v);
        (n, v)
    };
    let mut pairs: Vec<(String, String)> = text
        .split('&')
        .filter(|text| !text.is_empty())
        .map(pair)
        .filter(|(name, _)| name != "X-Amz-Signature")
        .collect();
    pairs.sort();
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
}

fn headers(parts: &Parts, signed_headers: &str, presigned: bool, out: &mut String) -> Result<(), S3Error> {
    let mut host = false;
    for name in signed_headers.split(';') {
        host |= name == "host";
        out.push_str(name);
        out.push(':');
        for (index, value) in parts.headers.get_all(name).iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            trimmed(value.as_bytes(), out)?;
        }
        out.push('\n');
    }
    if !host {
        return Err(S3Error::denied("The host header must be signed."));
    }
    // A header that means something must not be added to a signed request by somebody else.
    let signed = |name: &str| signed_headers.split(';').any(|signed| signed == name);
    let unsigned = parts.headers.keys().find(|name| {
        let name = name.as_str();
        name.starts_with("x-amz-") && !(presigned && name == "x-amz-content-sha256") && !signed(name)
    });
    match unsigned {
        Some(name) => Err(S3Error::denied("There were headers present in the request which were not signed")
            .with("HeadersNotSigned", name.as_str())),
        None => Ok(()),
    }
}

/// Trims, and makes one space of several.
fn trimmed(value: &[u8], out: &mut String) -> Result<(), S3Error> {
    let text = std::str::from_utf8(value).map_err(|_| S3Error::signature())?;
    let mut space = false;
    for c in text.trim().chars() {
        if c != ' ' || !space {
            out.push(c);
        }
        space = c == ' ';
    }
    Ok(())
}
