use proptest::prelude::*;

use super::*;
use crate::change::apply;
use crate::testing::{self, NOW};
use crate::{Change, Member};

/// What travels between the members.
#[derive(Clone, Debug)]
enum Message {
    Prepare { from: usize, to: usize, base: (Epoch, Digest), ballot: Ballot },
    Promise { from: usize, to: usize, ballot: Ballot, accepted: Option<Accepted> },
    Accept { from: usize, to: usize, ballot: Ballot, map: Arc<ClusterMap> },
    Accepted { from: usize, to: usize, ballot: Ballot },
    Learn { to: usize, map: Arc<ClusterMap> },
}

/// A proposer under way.
struct Attempt {
    proposal: Proposal,
    wanted: Arc<ClusterMap>,
    /// What it has asked the voters to accept.
    proposed: Option<Arc<ClusterMap>>,
}

/// Members whose messages are lost, doubled, late and in any order, and whose proposers die.
struct World {
    registers: Vec<Register>,
    attempts: Vec<Option<Attempt>>,
    messages: Vec<Message>,
    /// By epoch: the map that was decided.
    decided: BTreeMap<Epoch, Arc<ClusterMap>>,
}

fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

impl World {
    fn new(nodes: u8) -> World {
        // The last two are not up yet: they get their votes on the way.
        let map = Arc::new(testing::map(nodes - 2, 2, 1, 0));
        World {
            registers: (0..nodes).map(|_| Register::new(map.clone()).unwrap()).collect(),
            attempts: (0..nodes).map(|_| None).collect(),
            messages: Vec::new(),
            decided: BTreeMap::new(),
        }
    }

    fn decide(&mut self, map: &Arc<ClusterMap>) {
        let first = self.decided.entry(map.epoch).or_insert_with(|| map.clone());
        assert_eq!(**first, **map, "two maps were decided for epoch {}", map.epoch);
    }

