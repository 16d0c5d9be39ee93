//! The XML bodies of S3.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    kodiak_proxy::fuzzing::s3::xml_body(data);
});
