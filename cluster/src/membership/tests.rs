use std::collections::HashSet;

use async_trait::async_trait;
use parking_lot::RwLock;

use super::*;
use crate::message::DeviceRoom;
use crate::testing::{self, address};
use crate::{ChangeError, ClusterId, Epoch, JoinToken, NodeKey};
use kodiak_storage_api::jobs::JobStatus;

/// A network in this process: members by name, and who is cut off.
#[derive(Default)]
struct Network {
    members: RwLock<HashMap<String, Arc<Membership>>>,
    cut: RwLock<HashSet<String>>,
}

/// One member's way into the network.
struct Way {
    from: String,
    network: Arc<Network>,
}

#[async_trait]
impl Peers for Way {
    async fn call(&self, peer: &Peer, request: Request) -> Result<Response, CallError> {
        let cut = |name: &str| self.network.cut.read().contains(name);
        if cut(&self.from) || cut(&peer.name) {
            return Err(CallError("cut off".into()));
        }
        let member = self.network.members.read().get(&peer.name).cloned();
        let member = member.ok_or_else(|| CallError("nobody there".into()))?;
        Ok(member.handle(Caller::Member(self.from.clone()), request).await)
    }
}

struct Cluster {
    network: Arc<Network>,
    /// Who has partitions that are not filled.
    lacks: Arc<RwLock<HashSet<String>>>,
    lags: Arc<RwLock<HashSet<String>>>,
    folder: tempfile::TempDir,
}

/// What a member says about its machine.
struct Machine {
    name: String,
    lacks: Arc<RwLock<HashSet<String>>>,
    lags: Arc<RwLock<HashSet<String>>>,
}

impl Report for Machine {
    fn certificate_expires(&self) -> i64 {
        0
    }

    fn version(&self) -> String {
        "1".into()
    }

    fn placed(&self) -> Epoch {
        Epoch(if self.lags.read().contains(&self.name) { 0 } else { u64::MAX })
    }

    fn devices(&self) -> Vec<DeviceRoom> {
        let missing = if self.lacks.read().contains(&self.name) { 7 } else { 0 };
        vec![DeviceRoom { name: "d1".into(), available: 1, total: 2, failed: false, missing }]
    }

    fn jobs(&self) -> Vec<JobStatus> {
        Vec::new()
    }

    fn holdings(&self) -> Result<Vec<Holding>, String> {
        Ok(Vec::new())
    }
}

impl Cluster {
    fn new(up: u8, joining: u8) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let cluster =
            Cluster { network: Arc::default(), lacks: Arc::default(), lags: Arc::default(), folder };
        let map = Arc::new(testing::map(up, joining, 1, 2));
        for number in 1..=up + joining {
            let name = format!("n{number}");
            Stored::create(&cluster.folder.path().join(&name), map.clone()).unwrap();
            cluster.start(&name);
        }
        cluster
    }

    fn parts(&self, name: &str) -> Parts {
        let id = ClusterId([7; 16]);
        Parts {
            name: name.to_owned(),
            stored: Stored::open(&self.folder.path().join(name), id).unwrap(),
            authority: Authority::create(id, OffsetDateTime::now_utc()).unwrap(),
            settings: "users".into(),
            peers: Arc::new(Way { from: name.to_owned(), network: self.network.clone() }),
            report: Box::new(Machine {
                name: name.to_owned(),
                lacks: self.lacks.clone(),
                lags: self.lags.clone(),
            }),
        }
    }

    /// A process that has just started: what it knows is what its file says.
    fn start(&self, name: &str) -> Arc<Membership> {
        let member = Membership::new(self.parts(name));
        self.network.members.write().insert(name.to_owned(), member.clone());
        member
    }

    fn member(&self, name: &str) -> Arc<Membership> {
        self.network.members.read()[name].clone()
    }

    fn cut(&self, names: &[&str]) {
        *self.network.cut.write() = names.iter().map(|&name| name.to_owned()).collect();
    }
}

fn weigh(weight: u64) -> Change {
    Change::SetWeight { node: "n1".into(), device: "d1".into(), weight }
}

#[tokio::test]
async fn a_change_is_on_all_members_and_on_their_disks() {
    let cluster = Cluster::new(3, 0);
    let map = cluster.member("n2").change(&weigh(7000)).await.unwrap();
    for name in ["n1", "n2", "n3"] {
        assert_eq!(cluster.member(name).map(), map);
        assert_eq!(cluster.start(name).map(), map, "after a restart of {name}");
    }
}

#[tokio::test]
async fn a_minority_changes_nothing_and_says_who_is_missing() {
    let cluster = Cluster::new(3, 0);
    cluster.cut(&["n2", "n3"]);
    let before = cluster.member("n1").map();
    let refusal = cluster.member("n1").change(&weigh(7000)).await.unwrap_err();
    let Refusal::NoMajority { reached: 1, voters: 3, majority: 2, missing } = &refusal else {
        panic!("{refusal}")
    };
    assert!(missing.contains("n2: cut off") && missing.contains("n3: cut off"), "{missing}");
    assert_eq!(cluster.member("n1").map(), before);
}

