//! A worker: one connection, one request at a time.
//!
//! An object belongs to one worker at a time, so that the worker knows what it has to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::connection::{Connection, explain, read_text};
use super::content::{Content, Object, Payload, Wrong};
use super::endpoint::{About, Requester};
use super::mix::{Mix, Operation};
use super::tally::{Fault, Tally};
use crate::random::Random;

/// After so many failures to connect one after another, a worker gives up.
const MOST_REFUSALS: u32 = 50;

/// What all workers share for all runs.
#[derive(Debug)]
pub struct Plan {
    /// What objects hold.
    pub content: Content,
    /// Whether to acknowledge at once.
    pub quickack: bool,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The number of the next new object.
    pub next_number: AtomicU64,
    /// The generation of the next write.
    pub next_generation: AtomicU64,
}

/// When a run counts, and when it ends.
#[derive(Debug)]
pub struct Window {
    /// Operations that begin earlier are warm-up.
    pub from: Instant,
    /// None begins later.
    pub until: Option<Instant>,
    /// So many are still to be begun after the warm-up.
    pub tickets: Option<AtomicU64>,
    /// Set when the run is to end at once.
    pub stop: AtomicBool,
}

impl Window {
    /// So many operations, counted at once.
    pub fn of_count(count: u64) -> Window {
        let (from, stop) = (Instant::now(), AtomicBool::new(false));
        Window { from, until: None, tickets: Some(AtomicU64::new(count)), stop }
    }

    /// Whether another operation may begin now.
    fn admits(&self, now: Instant) -> bool {
        if self.stop.load(Relaxed) || self.until.is_some_and(|until| now >= until) {
            return false;
        }
        match &self.tickets {
            Some(tickets) if now >= self.from => {
                tickets.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
            }
            _ => true,
        }
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    plan: Arc<Plan>,
    mix: Arc<Mix>,
    requester: Requester,
    connection: Option<Connection>,
    random: Random,
    refusals: u32,
    /// Objects that are there.
    pub objects: Vec<Object>,
    /// Objects that may be there: a write or delete of them failed.
    pub doubtful: Vec<Object>,
    /// What it has counted.
    pub tally: Tally,
}

impl Worker {
    /// A worker that owns these objects.
    pub fn new(
        plan: Arc<Plan>,
        mix: Arc<Mix>,
        requester: Requester,
        seed: u64,
        objects: Vec<Object>,
    ) -> anyhow::Result<Worker> {
        Ok(Worker {
            plan,
            mix,
            requester,
            connection: None,
            random: Random::new(seed),
            refusals: 0,
            objects,
            doubtful: Vec::new(),
            tally: Tally::new()?,
        })
    }

    /// Works until the window closes or nothing is left to do.
    pub async fn run(mut self, window: Arc<Window>) -> Worker {
        // Connecting is no part of an operation.
        let _ = self.connect().await;
        while let Some((operation, index)) = self.choose() {
            let begun = Instant::now();
            if !window.admits(begun) {
                break;
            }
            let object = self.object(operation, index);
            let outcome = self.perform(operation, object).await;
            let ended = Instant::now();
            self.keep_book(operation, index, object, outcome.is_ok());
            if begun >= window.from {
                self.tally.ended = Some(ended);
                match &outcome {
                    Ok(bytes) => self.tally.success(operation, ended - begun, *bytes),
                    Err(fault) => self.tally.fault(operation, fault),
                }
            }
            if let Err(Fault::Connection(_)) = outcome
                && self.back_off().await
            {
                window.stop.store(true, Relaxed);
            }
        }
        self
    }

    /// The next operation, and the place of its object among this worker's.
    fn choose(&mut self) -> Option<(Operation, usize)> {
        let have = self.objects.len() as u64;
        let operation = self.mix.draw(&mut self.random);
        match operation {
            Operation::Put if self.mix.overwrite && have > 0 => {}
            Operation::Put => return Some((Operation::Put, usize::MAX)),
            _ if have > 0 => {}
            // Everything has been deleted: in a mix, that calls for more.
            _ if self.mix.is_only(operation) => return None,
            _ => return Some((Operation::Put, usize::MAX)),
        }
        let index = if operation == Operation::Delete && self.mix.is_only(operation) {
            have - 1
        } else {
            self.random.below(have)
        };
        Some((operation, index as usize))
    }

    fn object(&self, operation: Operation, index: usize) -> Object {
        let generation = || self.plan.next_generation.fetch_add(1, Relaxed);
        match (operation, self.objects.get(index)) {
            (Operation::Put, Some(old)) => Object { number: old.number, generation: generation() },
            (_, Some(object)) => *object,
            (_, None) => {
                Object { number: self.plan.next_number.fetch_add(1, Relaxed), generation: generation() }
            }
        }
    }

