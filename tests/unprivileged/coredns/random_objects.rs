//! Random services, slices and namespaces in an API server, and questions about them.

use std::net::IpAddr;

use dns::{Name, RecordType};
use fastrand::Rng;
use serde_json::{Value, json};
use test_support::apiserver::ApiServer;

/// The service ranges of the API server.
pub(crate) const SERVICE_RANGES: &str = "10.0.0.0/16,fd00:10:96::/112";
const SERVICES: usize = 40;
const NAMESPACES: [&str; 4] = ["default", "team-a", "team-b", "svc"];
const PORTS: [(&str, &str); 4] = [("http", "TCP"), ("dns", "UDP"), ("dns-tcp", "TCP"), ("peers", "SCTP")];
const HOSTS: [&str; 4] = ["member-0", "member-1", "10-1-0-1", "tcp"];
const ADDRESSES: [&str; 9] = [
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "10.1.0.4",
    "10.1.0.5",
    "fd00::1",
    "fd00::2",
    "fd00:1::",
    "2001:db8:1:2:3:4:5:6",
];
const TARGETS: [&str; 5] =
    ["www.example.test", "gone.example.test", "s1.default.svc.cluster.local", "no.cluster.local", "10.1.2.3"];
const TYPES: [&str; 11] = ["A", "A", "A", "AAAA", "AAAA", "SRV", "SRV", "PTR", "TXT", "CNAME", "SOA"];

/// A service that was created.
struct CreatedService {
    namespace: &'static str,
    name: String,
    slices: Vec<String>,
    cluster_ips: Vec<IpAddr>,
}

/// Random objects, and the source of chance.
pub(crate) struct RandomObjects {
    rng: Rng,
    services: Vec<CreatedService>,
}

