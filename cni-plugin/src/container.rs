//! `Container`: which interface of which pod it is about, from the environment.
//!
//! What is missing is named all at once, and names are held to the specification's patterns, since they end
//! up in file names. What must not go in here: the configuration.

use std::env;
use std::path::PathBuf;

use agent_ipc::PodName;

use crate::failure::{Code, Failure};

/// The kernel's limit, without the byte at the end.
const INTERFACE_BYTES_MAX: usize = 15;

/// What the environment says.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) interface: String,
    /// Empty where DEL is called for a pod whose network namespace is gone.
    pub(crate) netns: PathBuf,
    args: String,
}

impl Container {
    pub(crate) fn from_env(needs_netns: bool) -> Result<Self, Failure> {
        let (mut missing, mut bad) = (Vec::new(), Vec::new());
        let mut take = |name: &'static str, required: bool| match env::var(name) {
            Ok(value) if !value.is_empty() => value,
            Err(env::VarError::NotUnicode(_)) => {
                bad.push(name);
                String::new()
            }
            _ => {
                missing.extend(required.then_some(name));
                String::new()
            }
        };
        let container = Self {
            id: take("CNI_CONTAINERID", true),
            netns: take("CNI_NETNS", needs_netns).into(),
            interface: take("CNI_IFNAME", true),
            args: take("CNI_ARGS", false),
        };
        let invalid = |message: String| Err(Failure::new(Code::InvalidEnvironment, message));
        if !missing.is_empty() {
            return invalid(format!("required env variables [{}] missing", missing.join(",")));
        }
        if !bad.is_empty() {
            return invalid(format!("env variables [{}] are not UTF-8", bad.join(",")));
        }
        if !is_name(&container.id) {
            return invalid(format!("CNI_CONTAINERID {:?} is no container id", container.id));
        }
        if !is_interface(&container.interface) {
            return invalid(format!("CNI_IFNAME {:?} is no name of an interface", container.interface));
        }
        Ok(container)
    }

    /// The pod, where the runtime tells namespace and name.
    pub(crate) fn pod(&self) -> Option<PodName> {
        let namespace = self.arg("K8S_POD_NAMESPACE")?.to_owned();
        let name = self.arg("K8S_POD_NAME")?.to_owned();
        Some(PodName { namespace, name, uid: self.arg("K8S_POD_UID").unwrap_or_default().to_owned() })
    }

    /// A value of CNI_ARGS. What is no pair, and what nobody asks for, is skipped.
    fn arg(&self, key: &str) -> Option<&str> {
        let mut pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, value)| *name == key && !value.is_empty()).map(|(_, value)| value)
    }
}

/// Whether CNI takes it for a container id or the name of a network.
pub(crate) fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && text.bytes().all(is_inner)
}

fn is_interface(text: &str) -> bool {
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    text.len() <= INTERFACE_BYTES_MAX && !matches!(text, "" | "." | "..") && !text.contains(is_bad)
}
