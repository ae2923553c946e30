//! UDP flows through the node after a change: an open socket of a client follows its service within a time limit.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use test_support::agent::AgentDir;

use crate::node_agent::{NODE_OBJECT, Objects, start};
use crate::node_network::{CLUSTER_IP, EXTERNAL_IP, LOCAL_POD, NODE, REMOTE_POD, on_node, serve_datagrams};

/// The limit from the change of an endpoint to the first reply of the new backend. It takes a few milliseconds.
const LIMIT: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_millis(1);

/// A socket that has sent datagrams to a service.
struct Flow {
    what: &'static str,
    socket: UdpSocket,
}

impl Flow {
    fn open(what: &'static str, address: &str, port: u16) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        let server = SocketAddr::new(address.parse().expect("an address"), port);
        socket.connect(server).expect("connect");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set a timeout");
        Self { what, socket }
    }

    /// Returns the name that the server sends; `None` without a reply.
    fn ask(&self) -> Option<String> {
        self.socket.send(b"ask").ok()?;
        let mut buffer = [0; 128];
        let length = self.socket.recv(&mut buffer).ok()?;
        let reply = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Some(reply.split(' ').next().expect("a name").to_owned())
    }
}

fn service(endpoint: (&str, &str)) -> String {
    let spec = serde_json::json!({
        "type": "NodePort", "clusterIP": CLUSTER_IP[0], "externalIPs": [EXTERNAL_IP[0]],
        "ports": [{"protocol": "UDP", "port": 53, "nodePort": 30_053}]
    });
    Objects { name: "dns", spec, protocol: "UDP", port: 5353, endpoints: &[endpoint] }.to_string()
}

#[test]
fn flows_to_a_removed_backend_reach_the_new_one_within_a_second() {
    on_node(|network| {
        network.local.within(|| serve_datagrams("local", &LOCAL_POD, 5353));
        network.remote.within(|| serve_datagrams("remote", &REMOTE_POD, 5353));
        let folder = AgentDir::new();
        folder.write_manifest("node.json", NODE_OBJECT);
        folder.write_manifest("dns.json", &service((REMOTE_POD[0], "n2")));
        let _agent = start(&folder, &["--external-addresses", "all"]);
        let flows = network.outside.within(|| {
            [
                Flow::open("node port from outside", NODE[0], 30_053),
                Flow::open("external address from outside", EXTERNAL_IP[0], 53),
            ]
        });
        let of_node = [
            Flow::open("cluster address from the node", CLUSTER_IP[0], 53),
            Flow::open("node port from the node", NODE[0], 30_053),
        ];
        let flows: Vec<Flow> = flows.into_iter().chain(of_node).collect();
        for (old, new, endpoint) in
            [("remote", "local", (LOCAL_POD[0], "n1")), ("local", "remote", (REMOTE_POD[0], "n2"))]
        {
            for flow in &flows {
                assert_eq!(flow.ask().as_deref(), Some(old), "{}", flow.what);
            }
            folder.write_manifest("dns.json", &service(endpoint));
            let start = Instant::now();
            for flow in &flows {
                while flow.ask().as_deref() != Some(new) {
                    assert!(start.elapsed() < LIMIT, "{}: no reply of {new}", flow.what);
                    std::thread::sleep(BETWEEN);
                }
                println!("{}: {:?}", flow.what, start.elapsed());
            }
        }
    });
}