#[tokio::test]
async fn a_member_that_was_away_gets_the_newest_map_with_its_first_hello() {
    let cluster = Cluster::new(3, 0);
    cluster.cut(&["n3"]);
    let map = cluster.member("n1").change(&weigh(7000)).await.unwrap();
    assert_ne!(cluster.member("n3").map(), map);
    cluster.cut(&[]);
    let back = cluster.start("n3");
    back.announce_start(address(3)).await.unwrap();
    assert_eq!(back.map(), map);
}

#[tokio::test]
async fn changes_at_all_members_at_once_are_all_made_one_after_the_other() {
    let cluster = Cluster::new(3, 0);
    let first = cluster.member("n1").map().epoch;
    let mut changes = JoinSet::new();
    for number in 0..9u64 {
        let member = cluster.member(["n1", "n2", "n3"][number as usize % 3]);
        let device = Change::AddToken { hash: TokenHash([number as u8; 32]), expires: u64::MAX };
        changes.spawn(async move { member.change(&device).await.map(|map| map.epoch) });
    }
    while let Some(changed) = changes.join_next().await {
        changed.unwrap().unwrap();
    }
    let member = cluster.member("n1");
    member.announce_start(address(1)).await.unwrap();
    assert_eq!(member.map().tokens.len(), 9);
    assert_eq!(member.map().epoch, Epoch(first.0 + 9));
}

fn join(token: &JoinToken, key: &NodeKey, name: &str) -> Request {
    Request::Join(Box::new(Join {
        secret: token.secret(),
        request: key.request().unwrap(),
        name: name.into(),
        region: 1,
        zone: 4,
        address: address(4),
    }))
}

#[tokio::test]
async fn a_token_admits_one_machine_even_if_its_answer_was_lost() {
    let cluster = Cluster::new(3, 0);
    let member = cluster.member("n1");
    let fingerprint = member.authority.fingerprint();
    let now = OffsetDateTime::now_utc().unix_timestamp() as u64;
    let token = |expires| JoinToken::new(ClusterId([7; 16]), fingerprint, expires, Vec::new());
    let (good, old, unknown) = (token(u64::MAX), token(now), token(u64::MAX));
    for token in [&good, &old] {
        member.change(&Change::AddToken { hash: token.hash(), expires: token.expires }).await.unwrap();
    }
    let (key, thief) = (NodeKey::create().unwrap(), NodeKey::create().unwrap());
    let refused = |response| match response {
        Response::Refused(Refusal::Change(error)) => error,
        other => panic!("{other:?}"),
    };
    let ask = |request| member.handle(Caller::Anonymous, request);
    let Response::Welcome(welcome) = ask(join(&good, &key, "n4")).await else { panic!("no welcome") };
    let certificate = NodeCertificate::read_pem(&welcome.certificate).unwrap();
    assert_eq!((certificate.node.as_str(), certificate.key), ("n4", key.digest()));
    assert!(
        matches!(ask(join(&good, &key, "n4")).await, Response::Welcome(_)),
        "the same machine asks again"
    );
    // Another member has heard of it too.
    let other = cluster.member("n3").handle(Caller::Anonymous, join(&good, &thief, "n5")).await;
    assert_eq!(refused(other), ChangeError::TokenUsed);
    assert_eq!(refused(ask(join(&good, &key, "n6")).await), ChangeError::TokenUsed);
    assert_eq!(refused(ask(join(&old, &thief, "n5")).await), ChangeError::TokenExpired);
    assert_eq!(refused(ask(join(&unknown, &thief, "n5")).await), ChangeError::TokenUnknown);
    assert_eq!(member.map().members.len(), 4);
}

#[tokio::test]
async fn two_machines_with_one_token_at_two_members_at_once_are_one_too_many() {
    let cluster = Cluster::new(3, 0);
    let member = cluster.member("n1");
    let token = JoinToken::new(ClusterId([7; 16]), member.authority.fingerprint(), u64::MAX, Vec::new());
    member.change(&Change::AddToken { hash: token.hash(), expires: u64::MAX }).await.unwrap();
    let mut joins = JoinSet::new();
    for (number, at) in ["n1", "n2", "n3"].into_iter().enumerate() {
        let request = join(&token, &NodeKey::create().unwrap(), &format!("m{number}"));
        let member = cluster.member(at);
        joins.spawn(async move { member.handle(Caller::Anonymous, request).await });
    }
    let answers = joins.join_all().await;
    let admitted = answers.iter().filter(|answer| matches!(answer, Response::Welcome(_))).count();
    assert_eq!(admitted, 1, "{answers:?}");
    assert_eq!(cluster.member("n2").map().members.len(), 4);
}

