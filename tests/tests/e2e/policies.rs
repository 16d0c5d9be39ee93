//! Storage policies of a cluster that runs.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use kodiak_tests::Client;
use serde_json::Value;

use crate::cluster::{Cluster, complaint, content, is_there, kodiak, put, settled};

/// Objects of more than one block each, so that their fragments are on all machines.
const OBJECTS: u8 = 12;
const SIZE: usize = 5_000_000;

/// `kodiak cluster policy …` on a machine.
fn policy(cluster: &Cluster, node: &str, arguments: &[&str]) -> Vec<String> {
    let path = cluster.path(node);
    let command = ["cluster", "policy"].into_iter().chain(arguments.iter().copied());
    command.chain(["--data", path.as_str()]).map(str::to_owned).collect()
}

fn done(arguments: &[String]) -> Result<String> {
    kodiak(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn refused(arguments: &[String]) -> Result<String> {
    complaint(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn make(client: &Client, container: &str, policy: &str) -> Result<(StatusCode, String)> {
    let answer = client.send(Method::PUT, container, &[("x-storage-policy", policy)], Bytes::new()).await?;
    Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
}

/// Reads all objects; how many were there. Others must say that they are not available, and no bytes may be wrong.
async fn available(client: &Client) -> Result<u8> {
    let mut available = 0;
    for number in 0..OBJECTS {
        let answer = client.get(&format!("/cold/{number}")).await?;
        match answer.status {
            StatusCode::OK => {
                ensure!(answer.body == content(number, SIZE), "{number}: other bytes");
                available += 1;
            }
            StatusCode::SERVICE_UNAVAILABLE => {}
            status => anyhow::bail!("{number}: {status}"),
        }
    }
    Ok(available)
}

#[tokio::test]
async fn an_erasure_code_begins_in_a_running_cluster_and_outlives_two_of_its_machines() -> Result<()> {
    let (cluster, mut stores) = Cluster::of(5, &["--replicas", "5"])?;
    cluster.wait("n1", |status| settled(status, 5))?;
    let cold = policy(&cluster, "n2", &["add", "cold", "--erasure", "4+2"]);
    let text = refused(&cold)?;
    ensure!(text.contains("5 machines") && text.contains("kodiak cluster token"), "{text}");
    stores.push(cluster.another("n6", 6)?);
    cluster.wait("n1", |status| settled(status, 6))?;
    let text = done(&cold)?;
    ensure!(text.contains("erasure code 4+2"), "{text}");
    // Nothing was ever written to it: nothing has to be filled before it answers.
    cluster.wait("n1", |status| settled(status, 6))?;

    let first = Client::log_in(&stores[0]).await?;
    ensure!(make(&first, "/cold", "Cold").await?.0 == StatusCode::CREATED, "the container is not made");
    for number in 0..OBJECTS {
        put(&first, &format!("/cold/{number}"), &content(number, SIZE)).await?;
    }
    for number in 0..OBJECTS {
        let of = Client::log_in(&stores[usize::from(number) % 6]).await?;
        is_there(&of, &format!("/cold/{number}"), &content(number, SIZE)).await?;
    }

    stores[4].kill()?;
    ensure!(available(&first).await? == OBJECTS, "one machine is missed");
    stores[5].kill()?;
    // A record has three replicas, and where two of them were on these machines nobody knows the newest one.
    let left = available(&first).await?;
    ensure!(left > 0, "nothing is read from four fragments");

    // One comes back with an empty disk, and is filled from the fragments of the others.
    kodiak(&["device", "reset", "d1", "--data", &cluster.path("n6")])?;
    stores[4].restart()?;
    stores[5].restart()?;
    cluster.wait("n1", |status| settled(status, 6))?;
    stores[0].kill()?;
    stores[1].kill()?;
    // Two others are away: what is read now needs the fragments that were made again.
    let sixth = Client::log_in(&stores[5]).await?;
    ensure!(available(&sixth).await? > 0, "nothing is read with the fragments that were made again");
    stores[0].restart()?;
    stores[1].restart()?;
    cluster.wait("n6", |status| settled(status, 6))?;
    ensure!(available(&sixth).await? == OBJECTS, "something is lost");
    let text =
        refused(&["node", "remove", "n6", "--force", "--data", &cluster.path("n1")].map(str::to_owned))?;
    ensure!(text.contains("kodiak node replace"), "{text}");
    Ok(())
}

#[tokio::test]
async fn policies_change_while_the_cluster_runs() -> Result<()> {
    let (cluster, stores) = Cluster::of(3, &[])?;
    cluster.wait("n1", |status| settled(status, 3))?;
    let (one, two) = (Client::log_in(&stores[0]).await?, Client::log_in(&stores[1]).await?);
    put(&one, "/old", &Bytes::new()).await?;
    done(&policy(&cluster, "n1", &["add", "Two", "--replicas", "2", "--default"]))?;
    cluster.wait("n1", |status| settled(status, 3))?;
    let shown = |answer: kodiak_tests::Answer| {
        let header = answer.headers.get("x-storage-policy").and_then(|value| value.to_str().ok());
        header.map(str::to_owned)
    };
    put(&two, "/new", &Bytes::new()).await?;
    put(&two, "/new/o", &content(1, 3000)).await?;
    ensure!(shown(one.get("/new").await?).as_deref() == Some("Two"), "the default is not taken");
    ensure!(shown(one.get("/old").await?).as_deref() == Some("Policy-0"), "a container changed its policy");

    done(&policy(&cluster, "n2", &["set", "policy-0", "--deprecated", "true", "--name", "old"]))?;
    cluster.wait("n1", |status| settled(status, 3))?;
    let (status, text) = make(&one, "/more", "old").await?;
    ensure!(
        status == StatusCode::BAD_REQUEST && text.contains("Storage Policy 'old' is deprecated"),
        "{text}"
    );
    put(&one, "/old/o", &content(2, 3000)).await?;
    is_there(&two, "/old/o", &content(2, 3000)).await?;
    let created = one.send_s3(Method::PUT, "/bucket", "", Bytes::new()).await?;
    ensure!(created.status == StatusCode::OK, "{created:?}");
    ensure!(shown(two.get("/bucket").await?).as_deref() == Some("Two"), "a bucket has another policy");

    let listed: Value = serde_json::from_str(&done(&policy(&cluster, "n3", &["list", "--json"]))?)?;
    let of = |index: usize, name: &str| listed["policies"][index][name].clone();
    ensure!(of(0, "name") == "old" && of(0, "deprecated") == true && of(0, "default") == false, "{listed:#}");
    ensure!(of(1, "name") == "Two" && of(1, "default") == true && of(1, "replicas") == 2, "{listed:#}");
    let text = refused(&policy(&cluster, "n1", &["set", "old", "--default"]))?;
    ensure!(text.contains("make another one the default"), "{text}");
    let text = refused(&policy(&cluster, "n1", &["set", "Policy-0", "--default"]))?;
    ensure!(text.contains("kodiak cluster policy list"), "{text}");
    let names: Vec<&str> =
        listed["policies"].as_array().context("a list")?.iter().filter_map(|p| p["name"].as_str()).collect();
    ensure!(names == ["old", "Two"], "{names:?}");
    Ok(())
}
