//! Temporary URLs: whoever holds one may do what its signature says, until it expires.
//!
//! Source: Swift's documentation of tempurl. The signature is an HMAC over method, expiry and path with a
//! key of the account or of the container; `temp_url_prefix` signs all names that begin so, and
//! `temp_url_ip_range` binds the URL to addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::SwiftFront;
use super::auth::challenge;
use super::call::{Call, Query};
use super::error::{Answer, PATH, SwiftError};
use crate::store::StoreError;

/// Hashes that a signature can be made with.
pub(super) const DIGESTS: [&str; 3] = ["sha1", "sha256", "sha512"];
/// Methods that a URL can be signed for.
const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "POST", "DELETE"];
/// Signatures for these allow HEAD too.
const IMPLY_HEAD: [&str; 4] = ["HEAD", "GET", "POST", "PUT"];
/// Request headers that would let the holder reach what the URL does not name.
const FORBIDDEN: [&str; 3] = ["x-object-manifest", "x-symlink-target", "x-copy-from"];
/// Request headers that are passed over.
const IGNORED: [&str; 2] = ["x-timestamp", "x-open-expired"];
/// Metadata of an object is not shown to the holder of a URL, but for what its name says is public.
const HIDDEN: &str = "x-object-meta-";
const SHOWN: &str = "x-object-meta-public-";
/// Parameters that are left when the signature was right: all others would be the holder's own.
const PARAMETERS: [&str; 6] =
    ["temp_url_sig", "temp_url_expires", "temp_url_prefix", "temp_url_ip_range", "filename", "inline"];

/// What `/info` says of temporary URLs.
pub(super) fn info() -> Value {
    json!({
        "methods": METHODS,
        "incoming_remove_headers": IGNORED,
        "incoming_allow_headers": [],
        "outgoing_remove_headers": [format!("{HIDDEN}*")],
        "outgoing_allow_headers": [format!("{SHOWN}*")],
        "allowed_digests": DIGESTS,
        "deprecated_digests": ["sha1"],
    })
}

/// What a signature opens: that of an account's key the whole account (a large object's segments may lie
/// anywhere in it), that of a container's key the container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    Account(String),
    Container(String),
}

impl Scope {
    /// Whether the container of this name, `account/container`, is in it.
    pub(super) fn covers(&self, container: &str) -> bool {
        match self {
            Scope::Account(account) => container.split('/').next() == Some(account),
            Scope::Container(name) => name == container,
        }
    }
}

/// A temporary URL whose signature was right.
pub(super) struct TempUrl {
    expires: u64,
    filename: Option<String>,
    inline: bool,
}

/// Marks an answer that a static web site made in place of an object.
#[derive(Clone, Copy)]
pub(super) struct WebPage;

impl SwiftFront {
    /// Checks the signature of a temporary URL and gives the call what it opens; none if the request
    /// has none.
    pub(super) async fn temp_url(
        &self,
        call: &mut Call,
        peer: IpAddr,
    ) -> Result<Option<TempUrl>, SwiftError> {
        if !call.query.has("temp_url_sig") && !call.query.has("temp_url_expires") {
            return Ok(None);
        }
        let asked = Asked::read(call, peer, self.store.now()).ok_or_else(|| invalid(call))?;
        let mut found = None;
        for (key, scope) in self.temp_url_keys(call).await? {
            if asked.methods.iter().any(|method| asked.signed(key.as_bytes(), method)) {
                found = Some(scope);
                break;
            }
        }
        let scope = found.ok_or_else(|| invalid(call))?;
        if !matches!(call.method, Method::GET | Method::HEAD) {
            refuse_pointers(&call.headers)?;
        }
        for name in IGNORED {
            call.headers.remove(name);
        }
        call.query.keep(&PARAMETERS);
        call.preauthorized = Some(scope);
        let (filename, inline) = (call.query.text("filename"), call.query.has("inline"));
        Ok(Some(TempUrl { expires: asked.expires, filename, inline }))
    }