#[tokio::test]
async fn a_machine_that_joined_gets_its_vote_and_partitions_when_it_is_up() {
    let cluster = Cluster::new(1, 2);
    let first = cluster.member("n1");
    assert_eq!(first.map().majority(), 1, "who is not up yet has no vote");
    for number in [2, 3] {
        let new = cluster.member(&format!("n{number}"));
        new.change(&testing::present(number, 1)).await.unwrap();
        assert_eq!(first.map(), new.map());
        assert_eq!(first.map().voters().count(), usize::from(number));
        assert_eq!(first.map().policies[0].ring.ring().unwrap().replicas(), usize::from(number));
    }
}

#[tokio::test]
async fn a_copy_of_a_running_node_is_refused_and_a_restarted_one_is_not() {
    let cluster = Cluster::new(3, 0);
    let first = cluster.member("n2");
    first.announce_start(address(2)).await.unwrap();
    let copy = Membership::new(cluster.parts("n2"));
    let refusal = copy.announce_start(address(9)).await.unwrap_err();
    assert_eq!(refusal, Refusal::Duplicate { node: "n2".into(), address: address(2) });
    let vote = copy.change(&weigh(7000)).await.unwrap_err().to_string();
    assert!(vote.contains("one of the two is a copy"), "{vote}");
    // The first one is gone: nobody answers there any more.
    drop(first);
    let again = cluster.start("n2");
    again.announce_start(address(9)).await.unwrap();
    again.change(&weigh(7000)).await.unwrap();
}

#[tokio::test]
async fn a_removed_member_and_a_foreign_certificate_are_told_so() {
    let cluster = Cluster::new(3, 0);
    let member = cluster.member("n1");
    let sign = |node: &str, key: &NodeKey| {
        let pem = member.authority.sign(ClusterId([7; 16]), node, key, OffsetDateTime::now_utc()).unwrap();
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    };
    let (key, thief) = (NodeKey::create().unwrap(), NodeKey::create().unwrap());
    let token = JoinToken::new(ClusterId([7; 16]), member.authority.fingerprint(), u64::MAX, Vec::new());
    member.change(&Change::AddToken { hash: token.hash(), expires: u64::MAX }).await.unwrap();
    member.handle(Caller::Anonymous, join(&token, &key, "n4")).await;
    assert_eq!(member.identify(Some(&sign("n4", &key))), Ok(Caller::Member("n4".into())));
    // Signed by the authority, but the map lists another key.
    let stolen = member.identify(Some(&sign("n4", &thief))).unwrap_err();
    assert_eq!(stolen, Refusal::NotAMember { node: "n4".into() });
    let map = member.change(&Change::Remove { name: "n4".into(), force: false }).await.unwrap();
    let removed = member.identify(Some(&sign("n4", &key))).unwrap_err();
    assert_eq!(removed, Refusal::WasRemoved { node: "n4".into(), epoch: map.epoch });
    let answer = member.handle(Caller::Anonymous, Request::Status).await;
    assert_eq!(answer, Response::Refused(Refusal::Anonymous));
}

#[tokio::test]
async fn nothing_more_is_moved_while_replicas_are_being_filled() {
    let cluster = Cluster::new(4, 0);
    cluster.lacks.write().insert("n3".into());
    let member = cluster.member("n1");
    let ask = |change| member.handle(Caller::Member("n1".into()), Request::Change(change));
    let drain = || Change::Drain { name: "n4".into() };
    for change in [drain(), Change::Rebalance, Change::Remove { name: "n4".into(), force: false }] {
        let Response::Refused(Refusal::Filling(who)) = ask(change).await else { panic!("it was done") };
        assert_eq!(who, "n3 lacks 7 partitions");
    }
    let mut devices = testing::devices(2);
    devices[1].name = "new".into();
    let more = Change::Present { name: "n2".into(), address: address(2), devices };
    assert!(matches!(ask(more).await, Response::Refused(Refusal::Filling(_))));
    let moved = Change::Present { name: "n2".into(), address: address(8), devices: testing::devices(1) };
    assert!(matches!(ask(moved).await, Response::Done(_)), "a new address moves nothing");
    let grown = Change::IncreasePartPower { power: 9 };
    assert!(matches!(ask(grown).await, Response::Done(_)), "nor do more partitions");
    cluster.lacks.write().clear();
    // Who has not taken up the newest map does not know what it lacks by it.
    cluster.lags.write().insert("n2".into());
    let Response::Refused(Refusal::Filling(who)) = ask(drain()).await else { panic!("it was done") };
    assert_eq!(who, "n2 still goes by map 0");
    cluster.lags.write().clear();
    assert!(matches!(ask(drain()).await, Response::Done(_)));
    // Who leaves is not asked; everybody else is.
    cluster.cut(&["n4"]);
    assert!(matches!(ask(Change::Rebalance).await, Response::Refused(Refusal::Filling(_))));
    let remove = Change::Remove { name: "n4".into(), force: false };
    assert!(matches!(ask(remove).await, Response::Done(_)));
}
