//! The caller's side of a connection for messages.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::link::{Failure, explained};
use super::wire::{self, Arrived, Kind, Outbox, Packet, Reader};
use super::{Frame, MAX_ANSWER, Received};

/// A peer from which nothing comes for so long while calls wait is asked whether it is there: calls that are
/// given up early, as hedged reads are, would not find out.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Its time to answer that. Short of a message's deadline, and longer than a busy machine's hiccup.
const ALIVE: Duration = Duration::from_secs(3);

/// A connection. It ends when it is dropped, or with the peer.
#[derive(Clone)]
pub(super) struct Messages {
    outbox: Outbox,
    waiting: Arc<Waiting>,
    version: u8,
}

/// Calls that wait for their answers.
#[derive(Default)]
struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    calls: HashMap<u32, oneshot::Sender<Result<Received, Failure>>>,
    last: u32,
    /// No more calls, since the connection is lost or its server about to stop.
    closed: bool,
}

/// A call that waits. Dropped before it is answered, it is cancelled at the peer.
struct Call<'a> {
    connection: &'a Messages,
    number: u32,
}

impl Messages {
    /// Begins to talk over a stream, in a version.
    pub fn open<S>(stream: S, peer: &str, version: u8) -> Messages
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = tokio::io::split(stream);
        let (outbox, packets) = wire::outbox();
        let waiting = Arc::<Waiting>::default();
        let (kept, peer) = (waiting.clone(), peer.to_owned());
        let asking = outbox.downgrade();
        tokio::spawn(async move {
            let ended = run(from, to, packets, asking, &kept).await;
            let why = match ended {
                Ok(()) => "the peer has closed the connection".to_owned(),
                Err(error) => explained(&error),
            };
            tracing::debug!(peer, why, "connection for messages ended");
            kept.end(&why);
        });
        Messages { outbox, waiting, version }
    }

    /// Whether no more calls can be made.
    pub fn is_closed(&self) -> bool {
        self.waiting.0.lock().closed || self.outbox.is_closed()
    }

    /// Makes a call. Gives the frame back if nothing of it was sent.
    pub async fn call(&self, frame: Frame) -> Result<Result<Received, Failure>, Frame> {
        let Ok(room) = self.outbox.reserve().await else { return Err(frame) };
        let Some((number, answer)) = self.waiting.enter() else { return Err(frame) };
        let _call = Call { connection: self, number };
        room.send(Packet::message(Kind::Call, number, frame.in_version(self.version)));
        Ok(answer.await.unwrap_or_else(|_| Err(Failure::Broken("the connection is lost".into()))))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.connection.waiting.0.lock().calls.remove(&self.number).is_some() {
            // With no room for it the peer finds out by the deadline that went with the call.
            let _ = self.connection.outbox.try_send(Packet::words(Kind::Cancel, self.number, ""));
        }
    }
}

impl Waiting {
    /// A number for a call, and where its answer comes.
    fn enter(&self) -> Option<(u32, oneshot::Receiver<Result<Received, Failure>>)> {
        let mut state = self.0.lock();
        if state.closed {
            return None;
        }
        let (sender, answer) = oneshot::channel();
        // Far fewer calls wait than there are numbers.
        let mut number = state.last.wrapping_add(1);
        while state.calls.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        state.last = number;
        state.calls.insert(number, sender);
        Some((number, answer))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().calls.is_empty()
    }

    fn answered(&self, number: u32, answer: Result<Received, Failure>) {
        // Who has given up has no place here any more.
        let waiting = self.0.lock().calls.remove(&number);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    /// Whether no more answers will come.
    fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.closed && state.calls.is_empty()
    }

    fn close(&self) {
        self.0.lock().closed = true;
    }

    fn end(&self, why: &str) {
        self.close();
        let calls = std::mem::take(&mut self.0.lock().calls);
        calls.into_values().for_each(|call| _ = call.send(Err(Failure::Broken(why.to_owned()))));
    }
}

/// Writes and reads until either ends.
async fn run<S: AsyncRead + AsyncWrite>(
    from: ReadHalf<S>,
    to: WriteHalf<S>,
    packets: mpsc::Receiver<Packet>,
    asking: mpsc::WeakSender<Packet>,
    waiting: &Waiting,
) -> io::Result<()> {
    tokio::select! {
        written = wire::write(to, packets) => written,
        read = read(Reader::new(from, MAX_ANSWER), asking, waiting) => read,
    }
}

/// Gives answers to those who wait for them, and makes sure that the peer is there.
async fn read<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    outbox: mpsc::WeakSender<Packet>,
    waiting: &Waiting,
) -> io::Result<()> {
    let say = |kind| outbox.upgrade().map(|outbox| outbox.try_send(Packet::words(kind, 0, "")));
    // How much had come when it was asked whether it is there. A large answer that is slow is a sign of life.
    let mut asked = None;
    while !waiting.is_over() {
        let patience = if asked.is_some() { ALIVE } else { KEEP_ALIVE };
        match timeout(patience, reader.next()).await {
            Ok(packet) => match packet? {
                Some(Arrived { kind: Kind::Ping, .. }) => _ = say(Kind::Alive),
                Some(packet) => arrived(packet, waiting),
                None => return Ok(()),
            },
            Err(_) if asked == Some(reader.received()) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent"));
            }
            Err(_) if !waiting.is_empty() => {
                say(Kind::Ping);
                asked = Some(reader.received());
                continue;
            }
            Err(_) => {}
        }
        asked = None;
    }
    Ok(())
}

fn arrived(packet: Arrived, waiting: &Waiting) {
    let Arrived { kind, call, body } = packet;
    let words = |body: Bytes| String::from_utf8_lossy(&body).into_owned();
    match kind {
        Kind::Answer => {
            let answer = Received::split(vec![body]).map_err(|error| Failure::Broken(error.to_string()));
            waiting.answered(call, answer);
        }
        Kind::Refused => waiting.answered(call, Err(Failure::Refused(words(body)))),
        Kind::Overloaded => waiting.answered(call, Err(Failure::Overloaded)),
        Kind::Leaving => waiting.close(),
        Kind::Alive | Kind::Ping | Kind::Call | Kind::Cancel => {}
    }
}