    /// The keys of the account and the container.
    pub(super) async fn temp_url_keys(&self, call: &Call) -> Result<Vec<(String, Scope)>, SwiftError> {
        let account = match self.store.account(call.account()).await {
            Err(StoreError::NoAccount) => None,
            found => Some(found?.directory),
        };
        let container = match self.store.container_record(call.account(), call.container()).await {
            Err(StoreError::NoContainer) => None,
            found => Some(found?),
        };
        let mut keys = Vec::new();
        for end in ["", "-2"] {
            let key = account.as_ref().and_then(|a| a.header(&format!("x-account-meta-temp-url-key{end}")));
            keys.extend(key.map(|key| (key.to_owned(), Scope::Account(call.account().to_owned()))));
        }
        if let Some(container) = &container {
            for end in ["", "-2"] {
                let key = container.header(&format!("x-container-meta-temp-url-key{end}"));
                keys.extend(key.map(|key| (key.to_owned(), Scope::Container(container.name.clone()))));
            }
        }
        Ok(keys)
    }
}

impl TempUrl {
    /// Takes from the answer what the URL's holder is not shown, and says how to save the object.
    pub(super) fn complete(&self, call: &Call, answer: Answer) -> Answer {
        let mut response = answer?;
        let success = response.status().is_success();
        let page = response.extensions().get::<WebPage>().is_some();
        let headers = response.headers_mut();
        let hidden: Vec<_> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(HIDDEN) && !name.as_str().starts_with(SHOWN))
            .cloned()
            .collect();
        for name in hidden {
            headers.remove(name);
        }
        if !success || !matches!(call.method, Method::GET | Method::HEAD) {
            return Ok(response);
        }
        if call.target.object.is_none() && !page {
            return Err(invalid(call));
        }
        let inline = self.inline || page;
        let disposition = match (&self.filename, headers.get(header::CONTENT_DISPOSITION)) {
            (Some(name), _) => Some(disposition(inline, name)),
            (None, _) if inline => Some("inline".to_owned()),
            (None, Some(_)) => None,
            (None, None) => {
                let name = call.target.object.as_deref().unwrap_or("").trim_end_matches('/');
                Some(disposition(false, name.rsplit('/').next().unwrap_or(name)))
            }
        };
        if let Some(Ok(value)) = disposition.map(|text| HeaderValue::from_str(&text)) {
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
        let expires = std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.expires.min(LATEST));
        if let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(expires)) {
            headers.insert(header::EXPIRES, value);
        }
        Ok(response)
    }
}

/// The last second that an HTTP date can name: the end of the year 9999.
const LATEST: u64 = 253_402_300_799;

/// What a request claims to be signed for.
struct Asked {
    signature: Signature,
    expires: u64,
    path: String,
    range: Option<String>,
    methods: &'static [&'static str],
}

impl Asked {
    fn read(call: &Call, peer: IpAddr, now: u64) -> Option<Asked> {
        let expires = expiry(call.query.get("temp_url_expires")?).filter(|expires| *expires >= now)?;
        let signature = Signature::parse(call.query.get("temp_url_sig")?)?;
        let methods = if call.is_head() {
            &IMPLY_HEAD[..]
        } else {
            let place = METHODS.iter().position(|method| *method == call.method.as_str())?;
            &METHODS[place..=place]
        };
        let range = call.query.text("temp_url_ip_range");
        if let Some(range) = &range
            && !in_range(range, peer)?
        {
            return None;
        }
        let path = path(call)?;
        Some(Asked { signature, expires, path, range, methods })
    }

    /// Whether this key made the signature, for this method.
    fn signed(&self, key: &[u8], method: &str) -> bool {
        let mut message = match &self.range {
            Some(range) => format!("ip={range}\n"),
            None => String::new(),
        };
        message.push_str(&format!("{method}\n{}\n{}", self.expires, self.path));
        self.signature.is_of(key, message.as_bytes())
    }
}

