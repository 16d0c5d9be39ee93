//! POST Object: uploads by a form of a browser, which its maker's policy allows.
//!
//! The form is made a PUT of its file by whoever signed the policy. Source: the S3 API's "POST Object"
//! and "Creating a POST policy".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{ETAG, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use kodiak_auth::{Principal, Secret};
use serde_json::Value;
use sha1::Sha1;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use super::S3Front;
use super::call::{Call, MAX_KEY};
use super::error::{Answer, S3Error};
use super::form::{Fields, Form, boundary};
use super::list::encoded;
use super::sigv4::{Payload, Verified, sign};
use super::tags;
use super::xml::Xml;
use crate::http::{RequestBody, empty, header};

/// Pieces of a file that wait to be stored.
const PIECES: usize = 2;
/// Fields that become headers of the PUT, besides those of Amazon's own.
const HEADERS: [&str; 6] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];
/// Fields that prove who made the policy; it need not allow them.
const PROOF: [&str; 5] = ["policy", "x-amz-signature", "signature", "awsaccesskeyid", "file"];
/// Fields of Amazon's that say who asks, not what is stored.
const SIGNING: [&str; 5] =
    ["x-amz-signature", "x-amz-credential", "x-amz-algorithm", "x-amz-date", "x-amz-security-token"];

/// Whether a request is a form: such have no other signature.
pub(super) fn is_form(parts: &Parts) -> bool {
    parts.method == Method::POST
        && !parts.headers.contains_key("authorization")
        && header(&parts.headers, "content-type").is_some_and(|kind| boundary(kind).is_some())
}

fn refused(why: impl std::fmt::Display) -> S3Error {
    S3Error::denied(format!("Invalid according to Policy: {why}"))
}

