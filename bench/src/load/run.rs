//! Many workers at once, and the objects that go from one run to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use anyhow::bail;
use tokio::task::JoinHandle;

use super::content::Object;
use super::endpoint::Requester;
use super::mix::{Mix, Operation};
use super::only;
use super::tally::Tally;
use super::worker::{Plan, Window, Worker};

/// The objects, and what workers are made of.
#[derive(Debug)]
pub struct Fleet {
    plan: Arc<Plan>,
    requester: Requester,
    seed: u64,
    objects: Vec<Object>,
    doubtful: Vec<Object>,
}

/// What a run has counted.
#[derive(Debug)]
pub struct Outcome {
    /// By all workers.
    pub tally: Tally,
    /// Whether a worker ended it because it could not connect any more.
    pub stopped: bool,
}

/// A run that has begun.
#[derive(Debug)]
pub struct Running {
    tasks: Vec<JoinHandle<Worker>>,
    window: Arc<Window>,
}

impl Fleet {
    /// A fleet without objects.
    pub fn new(plan: Arc<Plan>, requester: Requester, seed: u64) -> Fleet {
        Fleet { plan, requester, seed, objects: Vec::new(), doubtful: Vec::new() }
    }

    /// Writes objects until there are so many.
    pub async fn prepare(&mut self, count: usize, concurrency: usize) -> anyhow::Result<()> {
        let missing = count.saturating_sub(self.objects.len());
        if missing == 0 {
            return Ok(());
        }
        let begun = Instant::now();
        let kept = std::mem::take(&mut self.objects);
        let mix = only(Operation::Put);
        let running = self.start(&mix, concurrency.min(missing), Window::of_count(missing as u64))?;
        let outcome = self.finish(running).await?;
        self.objects.extend(kept);
        if let Some((key, faults)) = outcome.tally.faults.first_key_value() {
            let (number, example) = (outcome.tally.count_faults(None), &faults.example);
            bail!("{number} of {missing} objects could not be prepared; the first: {}: {example}", key.1);
        }
        eprintln!("prepared {missing} objects in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Deletes all objects.
    pub async fn clean_up(&mut self, concurrency: usize) -> anyhow::Result<()> {
        self.objects.append(&mut self.doubtful);
        let count = self.objects.len();
        if count == 0 {
            return Ok(());
        }
        let begun = Instant::now();
        let running =
            self.start(&only(Operation::Delete), concurrency.min(count), Window::of_count(count as u64))?;
        let mut tally = self.finish(running).await?.tally;
        // Objects whose write failed may not be there.
        tally.faults.retain(|key, _| key.1 != "404");
        if let Some((key, faults)) = tally.faults.first_key_value() {
            let (number, example) = (tally.count_faults(None), &faults.example);
            bail!("{number} of {count} objects could not be deleted; the first: {}: {example}", key.1);
        }
        eprintln!("deleted {count} objects in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Starts workers, and gives each its share of the objects.
    pub fn start(&mut self, mix: &Arc<Mix>, concurrency: usize, window: Window) -> anyhow::Result<Running> {
        let window = Arc::new(window);
        let objects = std::mem::take(&mut self.objects);
        let mut tasks = Vec::with_capacity(concurrency);
        for index in 0..concurrency {
            let share: Vec<Object> = objects.iter().skip(index).step_by(concurrency).copied().collect();
            let seed = self.seed.wrapping_add(index as u64);
            let worker = Worker::new(self.plan.clone(), mix.clone(), self.requester.clone(), seed, share)?;
            tasks.push(tokio::spawn(worker.run(window.clone())));
        }
        Ok(Running { tasks, window })
    }

    /// Waits for the workers, and takes the objects back.
    pub async fn finish(&mut self, running: Running) -> anyhow::Result<Outcome> {
        let mut tally = Tally::new()?;
        for task in running.tasks {
            let worker = task.await?;
            self.objects.extend(worker.objects);
            self.doubtful.extend(worker.doubtful);
            tally.merge(worker.tally);
        }
        Ok(Outcome { tally, stopped: running.window.stop.load(Relaxed) })
    }
}