    fn keep_book(&mut self, operation: Operation, index: usize, object: Object, good: bool) {
        match (operation, good) {
            (Operation::Put, true) => match self.objects.get_mut(index) {
                Some(old) => *old = object,
                None => self.objects.push(object),
            },
            (Operation::Put | Operation::Delete, _) => {
                if index < self.objects.len() {
                    self.objects.swap_remove(index);
                }
                if !good {
                    self.doubtful.push(object);
                }
            }
            _ => {}
        }
    }

    async fn perform(&mut self, operation: Operation, object: Object) -> Result<u64, Fault> {
        let limit = self.plan.timeout;
        let outcome = match tokio::time::timeout(limit, self.exchange(operation, object)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::Timeout),
        };
        if let Err(Fault::Connection(_) | Fault::Timeout) = outcome {
            self.connection = None;
        }
        outcome
    }

    async fn exchange(&mut self, operation: Operation, object: Object) -> Result<u64, Fault> {
        let (method, about, body) = match operation {
            Operation::Put => (Method::PUT, About::Object(object), self.plan.content.payload(object)),
            Operation::Get => (Method::GET, About::Object(object), Payload::default()),
            Operation::Head => (Method::HEAD, About::Object(object), Payload::default()),
            Operation::Delete => (Method::DELETE, About::Object(object), Payload::default()),
            Operation::List => (Method::GET, About::PageFrom(object), Payload::default()),
        };
        let request = self.requester.request(method, about, body);
        let request = request.map_err(|error| Fault::Request(format!("{error:#}")))?;
        let connection = self.connect().await?;
        let broken = |error: hyper::Error| Fault::Connection(explain(&error));
        let response = connection.send(request).await.map_err(broken)?;
        let status = response.status();
        if !status.is_success() {
            return Err(Fault::Status(status.as_u16(), read_text(response).await));
        }
        if operation == Operation::Get && status != StatusCode::OK {
            return Err(Fault::Status(status.as_u16(), "not the whole object".into()));
        }
        if operation == Operation::Head {
            self.check_length(object, &response)?;
        }
        self.refusals = 0;
        match operation {
            Operation::Get => self.read_object(object, response.into_body()).await,
            Operation::List => self.read_page(object, response.into_body()).await,
            _ => {
                drain(response.into_body()).await?;
                Ok(if operation == Operation::Put { self.plan.content.size(object.number) } else { 0 })
            }
        }
    }

    async fn connect(&mut self) -> Result<&mut Connection, Fault> {
        if self.connection.as_ref().is_none_or(|connection| !connection.is_open()) {
            let opened = self.requester.connect(self.plan.quickack).await;
            self.connection = Some(opened.map_err(|error| Fault::Connection(format!("{error:#}")))?);
        }
        self.connection.as_mut().ok_or_else(|| Fault::Connection("no connection".into()))
    }

    /// Waits after a failure; says whether to give up.
    async fn back_off(&mut self) -> bool {
        self.refusals += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.refusals >= MOST_REFUSALS
    }

    fn check_length(&self, object: Object, response: &http::Response<Incoming>) -> Result<(), Fault> {
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let want = self.plan.content.size(object.number);
        match length {
            Some(length) if length == want => Ok(()),
            _ => Err(Fault::Corrupt(format!("HEAD says {length:?} bytes in place of {want}"))),
        }
    }

    async fn read_object(&self, object: Object, mut body: Incoming) -> Result<u64, Fault> {
        let mut verifier = self.plan.content.verifier(object);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Fault::Connection(explain(&error)))?;
            if let Some(data) = frame.data_ref() {
                verifier.feed(data);
            }
        }
        let name = Requester::name(object);
        verifier.finish().map_err(|wrong| match wrong {
            Wrong::Stale => Fault::Stale(format!("{name}: another generation than was acknowledged last")),
            Wrong::Corrupt(how) => Fault::Corrupt(format!("{name}: {how}")),
        })
    }

    async fn read_page(&self, object: Object, body: Incoming) -> Result<u64, Fault> {
        let page = body.collect().await.map_err(|error| Fault::Connection(explain(&error)))?.to_bytes();
        let name = Requester::name(object);
        // The page begins with this name: it is looked for near the beginning only.
        let head = page.get(..4096).unwrap_or(&page);
        if !head.windows(name.len()).any(|window| window == name.as_bytes()) {
            return Err(Fault::Unlisted(format!("{name} is not on the page that begins with it")));
        }
        Ok(page.len() as u64)
    }
}

async fn drain(mut body: Incoming) -> Result<(), Fault> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| Fault::Connection(explain(&error)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_gives_out_its_tickets_once() {
        let window = Window::of_count(2);
        let now = Instant::now();
        assert_eq!([window.admits(now), window.admits(now), window.admits(now)], [true, true, false]);
    }

    #[test]
    fn a_window_ends() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let stop = AtomicBool::new(false);
        let window = Window { from: now, until: Some(now + second), tickets: None, stop };
        assert!(window.admits(now) && !window.admits(now + second));
        window.stop.store(true, Relaxed);
        assert!(!window.admits(now));
    }
}