impl RandomObjects {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { rng, services: Vec::new() }
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.rng.usize(..all.len())]
    }

    /// Deletes some objects, and creates others.
    pub(crate) fn change(&mut self, api: &ApiServer, round: usize) {
        if round == 0 {
            for name in ["team-a", "team-b", "svc", "empty"] {
                api.put(json!({"kind": "Namespace", "metadata": {"name": name}}));
            }
        }
        for _ in 0..self.services.len() / 2 {
            let removed = self.services.swap_remove(self.rng.usize(..self.services.len()));
            api.delete("Service", removed.namespace, &removed.name);
            removed.slices.iter().for_each(|slice| api.delete("EndpointSlice", removed.namespace, slice));
        }
        for number in self.services.len()..SERVICES {
            let namespace = self.pick(&NAMESPACES);
            self.create_service(api, namespace, &format!("s{}", number + round * SERVICES));
        }
    }

    fn create_service(&mut self, api: &ApiServer, namespace: &'static str, name: &str) {
        let kind = self.rng.u8(..6);
        let count = if kind == 1 { 0 } else { self.rng.usize(1..3) };
        let first = self.rng.usize(..PORTS.len());
        let ports: Vec<(&str, &str)> = (0..count).map(|n| PORTS[(first + n) % PORTS.len()]).collect();
        let service_ports: Vec<Value> = (80..)
            .zip(&ports)
            .map(|(number, (name, protocol))| json!({"name": name, "protocol": protocol, "port": number}))
            .collect();
        let spec = match kind {
            0 => json!({"type": "ExternalName", "externalName": self.pick(&TARGETS)}),
            1 | 2 => json!({"clusterIP": "None", "ports": service_ports}),
            3 => json!({"ipFamilyPolicy": "RequireDualStack", "ports": service_ports}),
            4 => json!({"ipFamilies": ["IPv6"], "ports": service_ports}),
            _ => json!({"ports": service_ports}),
        };
        let metadata = json!({"name": name, "namespace": namespace});
        let created = api.create("", &json!({"kind": "Service", "metadata": metadata, "spec": spec}));
        assert_eq!(created.status, 201, "{}", created.object);
        let cluster_ips = created.object["spec"]["clusterIPs"].as_array().into_iter().flatten();
        let cluster_ips = cluster_ips.filter_map(|address| address.as_str()?.parse().ok()).collect();
        let slices = if kind == 0 { 0 } else { self.rng.usize(..4) };
        let slices = (0..slices).map(|n| self.create_slice(api, namespace, name, n, &ports)).collect();
        self.services.push(CreatedService { namespace, name: name.to_owned(), slices, cluster_ips });
    }

    fn create_slice(
        &mut self,
        api: &ApiServer,
        namespace: &str,
        service: &str,
        number: usize,
        ports: &[(&str, &str)],
    ) -> String {
        let is_v4 = self.rng.bool();
        let family: Vec<&str> = ADDRESSES.into_iter().filter(|a| a.contains('.') == is_v4).collect();
        let mut endpoints = Vec::new();
        for _ in 0..self.rng.usize(..5) {
            let mut endpoint = json!({"addresses": [self.pick(&family)]});
            match self.rng.u8(..4) {
                0 => endpoint["conditions"] = json!({"ready": false}),
                1 => {}
                _ => endpoint["conditions"] = json!({"ready": true}),
            }
            if self.rng.bool() {
                endpoint["hostname"] = self.pick(&HOSTS).into();
            }
            endpoints.push(endpoint);
        }
        let ports: Vec<Value> = (8_080..)
            .zip(ports.iter().filter(|_| self.rng.u8(..4) > 0))
            .map(|(number, (name, protocol))| json!({"name": name, "protocol": protocol, "port": number}))
            .collect();
        let name = format!("{service}-{number}");
        let labels = json!({"kubernetes.io/service-name": service});
        api.put(json!({"kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "addressType": if is_v4 { "IPv4" } else { "IPv6" }, "endpoints": endpoints, "ports": ports}));
        name
    }

    /// Creates a namespace, a headless service and a slice, each of them after all other objects of its kind.
    pub(crate) fn create_marker(&self, api: &ApiServer, marker: &str) {
        let metadata =
            json!({"name": marker, "namespace": marker, "labels": {"kubernetes.io/service-name": marker}});
        api.put(json!({"kind": "Namespace", "metadata": {"name": marker}}));
        api.put(json!({"kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None"}}));
        api.put(json!({"kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.9.9"]}], "ports": []}));
    }

    /// Returns a random question.
    pub(crate) fn question(&mut self) -> (Name, RecordType) {
        let text = self.name();
        let record_type =
            if text.ends_with("arpa") && self.rng.u8(..4) > 0 { "PTR" } else { self.pick(&TYPES) };
        let prefix = if self.rng.u8(..20) == 0 { "x." } else { "" };
        let name = Name::parse(&format!("{prefix}{text}")).expect("a name");
        (name, RecordType::parse(record_type).expect("a type"))
    }

    fn name(&mut self) -> String {
        let chosen = self.rng.usize(..self.services.len());
        let other = self.pick(&NAMESPACES);
        let CreatedService { namespace, name, cluster_ips, .. } = &self.services[chosen];
        let namespace = if self.rng.u8(..10) == 0 { other } else { namespace };
        let service = format!("{name}.{namespace}.svc.cluster.local");
        let cluster_ip = cluster_ips.first().copied();
        let address: IpAddr = self.pick(&ADDRESSES).parse().expect("an address");
        let dashed = address.to_string().replace(['.', ':'], "-");
        let dashed = if dashed.ends_with('-') { dashed + "0" } else { dashed };
        let (port, protocol) = PORTS[self.rng.usize(..PORTS.len())];
        let underscores = ["_", "_", "_", ""];
        let (first, second) = (self.pick(&underscores), self.pick(&underscores));
        let namespaces = ["default", "team-a", "empty", "no"];
        match self.rng.u8(..16) {
            0..=3 => service,
            4 => format!("{}.{service}", self.pick(&HOSTS)),
            5 => format!("{dashed}.{service}"),
            6..=8 => format!("{first}{port}.{second}{}.{service}", protocol.to_lowercase()),
            9 => format!(
                "_{}.{service}",
                self.pick(&["tcp", "udp", "_tcp._tcp", "http._", "."]).trim_matches('.')
            ),
            10 => format!("{}.{}.cluster.local", self.pick(&namespaces), self.pick(&["svc", "pod"])),
            11 => format!("{dashed}.{}.pod.cluster.local", self.pick(&namespaces)),
            12 => reverse(address),
            13 => reverse(cluster_ip.unwrap_or(address)),
            14 => reverse(
                self.pick(&["10.0.200.200", "fd00:10:96::9999", "192.0.2.1"]).parse().expect("an address"),
            ),
            _ => {
                let names = ["svc", "pod", "dns", "dns-version", "no", "web.default", "a.b.c.d.e.svc"];
                format!("{}.cluster.local", self.pick(&names))
            }
        }
    }
}

/// Returns the name of an address in the reverse zones.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let digits = format!("{:032x}", v6.to_bits());
            let labels: String = digits.chars().rev().map(|digit| format!("{digit}.")).collect();
            format!("{labels}ip6.arpa")
        }
    }
}
