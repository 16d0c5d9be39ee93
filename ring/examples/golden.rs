//! Writes the golden ring file of the format's test to the path given. Run it only when the format's version grows.

use kodiak_ring::{NewDevice, RingBuilder, RingError};

fn main() -> Result<(), RingError> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "golden.ring".into());
    let mut builder = RingBuilder::new(2, 2.0, 1, 3)?;
    for zone in 0..3 {
        builder.add_device(NewDevice::new(1, zone, &format!("node{zone}"), "d").weight(50.0))?;
    }
    builder.rebalance(9)?;
    builder.save(path.as_ref())
}
