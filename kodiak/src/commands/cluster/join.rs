//! `kodiak cluster join`.

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use kodiak_cluster::map::check_name;
use kodiak_cluster::message::CallError;
use kodiak_cluster::{Home, JoinToken, Request, Response, call, message, tls};

use super::{FOLDER, MachineArguments};
use crate::output::say;
use crate::shared::Shared;
use crate::{data, operator};

pub const EXAMPLES: &str = "Example:
  kodiak cluster join --data /srv/kodiak --node n2 --listen 10.0.0.2:8080 --cluster-listen 10.0.0.2:8081 \\
      --devices 4 --zone 2 --token kodiak1-…
Then: kodiak up --data /srv/kodiak. If the answer was lost on the way, run the same command again.";

/// See [`super::ClusterCommand::Join`].
#[derive(Args, Debug)]
pub struct Join {
    #[command(flatten)]
    machine: MachineArguments,
    /// Name of this machine in the cluster: a to z, digits and -.
    #[arg(long)]
    node: String,
    /// What `kodiak cluster token` printed on a member.
    #[arg(long, env = "KODIAK_TOKEN", hide_env_values = true)]
    token: JoinToken,
}

/// Makes this machine a member. The configuration is written last: until then the same command may be repeated.
pub fn run(arguments: Join) -> Result<()> {
    let Join { machine, node, token } = arguments;
    machine.check()?;
    check_name(&node).map_err(|problem| anyhow!(problem))?;
    let folder = machine.folder();
    data::make_folder(&folder)?;
    let lock = data::lock(&folder)?.context("another process uses the folder")?;
    let home = Home::new(&folder.join(FOLDER));
    home.make()?;
    // The key is on the disk before the cluster hears of it.
    let key = home.key()?;
    let request = Request::Join(Box::new(message::Join {
        secret: token.secret(),
        request: key.request()?,
        name: node.clone(),
        region: machine.region,
        zone: machine.zone,
        address: machine.cluster_listen,
    }));
    let config = tls::joining(token.authority)?;
    let welcome = match operator::runtime()?.block_on(call::join(config, &token, request)) {
        Ok(Response::Welcome(welcome)) => welcome,
        Ok(Response::Refused(refusal)) => return Err(refusal.into()),
        Ok(_) => bail!("the member gives no sense"),
        Err(CallError(error)) => bail!("no member of the token could be asked: {error}"),
    };
    let shared = Shared::parse(&welcome.settings)?;
    data::write_secret(&folder.join(data::PLACEMENT_KEY), shared.placement_key.as_bytes())?;
    let mut disks = home.disks(token.cluster, &node)?;
    for slot in &machine.slots()? {
        // A repeated join finds its own.
        if !disks.holds(slot) {
            disks.set_up(slot)?;
        }
    }
    let map = home.settle(&welcome)?;
    let addresses = (machine.listen, machine.metrics());
    let settings = data::settings(machine.settings(&node), machine.devices()?, addresses, shared.users);
    data::write_settings(&folder, &settings)?;
    drop(lock);
    say!("{node} is a member of cluster {}, map {}.", map.cluster, map.epoch);
    say!("Put its devices into use:   kodiak up --data {}", folder.display());
    Ok(())
}
