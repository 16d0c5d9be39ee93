//! Asking several replicas at once.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kodiak_storage_api::{Health, NodeError};

use super::error::worst;
use super::hedge;
use kodiak_storage_api::Replica;

/// How many of `replicas` are a majority.
pub(super) fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// Gives every replica the same write and waits until a majority has it on stable storage; the others
/// go on by themselves. On failure, the error that explains most.
pub(super) async fn write<T, F, A>(replicas: Vec<Replica>, write: F) -> Result<Vec<T>, NodeError>
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>> + Send + 'static,
    T: Send + 'static,
{
    write_to(majority(replicas.len()), replicas, write).await
}

/// As [`write()`], but waits for `needed` replicas.
pub(super) async fn write_to<T, F, A>(
    needed: usize,
    replicas: Vec<Replica>,
    mut write: F,
) -> Result<Vec<T>, NodeError>
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>> + Send + 'static,
    T: Send + 'static,
{
    let all = replicas.len();
    if all == 1 {
        let mut done = Vec::with_capacity(1);
        for (index, replica) in replicas.into_iter().enumerate() {
            done.push(write(index, replica).await?);
        }
        return Ok(done);
    }
    // Tasks, not bare futures: a write that has begun is finished even when the majority is reached.
    let mut tasks: FuturesUnordered<_> =
        replicas.into_iter().enumerate().map(|(i, replica)| tokio::spawn(write(i, replica))).collect();
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    while let Some(answer) = tasks.next().await {
        match answer.unwrap_or_else(|broken| Err(NodeError::Unavailable(broken.to_string()))) {
            Ok(value) => done.push(value),
            Err(error) => errors.push(error),
        }
        if done.len() >= needed {
            return Ok(done);
        }
        if errors.len() + needed > all {
            break;
        }
    }
    Err(worst(errors))
}

/// Gives the same write to the first `copies` of some devices, and for each that fails to the next one, until
/// `needed` of them have it on stable storage; the others go on by themselves.
pub(super) async fn write_any<A>(
    needed: usize,
    copies: usize,
    targets: Vec<Replica>,
    mut write: impl FnMut(Replica) -> A,
) -> Result<(), NodeError>
where
    A: Future<Output = Result<(), NodeError>> + Send + 'static,
{
    let mut targets = targets.into_iter();
    let mut tasks: FuturesUnordered<_> =
        targets.by_ref().take(copies).map(|replica| tokio::spawn(write(replica))).collect();
    let (mut done, mut errors) = (0, Vec::new());
    while done < needed {
        match tasks.next().await {
            Some(Ok(Ok(()))) => done += 1,
            Some(failed) => {
                let broken = |error: tokio::task::JoinError| NodeError::Unavailable(error.to_string());
                errors.push(failed.map_err(broken).and_then(|answer| answer).err());
                tasks.extend(targets.next().map(|replica| tokio::spawn(write(replica))));
            }
            None => return Err(worst(errors.into_iter().flatten().collect())),
        }
    }
    Ok(())
}

/// Gives every replica the same write and waits for all of them.
pub(super) async fn write_all<T, F, A>(replicas: Vec<Replica>, mut write: F) -> (Vec<T>, Vec<NodeError>)
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>> + Send + 'static,
    T: Send + 'static,
{
    let mut tasks: FuturesUnordered<_> =
        replicas.into_iter().enumerate().map(|(i, replica)| tokio::spawn(write(i, replica))).collect();
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    while let Some(answer) = tasks.next().await {
        match answer.unwrap_or_else(|broken| Err(NodeError::Unavailable(broken.to_string()))) {
            Ok(value) => done.push(value),
            Err(error) => errors.push(error),
        }
    }
    (done, errors)
}

/// Asks replicas, a majority at first and others for those that fail, until a majority has answered. Where
/// too many fail, the answers of so many suffice that every majority is among them: of two replicas one,
/// since each has every acknowledged row.
pub(super) async fn read<T, F, A>(replicas: &[Replica], ask: F) -> Result<Vec<(usize, T)>, NodeError>
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>>,
{
    let (answers, errors) = answers(replicas, ask).await;
    let needed = majority(replicas.len());
    if answers.len() > replicas.len() - needed { Ok(answers) } else { Err(worst(errors)) }
}

/// The answers of all replicas that answer; an error if there is none.
pub(super) async fn read_any<T, F, A>(replicas: &[Replica], mut ask: F) -> Result<Vec<(usize, T)>, NodeError>
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>>,
{
    let asked = replicas.iter().enumerate().map(|(index, replica)| {
        let answer = ask(index, replica.clone());
        async move { answer.await.map(|answer| (index, answer)) }
    });
    let (answers, errors): (Vec<_>, Vec<_>) =
        futures_util::future::join_all(asked).await.into_iter().partition(Result::is_ok);
    if answers.is_empty() {
        return Err(worst(errors.into_iter().filter_map(Result::err).collect()));
    }
    Ok(answers.into_iter().flatten().collect())
}

/// As [`read()`], but nothing less than a majority will do: of two replicas both.
pub(super) async fn read_majority<T, F, A>(replicas: &[Replica], ask: F) -> Result<Vec<(usize, T)>, NodeError>
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>>,
{
    let (answers, errors) = answers(replicas, ask).await;
    if answers.len() >= majority(replicas.len()) { Ok(answers) } else { Err(worst(errors)) }
}

/// The answers of a majority, or of fewer where too many fail; a replica that is late is not waited for.
async fn answers<T, F, A>(replicas: &[Replica], mut ask: F) -> hedge::Answers<T>
where
    F: FnMut(usize, Replica) -> A,
    A: Future<Output = Result<T, NodeError>>,
{
    let health: Vec<Health> = replicas.iter().map(|replica| replica.node.health()).collect();
    let ask = |index: usize| ask(index, replicas[index].clone());
    hedge::ask(&health, majority(replicas.len()), Duration::ZERO, ask).await
}
