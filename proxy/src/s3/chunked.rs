//! `aws-chunked`: a body in chunks, each with a signature, and trailers.
//!
//! Source: the S3 API's "Signature Calculations for the Authorization Header: Transferring Payload in
//! Multiple Chunks", and the same with trailing headers.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::S3Error;
use super::sigv4::{Verified, sign};

/// Longest line before a chunk: a size and a signature need about 100 bytes.
const MAX_LINE: usize = 1024;
/// Longest trailers together.
const MAX_TRAILERS: usize = 8 * 1024;
/// SHA-256 of nothing, in hex.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Where in the stream the decoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line before a chunk.
    Header,
    /// In a chunk, so many bytes before its end.
    Data(u64),
    /// In the line end after a chunk.
    DataEnd,
    /// After the last chunk.
    Trailers,
    /// The end has come.
    Done,
}

/// Signatures of chunks: each is made over the one before.
struct Chain {
    verified: Verified,
    previous: [u8; 32],
    /// Of the current chunk, as the client says.
    claimed: [u8; 32],
    hash: Sha256,
}

/// Takes chunks apart without copying what is in them.
pub(super) struct ChunkedDecoder {
    state: State,
    line: BytesMut,
    chain: Option<Chain>,
    trailer: bool,
    decoded: u64,
    expected: u64,
    trailers: Vec<(String, String)>,
}

/// As AWS answers whatever is wrong with the form of chunks.
fn malformed() -> S3Error {
    S3Error::incomplete_body()
}

impl ChunkedDecoder {
    /// A decoder for a body of `expected` decoded bytes; with `signed`, every chunk must be signed.
    pub(super) fn new(signed: Option<Verified>, trailer: bool, expected: u64) -> ChunkedDecoder {
        let chain = signed.map(|verified| Chain {
            previous: verified.signature,
            verified,
            claimed: [0; 32],
            hash: Sha256::new(),
        });
        let line = BytesMut::new();
        ChunkedDecoder {
            state: State::Header,
            line,
            chain,
            trailer,
            decoded: 0,
            expected,
            trailers: Vec::new(),
        }
    }

    /// The next piece of content in `input`; none when `input` is used up. A piece is given before the
    /// signature of its chunk can be checked: nothing of it counts before [`Self::finish`].
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, S3Error> {
        while !input.is_empty() {
            match self.state {
                State::Data(left) => {
                    let piece = input.split_to(input.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                    self.take(&piece, left)?;
                    return Ok(Some(piece));
                }
                State::Done => return Err(malformed()),
                State::Header | State::DataEnd | State::Trailers => {
                    let Some(line) = self.line(input)? else { return Ok(None) };
                    self.on_line(&line)?;
                }
            }
        }
        Ok(None)
    }

    /// The trailers, once the whole body has come and is right.
    pub(super) fn finish(self) -> Result<Vec<(String, String)>, S3Error> {
        // Some clients end unsigned bodies without the last empty line.
        let ended = self.state == State::Done || (self.state == State::Trailers && self.chain.is_none());
        if !ended || !self.line.is_empty() || self.decoded != self.expected {
            return Err(S3Error::incomplete_body());
        }
        Ok(self.trailers)
    }

    fn take(&mut self, piece: &Bytes, left: u64) -> Result<(), S3Error> {
        if let Some(chain) = &mut self.chain {
            chain.hash.update(piece);
        }
        self.decoded += piece.len() as u64;
        if self.decoded > self.expected {
            return Err(S3Error::incomplete_body());
        }
        let left = left - piece.len() as u64;
        self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
        if left == 0 { self.check_chunk() } else { Ok(()) }
    }

    /// Gathers a line, without its end.
    fn line(&mut self, input: &mut Bytes) -> Result<Option<BytesMut>, S3Error> {
        let limit = if self.state == State::Trailers { MAX_TRAILERS } else { MAX_LINE };
        let end = input.iter().position(|byte| *byte == b'\n');
        let taken = input.split_to(end.map_or(input.len(), |end| end + 1));
        if self.line.len() + taken.len() > limit {
            return Err(malformed());
        }
        self.line.extend_from_slice(&taken);
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.line);
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Ok(Some(line))
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), S3Error> {
        let line = std::str::from_utf8(line).map_err(|_| malformed())?;
        match self.state {
            State::Header => self.on_header(line),
            State::DataEnd if line.is_empty() => {
                self.state = State::Header;
                Ok(())
            }
            State::Trailers if line.is_empty() => self.end(),
            State::Trailers if !self.trailer => Err(S3Error::bad_trailer()),
            State::Trailers => {
                let (name, value) = line.split_once(':').ok_or_else(S3Error::bad_trailer)?;
                self.trailers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
                let length: usize = self.trailers.iter().map(|(n, v)| n.len() + v.len()).sum();
                if length > MAX_TRAILERS { Err(S3Error::bad_trailer()) } else { Ok(()) }
            }
            _ => Err(malformed()),
        }
    }

