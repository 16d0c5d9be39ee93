//! Erasure codes: a block as fragments of equal length, any `data` of which give it back.
//!
//! The code is systematic: the first `data` fragments are the block itself, cut in order and filled up
//! with zeros, so that an undisturbed read computes nothing. Position `i` of a fragment depends only on
//! position `i` of the others: a range is rebuilt from the same range of others.
//!
//! Source: Plank, "A Tutorial on Reed-Solomon Coding" (1997); the matrix is Cauchy's, of which every square
//! part can be inverted, over GF(2^8) as in Intel's ISA-L.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use rusty_erasure::{Coder, Matrix};
use serde::{Deserialize, Serialize};

use crate::NodeError;

/// Fragments of one block at most: more would cost more requests than they save room.
pub const MAX_FRAGMENTS: u8 = 32;

/// How many fragments a block has: written as `4+2`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ErasureCode {
    data: u8,
    parity: u8,
}

/// Why a text or two numbers are not an [`ErasureCode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an erasure code: write data+parity, for example 4+2, with at least 2 data fragments, \
     1 parity fragment and no more of both than {MAX_FRAGMENTS}"
)]
pub struct ErasureCodeError(String);

impl ErasureCode {
    /// A code of so many fragments.
    pub fn new(data: u8, parity: u8) -> Result<ErasureCode, ErasureCodeError> {
        let known = data >= 2 && parity >= 1 && data.saturating_add(parity) <= MAX_FRAGMENTS;
        if known {
            Ok(ErasureCode { data, parity })
        } else {
            Err(ErasureCodeError(format!("{data}+{parity}")))
        }
    }

    /// Fragments that give the block back.
    pub fn data(self) -> usize {
        usize::from(self.data)
    }

    /// All fragments of a block.
    pub fn fragments(self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }

    /// Fragments that are on stable storage when a block is acknowledged: half of the parity, rounded up,
    /// is there beyond what a read needs, as a majority of replicas is beyond the one.
    pub fn write_quorum(self) -> usize {
        usize::from(self.data) + usize::from(self.parity.div_ceil(2))
    }

    /// Bytes of each fragment of a block.
    pub fn fragment_len(self, block_len: usize) -> usize {
        block_len.div_ceil(self.data())
    }
}

impl fmt::Display for ErasureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl FromStr for ErasureCode {
    type Err = ErasureCodeError;

    fn from_str(text: &str) -> Result<ErasureCode, ErasureCodeError> {
        let bad = || ErasureCodeError(text.to_owned());
        let (data, parity) = text.split_once('+').ok_or_else(bad)?;
        let number = |digits: &str| digits.parse::<u8>().map_err(|_| bad());
        ErasureCode::new(number(data)?, number(parity)?)
    }
}

impl TryFrom<String> for ErasureCode {
    type Error = ErasureCodeError;

    fn try_from(text: String) -> Result<ErasureCode, ErasureCodeError> {
        text.parse()
    }
}

impl From<ErasureCode> for String {
    fn from(code: ErasureCode) -> String {
        code.to_string()
    }
}

/// Cuts blocks and rebuilds fragments.
pub struct Codec {
    code: ErasureCode,
    coder: Coder,
}

impl Codec {
    /// For a code.
    #[expect(clippy::expect_used, reason = "Cauchy's matrix exists for every code that ErasureCode admits")]
    pub fn new(code: ErasureCode) -> Codec {
        let matrix = Matrix::cauchy(code.data(), usize::from(code.parity)).expect("at most 256 rows");
        Codec { code, coder: rusty_erasure::coder(matrix).expect("a matrix that begins with identity") }
    }

    /// The code.
    pub fn code(&self) -> ErasureCode {
        self.code
    }

