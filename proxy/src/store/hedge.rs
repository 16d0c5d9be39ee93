//! Reads that do not wait for a slow replica.
//!
//! Source: Dean and Barroso, "The Tail at Scale" (2013).

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kodiak_storage_api::{Health, NodeError};

/// A piece of a block takes this much longer than a message before another replica is asked for it too: it may
/// come from a disk that is busy.
pub(super) const PIECE_SLACK: Duration = Duration::from_millis(50);

/// What replicas answered, by their index, and the errors of the others.
pub(super) type Answers<T> = (Vec<(usize, T)>, Vec<NodeError>);

/// Asks `needed` replicas, and another for each that fails and each time that no answer comes for as long as is
/// usual and `slack`, until so many have answered. Those in this process are asked first, then the nearer ones,
/// and those that are down last. Nothing is timed while only replicas in this process are asked.
pub(super) async fn ask<T, F, A>(health: &[Health], needed: usize, slack: Duration, mut ask: F) -> Answers<T>
where
    F: FnMut(usize) -> A,
    A: Future<Output = Result<T, NodeError>>,
{
    let mut order: Vec<usize> = (0..health.len()).collect();
    order.sort_by_key(|index| rank(health[*index]));
    let usual = order.iter().take(needed).filter_map(|index| late(health[*index])).max();
    let mut waiting = order.into_iter().peekable();
    let mut ask = |index: usize| {
        let answer = ask(index);
        async move { (index, answer.await) }
    };
    let mut asked: FuturesUnordered<_> = waiting.by_ref().take(needed).map(&mut ask).collect();
    let (mut answers, mut errors) = (Vec::with_capacity(needed), Vec::new());
    while answers.len() < needed {
        let answered = match usual {
            Some(usual) if waiting.peek().is_some() => {
                let Ok(answered) = tokio::time::timeout(usual + slack, asked.next()).await else {
                    metrics::counter!("kodiak_hedged_reads_total").increment(1);
                    asked.extend(waiting.next().map(&mut ask));
                    continue;
                };
                answered
            }
            _ => asked.next().await,
        };
        match answered {
            Some((index, Ok(answer))) => answers.push((index, answer)),
            Some((_, Err(error))) => {
                errors.push(error);
                asked.extend(waiting.next().map(&mut ask));
            }
            None => break,
        }
    }
    (answers, errors)
}

fn rank(health: Health) -> (u8, u32) {
    match health {
        Health::Local => (0, 0),
        Health::Remote { distance, .. } => (1, distance),
        Health::Down => (2, 0),
    }
}

/// When an answer is late, if it is ever.
pub(super) fn late(health: Health) -> Option<Duration> {
    match health {
        Health::Remote { late, .. } => Some(late),
        Health::Local | Health::Down => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tokio::time::{Instant, sleep};

    const FAR: Health = Health::Remote { late: Duration::from_millis(10), distance: 3 };

    /// Asks replicas that answer after so many milliseconds, or fail at once where none is given. Answers who was
    /// asked when, and who had answered when all was over.
    async fn asked(
        health: &[Health],
        needed: usize,
        after: &[Option<u64>],
    ) -> (Vec<(u64, usize)>, Vec<usize>, u64) {
        let begun = Instant::now();
        let log = Mutex::new(Vec::new());
        let question = |index: usize| {
            log.lock().push((begun.elapsed().as_millis() as u64, index));
            async move {
                match after[index] {
                    Some(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        Ok(())
                    }
                    None => Err(NodeError::NoBlock),
                }
            }
        };
        let (answers, _) = ask(health, needed, Duration::ZERO, question).await;
        let took = begun.elapsed().as_millis() as u64;
        (log.into_inner(), answers.into_iter().map(|(index, ())| index).collect(), took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_replica_has_another_asked_beside_it() {
        let (log, answers, took) = asked(&[FAR; 3], 2, &[Some(1), Some(5000), Some(2)]).await;
        // The clock of lateness begins anew with each answer.
        assert_eq!((log, answers, took), (vec![(0, 0), (0, 1), (11, 2)], vec![0, 2], 13));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_is_asked_when_all_are_in_time() {
        let (log, answers, _) = asked(&[FAR; 3], 2, &[Some(9), Some(9), Some(0)]).await;
        assert_eq!((log, answers), (vec![(0, 0), (0, 1)], vec![0, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn those_at_hand_come_first_and_those_that_are_down_last() {
        let health = [Health::Down, FAR, Health::Local, FAR];
        let (log, answers, _) = asked(&health, 2, &[None, None, Some(1), None]).await;
        assert_eq!((log, answers), (vec![(0, 2), (0, 1), (0, 3), (0, 0)], vec![2]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearer_come_before_the_farther() {
        let near = |distance| Health::Remote { late: Duration::from_millis(10), distance };
        let health = [FAR, near(2), near(1), Health::Down];
        let (log, answers, _) = asked(&health, 2, &[Some(1), Some(1), None, None]).await;
        assert_eq!((log, answers), (vec![(0, 2), (0, 1), (0, 0)], vec![1, 0]));
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_in_this_process_are_waited_for() {
        let (log, answers, took) = asked(&[Health::Local; 3], 2, &[Some(1), Some(5000), Some(2)]).await;
        assert_eq!((log, answers, took), (vec![(0, 0), (0, 1)], vec![0, 1], 5000));
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_asked_before_it_is_given_up() {
        let (log, answers, _) = asked(&[FAR; 3], 2, &[None, Some(1), None]).await;
        assert_eq!((log.len(), answers), (3, vec![1]));
    }
}