    fn on_header(&mut self, line: &str) -> Result<(), S3Error> {
        let (size, extensions) = line.split_once(';').unwrap_or((line, ""));
        if size.is_empty() || size.len() > 15 {
            return Err(malformed());
        }
        let size = u64::from_str_radix(size.trim(), 16).map_err(|_| malformed())?;
        if let Some(chain) = &mut self.chain {
            let signature =
                extensions.trim().strip_prefix("chunk-signature=").ok_or_else(S3Error::signature)?;
            hex::decode_to_slice(signature, &mut chain.claimed).map_err(|_| S3Error::signature())?;
        }
        if size > 0 {
            self.state = State::Data(size);
            return Ok(());
        }
        self.check_chunk()?;
        // Without trailers the empty line that follows is the end.
        self.state = State::Trailers;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), S3Error> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let hash = hex::encode(std::mem::take(&mut chain.hash).finalize());
        let Verified { time, scope, key, .. } = &chain.verified;
        let previous = hex::encode(chain.previous);
        let to_sign = format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{scope}\n{previous}\n{EMPTY}\n{hash}");
        let expected = sign(key, to_sign.as_bytes());
        if !bool::from(expected.ct_eq(&chain.claimed)) {
            return Err(S3Error::signature());
        }
        chain.previous = expected;
        Ok(())
    }

    fn end(&mut self) -> Result<(), S3Error> {
        self.state = State::Done;
        let Some(chain) = &self.chain else { return Ok(()) };
        if !self.trailer {
            return Ok(());
        }
        let signature = self.trailers.iter().position(|(name, _)| name == "x-amz-trailer-signature");
        let Some(signature) = signature.map(|index| self.trailers.remove(index).1) else {
            return Err(S3Error::signature());
        };
        let mut claimed = [0; 32];
        hex::decode_to_slice(&signature, &mut claimed).map_err(|_| S3Error::signature())?;
        let text: String = self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        let Verified { time, scope, key, .. } = &chain.verified;
        let previous = hex::encode(chain.previous);
        let to_sign = format!("AWS4-HMAC-SHA256-TRAILER\n{time}\n{scope}\n{previous}\n{hash}");
        if bool::from(sign(key, to_sign.as_bytes()).ct_eq(&claimed)) {
            Ok(())
        } else {
            Err(S3Error::signature())
        }
    }
}

/// All content of a body that is in memory; for tests and fuzzing.
#[cfg(test)]
pub(super) fn decode(mut decoder: ChunkedDecoder, body: &[u8], cut: usize) -> Result<Vec<u8>, S3Error> {
    let mut out = Vec::new();
    for piece in body.chunks(cut.max(1)) {
        let mut input = Bytes::copy_from_slice(piece);
        while !input.is_empty() {
            if let Some(content) = decoder.next(&mut input)? {
                out.extend_from_slice(&content);
            }
        }
    }
    decoder.finish()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use kodiak_auth::Secret;
    use proptest::prelude::*;

    use super::*;

    // The documented example: 65 KiB of 'a' in two chunks.
    fn verified() -> Verified {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let key = sign(format!("AWS4{}", secret.expose()).as_bytes(), b"20130524");
        let key = sign(&sign(&sign(&key, b"us-east-1"), b"s3"), b"aws4_request");
        let mut signature = [0; 32];
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        hex::decode_to_slice(seed, &mut signature).expect("hex");
        let scope = "20130524/us-east-1/s3/aws4_request".to_owned();
        Verified { signature, key, scope, time: "20130524T000000Z".into() }
    }

    fn documented() -> Vec<u8> {
        let mut body = Vec::new();
        let signatures = [
            ("10000", 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            ("400", 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            ("0", 0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ];
        for (size, length, signature) in signatures {
            body.extend_from_slice(format!("{size};chunk-signature={signature}\r\n").as_bytes());
            body.extend(std::iter::repeat_n(b'a', length));
            body.extend_from_slice(b"\r\n");
        }
        body
    }

    fn signed() -> ChunkedDecoder {
        ChunkedDecoder::new(Some(verified()), false, 66_560)
    }

    #[test]
    fn the_documented_body_decodes_however_it_is_cut() {
        for cut in [1, 7, 86, 87, 4096, 70_000] {
            assert_eq!(decode(signed(), &documented(), cut), Ok(vec![b'a'; 66_560]), "cut {cut}");
        }
    }

    #[test]
    fn a_changed_byte_a_missing_end_and_a_wrong_length_are_refused() {
        let mut changed = documented();
        changed[40_000] = b'b';
        assert_eq!(decode(signed(), &changed, 4096), Err(S3Error::signature()));
        let short = &documented()[..66_000];
        assert_eq!(decode(signed(), short, 4096), Err(S3Error::incomplete_body()));
        let shorter = ChunkedDecoder::new(Some(verified()), false, 66_559);
        assert_eq!(decode(shorter, &documented(), 4096), Err(S3Error::incomplete_body()));
    }

    #[test]
    fn unsigned_trailers_are_found() {
        let body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
        let mut decoder = ChunkedDecoder::new(None, true, 5);
        let mut input = Bytes::from_static(body);
        assert_eq!(decoder.next(&mut input).expect("content"), Some(Bytes::from_static(b"hello")));
        assert_eq!(decoder.next(&mut input).expect("the end"), None);
        assert_eq!(decoder.finish().expect("trailers"), [("x-amz-checksum-crc32".into(), "NhCmhg==".into())]);
    }

    proptest! {
        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
            let _ = decode(ChunkedDecoder::new(None, true, 20), &body, cut);
            let _ = decode(signed(), &body, cut);
        }
    }
}
