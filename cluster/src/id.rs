//! Names that machines give: random or digests, written as hex.

use std::fmt;
use std::str::FromStr;

use rand::RngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        /// Hex where people read, bytes between machines.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                if deserializer.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map($name)
                }
            }
        }

        impl FromStr for $name {
            type Err = hex::FromHexError;

            fn from_str(text: &str) -> Result<$name, hex::FromHexError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)?;
                Ok($name(bytes))
            }
        }
    };
}

hex_id!(
    /// Which cluster: random, for ever.
    ClusterId, 16
);
hex_id!(
    /// Which disk: random, written into its folder.
    DiskId, 16
);
hex_id!(
    /// One run of a node's process: random at each start.
    BootId, 16
);
hex_id!(
    /// BLAKE3 of a map's bytes.
    Digest, 32
);
hex_id!(
    /// SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` prints it without colons.
    Fingerprint, 32
);
hex_id!(
    /// BLAKE3 of a public key (its `SubjectPublicKeyInfo`).
    KeyDigest, 32
);
hex_id!(
    /// BLAKE3 of a join token's secret.
    TokenHash, 32
);

impl ClusterId {
    /// A new one.
    pub fn random() -> ClusterId {
        ClusterId(random())
    }
}

impl DiskId {
    /// A new one.
    pub fn random() -> DiskId {
        DiskId(random())
    }
}

impl BootId {
    /// A new one.
    pub fn random() -> BootId {
        BootId(random())
    }
}

/// Bytes of the system's generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// Number of a map: one more with each change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one that follows.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
