//! `CniArgs`: the interface and the pod of a call, from the environment.
//!
//! All missing variables are reported at once. Names must match the patterns of the specification, because they become
//! parts of file names.

use std::env;
use std::path::PathBuf;

use agent_ipc::{PodName, is_cni_name};

use crate::error::{CniError, Code};

/// The kernel's limit, without the terminating zero byte.
const INTERFACE_BYTES_MAX: usize = 15;

/// The variables that the runtime sets.
#[derive(Debug)]
pub(crate) struct CniArgs {
    pub(crate) container_id: String,
    pub(crate) interface: String,
    /// Empty in a DEL for a pod whose network namespace no longer exists.
    pub(crate) netns: PathBuf,
    args: String,
}

impl CniArgs {
    pub(crate) fn from_env(needs_netns: bool) -> Result<Self, CniError> {
        let (mut missing, mut not_utf8) = (Vec::new(), Vec::new());
        let mut take = |name: &'static str, is_required: bool| match env::var(name) {
            Ok(value) if !value.is_empty() => value,
            Err(env::VarError::NotUnicode(_)) => {
                not_utf8.push(name);
                String::new()
            }
            _ => {
                missing.extend(is_required.then_some(name));
                String::new()
            }
        };
        let args = Self {
            container_id: take("CNI_CONTAINERID", true),
            netns: take("CNI_NETNS", needs_netns).into(),
            interface: take("CNI_IFNAME", true),
            args: take("CNI_ARGS", false),
        };
        let invalid = |message: String| Err(CniError::new(Code::InvalidEnvironment, message));
        if !missing.is_empty() {
            return invalid(format!("required env variables [{}] missing", missing.join(",")));
        }
        if !not_utf8.is_empty() {
            return invalid(format!("env variables [{}] are not UTF-8", not_utf8.join(",")));
        }
        if !is_cni_name(&args.container_id) {
            return invalid(format!("CNI_CONTAINERID {:?} is not a valid container id", args.container_id));
        }
        if !is_interface_name(&args.interface) {
            return invalid(format!("CNI_IFNAME {:?} is not a valid interface name", args.interface));
        }
        Ok(args)
    }

    /// The pod, if the runtime passes its namespace and name.
    pub(crate) fn pod(&self) -> Option<PodName> {
        let namespace = self.arg("K8S_POD_NAMESPACE")?.to_owned();
        let name = self.arg("K8S_POD_NAME")?.to_owned();
        Some(PodName { namespace, name, uid: self.arg("K8S_POD_UID").unwrap_or_default().to_owned() })
    }

    /// A value of CNI_ARGS. Parts without `=`, and unknown keys, are ignored.
    fn arg(&self, key: &str) -> Option<&str> {
        let mut pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, value)| *name == key && !value.is_empty()).map(|(_, value)| value)
    }
}

fn is_interface_name(text: &str) -> bool {
    let is_invalid = |c: char| c == '/' || c == ':' || c.is_whitespace();
    text.len() <= INTERFACE_BYTES_MAX && !matches!(text, "" | "." | "..") && !text.contains(is_invalid)
}
