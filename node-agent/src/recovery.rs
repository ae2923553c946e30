//! Attachments that nobody brought: from records on disk, and from the runtime's own memory.
//!
//! Records tell of pods from before a restart, and of those that the plugin programmed while the agent was
//! not there. The runtime's CNI cache tells of pods that ran before the install. What must not go in here:
//! what is done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_ipc::{
    Attachment, AttachmentKey, PLUGIN_TYPE, POD_ANNOTATIONS, PodName, ProgrammedBy, Record, Records, SOCKET,
    with_causes,
};
use ipnet::IpNet;
use proxy_core::annotation::PREFIX;
use serde_json::Value;

use crate::netns_worker::NetnsWorker;
use cni_install::DropIn;
use cni_install::configurations;

/// A larger file is none of the runtime's.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where to look.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) records: Records,
    pub(crate) state_dir: PathBuf,
    pub(crate) cni_cache: PathBuf,
    pub(crate) cni_conf: PathBuf,
    /// Where this agent listens. A network whose pods are told to ask elsewhere is another agent's.
    pub(crate) socket: PathBuf,
}

/// An attachment that was found, and its open network namespace.
#[derive(Debug)]
pub(crate) struct FoundAttachment {
    pub(crate) record: Record,
    pub(crate) namespace: Arc<NetnsWorker>,
}

impl Recovery {
    /// The attachments that are not known; records of those that are gone are removed.
    pub(crate) fn look(&self, known: &BTreeSet<AttachmentKey>) -> Vec<FoundAttachment> {
        let mut found = self.recorded(known);
        let mut known = known.clone();
        known.extend(found.iter().map(|adopted| adopted.record.attachment.key.clone()));
        found.extend(self.cached(&known));
        found
    }

    fn recorded(&self, known: &BTreeSet<AttachmentKey>) -> Vec<FoundAttachment> {
        let (records, broken) = self.records.read_all().unwrap_or_else(|error| {
            tracing::error!(path = %self.state_dir.display(), %error, "read the records of attachments");
            Default::default()
        });
        for broken in broken {
            tracing::error!(path = %broken.path.display(), why = broken.reason, "a record was broken and is put aside");
        }
        let mut found = Vec::new();
        for record in records.into_iter().filter(|record| !known.contains(&record.attachment.key)) {
            match NetnsWorker::open(&record.attachment.netns) {
                Ok(namespace) if namespace.id() == record.netns_id => {
                    found.push(FoundAttachment { record, namespace: Arc::new(namespace) });
                }
                // Another one is behind that path by now, or none.
                Ok(_) => self.remove(&record, "another network namespace is where it was"),
                Err(error) => self.remove(&record, &with_causes(&error)),
            }
        }
        found
    }

    fn remove(&self, record: &Record, why: &str) {
        let key = &record.attachment.key;
        tracing::info!(attachment = %key, why, "its pod went while nobody looked");
        if let Err(error) = self.records.remove(key) {
            tracing::warn!(attachment = %key, %error, "remove the record of an attachment");
        }
    }

    fn cached(&self, known: &BTreeSet<AttachmentKey>) -> Vec<FoundAttachment> {
        let networks = networks(&self.cni_conf, &self.socket);
        if networks.is_empty() {
            return Vec::new();
        }
        let results = files(&self.cni_cache).filter_map(|path| read(&path));
        let attachments = results.filter_map(|result| cached_attachment(&result));
        let ours = attachments.filter(|a| networks.contains(&a.key.network) && !known.contains(&a.key));
        let open = |attachment: Attachment| match NetnsWorker::open(&attachment.netns) {
            Ok(namespace) => {
                let netns_id = namespace.id();
                let record = Record { attachment, netns_id, programmed_by: ProgrammedBy::NotYet };
                Some(FoundAttachment { record, namespace: Arc::new(namespace) })
            }
            Err(error) => {
                tracing::debug!(attachment = %attachment.key, error = %with_causes(&error), "not adopted");
                None
            }
        };
        ours.filter_map(open).collect()
    }
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn read(path: &Path) -> Option<Value> {
    let is_sound = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX);
    if is_sound { serde_json::from_slice(&fs::read(path).ok()?).ok() } else { None }
}

/// The networks whose pods are this agent's.
fn networks(folder: &Path, socket: &Path) -> BTreeSet<String> {
    let confs = configurations(folder).unwrap_or_default().into_iter().filter_map(|path| read(&path));
    // Our entry may be a file of its own.
    let whole = |mut conf: Value| {
        let apart = text(&conf, "name").and_then(|name| read(DropIn::new(folder, &name).path()));
        let plugins = conf.get_mut("plugins").and_then(Value::as_array_mut);
        plugins.into_iter().for_each(|plugins| plugins.extend(apart.clone()));
        conf
    };
    confs.filter_map(|conf| own_network(&whole(conf), socket)).collect()
}

