//! S3: Signature Version 4 in the `Authorization` header.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Method, header};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::content::Payload;

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Who signs, and where.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Region of the signature.
    pub region: String,
    /// Whether bodies are covered by the signature.
    pub signed_payload: bool,
}

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path as it is sent.
    pub path: &'a str,
    /// Query as it is sent, sorted.
    pub query: &'a str,
    /// `name:value\n` of every signed header, sorted.
    pub headers: &'a str,
    /// Their names, joined by semicolons.
    pub names: &'a str,
    /// Value of `x-amz-content-sha256`.
    pub payload: &'a str,
}

/// Signs requests; keeps the signing key of the day and the text of the second.
#[derive(Clone, Debug)]
pub struct Signer {
    credentials: Arc<Credentials>,
    second: u64,
    stamp: String,
    key: Option<Hmac<Sha256>>,
    key_day: String,
    canonical: String,
    headers: String,
}

impl Signer {
    /// A signer that has signed nothing yet.
    pub fn new(credentials: Arc<Credentials>) -> Signer {
        Signer {
            credentials,
            second: 0,
            stamp: String::new(),
            key: None,
            key_day: String::new(),
            canonical: String::with_capacity(512),
            headers: String::with_capacity(256),
        }
    }

    /// Adds the headers of the signature to a request.
    pub fn add_headers(
        &mut self,
        request: &mut http::Request<Payload>,
        host: &str,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        self.set_time(now)?;
        let digest;
        let payload = match (self.credentials.signed_payload, request.body().remaining()) {
            (_, 0) if request.method() != Method::PUT => EMPTY_SHA256,
            (true, _) => {
                digest = hex::encode(request.body().sha256());
                digest.as_str()
            }
            (false, _) => UNSIGNED,
        };
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        let stamp = &self.stamp;
        write!(headers, "host:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n")?;
        let signed = Signed {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            headers: &headers,
            names: "host;x-amz-content-sha256;x-amz-date",
            payload,
        };
        let authorization = self.authorization(&signed)?;
        self.headers = headers;
        let payload = HeaderValue::from_str(payload)?;
        let stamp = HeaderValue::from_str(&self.stamp)?;
        let map = request.headers_mut();
        map.insert("x-amz-content-sha256", payload);
        map.insert("x-amz-date", stamp);
        map.insert(header::AUTHORIZATION, authorization.try_into()?);
        Ok(())
    }

    /// Signs as of this time from now on.
    pub fn set_time(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let second = now.duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        if second == self.second && !self.stamp.is_empty() {
            return Ok(());
        }
        let at = OffsetDateTime::from_unix_timestamp(second.try_into()?)?;
        let day = format!("{:04}{:02}{:02}", at.year(), u8::from(at.month()), at.day());
        self.stamp = format!("{day}T{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
        self.second = second;
        if self.key.is_none() || day != self.key_day {
            let mut key = format!("AWS4{}", self.credentials.secret_key).into_bytes();
            for part in [day.as_str(), &self.credentials.region, "s3", "aws4_request"] {
                key = keyed(&key)?.chain_update(part).finalize().into_bytes().to_vec();
            }
            self.key = Some(keyed(&key)?);
            self.key_day = day;
        }
        Ok(())
    }

    /// The value of the `Authorization` header.
    pub fn authorization(&mut self, signed: &Signed<'_>) -> anyhow::Result<String> {
        let Signed { method, path, query, headers, names, payload } = *signed;
        self.canonical.clear();
        write!(self.canonical, "{method}\n{path}\n{query}\n{headers}\n{names}\n{payload}")?;
        let mut digest = [0; 64];
        hex::encode_to_slice(Sha256::digest(self.canonical.as_bytes()), &mut digest)?;
        let Credentials { access_key, region, .. } = &*self.credentials;
        let (stamp, day) = (&self.stamp, &self.key_day);
        self.canonical.clear();
        write!(self.canonical, "AWS4-HMAC-SHA256\n{stamp}\n{day}/{region}/s3/aws4_request\n")?;
        let mut key = self.key.clone().context("no signing key yet")?;
        key.update(self.canonical.as_bytes());
        key.update(&digest);
        hex::encode_to_slice(key.finalize().into_bytes(), &mut digest)?;
        let signature = std::str::from_utf8(&digest)?;
        Ok(format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{day}/{region}/s3/aws4_request,\
             SignedHeaders={names},Signature={signature}"
        ))
    }
}

fn keyed(key: &[u8]) -> anyhow::Result<Hmac<Sha256>> {
    Hmac::new_from_slice(key).context("a key for HMAC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The examples of "Authenticating Requests: Using the Authorization Header" in the S3 reference.
    fn sign(signed: &Signed<'_>) -> String {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            region: "us-east-1".into(),
            signed_payload: false,
        };
        let mut signer = Signer::new(Arc::new(credentials));
        signer.set_time(UNIX_EPOCH + Duration::from_secs(1_369_353_600)).unwrap();
        let value = signer.authorization(signed).unwrap();
        assert!(value.contains("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"));
        value.rsplit_once("Signature=").unwrap().1.to_string()
    }

    const HOST: &str = "host:examplebucket.s3.amazonaws.com\n";

    #[test]
    fn get_object_of_the_reference() {
        let headers = format!(
            "{HOST}range:bytes=0-9\nx-amz-content-sha256:{EMPTY_SHA256}\nx-amz-date:20130524T000000Z\n"
        );
        let signed = Signed {
            method: "GET",
            path: "/test.txt",
            query: "",
            headers: &headers,
            names: "host;range;x-amz-content-sha256;x-amz-date",
            payload: EMPTY_SHA256,
        };
        assert_eq!(sign(&signed), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    }

    #[test]
    fn put_object_of_the_reference() {
        let payload = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let headers = format!(
            "date:Fri, 24 May 2013 00:00:00 GMT\n{HOST}x-amz-content-sha256:{payload}\n\
             x-amz-date:20130524T000000Z\nx-amz-storage-class:REDUCED_REDUNDANCY\n"
        );
        let signed = Signed {
            method: "PUT",
            path: "/test%24file.text",
            query: "",
            headers: &headers,
            names: "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            payload,
        };
        assert_eq!(sign(&signed), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    }

    #[test]
    fn queries_of_the_reference() {
        let headers = format!("{HOST}x-amz-content-sha256:{EMPTY_SHA256}\nx-amz-date:20130524T000000Z\n");
        let mut signed = Signed {
            method: "GET",
            path: "/",
            query: "lifecycle=",
            headers: &headers,
            names: "host;x-amz-content-sha256;x-amz-date",
            payload: EMPTY_SHA256,
        };
        assert_eq!(sign(&signed), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        signed.query = "max-keys=2&prefix=J";
        assert_eq!(sign(&signed), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn a_request_gets_its_headers() {
        let credentials = Credentials {
            access_key: "a".into(),
            secret_key: "s".into(),
            region: "r".into(),
            signed_payload: true,
        };
        let mut signer = Signer::new(Arc::new(credentials));
        let mut request = http::Request::put("/bucket/key").body(Payload::default()).unwrap();
        signer.add_headers(&mut request, "localhost:1", SystemTime::now()).unwrap();
        assert_eq!(request.headers()["x-amz-content-sha256"], EMPTY_SHA256);
        assert_eq!(request.headers().len(), 3);
    }
}
