//! `Conf`: the configuration on standard input, parsed key by key.
//!
//! Each verb requests the keys that it needs, so that DEL does not fail because of a key that only ADD uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent_ipc::{
    AttachmentKey, ConfigKey, DNS_CAPABILITY, ON_AGENT_DOWN, OnAgentDown, POD_ANNOTATIONS, PodDns,
    RuntimeDns, SOCKET, STATE_DIR, is_cni_name, is_known_key,
};
use proxy_core::annotation::PREFIX;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{CniError, Code};
use crate::json::{Object, invalid, value};
use crate::prev_result::PrevResult;
use crate::version::Version;

/// The key of the attachments that GC must keep.
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// The configuration.
#[derive(Debug)]
pub(crate) struct Conf<'a>(Object<'a>);

impl<'a> Conf<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, CniError> {
        let what = if text.is_empty() {
            "standard input is empty"
        } else {
            "invalid configuration on standard input"
        };
        let object = serde_json::from_slice(text);
        object.map(Self).map_err(|error| CniError::new(Code::Undecodable, format!("{what}: {error}")))
    }

    pub(crate) fn version(&self) -> Result<Version, CniError> {
        let name: Option<String> =
            self.value("cniVersion").map_err(|error| CniError { code: Code::Undecodable, ..error })?;
        Version::from_name(&name.unwrap_or_default())
    }

    /// The name of the network.
    pub(crate) fn network(&self) -> Result<String, CniError> {
        let name: String = self.value("name")?.ok_or_else(|| invalid("name: missing"))?;
        if is_cni_name(&name) {
            Ok(name)
        } else {
            Err(invalid(format!("name: {name:?} is not a valid network name")))
        }
    }

    /// The path of the agent's socket.
    pub(crate) fn socket(&self) -> Result<PathBuf, CniError> {
        self.path(&SOCKET)
    }

    /// The directory of records and rulesets.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, CniError> {
        self.path(&STATE_DIR)
    }

    pub(crate) fn on_agent_down(&self) -> Result<OnAgentDown, CniError> {
        let Some(name) = self.value::<String>(ON_AGENT_DOWN.name)? else { return Ok(OnAgentDown::default()) };
        OnAgentDown::from_name(&name).ok_or_else(|| {
            let key = ON_AGENT_DOWN.name;
            let choices = OnAgentDown::ALL.map(OnAgentDown::name).join(", ");
            invalid(format!("{key}: {name:?} must be one of: {choices}"))
        })
    }

    /// The result of the previous plugins in the chain.
    pub(crate) fn prev_result(&self) -> Result<PrevResult<'a>, CniError> {
        let missing =
            || invalid("prevResult: missing; portico-cni must follow a plugin that creates the interface");
        let raw: &'a RawValue = self.value("prevResult")?.ok_or_else(missing)?;
        PrevResult::parse(raw)
    }

    /// The argument of a capability, if the runtime passes it.
    fn capability<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, CniError> {
        let config: Object<'a> = self.value("runtimeConfig")?.unwrap_or_default();
        value(&config, name)
            .map_err(|error| CniError { message: format!("runtimeConfig.{}", error.message), ..error })
    }

    /// The pod's DNS configuration, if the runtime passes it, and notes about its ignored parts. An invalid one is
    /// ignored: the pod can start without it.
    pub(crate) fn dns(&self) -> Result<(Option<PodDns>, Vec<String>), CniError> {
        let Some(raw) = self.capability::<&'a RawValue>(DNS_CAPABILITY)? else {
            return Ok((None, Vec::new()));
        };
        Ok(match serde_json::from_str::<RuntimeDns>(raw.get()) {
            Ok(dns) => {
                let (dns, notes) = dns.into_pod_dns();
                (Some(dns), notes)
            }
            Err(error) => (None, vec![format!("ignored runtimeConfig.{DNS_CAPABILITY}: {error}")]),
        })
    }

    /// The pod's annotations with Portico's prefix, without the prefix.
    pub(crate) fn annotations(&self) -> Result<BTreeMap<String, String>, CniError> {
        let all: Object<'a> = self.capability(POD_ANNOTATIONS)?.unwrap_or_default();
        let annotations = all.iter().filter_map(|(key, raw)| Some((key, key.strip_prefix(PREFIX)?, raw)));
        let read = |(key, short, raw): (&String, &str, &&RawValue)| {
            let text = serde_json::from_str::<String>(raw.get());
            let text = text.map_err(|error| invalid(format!("annotation {key}: {error}")))?;
            Ok((short.to_owned(), text))
        };
        annotations.map(read).collect()
    }

    /// The attachments that GC must keep. None if the runtime does not pass the list, which is not an empty list.
    pub(crate) fn valid_attachments(&self) -> Result<Option<Vec<AttachmentKey>>, CniError> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        if !self.0.contains_key(VALID_ATTACHMENTS) {
            return Ok(None);
        }
        let network = self.network()?;
        let valid: Vec<Valid> = self.value(VALID_ATTACHMENTS)?.unwrap_or_default();
        let key = |Valid { container_id, ifname }| AttachmentKey {
            network: network.clone(),
            container_id,
            interface: ifname,
        };
        Ok(Some(valid.into_iter().map(key).collect()))
    }

    /// Warnings about unknown keys, which may be typing errors.
    pub(crate) fn unknown_keys(&self) -> Vec<String> {
        let unknown = self.0.keys().filter(|key| !is_known_key(key));
        unknown.map(|key| format!("unknown configuration key {key:?}")).collect()
    }

    fn path(&self, key: &ConfigKey) -> Result<PathBuf, CniError> {
        let path = self.value::<PathBuf>(key.name)?.unwrap_or_else(|| key.default.into());
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(invalid(format!("{}: {path:?} is not an absolute path", key.name)))
        }
    }

    fn value<T: Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, CniError> {
        value(&self.0, key)
    }
}
