//! A way into the decoding of needles, for `fuzz/`. Not an interface.

use crate::needle::{
    self, BlockMeta, BlocksDeleted, DirectoryMeta, Forgotten, Kind, NeedleError, ObjectMeta, RowsMeta, Salt,
};
use crate::writer::Raw;

const PLACE: (u32, u64) = (3, 128);
const SALT: Salt = Salt(7);
const KINDS: [Kind; 6] =
    [Kind::Object, Kind::Block, Kind::BlocksDeleted, Kind::Directory, Kind::Rows, Kind::Forgotten];

/// Decodes bytes as a needle, and as the metadata of a needle whose checksums fit.
pub fn needle(bytes: &[u8]) {
    // Without the salt nobody gets further than the header.
    let _ = decode(bytes);
    for kind in KINDS {
        let mut sealed = Vec::new();
        let encoded = needle::encode_head(kind, PLACE, SALT, &Raw(bytes), &[], &mut sealed);
        if encoded.is_ok() {
            let _ = decode(&sealed);
        }
    }
}

fn decode(bytes: &[u8]) -> Result<(), NeedleError> {
    let head = needle::decode_head(bytes, PLACE, SALT)?;
    head.verify(0, &bytes[head.header.location.head_len()..])?;
    match head.header.kind {
        Kind::Object => head.decode::<ObjectMeta>().map(drop),
        Kind::Block => head.decode::<BlockMeta>().map(drop),
        Kind::BlocksDeleted => head.decode::<BlocksDeleted>().map(drop),
        Kind::Directory => head.decode::<DirectoryMeta>().map(drop),
        Kind::Rows => head.decode::<RowsMeta>().map(drop),
        Kind::Forgotten => head.decode::<Forgotten>().map(drop),
    }
}
