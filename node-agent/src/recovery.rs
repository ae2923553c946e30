//! `Recovery`: finds attachments that the agent does not know, in records and in the runtime's CNI cache.
//!
//! Records contain the pods from before a restart, and those that the plugin programmed while no agent was running. The
//! CNI cache contains the pods that were attached before the installation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_ipc::{
    Attachment, AttachmentKey, DNS_CAPABILITY, PLUGIN_TYPE, POD_ANNOTATIONS, PodDns, PodName, ProgrammedBy,
    Record, Records, RuntimeDns, SOCKET,
};
use cni_install::{DropIn, configurations};
use ipnet::IpNet;
use proxy_core::annotation::PREFIX;
use serde::Deserialize;
use serde_json::Value;
use support::with_causes;

use crate::netns_worker::NetnsWorker;

/// The maximum size of a file of the CNI configuration or cache.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The places where attachments are found.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) records: Records,
    pub(crate) state_dir: PathBuf,
    pub(crate) cni_cache: PathBuf,
    pub(crate) cni_conf: PathBuf,
    /// The socket of this agent. A network whose plugin has another socket belongs to another agent.
    pub(crate) socket: PathBuf,
}

/// An attachment and its open network namespace.
#[derive(Debug)]
pub(crate) struct FoundAttachment {
    pub(crate) record: Record,
    pub(crate) worker: Arc<NetnsWorker>,
}

impl Recovery {
    /// Returns the unknown attachments. Removes records whose network namespace is gone.
    pub(crate) fn find_unknown(&self, known: &BTreeSet<AttachmentKey>) -> Vec<FoundAttachment> {
        let mut found = self.recorded(known);
        let mut known = known.clone();
        known.extend(found.iter().map(|attachment| attachment.record.attachment.key.clone()));
        found.extend(self.cached(&known));
        found
    }

    fn recorded(&self, known: &BTreeSet<AttachmentKey>) -> Vec<FoundAttachment> {
        let (records, corrupt) = self.records.read_all().unwrap_or_else(|error| {
            tracing::error!(path = %self.state_dir.display(), %error, "failed to read attachment records");
            Default::default()
        });
        for record in corrupt {
            let path = record.path.display();
            tracing::error!(%path, why = record.reason, "moved corrupt attachment record aside");
        }
        let mut found = Vec::new();
        for record in records.into_iter().filter(|record| !known.contains(&record.attachment.key)) {
            match NetnsWorker::open(&record.attachment.netns) {
                Ok(worker) if worker.id() == record.netns_id => {
                    found.push(FoundAttachment { record, worker: Arc::new(worker) });
                }
                Ok(_) => self.remove(&record, "another network namespace has its path"),
                Err(error) => self.remove(&record, &with_causes(&error)),
            }
        }
        found
    }

    fn remove(&self, record: &Record, why: &str) {
        let key = &record.attachment.key;
        tracing::info!(attachment = %key, why, "pod was deleted while the agent was down");
        if let Err(error) = self.records.remove(key) {
            tracing::warn!(attachment = %key, %error, "failed to remove attachment record");
        }
    }

    fn cached(&self, known: &BTreeSet<AttachmentKey>) -> Vec<FoundAttachment> {
        let networks = networks(&self.cni_conf, &self.socket);
        if networks.is_empty() {
            return Vec::new();
        }
        let results = files(&self.cni_cache).filter_map(|path| read(&path));
        let attachments = results.filter_map(|result| cached_attachment(&result));
        let unknown = attachments.filter(|a| networks.contains(&a.key.network) && !known.contains(&a.key));
        let open = |attachment: Attachment| match NetnsWorker::open(&attachment.netns) {
            Ok(worker) => {
                let netns_id = worker.id();
                let record = Record { attachment, netns_id, programmed_by: ProgrammedBy::NotYet };
                Some(FoundAttachment { record, worker: Arc::new(worker) })
            }
            Err(error) => {
                tracing::debug!(attachment = %attachment.key, error = %with_causes(&error), "not recovered");
                None
            }
        };
        unknown.filter_map(open).collect()
    }
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn read(path: &Path) -> Option<Value> {
    let is_valid = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX);
    if is_valid { serde_json::from_slice(&fs::read(path).ok()?).ok() } else { None }
}

