//! A ring file of Swift, packed and unpacked.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = kodiak_ring::RingBuilder::from_swift(data, 1, 0);
    let _ = kodiak_ring::RingBuilder::from_swift(&kodiak_ring::fuzzing::packed(data), 1, 0);
});
