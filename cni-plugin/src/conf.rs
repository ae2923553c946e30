//! `Conf`: the configuration on standard input, read key by key.
//!
//! Each verb asks for the keys that it needs, so that DEL does not stumble over what only ADD cares about.
//! Values stay raw until then; what is passed through is never taken apart. What must not go in here: what
//! is done with a value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent_ipc::{
    AttachmentKey, ConfigKey, ON_AGENT_DOWN, OnAgentDown, POD_ANNOTATIONS, SOCKET, STATE_DIR, is_known_key,
};
use proxy_core::annotation::PREFIX;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::container::is_name;
use crate::failure::{Code, Failure};
use crate::previous::Previous;
use crate::version::Version;

/// A JSON object whose values nobody has looked at. Of equal keys the last one counts, as it does for libcni.
pub(crate) type Object<'a> = BTreeMap<String, &'a RawValue>;

const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// The configuration.
#[derive(Debug)]
pub(crate) struct Conf<'a>(Object<'a>);

impl<'a> Conf<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Failure> {
        let what =
            if text.is_empty() { "standard input is empty" } else { "standard input is no configuration" };
        let object = serde_json::from_slice(text);
        object.map(Self).map_err(|why| Failure::new(Code::Undecodable, format!("{what}: {why}")))
    }

    pub(crate) fn version(&self) -> Result<Version, Failure> {
        let name: Option<String> =
            self.value("cniVersion").map_err(|failure| Failure { code: Code::Undecodable, ..failure })?;
        Version::named(&name.unwrap_or_default())
    }

    /// The name of the network.
    pub(crate) fn name(&self) -> Result<String, Failure> {
        let name: String = self.value("name")?.ok_or_else(|| invalid("name: it is missing"))?;
        if is_name(&name) {
            Ok(name)
        } else {
            Err(invalid(format!("name: {name:?} is no name of a network")))
        }
    }

    /// Where the agent listens.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        self.path(&SOCKET)
    }

    /// Where records and rulesets lie.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        self.path(&STATE_DIR)
    }

    pub(crate) fn on_agent_down(&self) -> Result<OnAgentDown, Failure> {
        let Some(name) = self.value::<String>(ON_AGENT_DOWN.name)? else { return Ok(OnAgentDown::default()) };
        let [first, second, third] = OnAgentDown::ALL.map(OnAgentDown::name);
        OnAgentDown::from_name(&name).ok_or_else(|| {
            let key = ON_AGENT_DOWN.name;
            invalid(format!("{key}: {name:?} is none of {first:?}, {second:?} and {third:?}"))
        })
    }

    /// The result of the plugins before this one.
    pub(crate) fn previous(&self) -> Result<Previous<'a>, Failure> {
        let missing = || {
            invalid(
                "prevResult: it is missing; portico-cni has to stand behind a plugin that makes an interface",
            )
        };
        let raw: &'a RawValue = self.value("prevResult")?.ok_or_else(missing)?;
        Previous::parse(raw)
    }

    /// The pod's annotations that are ours, without the prefix.
    pub(crate) fn annotations(&self) -> Result<BTreeMap<String, String>, Failure> {
        let config: Object<'a> = self.value("runtimeConfig")?.unwrap_or_default();
        let all: Object<'a> = value(&config, POD_ANNOTATIONS)
            .map_err(|failure| Failure { message: format!("runtimeConfig.{}", failure.message), ..failure })?
            .unwrap_or_default();
        let ours = all.iter().filter_map(|(key, raw)| Some((key, key.strip_prefix(PREFIX)?, raw)));
        let read = |(key, short, raw): (&String, &str, &&RawValue)| {
            let text = serde_json::from_str::<String>(raw.get());
            let text = text.map_err(|why| invalid(format!("annotation {key}: {why}")))?;
            Ok((short.to_owned(), text))
        };
        ours.map(read).collect()
    }

    /// What GC has to keep. None: the runtime does not say, which is not the same as that nothing is left.
    pub(crate) fn valid_attachments(&self) -> Result<Option<Vec<AttachmentKey>>, Failure> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        if !self.0.contains_key(VALID_ATTACHMENTS) {
            return Ok(None);
        }
        let network = self.name()?;
        let valid: Vec<Valid> = self.value(VALID_ATTACHMENTS)?.unwrap_or_default();
        let key = |Valid { container_id, ifname }| AttachmentKey {
            network: network.clone(),
            container_id,
            interface: ifname,
        };
        Ok(Some(valid.into_iter().map(key).collect()))
    }

    /// Keys that mean nothing to anybody here: a typing error, perhaps.
    pub(crate) fn notes(&self) -> Vec<String> {
        let strange = self.0.keys().filter(|key| !is_known_key(key));
        strange.map(|key| format!("configuration key {key:?} means nothing")).collect()
    }

    fn path(&self, key: &ConfigKey) -> Result<PathBuf, Failure> {
        let path = self.value::<PathBuf>(key.name)?.unwrap_or_else(|| key.default.into());
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(invalid(format!("{}: {path:?} is no absolute path", key.name)))
        }
    }

    fn value<T: Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, Failure> {
        value(&self.0, key)
    }
}

/// A value of an object; `null` is as good as none.
pub(crate) fn value<'a, T: Deserialize<'a>>(object: &Object<'a>, key: &str) -> Result<Option<T>, Failure> {
    let raw = object.get(key).map(|raw| raw.get()).filter(|raw| *raw != "null");
    let value = raw.map(serde_json::from_str).transpose();
    value.map_err(|why| invalid(format!("{key}: {why}")))
}

pub(crate) fn invalid(message: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidConfiguration, message)
}