/// Returns the networks whose pods this agent manages.
fn networks(dir: &Path, socket: &Path) -> BTreeSet<String> {
    let confs = configurations(dir).unwrap_or_default().into_iter().filter_map(|path| read(&path));
    // The entry of the plugin may be in a drop-in.
    let with_drop_in = |mut conf: Value| {
        let drop_in = text(&conf, "name").and_then(|name| read(DropIn::new(dir, &name).path()));
        let plugins = conf.get_mut("plugins").and_then(Value::as_array_mut);
        plugins.into_iter().for_each(|plugins| plugins.extend(drop_in.clone()));
        conf
    };
    confs.filter_map(|conf| own_network(&with_drop_in(conf), socket)).collect()
}

/// Returns the name of the network if its plugin chain contains Portico's plugin with this socket.
fn own_network(conf: &Value, socket: &Path) -> Option<String> {
    let uses_socket = |plugin: &Value| {
        let plugin_socket = PathBuf::from(text(plugin, SOCKET.name).as_deref().unwrap_or(SOCKET.default));
        plugin.get("type").is_some_and(|kind| kind == PLUGIN_TYPE) && plugin_socket == socket
    };
    let is_own = conf.get("plugins")?.as_array()?.iter().any(uses_socket);
    is_own.then(|| text(conf, "name"))?
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

/// Parses a file of the CNI cache (`cachedInfo` in api.go of libcni).
fn cached_attachment(cache: &Value) -> Option<Attachment> {
    let key = AttachmentKey {
        network: text(cache, "networkName")?,
        container_id: text(cache, "containerId")?,
        interface: text(cache, "ifName")?,
    };
    let result = cache.get("result")?;
    let interfaces =
        result.get("interfaces").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_interface =
        |interface: &Value| interface.get("name").is_some_and(|name| name == key.interface.as_str());
    let sandbox = |interface: &Value| text(interface, "sandbox").filter(|path| !path.is_empty());
    let index =
        interfaces.iter().position(|interface| is_interface(interface) && sandbox(interface).is_some());
    let own = index.and_then(|index| sandbox(&interfaces[index]));
    let netns = own.or_else(|| text(cache, "netns"))?.into();
    let addresses = addresses(result, index);
    let (dns, notes) = dns(cache);
    Some(Attachment { pod: pod(cache), annotations: annotations(cache), dns, key, netns, addresses, notes })
}

/// Returns the addresses of an interface, including addresses without an interface.
fn addresses(result: &Value, index: Option<usize>) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let of_interface = |ip: &&Value| match ip.get("interface").and_then(Value::as_u64) {
        Some(number) => index.is_some_and(|index| index as u64 == number),
        None => true,
    };
    ips.filter(of_interface)
        .filter_map(|ip| Some(text(ip, "address")?.parse::<IpNet>().ok()?.addr()))
        .collect()
}

fn pod(cache: &Value) -> Option<PodName> {
    let args = cache.get("cniArgs")?.as_array()?;
    let pairs = args.iter().filter_map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)));
    let args: BTreeMap<&str, &str> = pairs.collect();
    let arg = |key| args.get(key).map(|value| (*value).to_owned());
    Some(PodName {
        namespace: arg("K8S_POD_NAMESPACE")?,
        name: arg("K8S_POD_NAME")?,
        uid: arg("K8S_POD_UID").unwrap_or_default(),
    })
}

/// Returns the DNS configuration of the pod, and notes about its ignored parts.
fn dns(cache: &Value) -> (Option<PodDns>, Vec<String>) {
    let argument = cache.get("capabilityArgs").and_then(|args| args.get(DNS_CAPABILITY));
    let parsed = argument.and_then(|argument| RuntimeDns::deserialize(argument).ok());
    parsed.map(RuntimeDns::into_pod_dns).map_or_else(Default::default, |(dns, notes)| (Some(dns), notes))
}

fn annotations(cache: &Value) -> BTreeMap<String, String> {
    let all =
        cache.get("capabilityArgs").and_then(|args| args.get(POD_ANNOTATIONS)).and_then(Value::as_object);
    let own = all
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.as_str()?.to_owned())));
    own.collect()
}

#[cfg(test)]
mod tests {
    use agent_ipc::SOCKET_DEFAULT;
    use serde_json::json;

    use super::*;