/// The name of a network whose chain has our plugin in it, and where that plugin asks at this socket.
fn own_network(conf: &Value, socket: &Path) -> Option<String> {
    let asks_here = |plugin: &Value| {
        let asked = PathBuf::from(text(plugin, SOCKET.name).as_deref().unwrap_or(SOCKET.default));
        plugin.get("type").is_some_and(|kind| kind == PLUGIN_TYPE) && asked == socket
    };
    let is_own = conf.get("plugins")?.as_array()?.iter().any(asks_here);
    is_own.then(|| text(conf, "name"))?
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

/// What libcni keeps of one attachment (`cachedInfo` in its api.go).
fn cached_attachment(cache: &Value) -> Option<Attachment> {
    let key = AttachmentKey {
        network: text(cache, "networkName")?,
        container_id: text(cache, "containerId")?,
        interface: text(cache, "ifName")?,
    };
    let result = cache.get("result")?;
    let interfaces =
        result.get("interfaces").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_ours =
        |interface: &Value| interface.get("name").is_some_and(|name| name == key.interface.as_str());
    let sandbox = |interface: &Value| text(interface, "sandbox").filter(|path| !path.is_empty());
    let index = interfaces.iter().position(|interface| is_ours(interface) && sandbox(interface).is_some());
    let own = index.and_then(|index| sandbox(&interfaces[index]));
    let netns = own.or_else(|| text(cache, "netns"))?.into();
    let addresses = addresses(result, index);
    Some(Attachment {
        pod: pod(cache),
        annotations: annotations(cache),
        key,
        netns,
        addresses,
        notes: Vec::new(),
    })
}

/// The addresses of an interface; one that names no interface counts.
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
    let named = |key| args.get(key).map(|value| (*value).to_owned());
    Some(PodName {
        namespace: named("K8S_POD_NAMESPACE")?,
        name: named("K8S_POD_NAME")?,
        uid: named("K8S_POD_UID").unwrap_or_default(),
    })
}

fn annotations(cache: &Value) -> BTreeMap<String, String> {
    let all =
        cache.get("capabilityArgs").and_then(|args| args.get(POD_ANNOTATIONS)).and_then(Value::as_object);
    let ours = all
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.as_str()?.to_owned())));
    ours.collect()
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
    fn the_runtimes_cache_tells_pod_namespace_and_addresses() {
        let attachment = cached_attachment(&cache()).expect("an attachment");
        assert_eq!(attachment.key.to_string(), "net/c1/eth0");
        assert_eq!(attachment.netns, PathBuf::from("/run/netns/a"));
        assert_eq!(attachment.addresses, ["10.1.0.9".parse::<IpAddr>().expect("an address")]);
        assert_eq!(attachment.pod.expect("a pod").to_string(), "ns/web");
        assert_eq!(attachment.annotations, BTreeMap::from([("portals".to_owned(), "redis".to_owned())]));
    }

    #[test]
    fn a_network_whose_plugin_asks_elsewhere_is_another_agents() {
        let chain = |entry: Value| json!({"name": "net", "plugins": [{"type": "bridge"}, entry]});
        let own = |conf, socket: &str| own_network(&conf, Path::new(socket));
        let there = chain(json!({"type": PLUGIN_TYPE, "socket": "/run/other.sock"}));
        assert_eq!(own(there.clone(), SOCKET_DEFAULT), None);
        assert_eq!(own(there, "/run/other.sock").as_deref(), Some("net"));
        assert_eq!(own(chain(json!({"type": PLUGIN_TYPE})), SOCKET_DEFAULT).as_deref(), Some("net"));
        assert_eq!(own(chain(json!({"type": "tuning"})), SOCKET_DEFAULT), None);
    }

    #[test]
    fn a_network_with_our_entry_in_a_file_of_its_own_is_ours() {
        let folder = std::env::temp_dir().join(format!("portico-adopt-{}", std::process::id()));
        let drop_in = DropIn::new(&folder, "net");
        let path = drop_in.path();
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        let conf = json!({"name": "net", "plugins": [{"type": "bridge"}]}).to_string();
        fs::write(folder.join("10-net.conflist"), conf).expect("write a configuration");
        let before = networks(&folder, Path::new(SOCKET_DEFAULT));
        fs::write(path, json!({"type": PLUGIN_TYPE}).to_string()).expect("write a drop-in");
        let after = networks(&folder, Path::new(SOCKET_DEFAULT));
        fs::remove_dir_all(&folder).expect("remove the folder");
        assert_eq!((before, after), (BTreeSet::new(), BTreeSet::from(["net".to_owned()])));
    }

    #[test]
    fn a_cache_entry_without_a_network_namespace_is_passed_over() {
        let mut without = cache();
        without["result"]["interfaces"][1] = json!({"name": "eth0"});
        assert_eq!(cached_attachment(&without), None);
        without["netns"] = json!("/run/netns/b");
        assert!(cached_attachment(&without).is_some(), "newer runtimes keep it beside the result");
        for garbage in [json!(null), json!([]), json!({"result": 7}), json!({"networkName": 1})] {
            assert_eq!(cached_attachment(&garbage), None);
        }
    }
}