/// What is signed of the path: the object, or the prefix that its name begins with.
fn path(call: &Call) -> Option<String> {
    let (account, container) = (call.account(), call.target.container.as_deref()?);
    let object = call.target.object.as_deref();
    match (call.query.get("temp_url_prefix"), object) {
        (None, Some(object)) if !object.trim_matches('/').is_empty() => {
            Some(format!("/v1/{account}/{container}/{object}"))
        }
        // The root of a static web site.
        (Some(""), None) if matches!(call.method, Method::GET | Method::HEAD) => {
            Some(format!("prefix:/v1/{account}/{container}/"))
        }
        (Some(prefix), Some(object)) if object.starts_with(prefix) => {
            Some(format!("prefix:/v1/{account}/{container}/{prefix}"))
        }
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Digest {
    Sha1,
    Sha256,
    Sha512,
}

impl Digest {
    fn mac(self, key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Digest::Sha1 => mac::<Hmac<Sha1>>(key, message),
            Digest::Sha256 => mac::<Hmac<Sha256>>(key, message),
            Digest::Sha512 => mac::<Hmac<Sha512>>(key, message),
        }
    }
}

/// None never: an HMAC takes keys of any length.
fn mac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    mac.update(message);
    Some(mac.finalize().into_bytes().to_vec())
}

const BASE64: GeneralPurpose = base64_engine(&alphabet::STANDARD);
const BASE64_URL: GeneralPurpose = base64_engine(&alphabet::URL_SAFE);

const fn base64_engine(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// A signature as a request gives it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Signature {
    digest: Digest,
    bytes: Vec<u8>,
}

impl Signature {
    /// Whether the key signed the message so; takes as long whatever the signature.
    pub(super) fn is_of(&self, key: &[u8], message: &[u8]) -> bool {
        self.digest.mac(key, message).is_some_and(|expected| expected.ct_eq(&self.bytes).into())
    }

    /// Reads hex, or `algorithm:base64` in either alphabet.
    pub(super) fn parse(text: &str) -> Option<Signature> {
        let Some((name, value)) = text.split_once(':') else {
            let bytes = hex::decode(text).ok()?;
            let digest = match bytes.len() {
                20 => Digest::Sha1,
                32 => Digest::Sha256,
                64 => Digest::Sha512,
                _ => return None,
            };
            return Some(Signature { digest, bytes });
        };
        let digest = match name {
            "sha1" => Digest::Sha1,
            "sha256" => Digest::Sha256,
            "sha512" => Digest::Sha512,
            _ => return None,
        };
        let engine = if value.contains(['-', '_']) { BASE64_URL } else { BASE64 };
        Some(Signature { digest, bytes: engine.decode(value).ok()? })
    }
}

/// Seconds since 1970: as a number, or as ISO 8601 in UTC.
fn expiry(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(seconds);
    }
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let at = PrimitiveDateTime::parse(text, &form).ok()?;
    u64::try_from(at.assume_utc().unix_timestamp()).ok()
}

/// Whether an address is in a range, `address` or `address/bits`; none if it is not a range.
fn in_range(range: &str, address: IpAddr) -> Option<bool> {
    let (network, bits) = range.split_once('/').unwrap_or((range, ""));
    let network: IpAddr = network.parse().ok()?;
    let width = if network.is_ipv4() { 32 } else { 128 };
    let bits: u32 = if bits.is_empty() && !range.contains('/') { width } else { bits.parse().ok()? };
    let host = width.checked_sub(bits)?;
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    };
    let cut = |number: u128| number.checked_shr(host).unwrap_or(0);
    // A range that names a host in place of its network is a mistake, not a range.
    if cut(number(network)).checked_shl(host).unwrap_or(0) != number(network) {
        return None;
    }
    let address = address.to_canonical();
    Some(address.is_ipv4() == network.is_ipv4() && cut(number(address)) == cut(number(network)))
}

fn refuse_pointers(headers: &HeaderMap) -> Result<(), SwiftError> {
    match FORBIDDEN.iter().find(|name| headers.contains_key(**name)) {
        Some(name) => {
            Err(SwiftError::bad_request(format!("The header '{name}' is not allowed in this tempurl")))
        }
        None => Ok(()),
    }
}

fn invalid(call: &Call) -> SwiftError {
    let error = SwiftError::new(StatusCode::UNAUTHORIZED, "401 Unauthorized: Temp URL invalid\n");
    challenge(error, Some(call))
}

const FILENAME: &AsciiSet = &PATH.remove(b' ');

