//! `kodiak cluster dispersion`.

mod assess;

use std::path::PathBuf;
use std::process::exit;

use anyhow::Result;
use clap::Args;
use kodiak_cluster::ClusterMap;
use kodiak_ring::PolicyIndex;
use kodiak_storage_api::{Policy, Protection, Tree};
use serde_json::json;

use crate::data;
use crate::operator::Operator;
use crate::output::say;
use assess::{Assessment, Found, Wanted, assess};

pub const EXAMPLES: &str = "Examples:
  kodiak cluster dispersion --data /srv/kodiak
  kodiak cluster dispersion --data /srv/kodiak --json
All devices are asked what they have. Exit code: 0 if every replica is in place, 2 if some are missing and every
partition answers all the same, 3 if partitions do not answer, 1 if nobody could be asked.";

/// Partitions that are named, of each ring.
const NAMED: usize = 10;

/// See [`super::ClusterCommand::Dispersion`].
#[derive(Args, Debug)]
pub struct DispersionReport {
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints which replicas are where the rings want them.
pub fn run(arguments: DispersionReport) -> Result<()> {
    let mut operator = Operator::open(&arguments.data.unwrap_or_else(data::default_folder))?;
    operator.refresh()?;
    let map = operator.map().clone();
    let answers = operator.holdings();
    let (mut found, mut silent, mut behind) = (Found::new(), Vec::new(), Vec::new());
    for (member, answer) in map.members.iter().zip(&answers) {
        match answer {
            Ok((placed, holdings)) => {
                if *placed != map.epoch {
                    behind.push(format!("{} goes by map {placed}", member.name));
                }
                for holding in holdings {
                    found.entry((&member.name, &holding.device)).or_default().push(holding);
                }
            }
            Err(problem) => silent.push((member.name.as_str(), problem.as_str())),
        }
    }
    let wanted = wanted(&map)?;
    let rings: Vec<Assessment> = wanted.iter().map(|wanted| assess(wanted, &found)).collect();
    let verdict = Verdict::of(&rings);
    if arguments.json {
        let silent = silent.iter().map(|(node, problem)| json!({ "node": node, "problem": problem }));
        let silent: Vec<_> = silent.collect();
        say!(
            "{:#}",
            json!({ "epoch": map.epoch.0, "silent": silent, "behind": behind, "rings": rings,
                "missing": verdict.missing, "unavailable": verdict.unavailable })
        );
    } else {
        say!("map {}: {} of {} members answer", map.epoch, answers.len() - silent.len(), answers.len());
        silent.iter().for_each(|(node, problem)| say!("  {node} does not: {problem}"));
        behind.iter().for_each(|who| say!("  {who}: look again in a moment"));
        rings.iter().for_each(|ring| say!("{}", describe(ring)));
        say!("{}", verdict.text());
    }
    match verdict {
        Verdict { unavailable: 1.., .. } => exit(3),
        Verdict { missing: 1.., .. } => exit(2),
        Verdict { .. } => Ok(()),
    }
}

/// Everything that has replicas.
fn wanted(map: &ClusterMap) -> Result<Vec<Wanted>> {
    let majority = |replicas: usize| replicas / 2 + 1;
    let mut all = Vec::new();
    for (name, tree, file) in
        [("account", Tree::Accounts, &map.accounts), ("container", Tree::Containers, &map.containers)]
    {
        let ring = file.ring()?;
        let replicas = ring.replicas();
        all.push(Wanted { name: name.into(), tree, ring, replicas, needed: majority(replicas) });
    }
    for (index, policy) in map.policies.iter().enumerate() {
        let (index, ring) = (PolicyIndex(index as u16), policy.ring.ring()?);
        let (blocks, records) =
            (ring.replicas(), Policy::new(ring.clone(), policy.protection).record_replicas());
        let name = |what: &str| format!("{} {what}", policy.name);
        all.push(Wanted {
            name: name("records"),
            tree: Tree::Objects(index),
            ring: ring.clone(),
            replicas: records,
            needed: majority(records),
        });
        let needed = match policy.protection {
            // Blocks never change: any one will do.
            Protection::Replicated => 1,
            Protection::Erasure(code) => code.data(),
        };
        all.push(Wanted { name: name("blocks"), tree: Tree::Blocks(index), ring, replicas: blocks, needed });
    }
    Ok(all)
}

/// What all rings come to.
struct Verdict {
    missing: u64,
    unavailable: usize,
}

impl Verdict {
    fn of(rings: &[Assessment]) -> Verdict {
        let missing = |ring: &Assessment| {
            let counts = ring.missing.iter().enumerate();
            counts.map(|(missing, partitions)| missing as u64 * u64::from(*partitions)).sum::<u64>()
        };
        Verdict {
            missing: rings.iter().map(missing).sum(),
            unavailable: rings.iter().map(|ring| ring.unavailable.len()).sum(),
        }
    }

    fn text(&self) -> String {
        match self {
            Verdict { unavailable: 0, missing: 0 } => "Every replica is in place.".into(),
            Verdict { unavailable: 0, missing } => {
                format!("{missing} replicas are not in place; every partition answers without them.")
            }
            Verdict { unavailable, missing } => format!(
                "{unavailable} partitions do not answer, {missing} replicas are not in place: bring the machines back \
                 that are down, and wait for those that are being filled (`kodiak cluster status --jobs`)."
            ),
        }
    }
}

fn describe(ring: &Assessment) -> String {
    let counts = ring.missing.iter().enumerate().skip(1).filter(|(_, partitions)| **partitions > 0);
    let missing: String =
        counts.map(|(missing, partitions)| format!(", {partitions} lack {missing}")).collect();
    let mut text = format!(
        "{:24} {} partitions of {}: {} have all{missing}",
        ring.ring, ring.partitions, ring.replicas, ring.missing[0]
    );
    for (count, what) in [
        (u64::from(ring.differing), "differ at the moment"),
        (u64::from(ring.same_machine), "have two on one machine"),
        (u64::from(ring.same_zone), "have two in one zone"),
        (ring.held_for_others, "are held for others"),
    ] {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    if !ring.unavailable.is_empty() {
        let named: Vec<String> = ring.unavailable.iter().take(NAMED).map(u32::to_string).collect();
        let more = ring.unavailable.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text += &format!("\n    fewer than {} replicas: partitions {}{more}", ring.needed, named.join(", "));
    }
    text
}
