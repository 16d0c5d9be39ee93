//! Signature versions 2 and 4, in headers and queries.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (target, headers) = text.split_once('\n').unwrap_or((text, ""));
    kodiak_proxy::fuzzing::s3::signed_request(target, headers);
});
