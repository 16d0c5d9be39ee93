//! Access lists of containers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (list, referrer) = text.split_once('\n').unwrap_or((text, ""));
    kodiak_proxy::fuzzing::swift::access_list(list, referrer);
});
