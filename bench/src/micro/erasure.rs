//! Cutting blocks into fragments, and rebuilding those that are lost.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use kodiak_storage_api::{BLOCK_SIZE, Codec, ErasureCode};
use serde::Serialize;

use super::{MicroArgs, write_json};
use crate::table::Table;

/// What `micro erasure` takes.
#[derive(Args, Clone, Debug)]
pub struct ErasureArgs {
    /// The codes
    #[arg(long, num_args = 1.., default_values = ["4+2", "8+3", "10+4"])]
    codes: Vec<ErasureCode>,
    /// Blocks of each round
    #[arg(long, default_value_t = 500)]
    blocks: usize,
    #[command(flatten)]
    common: MicroArgs,
}

#[derive(Serialize)]
struct Figures {
    code: String,
    /// Bytes of blocks a second and core, 10^9.
    split: f64,
    /// The same where every fragment of data that parity can replace is lost: bytes that are rebuilt.
    rebuilt: f64,
}

/// Runs it.
pub fn main(args: &ErasureArgs) -> anyhow::Result<()> {
    let block: Bytes = (0..BLOCK_SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut figures = Vec::new();
    let mut table = Table::new(&["one core, 4 MiB blocks", "split, GB/s of data", "rebuild, GB/s rebuilt"]);
    for code in &args.codes {
        let codec = Codec::new(*code);
        let begun = Instant::now();
        for _ in 0..args.blocks {
            black_box(codec.split(black_box(&block))?);
        }
        let split = (args.blocks * BLOCK_SIZE) as f64 / begun.elapsed().as_secs_f64() / 1e9;
        let mut fragments: Vec<Option<Bytes>> = codec.split(&block)?.into_iter().map(Some).collect();
        let lost = code.fragments() - code.data();
        fragments[..lost].fill(None);
        let begun = Instant::now();
        for _ in 0..args.blocks {
            for wanted in 0..lost {
                black_box(codec.rebuild(black_box(&fragments), wanted)?);
            }
        }
        let bytes = args.blocks * lost * code.fragment_len(BLOCK_SIZE);
        let rebuilt = bytes as f64 / begun.elapsed().as_secs_f64() / 1e9;
        table.row(vec![code.to_string(), format!("{split:.1}"), format!("{rebuilt:.1}")]);
        figures.push(Figures { code: code.to_string(), split, rebuilt });
    }
    print!("{table}");
    write_json(args.common.json.as_deref(), "erasure", &figures)
}