    fn cache() -> Value {
        json!({
            "kind": "cniCacheV1", "containerId": "c1", "networkName": "net", "ifName": "eth0", "config": "e30=",
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "ns"], ["K8S_POD_NAME", "web"]],
            "capabilityArgs": {POD_ANNOTATIONS: {"portico.dev/portals": "redis", "other": "x"}},
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/a"}],
                "ips": [{"address": "10.1.0.9/24", "interface": 1}, {"address": "10.9.0.1/24", "interface": 0}],
                "dns": {},
            },
        })
    }

    #[test]
    fn cni_cache_contains_pod_netns_and_addresses() {
        let attachment = cached_attachment(&cache()).expect("an attachment");
        assert_eq!(attachment.key.to_string(), "net/c1/eth0");
        assert_eq!(attachment.netns, PathBuf::from("/run/netns/a"));
        assert_eq!(attachment.addresses, ["10.1.0.9".parse::<IpAddr>().expect("an address")]);
        assert_eq!(attachment.pod.expect("a pod").to_string(), "ns/web");
        assert_eq!(attachment.annotations, BTreeMap::from([("portals".to_owned(), "redis".to_owned())]));
    }

    #[test]
    fn cni_cache_contains_the_dns_configuration_of_the_pod() {
        let dns_of = |argument: Value| {
            let mut cache = cache();
            cache["capabilityArgs"][DNS_CAPABILITY] = argument;
            let attachment = cached_attachment(&cache).expect("an attachment");
            (attachment.dns, attachment.notes.len())
        };
        assert_eq!(cached_attachment(&cache()).expect("an attachment").dns, None);
        let expected = PodDns {
            servers: vec!["10.96.0.10".parse().expect("an address")],
            searches: vec!["ns.svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let written = json!({"Servers": ["10.96.0.10", "x"], "Searches": ["ns.svc.cluster.local"], "Options": ["ndots:5"]});
        assert_eq!(dns_of(written), (Some(expected), 1));
        for invalid in [json!(null), json!(7), json!({"servers": 7}), json!({"servers": [7]})] {
            assert_eq!(dns_of(invalid.clone()), (None, 0), "{invalid}");
        }
    }

    #[test]
    fn network_with_another_socket_is_not_managed() {
        let chain = |entry: Value| json!({"name": "net", "plugins": [{"type": "bridge"}, entry]});
        let own = |conf, socket: &str| own_network(&conf, Path::new(socket));
        let other = chain(json!({"type": PLUGIN_TYPE, "socket": "/run/other.sock"}));
        assert_eq!(own(other.clone(), SOCKET_DEFAULT), None);
        assert_eq!(own(other, "/run/other.sock").as_deref(), Some("net"));
        assert_eq!(own(chain(json!({"type": PLUGIN_TYPE})), SOCKET_DEFAULT).as_deref(), Some("net"));
        assert_eq!(own(chain(json!({"type": "tuning"})), SOCKET_DEFAULT), None);
    }

    #[test]
    fn network_with_a_drop_in_is_managed() {
        let dir = std::env::temp_dir().join(format!("portico-recovery-{}", std::process::id()));
        let drop_in = DropIn::new(&dir, "net");
        let path = drop_in.path();
        fs::create_dir_all(path.parent().expect("a directory")).expect("create a directory");
        let conf = json!({"name": "net", "plugins": [{"type": "bridge"}]}).to_string();
        fs::write(dir.join("10-net.conflist"), conf).expect("write a configuration");
        let before = networks(&dir, Path::new(SOCKET_DEFAULT));
        fs::write(path, json!({"type": PLUGIN_TYPE}).to_string()).expect("write a drop-in");
        let after = networks(&dir, Path::new(SOCKET_DEFAULT));
        fs::remove_dir_all(&dir).expect("remove the directory");
        assert_eq!((before, after), (BTreeSet::new(), BTreeSet::from(["net".to_owned()])));
    }

    #[test]
    fn cache_entry_without_netns_is_ignored() {
        let mut without = cache();
        without["result"]["interfaces"][1] = json!({"name": "eth0"});
        assert_eq!(cached_attachment(&without), None);
        without["netns"] = json!("/run/netns/b");
        assert!(cached_attachment(&without).is_some(), "newer runtimes store it outside of the result");
        for garbage in [json!(null), json!([]), json!({"result": 7}), json!({"networkName": 1})] {
            assert_eq!(cached_attachment(&garbage), None);
        }
    }
}
