//! The proposer: changes the map by the votes of a majority.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use tokio::task::JoinSet;

use super::{Membership, map_failed, others, peer};
use crate::change::apply;
use crate::message::{CallError, MapBytes};
use crate::{
    Accepted, Ballot, Change, ClusterMap, Denied, Member, Peer, Proposal, Refusal, Request, Response,
};

/// Attempts before other proposers are left to their quarrel.
const ATTEMPTS: u32 = 20;
/// How long a decided map is offered to the members before the proposer goes on; hellos bring it to the rest.
const SPREAD: Duration = Duration::from_secs(1);

/// How an attempt ended.
enum Attempt {
    /// A map was decided; perhaps another one than was wanted.
    Decided,
    /// Another proposer was ahead.
    Outbid(Ballot),
    /// Too few have answered: how many did, and why the others not.
    NoMajority(usize, Vec<String>),
}

/// A voter's answer in either phase.
enum Vote {
    Given(Option<Accepted>),
    Outbid(Ballot),
    /// A newer map was learnt.
    Decided,
    Missing(String),
}

impl Membership {
    /// Changes the map. When it returns `Ok`, a majority of the members has the new map on stable storage, and so has
    /// this one.
    ///
    /// # Errors
    /// When the change is not possible, or too few members answer.
    pub async fn change(self: &Arc<Self>, change: &Change) -> Result<Arc<ClusterMap>, Refusal> {
        let map = self.map();
        if !map.voters().any(|member| member.name == self.name) {
            return self.delegate(&map, change).await;
        }
        let _one = self.proposing.lock().await;
        let mut round = 0;
        let mut proposed: Vec<Arc<ClusterMap>> = Vec::new();
        for attempt in 0..ATTEMPTS {
            let base = self.map();
            // An attempt that seemed to fail may have been completed by another proposer.
            if proposed.contains(&base) {
                return Ok(base);
            }
            let Some(wanted) = apply(&base, change, seconds())? else { return Ok(base) };
            let wanted = Arc::new(wanted);
            proposed.push(wanted.clone());
            match self.attempt(&base, wanted.clone(), round).await? {
                Attempt::Decided => {}
                Attempt::Outbid(ballot) => {
                    round = ballot.round;
                    let most = 10u64 << attempt.min(6);
                    let pause = rand::rng().random_range(1..=most);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Attempt::NoMajority(reached, missing) => {
                    let (voters, majority) = (base.voters().count(), base.majority());
                    return Err(Refusal::NoMajority {
                        reached,
                        voters,
                        majority,
                        missing: missing.join("; "),
                    });
                }
            }
        }
        Err(Refusal::Contention)
    }

    /// Lets a member with a vote do it.
    async fn delegate(
        self: &Arc<Self>,
        map: &ClusterMap,
        change: &Change,
    ) -> Result<Arc<ClusterMap>, Refusal> {
        let mut missing = Vec::new();
        for voter in map.voters().map(peer).filter(|voter| voter.address.port() != 0) {
            match self.peers.call(&voter, Request::Change(change.clone())).await {
                Ok(Response::Done(_)) => {
                    self.fetch(&voter).await;
                    return Ok(self.map());
                }
                Ok(Response::Refused(refusal)) => return Err(refusal),
                Ok(_) => missing.push(format!("{}: it gives no sense", voter.name)),
                Err(CallError(error)) => missing.push(format!("{}: {error}", voter.name)),
            }
        }
        let (voters, majority) = (map.voters().count(), map.majority());
        Err(Refusal::NoMajority { reached: 0, voters, majority, missing: missing.join("; ") })
    }

    async fn attempt(
        self: &Arc<Self>,
        base: &Arc<ClusterMap>,
        wanted: Arc<ClusterMap>,
        round: u64,
    ) -> Result<Attempt, Refusal> {
        let clock = base.member(&self.name).map_or(0, |member| member.clock);
        let follows = (base.epoch, wanted.follows);
        // This machine's own promise comes first and is stored: no ballot of its is ever used twice.
        let first = self.vote(move |register| {
            let ballot = Ballot { round: round.max(register.promised().round) + 1, node: clock };
            register.prepare(follows, ballot).map(|accepted| (ballot, accepted))
        });
        let (ballot, accepted) = match first.await? {
            Ok(promise) => promise,
            Err(Denied::Outbid(ballot)) => return Ok(Attempt::Outbid(ballot)),
            Err(_) => return Ok(Attempt::Decided),
        };
        let mut proposal = Proposal::new(base, ballot);
        if !proposal.promised(&self.name, accepted) {
            let prepare =
                Request::Prepare { boot: self.boot, epoch: base.epoch, digest: wanted.follows, ballot };
            let counted = |proposal: &mut Proposal, voter: &str, accepted| proposal.promised(voter, accepted);
            if let Some(ended) = self.gather(base, &mut proposal, prepare, counted).await {
                return Ok(ended);
            }
        }
        let map = proposal.bound().unwrap_or(wanted);
        let own = map.clone();
        match self.vote(move |register| register.accept(ballot, own)).await? {
            Ok(()) => {}
            Err(Denied::Outbid(ballot)) => return Ok(Attempt::Outbid(ballot)),
            Err(_) => return Ok(Attempt::Decided),
        }
        if !proposal.accepted(&self.name) {
            let bytes = MapBytes::of(&map).map_err(map_failed)?;
            let accept = Request::Accept { boot: self.boot, ballot, map: bytes };
            let counted = |proposal: &mut Proposal, voter: &str, _| proposal.accepted(voter);
            if let Some(ended) = self.gather(base, &mut proposal, accept, counted).await {
                return Ok(ended);
            }
        }
        self.learn(map.clone()).await?;
        self.spread(base, &map).await;
        Ok(Attempt::Decided)
    }

    /// Asks all voters at once until a majority has said yes; else how the attempt ended.
    async fn gather(
        self: &Arc<Self>,
        base: &Arc<ClusterMap>,
        proposal: &mut Proposal,
        request: Request,
        mut counted: impl FnMut(&mut Proposal, &str, Option<Accepted>) -> bool,
    ) -> Option<Attempt> {
        let mut calls = JoinSet::new();
        let mut missing = Vec::new();
        for voter in base.voters().filter(|voter| voter.name != self.name) {
            let (this, voter, request) = (self.clone(), voter.clone(), request.clone());
            calls.spawn(async move {
                let vote = this.ask(&voter, request).await;
                (voter.name, vote)
            });
        }
        // This machine has said yes.
        let mut reached = 1;
        while let Some(answer) = calls.join_next().await {
            let Ok((voter, vote)) = answer else { continue };
            match vote {
                Vote::Given(accepted) => {
                    reached += 1;
                    if counted(proposal, &voter, accepted) {
                        return None;
                    }
                }
                Vote::Outbid(ballot) => return Some(Attempt::Outbid(ballot)),
                Vote::Decided => return Some(Attempt::Decided),
                Vote::Missing(why) => missing.push(format!("{voter}: {why}")),
            }
        }
        Some(Attempt::NoMajority(reached, missing))
    }

    /// Asks one voter. It is greeted first, which brings it up to date.
    async fn ask(self: &Arc<Self>, voter: &Member, request: Request) -> Vote {
        let peer = peer(voter);
        if peer.address.port() == 0 {
            return Vote::Missing("it has not been up yet".into());
        }
        if let Request::Prepare { .. } = request {
            let own = self.map();
            match self.peers.call(&peer, Request::Hello(self.own_hello(&own))).await {
                Ok(Response::Done(theirs)) if theirs < own.epoch => {
                    let Ok(map) = MapBytes::of(&own) else { return Vote::Missing("its map".into()) };
                    drop(self.peers.call(&peer, Request::Announce(map)).await);
                }
                Ok(Response::Done(_)) => {}
                Ok(Response::Refused(refusal)) => return Vote::Missing(refusal.to_string()),
                Ok(_) => return Vote::Missing("it gives no sense".into()),
                Err(CallError(error)) => return Vote::Missing(error),
            }
        }
        let answer = self.peers.call(&peer, request).await;
        self.understand(&peer, answer).await
    }

    async fn understand(self: &Arc<Self>, peer: &Peer, answer: Result<Response, CallError>) -> Vote {
        match answer {
            Ok(Response::Promised(None) | Response::Done(_)) => Vote::Given(None),
            Ok(Response::Promised(Some((ballot, map)))) => match ClusterMap::decode(&map.0) {
                Ok(map) => Vote::Given(Some(Accepted { ballot, map: Arc::new(map) })),
                Err(error) => Vote::Missing(error.to_string()),
            },
            Ok(Response::Behind(epoch)) => Vote::Missing(format!("it has only map {epoch} yet")),
            Ok(Response::Outbid(ballot)) => Vote::Outbid(ballot),
            Ok(Response::Map(Some(map))) => match ClusterMap::decode(&map.0) {
                Ok(map) => match self.learn(Arc::new(map)).await {
                    Ok(()) => Vote::Decided,
                    Err(refusal) => Vote::Missing(refusal.to_string()),
                },
                Err(error) => Vote::Missing(error.to_string()),
            },
            Ok(Response::Refused(refusal)) => Vote::Missing(refusal.to_string()),
            Ok(_) => Vote::Missing(format!("{} gives no sense", peer.name)),
            Err(CallError(error)) => Vote::Missing(error),
        }
    }

    /// Offers a decided map to everybody whom it concerns.
    async fn spread(self: &Arc<Self>, base: &ClusterMap, map: &ClusterMap) {
        let Ok(bytes) = MapBytes::of(map) else { return };
        let mut peers = others(map, &self.name);
        peers.extend(others(base, &self.name).into_iter().filter(|old| map.member(&old.name).is_none()));
        let mut calls = JoinSet::new();
        for peer in peers {
            let (ways, request) = (self.peers.clone(), Request::Announce(bytes.clone()));
            calls.spawn(async move { ways.call(&peer, request).await });
        }
        let all = async { while calls.join_next().await.is_some() {} };
        // Who is away hears of it by the next hello.
        drop(tokio::time::timeout(SPREAD, all).await);
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
