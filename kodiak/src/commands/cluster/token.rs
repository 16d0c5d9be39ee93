//! `kodiak cluster token`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use kodiak_cluster::{Change, JoinToken};
use serde_json::json;

use super::seconds;
use crate::data;
use crate::operator::Operator;
use crate::output::say;

pub const EXAMPLES: &str = "Examples:
  kodiak cluster token --data /srv/kodiak
  kodiak cluster token --data /srv/kodiak --minutes 10 --json
The token admits one machine, once. It is a secret until then.";

/// See [`super::ClusterCommand::Token`].
#[derive(Args, Debug)]
pub struct MakeToken {
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
    /// Minutes for which it is good.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Makes a token; the cluster keeps its hash.
pub fn run(arguments: MakeToken) -> Result<()> {
    ensure!(arguments.minutes <= 7 * 24 * 60, "--minutes {}: at most a week", arguments.minutes);
    let mut operator = Operator::open(&arguments.data.unwrap_or_else(data::default_folder))?;
    let expires = seconds() + arguments.minutes * 60;
    let up = operator.map().members.iter().filter(|member| member.address.port() != 0);
    let members = up.map(|member| (member.name.clone(), member.address)).collect();
    let token = JoinToken::new(operator.map().cluster, operator.authority(), expires, members);
    operator.change(Change::AddToken { hash: token.hash(), expires })?;
    if arguments.json {
        say!("{:#}", json!({ "token": token.text(), "expires": expires }));
        return Ok(());
    }
    say!(
        "This token is good for {} minutes and admits one machine. There:
kodiak cluster join --node NAME --listen ADDRESS:8080 --cluster-listen ADDRESS:8081 --token {}",
        arguments.minutes,
        token.text()
    );
    Ok(())
}
