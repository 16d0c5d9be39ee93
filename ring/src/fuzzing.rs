//! Files that get past the checks of whole files, for `fuzz/`. Not an interface.

use std::io::Write;

use crate::file::{MAGIC, VERSION};

/// A ring file with these bytes after its version, and the checksum that fits.
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut file = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    file.extend_from_slice(bytes);
    file.extend_from_slice(blake3::hash(&file).as_bytes());
    file
}

/// A gzip file of Swift's magic bytes and these.
pub fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = packer.write_all(b"R1NG").and_then(|()| packer.write_all(bytes));
    written.and_then(|()| packer.finish()).unwrap_or_default()
}
