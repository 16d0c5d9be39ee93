//! Ranges, conditions and dates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((length, text)) = data.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    kodiak_proxy::fuzzing::headers(text, u64::from_le_bytes(*length));
});
