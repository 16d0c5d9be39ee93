//! MD5 of several streams at once: a stream a lane of a vector.
//!
//! One stream cannot be hashed faster than its chain of dependent steps allows, 0.75 GB/s a core here; eight
//! beside each other take 2.4 times as long as one.

use md5_simd::{K, S};
use wide::u32x8;

/// Streams that are hashed at once.
pub const LANES: usize = 8;
/// From so many streams on, lanes are faster than one stream after the other.
const WORTH: usize = 3;

/// State between blocks of 64 bytes.
pub type State = [u32; 4];

/// Which word of a block each step takes (RFC 1321, 3.4).
const WORDS: [usize; 64] = words();

const fn words() -> [usize; 64] {
    let mut words = [0; 64];
    let mut step = 0;
    while step < 64 {
        words[step] = match step / 16 {
            0 => step,
            1 => 5 * step + 1,
            2 => 3 * step + 5,
            _ => 7 * step,
        } % 16;
        step += 1;
    }
    words
}

/// Goes on with each state over its data, all of the same whole number of 64-byte blocks; at most [`LANES`].
pub fn advance(streams: &mut [(&mut State, &[u8])]) {
    if streams.len() < WORTH {
        for (state, data) in streams {
            md5_simd::hazmat::compress_blocks(state, data);
        }
        return;
    }
    // Lanes that nobody needs repeat the last stream.
    let last = streams.len() - 1;
    let mut states = std::array::from_fn(|lane| *streams[lane.min(last)].0);
    compress(&mut states, std::array::from_fn(|lane| streams[lane.min(last)].1));
    for ((state, _), advanced) in streams.iter_mut().zip(states) {
        **state = advanced;
    }
}

fn compress(states: &mut [State; LANES], data: [&[u8]; LANES]) {
    let mut sums: [u32x8; 4] = std::array::from_fn(|word| {
        u32x8::from(std::array::from_fn::<u32, LANES, _>(|lane| states[lane][word]))
    });
    let blocks = data.map(|data| data.as_chunks::<64>().0);
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for index in 0..count {
        let changed = steps(sums, &words_of(blocks.map(|blocks| &blocks[index])));
        sums = std::array::from_fn(|word| sums[word] + changed[word]);
    }
    for (word, column) in sums.into_iter().enumerate() {
        for (state, value) in states.iter_mut().zip(column.to_array()) {
            state[word] = value;
        }
    }
}

/// The words of a block of each lane, word by word.
#[inline(always)]
fn words_of(blocks: [&[u8; 64]; LANES]) -> [u32x8; 16] {
    let word = |block: &[u8; 64], at: usize| {
        u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    };
    std::array::from_fn(|index| {
        u32x8::from(std::array::from_fn::<u32, LANES, _>(|lane| word(blocks[lane], 4 * index)))
    })
}

/// The 64 steps over one block of each lane (RFC 1321, 3.4).
#[inline(always)]
fn steps([mut a, mut b, mut c, mut d]: [u32x8; 4], words: &[u32x8; 16]) -> [u32x8; 4] {
    macro_rules! round {
        ($number:expr, $mix:expr) => {
            for step in 16 * $number..16 * $number + 16 {
                let sum = a + $mix(b, c, d) + words[WORDS[step]] + u32x8::splat(K[step]);
                let turned = (sum << S[step]) | (sum >> (32 - S[step]));
                (a, d, c, b) = (d, c, b, b + turned);
            }
        };
    }
    round!(0, |b: u32x8, c: u32x8, d: u32x8| d ^ (b & (c ^ d)));
    round!(1, |b: u32x8, c: u32x8, d: u32x8| c ^ (d & (b ^ c)));
    round!(2, |b: u32x8, c: u32x8, d: u32x8| b ^ c ^ d);
    round!(3, |b: u32x8, c: u32x8, d: u32x8| c ^ (b | !d));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lanes_and_single_streams_agree(
            count in 1..=LANES,
            blocks in 0usize..20,
            seed in any::<[u32; 4]>(),
            bytes in prop::collection::vec(any::<u8>(), LANES * 20 * 64),
        ) {
            let data: Vec<&[u8]> = bytes.chunks(20 * 64).map(|data| &data[..blocks * 64]).collect();
            let start = |lane: usize| seed.map(|word| word.wrapping_add(lane as u32));
            let mut states: Vec<State> = (0..count).map(start).collect();
            let mut streams: Vec<_> = states.iter_mut().zip(data.iter().copied()).collect();
            advance(&mut streams);
            for (lane, state) in states.into_iter().enumerate() {
                let mut expected = start(lane);
                md5_simd::hazmat::compress_blocks(&mut expected, data[lane]);
                prop_assert_eq!(state, expected);
            }
        }
    }
}