    fn learn(&mut self, node: usize, map: &Arc<ClusterMap>) {
        self.decide(map);
        match self.registers[node].learn(map.clone()) {
            Ok(_) | Err(LearnError::Older { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn propose(&mut self, node: usize, choice: u8) {
        let register = &mut self.registers[node];
        let base = register.map().clone();
        if !base.voters().any(|member| member.name == name(node)) {
            return;
        }
        let other = base.members[usize::from(choice / 4) % base.members.len()].clone();
        let Member { name: target, clock, .. } = other;
        let change = match choice % 4 {
            0 => Change::Remove { name: target, force: true },
            1 => testing::present(clock as u8, 1),
            _ => Change::SetWeight {
                node: target,
                device: "d1".into(),
                weight: u64::from(choice) * 1000 + 1000,
            },
        };
        let Ok(Some(wanted)) = apply(&base, &change, NOW) else { return };
        let ballot = Ballot { round: register.promised().round + 1, node: node as u32 + 1 };
        let follows = (base.epoch, register.digest());
        let Ok(accepted) = register.prepare(follows, ballot) else { return };
        let mut proposal = Proposal::new(&base, ballot);
        let majority = proposal.promised(&name(node), accepted);
        self.attempts[node] = Some(Attempt { proposal, wanted: Arc::new(wanted), proposed: None });
        for to in (0..self.registers.len()).filter(|&to| to != node) {
            self.messages.push(Message::Prepare { from: node, to, base: follows, ballot });
        }
        if majority {
            self.go_on(node);
        }
    }

    /// A majority has promised.
    fn go_on(&mut self, node: usize) {
        let Some(attempt) = &mut self.attempts[node] else { return };
        if attempt.proposed.is_some() {
            return;
        }
        let map = attempt.proposal.bound().unwrap_or_else(|| attempt.wanted.clone());
        attempt.proposed = Some(map.clone());
        let ballot = attempt.proposal.ballot;
        if self.registers[node].accept(ballot, map.clone()).is_err() {
            self.attempts[node] = None;
            return;
        }
        let decided = attempt.proposal.accepted(&name(node));
        for to in (0..self.registers.len()).filter(|&to| to != node) {
            self.messages.push(Message::Accept { from: node, to, ballot, map: map.clone() });
        }
        if decided {
            self.finish(node);
        }
    }

    fn finish(&mut self, node: usize) {
        let Some(map) = self.attempts[node].take().and_then(|attempt| attempt.proposed) else { return };
        self.learn(node, &map);
        for to in 0..self.registers.len() {
            self.messages.push(Message::Learn { to, map: map.clone() });
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Prepare { from, to, base, ballot } => match self.registers[to].prepare(base, ballot) {
                Ok(accepted) => self.messages.push(Message::Promise { from: to, to: from, ballot, accepted }),
                Err(Denied::Differs) => panic!("two maps of one epoch"),
                Err(Denied::Decided(map)) => self.messages.push(Message::Learn { to: from, map }),
                Err(Denied::Behind(_) | Denied::Outbid(_)) => {}
            },
            Message::Accept { from, to, ballot, map } => {
                if self.registers[to].accept(ballot, map).is_ok() {
                    self.messages.push(Message::Accepted { from: to, to: from, ballot });
                }
            }
            Message::Promise { from, to, ballot, accepted } => {
                let current = self.attempts[to].as_mut().filter(|attempt| attempt.proposal.ballot == ballot);
                // A promise that comes after the proposal was made must not change it.
                let current = current.filter(|attempt| attempt.proposed.is_none());
                if current.is_some_and(|attempt| attempt.proposal.promised(&name(from), accepted)) {
                    self.go_on(to);
                }
            }
            Message::Accepted { from, to, ballot } => {
                let current = self.attempts[to].as_mut().filter(|attempt| attempt.proposal.ballot == ballot);
                if current.is_some_and(|attempt| attempt.proposal.accepted(&name(from))) {
                    self.finish(to);
                }
            }
            Message::Learn { to, map } => self.learn(to, &map),
        }
    }

    fn step(&mut self, kind: u8, which: u16, choice: u8) {
        let nodes = self.registers.len();
        match kind {
            0..=2 => self.propose(usize::from(which) % nodes, choice),
            // The process dies: what it had not stored is gone.
            3 => self.attempts[usize::from(which) % nodes] = None,
            _ if self.messages.is_empty() => {}
            4 => drop(self.messages.swap_remove(usize::from(which) % self.messages.len())),
            5 => self.deliver(self.messages[usize::from(which) % self.messages.len()].clone()),
            _ => {
                let message = self.messages.swap_remove(usize::from(which) % self.messages.len());
                self.deliver(message);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_epoch_ever_has_two_maps(
        nodes in 3u8..7,
        steps in prop::collection::vec((0u8..24, any::<u16>(), any::<u8>()), 1..400),
    ) {
        let mut world = World::new(nodes);
        for (kind, which, choice) in steps {
            world.step(kind, which, choice);
        }
    }

    #[test]
    fn whatever_happened_before_a_majority_that_hears_each_other_decides(
        steps in prop::collection::vec((0u8..24, any::<u16>(), any::<u8>()), 1..120),
    ) {
        let mut world = World::new(5);
        for (kind, which, choice) in steps {
            world.step(kind, which, choice);
        }
        world.messages.clear();
        world.attempts.iter_mut().for_each(|attempt| *attempt = None);
        let newest = world.registers.iter().map(Register::map).max_by_key(|map| map.epoch).unwrap().clone();
        for node in 0..5 {
            world.learn(node, &newest);
        }
        let voter = newest.voters().next().unwrap().name.clone();
        let voter = (0..5).find(|&node| name(node) == voter).unwrap();
        let before = world.registers[voter].map().epoch;
        // Each round is ahead of at least one ballot that was promised.
        for round in 0..200u8 {
            world.propose(voter, round | 2);
            while let Some(message) = world.messages.pop() {
                world.deliver(message);
            }
            if world.registers[voter].map().epoch > before {
                return Ok(());
            }
        }
        prop_assert!(false, "nothing was decided");
    }
}

#[test]
fn a_map_of_another_cluster_an_older_one_and_a_twin_are_refused() {
    let map = testing::map(2, 0, 1, 0);
    let next = apply(&map, &Change::Drain { name: "n2".into() }, NOW);
    assert!(matches!(next, Err(crate::ChangeError::TooFewDevices { left: 1, replicas: 2 })));
    let weigh = |weight| {
        let change = Change::SetWeight { node: "n2".into(), device: "d1".into(), weight };
        Arc::new(apply(&map, &change, NOW).unwrap().unwrap())
    };
    let mut register = Register::new(weigh(5000)).unwrap();
    let older = register.learn(Arc::new(map.clone())).unwrap_err().to_string();
    assert!(older.contains("older than 3 here"), "{older}");
    assert_eq!(register.learn(weigh(6000)), Err(LearnError::Differs(Epoch(3))));
    assert_eq!(register.learn(weigh(5000)), Ok(false));
    let mut foreign = (*weigh(5000)).clone();
    foreign.cluster = crate::ClusterId([8; 16]);
    foreign.epoch = Epoch(9);
    assert!(matches!(register.learn(Arc::new(foreign)), Err(LearnError::OtherCluster { .. })));
}

#[test]
fn of_two_maps_that_were_accepted_the_one_of_the_higher_ballot_is_proposed() {
    let map = testing::map(3, 0, 1, 0);
    let weigh = |weight| {
        let change = Change::SetWeight { node: "n2".into(), device: "d1".into(), weight };
        Arc::new(apply(&map, &change, NOW).unwrap().unwrap())
    };
    let accepted = |round, map| Some(Accepted { ballot: Ballot { round, node: 1 }, map });
    let (older, newer) = (weigh(5000), weigh(6000));
    for (first, second) in [("n1", "n2"), ("n2", "n1")] {
        let mut proposal = Proposal::new(&map, Ballot { round: 9, node: 3 });
        assert!(!proposal.promised(first, accepted(1, older.clone())));
        assert!(!proposal.promised("n9", accepted(8, older.clone())), "who has no vote is not heard");
        assert!(proposal.promised(second, accepted(2, newer.clone())));
        assert_eq!(proposal.bound(), Some(newer.clone()));
    }
    assert!(Proposal::new(&map, Ballot { round: 9, node: 3 }).bound().is_none());
}
