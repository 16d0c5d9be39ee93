//! A ring file, as it is and with the checksum that fits.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = kodiak_ring::RingBuilder::from_bytes(data);
    let sealed = kodiak_ring::fuzzing::sealed(data);
    if let Ok(mut builder) = kodiak_ring::RingBuilder::from_bytes(&sealed) {
        if let Ok(ring) = builder.ring() {
            let first = kodiak_ring::Partition::new(ring.part_power(), 0);
            ring.primaries(first).chain(ring.handoffs(first)).take(100).for_each(drop);
        }
        if builder.part_power() <= 8 {
            let _ = builder.rebalance(1);
        }
    }
});