/// A policy whose signature is right: the least and most bytes of the file, if it allows the form.
fn allowed(policy: &[u8], fields: &Fields, bucket: &str, now: u64) -> Result<(u64, u64), S3Error> {
    let malformed = || {
        let message = "Invalid Policy: it is not the JSON of a policy.";
        S3Error::new(StatusCode::BAD_REQUEST, "InvalidPolicyDocument", message)
    };
    let policy: Value = serde_json::from_slice(policy).map_err(|_| malformed())?;
    let expires = policy["expiration"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    if expires.ok_or_else(malformed)?.unix_timestamp() < now as i64 {
        return Err(refused("Policy expired."));
    }
    let mut covered = vec!["bucket".to_owned()];
    let mut range = (0, u64::MAX);
    for condition in policy["conditions"].as_array().ok_or_else(malformed)? {
        let (name, wanted, prefix) = match condition {
            Value::Object(one) if one.len() == 1 => {
                let (name, value) = one.iter().next().ok_or_else(malformed)?;
                (name.as_str(), value.as_str().ok_or_else(malformed)?, false)
            }
            Value::Array(three) if three.len() == 3 => {
                let kind = three[0].as_str().ok_or_else(malformed)?.to_ascii_lowercase();
                if kind == "content-length-range" {
                    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
                    range = number(&three[1]).zip(number(&three[2])).ok_or_else(malformed)?;
                    continue;
                }
                let name = three[1].as_str().and_then(|name| name.strip_prefix('$')).ok_or_else(malformed)?;
                let wanted = three[2].as_str().ok_or_else(malformed)?;
                match kind.as_str() {
                    "eq" => (name, wanted, false),
                    "starts-with" => (name, wanted, true),
                    _ => return Err(malformed()),
                }
            }
            _ => return Err(malformed()),
        };
        let name = name.to_ascii_lowercase();
        let given = if name == "bucket" { bucket } else { fields.get(&name).unwrap_or("") };
        let holds = if prefix { given.starts_with(wanted) } else { given == wanted };
        if !holds {
            return Err(refused(format!("Policy Condition failed: {condition}")));
        }
        covered.push(name);
    }
    let free = |name: &str| PROOF.contains(&name) || name.starts_with("x-ignore-");
    match fields.fields.iter().find(|(name, _)| !free(name) && !covered.contains(name)) {
        Some((name, _)) => Err(refused(format!("Extra input fields: {name}"))),
        None => Ok(range),
    }
}

impl S3Front {
    /// Stores the file of a form.
    pub(super) async fn post_object(&self, mut parts: Parts, body: RequestBody) -> Answer {
        let kind = header(&parts.headers, "content-type").and_then(boundary).unwrap_or("").to_owned();
        let mut form = Form::new(body, &kind);
        let fields = form.fields().await?;
        let principal = self.signer(&fields).await?;
        if !principal.owner && !principal.reseller_admin {
            return Err(S3Error::access_denied());
        }
        let key = fields.get("key").unwrap_or("").replace("${filename}", &fields.file_name);
        let host = parts.headers.remove("host");
        parts.headers.clear();
        parts.headers.extend(host.map(|host| (http::header::HOST, host)));
        set_headers(&mut parts, &fields)?;
        parts.method = Method::PUT;
        let policy = STANDARD.decode(fields.get("policy").unwrap_or("")).unwrap_or_default();
        let signed = (Payload::Unsigned, Verified::without_chunks());
        // No policy speaks of parameters: there are none.
        let mut call = Call::new(parts, Vec::new(), &self.settings, principal, signed)?;
        let (least, most) = allowed(&policy, &fields, call.bucket(), self.store.now())?;
        if call.key.is_some() {
            return Err(S3Error::method_not_allowed());
        }
        if key.is_empty() || key.contains('\0') {
            return Err(S3Error::missing_key());
        }
        if key.len() > MAX_KEY {
            return Err(S3Error::key_too_long());
        }
        call.key = Some(key);
        call.payload = Payload::Form { least, most };
        let (sender, pieces) = mpsc::channel(PIECES);
        let store = async {
            let mut body = RequestBody::pieces(pieces, None);
            self.object(&call, &mut body).await
        };
        let (stored, ()) = tokio::join!(store, form.send(sender));
        done(&call, &fields, stored?)
    }

    /// Who signed a form's policy.
    async fn signer(&self, fields: &Fields) -> Result<Principal, S3Error> {
        let policy = fields.get("policy").ok_or_else(S3Error::access_denied)?;
        let missing = || S3Error::invalid_argument("The form lacks a field of its signature.");
        if let Some(access_key) = fields.get("awsaccesskeyid") {
            let credential = self.credential(access_key).await?;
            let given = STANDARD.decode(fields.get("signature").ok_or_else(missing)?).unwrap_or_default();
            return match sha1_mac(&credential.secret, policy).ct_eq(given.as_slice()).into() {
                true => Ok(credential.principal),
                false => Err(S3Error::signature()),
            };
        }
        let scope = fields.get("x-amz-credential").ok_or_else(missing)?;
        let scope: Vec<&str> = scope.split('/').collect();
        let [access_key, date, region, "s3", "aws4_request"] = scope[..] else { return Err(missing()) };
        if fields.get("x-amz-algorithm") != Some("AWS4-HMAC-SHA256") || region != self.settings.region {
            return Err(S3Error::invalid_argument("The form's signature is not of this region and kind."));
        }
        let credential = self.credential(access_key).await?;
        let key = self.keys.get(access_key, &credential.secret, date, region);
        let mut given = [0; 32];
        hex::decode_to_slice(fields.get("x-amz-signature").ok_or_else(missing)?, &mut given)
            .map_err(|_| S3Error::signature())?;
        match sign(&key, policy.as_bytes()).ct_eq(&given).into() {
            true => Ok(credential.principal),
            false => Err(S3Error::signature()),
        }
    }
}

fn sha1_mac(secret: &Secret, text: &str) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Gives a request the headers that a form's fields stand for.
fn set_headers(parts: &mut Parts, fields: &Fields) -> Result<(), S3Error> {
    let wrong = |name: &str| S3Error::invalid_argument("A field is no header.").with("ArgumentName", name);
    for (name, value) in &fields.fields {
        let (header, value) = match name.as_str() {
            "acl" => ("x-amz-acl", value.clone()),
            "tagging" => ("x-amz-tagging", tags::of_document(value)?),
            name if HEADERS.contains(&name) => (name, value.clone()),
            name if name.starts_with("x-amz-copy-source") || SIGNING.contains(&name) => continue,
            name if name.starts_with("x-amz-") => (name, value.clone()),
            _ => continue,
        };
        let header = HeaderName::from_bytes(header.as_bytes()).map_err(|_| wrong(name))?;
        parts.headers.append(header, HeaderValue::from_str(&value).map_err(|_| wrong(name))?);
    }
    Ok(())
}

/// What the form wants to be answered.
fn done(call: &Call, fields: &Fields, mut stored: Response<crate::http::ResponseBody>) -> Answer {
    let etag = stored.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or("").to_owned();
    let host = call.header("host").unwrap_or("localhost");
    let location = format!("http://{host}/{}/{}", call.bucket(), encoded(call.key(), true));
    let redirect = fields.get("success_action_redirect").or(fields.get("redirect"));
    if let Some(url) = redirect.filter(|url| url.starts_with("http")) {
        let sign = if url.contains('?') { '&' } else { '?' };
        let pairs = [("bucket", call.bucket()), ("key", call.key()), ("etag", &etag)];
        let query: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value, true))).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("{url}{sign}{}", query.join("&"))) {
            *stored.status_mut() = StatusCode::SEE_OTHER;
            stored.headers_mut().insert(LOCATION, value);
            return Ok(stored);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&location) {
        stored.headers_mut().insert(LOCATION, value);
    }
    match fields.get("success_action_status") {
        Some("200") => Ok(stored),
        Some("201") => {
            let mut xml = Xml::document();
            xml.open("PostResponse");
            xml.element("Location", &location);
            xml.element("Bucket", call.bucket());
            xml.element("Key", call.key());
            xml.element("ETag", &etag);
            let mut answer = xml.answer("PostResponse")?;
            *answer.status_mut() = StatusCode::CREATED;
            for (name, value) in stored.headers().iter().filter(|(name, _)| *name != "content-length") {
                answer.headers_mut().insert(name, value.clone());
            }
            Ok(answer)
        }
        _ => {
            stored.headers_mut().remove("content-length");
            *stored.status_mut() = StatusCode::NO_CONTENT;
            *stored.body_mut() = empty();
            Ok(stored)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(conditions: &str, fields: &[(&str, &str)]) -> Result<(u64, u64), &'static str> {
        let policy = format!("{{\"expiration\":\"2030-01-01T00:00:00.000Z\",\"conditions\":[{conditions}]}}");
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let fields = Fields { fields: fields.iter().map(pair).collect(), file_name: String::new() };
        allowed(policy.as_bytes(), &fields, "b", 1_800_000_000).map_err(|error| error.code)
    }

    #[test]
    fn a_policy_allows_what_it_names_only() {
        let all = "{\"bucket\":\"b\"},[\"starts-with\",\"$Key\",\"u/\"],[\"content-length-range\",1,\"9\"]";
        assert_eq!(of(all, &[("key", "u/x"), ("policy", "p"), ("x-ignore-a", "")]), Ok((1, 9)));
        assert_eq!(of(all, &[("key", "v/x")]), Err("AccessDenied"));
        assert_eq!(of(all, &[("key", "u/x"), ("acl", "public-read")]), Err("AccessDenied"));
        assert_eq!(of("{\"bucket\":\"other\"}", &[]), Err("AccessDenied"));
        assert_eq!(of("[\"eq\",\"$key\",\"k\"]", &[]), Err("AccessDenied"));
        assert_eq!(of("[\"ne\",\"$key\",\"k\"]", &[("key", "k")]), Err("InvalidPolicyDocument"));
        assert_eq!(of("7", &[]), Err("InvalidPolicyDocument"));
    }

    #[test]
    fn a_policy_ends() {
        let policy = b"{\"expiration\":\"2020-01-01T00:00:00Z\",\"conditions\":[]}";
        let late = allowed(policy, &Fields::default(), "b", 1_800_000_000).expect_err("late");
        assert_eq!(late.code, "AccessDenied");
    }
}
