//! Checksums that clients send and ask for: CRC32, CRC32C, CRC64NVME, SHA-1 and SHA-256.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::S3Error;
use crate::http::header;

/// A checksum algorithm of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Algorithm; 5] =
        [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

    /// As the API names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "CRC32",
            Algorithm::Crc32c => "CRC32C",
            Algorithm::Crc64Nvme => "CRC64NVME",
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
        }
    }

    /// The header that carries it.
    pub(super) fn header(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-amz-checksum-crc32",
            Algorithm::Crc32c => "x-amz-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Algorithm::Sha1 => "x-amz-checksum-sha1",
            Algorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The stored header that keeps it.
    pub(super) fn stored(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-object-sysmeta-s3-checksum-crc32",
            Algorithm::Crc32c => "x-object-sysmeta-s3-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-object-sysmeta-s3-checksum-crc64nvme",
            Algorithm::Sha1 => "x-object-sysmeta-s3-checksum-sha1",
            Algorithm::Sha256 => "x-object-sysmeta-s3-checksum-sha256",
        }
    }

    /// The element of XML answers and requests.
    pub(super) fn element(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "ChecksumCRC32",
            Algorithm::Crc32c => "ChecksumCRC32C",
            Algorithm::Crc64Nvme => "ChecksumCRC64NVME",
            Algorithm::Sha1 => "ChecksumSHA1",
            Algorithm::Sha256 => "ChecksumSHA256",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a value.
    fn length(self) -> usize {
        match self {
            Algorithm::Crc32 | Algorithm::Crc32c => 4,
            Algorithm::Crc64Nvme => 8,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Algorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha1 | Algorithm::Sha256 => None,
        }
    }

    /// Whether the checksum of a whole can be made of those of its parts.
    pub(super) fn combines(self) -> bool {
        self.crc().is_some()
    }

    /// Decodes a value; none if it cannot be one.
    pub(super) fn decode(self, value: &str) -> Option<Vec<u8>> {
        STANDARD.decode(value).ok().filter(|bytes| bytes.len() == self.length())
    }
}

/// A checksum being made.
pub(super) enum Hasher {
    Crc(Algorithm, Box<Crc>),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Hasher {
        match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Hasher::Crc(algorithm, Box::new(Crc::new(crc))),
            (None, Algorithm::Sha1) => Hasher::Sha1(Sha1::new()),
            (None, _) => Hasher::Sha256(Sha256::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Crc(_, crc) => crc.update(bytes),
            Hasher::Sha1(sha) => sha.update(bytes),
            Hasher::Sha256(sha) => sha.update(bytes),
        }
    }

    /// The value in Base64, as headers carry it.
    pub(super) fn finish(self) -> String {
        let bytes = match self {
            Hasher::Crc(algorithm, crc) => crc_bytes(algorithm, crc.finalize()),
            Hasher::Sha1(sha) => sha.finalize().to_vec(),
            Hasher::Sha256(sha) => sha.finalize().to_vec(),
        };
        STANDARD.encode(bytes)
    }
}

fn crc_bytes(algorithm: Algorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.length()..].to_vec()
}

/// What a request says of the checksum of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) algorithm: Algorithm,
    pub(super) value: Value,
}

/// Where the value of a checksum comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A header had it.
    Given(String),
    /// A trailer was announced, and must come.
    InTrailer,
    /// Only an algorithm is named: nothing is compared.
    Made,
}

impl Expected {
    /// Reads the headers of a request.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Expected>, S3Error> {
        let given: Vec<Expected> = Algorithm::ALL
            .into_iter()
            .filter_map(|algorithm| Some((algorithm, header(headers, algorithm.header())?)))
            .map(|(algorithm, value)| Expected { algorithm, value: Value::Given(value.to_owned()) })
            .collect();
        if given.len() > 1 {
            return Err(S3Error::invalid_request("Expecting a single x-amz-checksum- header"));
        }
        let named = header(headers, "x-amz-sdk-checksum-algorithm");
        if let Some(Expected { algorithm, value: Value::Given(value) }) = given.first() {
            let invalid =
                |name: &str| Err(S3Error::invalid_request(format!("Value for {name} header is invalid.")));
            if algorithm.decode(value).is_none() {
                return invalid(algorithm.header());
            }
            if named.is_some_and(|name| Algorithm::parse(name) != Some(*algorithm)) {
                return invalid("x-amz-sdk-checksum-algorithm");
            }
            return Ok(given.into_iter().next());
        }
        if let Some(trailer) = header(headers, "x-amz-trailer") {
            let algorithm =
                Algorithm::ALL.into_iter().find(|a| a.header().eq_ignore_ascii_case(trailer.trim()));
            let unknown = || {
                S3Error::invalid_request("The value specified in the x-amz-trailer header is not supported")
            };
            let algorithm = algorithm.ok_or_else(unknown)?;
            return Ok(Some(Expected { algorithm, value: Value::InTrailer }));
        }
        match named.or_else(|| header(headers, "x-amz-checksum-algorithm")) {
            None => Ok(None),
            Some(name) => {
                let unknown = || {
                    S3Error::invalid_request(
                        "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
                    )
                };
                Ok(Some(Expected {
                    algorithm: Algorithm::parse(name).ok_or_else(unknown)?,
                    value: Value::Made,
                }))
            }
        }
    }
}

/// The checksum of a multipart object from its parts' values (Base64) and lengths: of the whole where
/// the algorithm allows it and `full`, else of the parts' values, with their number.
pub(super) fn of_parts(algorithm: Algorithm, parts: &[(String, u64)], full: bool) -> Option<String> {
    let values: Option<Vec<Vec<u8>>> = parts.iter().map(|(value, _)| algorithm.decode(value)).collect();
    let values = values?;
    match algorithm.crc().filter(|_| full) {
        Some(crc) => {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let mut lengths = parts.iter().map(|(_, length)| *length);
            let mut numbers = values.iter().map(|bytes| number(bytes));
            let (mut whole, _) = (numbers.next()?, lengths.next()?);
            for (part, length) in numbers.zip(lengths) {
                whole = crc_fast::checksum_combine(crc, whole, part, length);
            }
            Some(STANDARD.encode(crc_bytes(algorithm, whole)))
        }
        None => {
            let mut hasher = Hasher::new(algorithm);
            values.iter().for_each(|value| hasher.update(value));
            Some(format!("{}-{}", hasher.finish(), parts.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn the_check_values_are_right() {
        let hex = |algorithm| hex::encode(STANDARD.decode(of(algorithm, b"123456789")).expect("Base64"));
        assert_eq!(hex(Algorithm::Crc32), "cbf43926");
        assert_eq!(hex(Algorithm::Crc32c), "e3069283");
        assert_eq!(hex(Algorithm::Crc64Nvme), "ae8b14860a799888");
        assert_eq!(hex(Algorithm::Sha1), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
    }

    #[test]
    fn a_full_checksum_of_parts_is_that_of_the_whole() {
        let (a, b, c) = (vec![1u8; 1000], vec![2u8; 77], vec![3u8; 5]);
        let whole = [a.clone(), b.clone(), c.clone()].concat();
        for algorithm in Algorithm::ALL.into_iter().filter(|a| a.combines()) {
            let parts: Vec<(String, u64)> =
                [&a, &b, &c].into_iter().map(|part| (of(algorithm, part), part.len() as u64)).collect();
            assert_eq!(of_parts(algorithm, &parts, true), Some(of(algorithm, &whole)));
            assert!(of_parts(algorithm, &parts, false).is_some_and(|value| value.ends_with("-3")));
        }
    }
}
