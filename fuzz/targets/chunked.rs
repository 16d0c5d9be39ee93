//! An `aws-chunked` body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [cut, expected, trailer, body @ ..] = data else { return };
    kodiak_proxy::fuzzing::s3::chunked(body, usize::from(*cut), u64::from(*expected), trailer & 1 == 0);
});
