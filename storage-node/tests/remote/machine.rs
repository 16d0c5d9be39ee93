//! Two machines of a cluster: `n1` calls, `n2` serves a real node from a temporary folder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kodiak_storage_api::remote::{ClusterView, Party, RemoteNode, Settings};
use kodiak_storage_api::{Clock, NodeError, StorageNode};
use kodiak_storage_node::{Extension, Node, Server, ServerSettings};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::certificates::{Authority, Credentials};
use crate::rig;

pub const CLUSTER: &str = "0123456789abcdef";

/// A map that is only an epoch and a list of who is refused.
#[derive(Default)]
pub struct View {
    pub epoch: AtomicU64,
    pub newer: Mutex<Vec<(String, u64)>>,
    pub refused: Mutex<Vec<String>>,
}

impl ClusterView for View {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn newer(&self, peer: &str, epoch: u64) {
        self.newer.lock().push((peer.to_owned(), epoch));
    }

    fn admit(&self, node: &str, _: &[u8]) -> Result<(), String> {
        if self.refused.lock().iter().any(|refused| refused == node) {
            return Err("it has been removed from the cluster".into());
        }
        Ok(())
    }
}

/// A party with its own clock.
pub fn party(cluster: &str, name: &str, clock: Arc<Clock>) -> (Arc<Party>, Arc<View>) {
    let view = Arc::new(View::default());
    (Party::new(cluster, name, clock, view.clone()), view)
}

/// A server that runs.
pub struct Serving {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    pub async fn start(server: Arc<Server>, address: &str) -> Serving {
        let listener = TcpListener::bind(address).await.expect("an address");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = watch::channel(false);
        Serving { address, stop, task: tokio::spawn(server.run(listener, stopped)) }
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("ended");
    }
}

pub struct Machines {
    pub authority: Authority,
    pub node: Arc<Node>,
    /// `n2` as `n1` sees it.
    pub remote: Arc<RemoteNode>,
    pub serving: Serving,
    pub client: Arc<Party>,
    pub server: Arc<Party>,
    pub client_view: Arc<View>,
    pub client_clock: Arc<Clock>,
    pub server_view: Arc<View>,
    pub server_clock: Arc<Clock>,
    _folder: TempDir,
}

impl Machines {
    pub async fn start() -> Machines {
        Machines::with(ServerSettings::default(), Settings::default(), None, |node| node).await
    }

    /// `decorate` may put something before the node.
    pub async fn with(
        server_settings: ServerSettings,
        settings: Settings,
        extension: Option<Arc<dyn Extension>>,
        decorate: impl FnOnce(Arc<dyn StorageNode>) -> Arc<dyn StorageNode>,
    ) -> Machines {
        let folder = tempfile::tempdir().expect("a folder");
        let server_clock = Arc::new(Clock::system(2));
        let node = Node::open(rig::settings(folder.path(), 2), server_clock.clone()).expect("node opens");
        let authority = Authority::new();
        let (server_party, server_view) = party(CLUSTER, "n2", server_clock.clone());
        let config = authority.node("n2", CLUSTER).server();
        let server =
            Server::new(decorate(node.clone()), server_party.clone(), &config, extension, server_settings);
        let serving = Serving::start(server, "127.0.0.1:0").await;
        let client_clock = Arc::new(Clock::system(1));
        let (client, client_view) = party(CLUSTER, "n1", client_clock.clone());
        let address = serving.address.to_string();
        let config = authority.node("n1", CLUSTER).client();
        let remote = RemoteNode::new(client.clone(), "n2", &address, &config, settings);
        Machines {
            authority,
            node,
            remote,
            serving,
            client,
            server: server_party,
            client_view,
            client_clock,
            server_view,
            server_clock,
            _folder: folder,
        }
    }

    /// Calls `n2` with other credentials, as another party, or expecting another node.
    pub fn call_as(&self, credentials: &Credentials, party: Arc<Party>, peer: &str) -> Arc<RemoteNode> {
        let address = self.serving.address.to_string();
        RemoteNode::new(party, peer, &address, &credentials.client(), Settings::default())
    }
}

/// Asks for an account that is not there: the shortest call.
pub async fn ask(remote: &RemoteNode) -> Result<(), NodeError> {
    let device = remote.device("d1").expect("every name is taken");
    remote.read_directory(device, rig::directory_key("nobody")).await.map(|info| assert!(info.is_none()))
}

/// Why a call was not answered.
pub async fn refusal(remote: &RemoteNode) -> String {
    match ask(remote).await {
        Err(NodeError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}
