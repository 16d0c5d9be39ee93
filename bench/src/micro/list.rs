//! Listings of one container with many rows.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::{
    Clock, DeviceIndex, DirectoryKey, Entry, ListQuery, Page, Row, RowDurability, StorageNode,
};
use kodiak_storage_node::Node;
use serde::Serialize;

use super::{FolderArgs, volume, write_json};
use crate::latency;
use crate::table::{Table, nanoseconds, number};

const BATCH: u64 = 1000;
const PREFIXES: u64 = 10;
const ROUNDS: u32 = 200;

/// What `micro list` takes.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Rows in the container; a list makes several runs
    #[arg(long, default_value = "10000,1000000", value_delimiter = ',')]
    rows: Vec<u64>,
}

#[derive(Serialize)]
struct Figures {
    rows: u64,
    filled_rows_per_second: f64,
    listings: Vec<Listing>,
}

#[derive(Serialize)]
struct Listing {
    what: &'static str,
    entries: usize,
    p50_ms: f64,
    p99_ms: f64,
}

/// Runs it.
pub fn main(args: &ListArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all = Vec::new();
    let mut table = Table::new(&["listing", "rows", "entries", "p50", "p99", "filled rows/s"]);
    for &rows in &args.rows {
        let folder = tempfile::tempdir_in(&args.folder.folder).context("cannot make a folder")?;
        let figures = runtime.block_on(measure(folder.path(), rows))?;
        for one in &figures.listings {
            table.row(vec![
                one.what.to_string(),
                rows.to_string(),
                one.entries.to_string(),
                nanoseconds(one.p50_ms * 1e6),
                nanoseconds(one.p99_ms * 1e6),
                number(figures.filled_rows_per_second),
            ]);
        }
        all.push(figures);
    }
    print!("{table}");
    write_json(args.folder.common.json.as_deref(), "list", &all)
}

struct Container {
    node: Arc<Node>,
    key: DirectoryKey,
    rows: u64,
}

async fn measure(folder: &std::path::Path, rows: u64) -> anyhow::Result<Figures> {
    let clock = Arc::new(Clock::system(1));
    let hash = PlacementKey::new([1; 32]).hash(b"a/c");
    let key = DirectoryKey { hash };
    let node = volume::open(folder, clock.clone(), key).await?;
    let container = Container { node, key, rows };
    let begun = Instant::now();
    container.fill(&clock).await?;
    let filled_rows_per_second = rows as f64 / begun.elapsed().as_secs_f64();
    let middle = ListQuery { marker: Some(container.name(rows / 2)), limit: 1000, ..blank() };
    let delimiter = ListQuery { delimiter: Some("/".into()), limit: 1000, ..blank() };
    let inside =
        ListQuery { prefix: "prefix-5/".into(), delimiter: Some("/".into()), limit: 1000, ..blank() };
    let page = rows.saturating_sub(rows / 2 + 1).min(1000) as usize;
    let listings = vec![
        container.time("1,000 names from the middle", &middle, page).await?,
        container.time("delimiter: 10 prefixes", &delimiter, PREFIXES as usize).await?,
        container
            .time("delimiter: 1,000 names in one", &inside, (rows / PREFIXES).min(1000) as usize)
            .await?,
    ];
    container.node.shutdown();
    Ok(Figures { rows, filled_rows_per_second, listings })
}

fn blank() -> ListQuery {
    ListQuery::default()
}

impl Container {
    /// Names lie under ten prefixes, as many under each.
    fn name(&self, index: u64) -> String {
        let each = self.rows.div_ceil(PREFIXES);
        format!("prefix-{}/object-{index:010}", index / each)
    }

    async fn fill(&self, clock: &Clock) -> anyhow::Result<()> {
        for first in (0..self.rows).step_by(BATCH as usize) {
            let row = |index| Row {
                name: self.name(index),
                timestamp: clock.now(),
                deleted: false,
                objects: 1,
                bytes: 4096,
                etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
                content_type: "application/octet-stream".into(),
                extra: Vec::new(),
            };
            let rows = (first..self.rows.min(first + BATCH)).map(row).collect();
            self.node.write_rows(DeviceIndex(0), self.key, rows, RowDurability::Volatile).await?;
        }
        Ok(())
    }

    async fn list(&self, query: &ListQuery) -> anyhow::Result<Page> {
        Ok(self.node.list_rows(DeviceIndex(0), self.key, query.clone()).await?)
    }

    async fn time(&self, what: &'static str, query: &ListQuery, want: usize) -> anyhow::Result<Listing> {
        let mut latency = latency::histogram()?;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let page = self.list(query).await?;
            latency::record(&mut latency, begun.elapsed());
            ensure!(page.entries.len() == want, "{what}: {} entries in place of {want}", page.entries.len());
            ensure!(
                page.entries.is_sorted_by_key(|entry: &Entry| entry.name().to_string()),
                "{what}: out of order"
            );
        }
        let at = |share| latency::milliseconds(&latency, share);
        Ok(Listing { what, entries: want, p50_ms: at(0.5), p99_ms: at(0.99) })
    }
}