/// RFC 6266: the name once for old readers and once as UTF-8.
fn disposition(inline: bool, name: &str) -> String {
    let kind = if inline { "inline" } else { "attachment" };
    let (plain, extended) = (utf8_percent_encode(name, FILENAME), utf8_percent_encode(name, PATH));
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}")
}

/// The parameters that links on a listing must carry to be opened with the same signature: those of a
/// prefix; none otherwise.
pub(super) fn link_parameters(query: &Query) -> Option<String> {
    let prefix = query.get("temp_url_prefix")?;
    let mut pairs = Vec::new();
    for name in ["temp_url_prefix", "temp_url_expires", "temp_url_sig", "temp_url_ip_range"] {
        let value = if name == "temp_url_prefix" { Some(prefix) } else { query.get(name) };
        pairs.extend(value.map(|value| format!("{name}={}", utf8_percent_encode(value, PATH))));
    }
    pairs.extend(query.has("inline").then(|| "inline".to_owned()));
    Some(format!("?{}", pairs.join("&amp;")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_in_hex_and_in_both_kinds_of_base64() {
        let bytes: Vec<u8> = (0..20).map(|n| n * 13).collect();
        let read = |text: &str| Signature::parse(text).expect(text);
        let expected = || Signature { digest: Digest::Sha1, bytes: bytes.clone() };
        assert_eq!(read(&hex::encode(&bytes)), expected());
        for engine in [BASE64, BASE64_URL] {
            let text = format!("sha1:{}", engine.encode(&bytes));
            assert_eq!(read(&text), expected());
            assert_eq!(read(text.trim_end_matches('=')), expected());
        }
        for bad in ["", "00", "zz", "md5:AAAA", "sha1:?"] {
            assert!(Signature::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_mac_covers_the_range_method_expiry_and_path() {
        let range = Some("10.0.0.0/8".to_owned());
        let path = "/v1/AUTH_a/c/o".to_owned();
        let message = b"ip=10.0.0.0/8\nGET\n9\n/v1/AUTH_a/c/o";
        let bytes = Digest::Sha256.mac(b"key", message).expect("a mac");
        let signature = Signature { digest: Digest::Sha256, bytes };
        let asked = Asked { signature, expires: 9, path, range, methods: &["GET"] };
        assert!(asked.signed(b"key", "GET"));
        assert!(!asked.signed(b"key", "PUT") && !asked.signed(b"other", "GET"));
    }

    #[test]
    fn an_expiry_is_a_number_or_a_date() {
        assert_eq!(expiry("1400000000"), Some(1_400_000_000));
        assert_eq!(expiry("2014-05-13T16:53:20Z"), Some(1_400_000_000));
        assert_eq!(expiry("tomorrow"), None);
    }

    #[test]
    fn addresses_are_in_their_network() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(in_range("10.1.0.0/16", address("10.1.2.3")), Some(true));
        assert_eq!(in_range("10.1.0.0/16", address("10.2.2.3")), Some(false));
        assert_eq!(in_range("10.1.2.3", address("::ffff:10.1.2.3")), Some(true));
        assert_eq!(in_range("0.0.0.0/0", address("10.1.2.3")), Some(true));
        assert_eq!(in_range("fe80::/10", address("fe80::1")), Some(true));
        assert_eq!(in_range("::/0", address("10.1.2.3")), Some(false));
        for bad in ["10.1.2.3/16", "10.0.0.0/33", "10.0.0.0/", "net"] {
            assert_eq!(in_range(bad, address("10.1.2.3")), None, "{bad}");
        }
    }

    #[test]
    fn a_container_key_opens_its_container_only() {
        assert!(Scope::Account("a".into()).covers("a/d"));
        assert!(!Scope::Account("a".into()).covers("ab/d"));
        assert!(Scope::Container("a/c".into()).covers("a/c"));
        assert!(!Scope::Container("a/c".into()).covers("a/d"));
    }

    #[test]
    fn a_file_name_is_quoted() {
        let text = disposition(false, "a b\"é.txt");
        let expected = "attachment; filename=\"a b%22%C3%A9.txt\"; filename*=UTF-8''a%20b%22%C3%A9.txt";
        assert_eq!(text, expected);
    }
}