    /// The fragments of a block. Those of data share its memory, but for what is filled up.
    pub fn split(&self, block: &Bytes) -> Result<Vec<Bytes>, NodeError> {
        let len = self.code.fragment_len(block.len());
        let mut fragments: Vec<Bytes> = (0..self.code.data())
            .map(|index| {
                let begin = (index * len).min(block.len());
                let end = (begin + len).min(block.len());
                if end - begin == len {
                    return block.slice(begin..end);
                }
                let mut filled = vec![0; len];
                filled[..end - begin].copy_from_slice(&block[begin..end]);
                filled.into()
            })
            .collect();
        let mut parity = vec![vec![0; len]; usize::from(self.code.parity)];
        let data: Vec<&[u8]> = fragments.iter().map(|fragment| &fragment[..]).collect();
        let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|fragment| &mut fragment[..]).collect();
        self.coder.encode(&data, &mut out).map_err(broken)?;
        fragments.extend(parity.into_iter().map(Bytes::from));
        Ok(fragments)
    }

    /// The same range of fragment `wanted`, from that of others: at least `data` of them.
    pub fn rebuild(&self, fragments: &[Option<Bytes>], wanted: usize) -> Result<Bytes, NodeError> {
        let len = fragments.iter().flatten().map(Bytes::len).next().unwrap_or(0);
        let mut rebuilt = vec![0; len];
        let shards: Vec<Option<&[u8]>> = fragments.iter().map(|fragment| fragment.as_deref()).collect();
        self.coder.recover(&shards, &[wanted], &mut [&mut rebuilt]).map_err(broken)?;
        Ok(rebuilt.into())
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({})", self.code)
    }
}

fn broken(error: impl fmt::Display) -> NodeError {
    NodeError::Corrupt(format!("erasure code: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Multiplication in GF(2^8) with the polynomial 0x11d, a bit at a time.
    fn multiply(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b > 0 {
            product ^= if b & 1 == 1 { a } else { 0 };
            a = (a << 1) ^ if a & 0x80 > 0 { 0x1d } else { 0 };
            b >>= 1;
        }
        product
    }

    #[test]
    fn a_code_is_read_as_it_is_written_and_nonsense_is_refused() {
        let code: ErasureCode = "4+2".parse().expect("a code");
        assert_eq!((code.data(), code.fragments(), code.write_quorum()), (4, 6, 5));
        assert_eq!(code.to_string(), "4+2");
        for bad in ["", "4", "4+", "+2", "1+1", "4+0", "30+3", "200+200", "4+2+1", "-4+2", "4 + 2"] {
            assert!(bad.parse::<ErasureCode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parity_is_what_the_matrix_says() {
        let codec = Codec::new("3+2".parse().expect("a code"));
        let block = Bytes::from_static(&[1, 2, 3, 4, 5, 250, 251, 252, 253]);
        let fragments = codec.split(&block).expect("fragments");
        for row in 0..2 {
            let factor = |column| codec.coder.matrix().get(3 + row, column).expect("in the matrix");
            for (position, parity) in fragments[3 + row].iter().enumerate() {
                let product = |column: usize| multiply(factor(column), fragments[column][position]);
                assert_eq!(*parity, product(0) ^ product(1) ^ product(2));
            }
        }
    }

    proptest! {
        #[test]
        fn any_so_many_fragments_give_every_range_of_the_others_back(
            data in 2u8..11,
            parity in 1u8..5,
            block in proptest::collection::vec(any::<u8>(), 1..3000),
            seed in any::<u64>(),
        ) {
            let codec = Codec::new(ErasureCode::new(data, parity).expect("a code"));
            let block = Bytes::from(block);
            let whole = codec.split(&block).expect("fragments");
            let mut joined: Vec<u8> = whole[..usize::from(data)].concat();
            joined.truncate(block.len());
            prop_assert_eq!(&joined[..], &block[..]);
            // Lose as many as there is parity, chosen by the seed.
            let mut order: Vec<usize> = (0..whole.len()).collect();
            order.sort_by_key(|index| (*index as u64 + 1).wrapping_mul(seed | 1).rotate_left(29));
            let lost = &order[..usize::from(parity)];
            let len = whole[0].len();
            let range = (seed as usize % len)..len;
            let left: Vec<Option<Bytes>> = whole
                .iter()
                .enumerate()
                .map(|(index, fragment)| (!lost.contains(&index)).then(|| fragment.slice(range.clone())))
                .collect();
            for index in lost {
                prop_assert_eq!(&codec.rebuild(&left, *index).expect("rebuilt")[..], &whole[*index][range.clone()]);
            }
            let mut too_few = left;
            too_few[order[usize::from(parity)]] = None;
            prop_assert!(codec.rebuild(&too_few, lost[0]).is_err());
        }
    }
}
