//! Manifests of static large objects.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    kodiak_proxy::fuzzing::swift::manifest(data);
});
