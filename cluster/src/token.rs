//! Join tokens: what a machine needs to find the cluster, to know that it is the right one, and to be
//! admitted once.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::id::random;
use crate::{ClusterId, Fingerprint, TokenHash};

const PREFIX: &str = "kodiak1-";

/// A join token. Its text is a secret until it was used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its authority: whoever answers must have a certificate of it.
    pub authority: Fingerprint,
    /// Second since 1970 from which on it is refused.
    pub expires: u64,
    /// Members to ask, by name.
    pub members: Vec<(String, SocketAddr)>,
    secret: [u8; 32],
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: give what `kodiak cluster token` printed, all of it")]
pub struct TokenError;

impl JoinToken {
    /// A new token; the cluster has to be told its hash.
    pub fn new(
        cluster: ClusterId,
        authority: Fingerprint,
        expires: u64,
        members: Vec<(String, SocketAddr)>,
    ) -> JoinToken {
        JoinToken { cluster, authority, expires, members, secret: random() }
    }

    /// What the cluster keeps of it. The secret has 256 random bits: no salt is needed.
    pub fn hash(&self) -> TokenHash {
        TokenHash(*blake3::hash(&self.secret).as_bytes())
    }

    /// What the machine sends.
    pub fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// The text that a person carries to the other machine.
    pub fn text(&self) -> String {
        // Nothing in it can fail to be encoded.
        let bytes = postcard::to_stdvec(self).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError)?;
        postcard::from_bytes(&bytes).map_err(|_| TokenError)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "join token of cluster {}", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_cut_ones_are_refused() {
        let members = vec![("n1".to_owned(), "10.0.0.1:8081".parse().unwrap())];
        let token = JoinToken::new(ClusterId::random(), Fingerprint([7; 32]), 99, members);
        let text = token.text();
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        for len in 0..text.len() {
            assert_eq!(text[..len].parse::<JoinToken>(), Err(TokenError), "{len}");
        }
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret())));
    }
}
