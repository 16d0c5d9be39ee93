//! What lies in a volume.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    kodiak_storage_node::fuzzing::needle(data);
});
