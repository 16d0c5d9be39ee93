//! A connection for messages: each call is a task, so that none waits for another.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::remote::wire::{self, Arrived, Kind, Outbox, Packet, Reader};
use kodiak_storage_api::remote::{MAX_CALL, Received};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Server;
use super::answer::Refusal;
use super::connection::Caller;

/// A caller from which nothing comes for so long is asked whether it is there, and has as long to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Calls of a connection that are being made.
type Running = Arc<Mutex<HashMap<u32, AbortHandle>>>;

impl Server {
    /// Serves until the caller leaves. Told to stop, it asks the caller to.
    pub(super) async fn messages<S>(
        self: Arc<Self>,
        caller: Arc<Caller>,
        stream: S,
        stop: watch::Receiver<bool>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = tokio::io::split(stream);
        let (outbox, packets) = wire::outbox();
        let _ = outbox.try_send(Packet::words(Kind::Alive, 0, ""));
        tokio::select! {
            written = wire::write(to, packets) => written,
            read = self.read(caller, Reader::new(from, MAX_CALL), outbox, stop) => read,
        }
    }

    async fn read<R: AsyncRead + Unpin>(
        self: Arc<Self>,
        caller: Arc<Caller>,
        mut reader: Reader<R>,
        outbox: Outbox,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let calls = Calls { server: self, caller, outbox, running: Running::default() };
        let (mut asked, mut leaving) = (false, false);
        loop {
            let patience = if reader.is_amid() { calls.server.settings.receive } else { KEEP_ALIVE };
            let packet = tokio::select! {
                packet = timeout(patience, reader.next()) => packet,
                () = told(&mut stop), if !leaving => {
                    leaving = true;
                    calls.say(Kind::Leaving).await;
                    continue;
                }
            };
            match packet {
                Ok(packet) => match packet? {
                    Some(packet) => calls.arrived(packet).await,
                    None => return Ok(()),
                },
                Err(_) if asked || reader.is_amid() => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => {
                    calls.say(Kind::Ping).await;
                    asked = true;
                    continue;
                }
            }
            asked = false;
        }
    }
}

/// Waits until the server is told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The calls of a connection.
struct Calls {
    server: Arc<Server>,
    caller: Arc<Caller>,
    outbox: Outbox,
    running: Running,
}

impl Drop for Calls {
    /// They end with the connection: nobody could be told what came of them.
    fn drop(&mut self) {
        self.running.lock().values().for_each(AbortHandle::abort);
    }
}

impl Calls {
    /// Says something about the connection. If it cannot be written, the connection ends anyhow.
    async fn say(&self, kind: Kind) {
        let _ = self.outbox.send(Packet::words(kind, 0, "")).await;
    }

    async fn arrived(&self, packet: Arrived) {
        match packet.kind {
            Kind::Call => self.begin(packet).await,
            Kind::Cancel => {
                if let Some(running) = self.running.lock().remove(&packet.call) {
                    running.abort();
                }
            }
            Kind::Ping => self.say(Kind::Alive).await,
            // Of a server only.
            Kind::Answer | Kind::Refused | Kind::Overloaded | Kind::Alive | Kind::Leaving => {}
        }
    }

    async fn begin(&self, packet: Arrived) {
        let number = packet.call;
        let begun = self.server.admit(&self.caller).and_then(|room| self.spawn(packet, room));
        if let Err(refusal) = begun {
            self.refuse(number, &refusal).await;
        }
    }

    fn spawn(&self, packet: Arrived, room: OwnedSemaphorePermit) -> Result<(), Refusal> {
        // The task takes itself off the list, for which it needs the lock that is held here.
        let mut running = self.running.lock();
        if running.len() >= self.server.settings.streams {
            return Err(Refusal::Overloaded);
        }
        let (number, server, caller) = (packet.call, self.server.clone(), self.caller.clone());
        let call = make(server, caller, packet, self.outbox.clone(), self.running.clone(), room);
        running.insert(number, tokio::spawn(call).abort_handle());
        Ok(())
    }

    async fn refuse(&self, number: u32, refusal: &Refusal) {
        let packet = match refusal {
            Refusal::Refused(why) => Packet::words(Kind::Refused, number, why),
            Refusal::Overloaded => Packet::words(Kind::Overloaded, number, ""),
        };
        let _ = self.outbox.send(packet).await;
    }
}

/// Makes a call. Its place among all calls is free again when its answer is about to be written, so that answers to
/// a caller that does not read them do not pile up.
async fn make(
    server: Arc<Server>,
    caller: Arc<Caller>,
    packet: Arrived,
    outbox: Outbox,
    running: Running,
    _room: OwnedSemaphorePermit,
) {
    let number = packet.call;
    let called = match Received::split(vec![packet.body]) {
        Ok(received) => server.call(&caller, received).await,
        Err(error) => Err(error.to_string()),
    };
    let answer = match called {
        Ok(frame) => Packet::message(Kind::Answer, number, frame),
        Err(why) => Packet::words(Kind::Refused, number, &why),
    };
    let _ = outbox.send(answer).await;
    running.lock().remove(&number);
}
