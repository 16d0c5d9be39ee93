//! Receiving an object's bytes: chunks taken apart, digests checked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kodiak_storage_api::{ObjectPath, PolicyIndex};
use sha2::{Digest, Sha256};

use super::S3Front;
use super::call::Call;
use super::checksum::{Algorithm, Expected, Hasher, Value};
use super::chunked::ChunkedDecoder;
use super::error::S3Error;
use super::sigv4::Payload;
use crate::http::RequestBody;
use crate::store::Staged;

/// Largest object or part of one request: 5 GiB.
pub(super) const MAX_PUT: u64 = 5 << 30;

/// A body that was received, and the checksum that goes with it.
pub(super) struct Received {
    pub(super) staged: Staged,
    /// The algorithm and the value, Base64.
    pub(super) checksum: Option<(Algorithm, String)>,
}

/// The digests that a request asks to be checked.
struct Checks {
    decoder: Option<ChunkedDecoder>,
    sha256: Option<(Sha256, [u8; 32])>,
    expected: Option<Expected>,
    hasher: Option<Hasher>,
    md5: Option<Vec<u8>>,
    /// Least and most bytes of content that must come.
    length: (u64, u64),
}

impl Checks {
    /// `length`: that of a body which has come already, whatever its headers say.
    fn of(call: &Call, algorithm: Option<Algorithm>, length: Option<u64>) -> Result<Checks, S3Error> {
        let number = |name: &str| match call.header(name).map(str::parse::<u64>) {
            Some(Ok(length)) => Ok(Some(length)),
            Some(Err(_)) => Err(S3Error::invalid_argument(format!("{name} is not a number."))),
            None => Ok(None),
        };
        let (decoder, length) = match call.payload {
            Payload::Chunked { signed, trailer } => {
                let length = number("x-amz-decoded-content-length")?.ok_or_else(S3Error::missing_length)?;
                let verified = signed.then(|| call.verified.clone());
                (Some(ChunkedDecoder::new(verified, trailer, length)), (length, length))
            }
            Payload::Unsigned | Payload::Sha256(_) => {
                let length = length.or(number("content-length")?).ok_or_else(S3Error::missing_length)?;
                (None, (length, length))
            }
            Payload::Form { least, most } => (None, (least, most.min(MAX_PUT))),
        };
        if length.0 > MAX_PUT {
            return Err(S3Error::entity_too_large());
        }
        let mut expected = Expected::from_headers(&call.headers)?;
        if expected.is_none() {
            expected = algorithm.map(|algorithm| Expected { algorithm, value: Value::Made });
        }
        let md5 = match call.header("content-md5").map(|value| STANDARD.decode(value)) {
            Some(Ok(md5)) if md5.len() == 16 => Some(md5),
            Some(_) => return Err(S3Error::invalid_digest()),
            None => None,
        };
        let sha256 = match call.payload {
            Payload::Sha256(hash) => Some((Sha256::new(), hash)),
            _ => None,
        };
        let hasher = expected.as_ref().map(|expected| Hasher::new(expected.algorithm));
        Ok(Checks { decoder, sha256, expected, hasher, md5, length })
    }

    fn update(&mut self, bytes: &Bytes) {
        if let Some((sha256, _)) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    /// Refuses a body that is longer than it may be.
    fn check_most(&self, received: u64) -> Result<(), S3Error> {
        let (least, most) = self.length;
        match received > most {
            true if least == most => Err(S3Error::incomplete_body()),
            true => Err(S3Error::entity_too_large()),
            false => Ok(()),
        }
    }

    /// Compares everything; the checksum that is to be stored.
    fn finish(self, md5: [u8; 16], received: u64) -> Result<Option<(Algorithm, String)>, S3Error> {
        self.check_most(received)?;
        if received < self.length.0 {
            let exact = self.length.0 == self.length.1;
            return Err(if exact { S3Error::incomplete_body() } else { S3Error::file_too_small() });
        }
        let trailers = self.decoder.map(ChunkedDecoder::finish).transpose()?.unwrap_or_default();
        if self.sha256.is_some_and(|(sha256, expected)| sha256.finalize()[..] != expected) {
            return Err(S3Error::sha256_mismatch());
        }
        if self.md5.is_some_and(|expected| expected != md5) {
            return Err(S3Error::bad_digest());
        }
        let (Some(expected), Some(hasher)) = (self.expected, self.hasher) else {
            return if trailers.is_empty() { Ok(None) } else { Err(S3Error::bad_trailer()) };
        };
        let (algorithm, value) = (expected.algorithm, hasher.finish());
        match given(expected, trailers)? {
            Some(given) if given != value => Err(S3Error::wrong_checksum(algorithm.name())),
            _ => Ok(Some((algorithm, value))),
        }
    }
}

/// The checksum that the client says the body has: in a header, or in the only trailer.
fn given(expected: Expected, trailers: Vec<(String, String)>) -> Result<Option<String>, S3Error> {
    let mut trailers = trailers.into_iter();
    let given = match (expected.value, trailers.next()) {
        (Value::Given(value), None) => Some(value),
        (Value::Made, None) => None,
        (Value::InTrailer, Some((name, value))) if name == expected.algorithm.header() => {
            if expected.algorithm.decode(&value).is_none() {
                let message = format!("Value for {name} trailing header is invalid.");
                return Err(S3Error::invalid_request(message));
            }
            Some(value)
        }
        _ => return Err(S3Error::bad_trailer()),
    };
    if trailers.next().is_some() { Err(S3Error::bad_trailer()) } else { Ok(given) }
}

impl S3Front {
    /// Reads a body into an upload and checks it. `algorithm`: a checksum that is made even if the
    /// request has none. With `part`, its bytes go to blocks, so that they can be assembled.
    pub(super) async fn receive(
        &self,
        call: &Call,
        body: &mut RequestBody,
        (path, policy): (ObjectPath, PolicyIndex),
        (algorithm, part): (Option<Algorithm>, bool),
    ) -> Result<Received, S3Error> {
        let mut checks = Checks::of(call, algorithm, None)?;
        let mut upload = self.store.upload(path, policy, part);
        if part {
            upload = upload.part_of(&call.path());
        }
        while let Some(data) = body.data().await {
            let mut data = data?;
            let Some(mut decoder) = checks.decoder.take() else {
                checks.update(&data);
                upload.write(data).await?;
                checks.check_most(upload.written())?;
                continue;
            };
            while let Some(content) = decoder.next(&mut data)? {
                checks.update(&content);
                upload.write(content).await?;
            }
            checks.decoder = Some(decoder);
        }
        let received = upload.written();
        let staged = upload.finish().await?;
        let checksum = checks.finish(staged.md5(), received)?;
        Ok(Received { staged, checksum })
    }

    /// Reads a body that is XML, and checks its digests.
    pub(super) async fn receive_xml(&self, call: &Call, body: &mut RequestBody) -> Result<Bytes, S3Error> {
        let mut text = super::xml::body(body).await?;
        let mut checks = Checks::of(call, None, Some(text.len() as u64))?;
        if let Some(decoder) = &mut checks.decoder {
            let mut content = Vec::new();
            while let Some(piece) = decoder.next(&mut text)? {
                content.extend_from_slice(&piece);
            }
            text = content.into();
        }
        checks.update(&text);
        checks.finish(md5_simd::digest(&text), text.len() as u64)?;
        Ok(text)
    }
}
