//! An API server for tests: a double that speaks real list and watch over HTTPS, or a real one.
//!
//! Programs and libraries reach it by its kubeconfig, tests change what it has. The double can also do wrong what a
//! server can do wrong. `KUBEBUILDER_ASSETS` names the folder with the binaries of a real one.

pub mod certificates;
mod double;
mod kind;
mod kubeconfig;
mod listing;
mod real;
pub mod request;
pub mod rights;
mod store;
mod watching;
mod writing;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use double::Double;
pub use listing::Generated;
use real::Real;
use request::{Answer, send};
use rights::ApiCall;

/// Service accounts whose tokens are their names; no controller makes real ones here.
pub const ACCOUNTS: [&str; 2] = ["portico-agent", "portico-webhook"];
/// Where they are.
const NAMESPACE: &str = "portico-system";

/// What the double does wrong, from now on or once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// All faults that last end.
    Mended,
    /// The connections of all watches break in the middle of a change, once.
    CutWatches,
    /// All watches end as they should, once.
    EndWatches,
    /// The server forgets all versions but the last, and open watches are told so.
    Expire,
    /// A line into all watches of a resource, once.
    Line(&'static str, Vec<u8>),
    /// A bookmark into all watches, once.
    Bookmark,
    /// Nothing more comes in watches, though they stay open.
    SilentWatches,
    /// Requests are taken and not answered.
    Hang,
    /// Writes in a namespace are taken and not answered.
    HangIn(&'static str),
    /// Connections are closed as soon as they come, and those that are there.
    Away,
    /// Every request is answered with this status, and perhaps `Retry-After` in seconds.
    Answer(u16, Option<u64>),
    /// A resource may not be read.
    Deny(&'static str),
    /// A path is not known.
    Absent(&'static str),
    /// Watches do not send all that there is first.
    NoInitialEvents(InitialEvents),
    /// Lists of a resource are this text instead.
    GarbageList(&'static str, &'static str),
    /// Changes of the services with this label (or without it, where `!` stands before it) come later than others:
    /// not before this fault is mended.
    HoldWatches(&'static str),
    /// Before the next write of this resource somebody else puts this object, once.
    Race(&'static str, Value),
}

/// How a server refuses to send all that there is at the beginning of a watch.
#[derive(Debug, Clone, Copy)]
pub enum InitialEvents {
    /// By this status.
    Status(u16),
    /// By status 200 and an error with this code.
    Error(u16),
    /// It sends all that there is, and ends without the bookmark.
    Ends,
    /// It sends all that there is, and changes, and never the bookmark.
    NoBookmark,
}

/// The directory with the programs of a real API server.
fn assets() -> Option<OsString> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|assets| !assets.is_empty())
}

/// An API server for tests. It ends with the value.
pub enum Api {
    Double(Double),
    Real(Real),
}

impl Api {
    /// Starts a real one if `KUBEBUILDER_ASSETS` is set, otherwise the double.
    pub fn start() -> Self {
        if assets().is_some() { Self::real() } else { Self::double() }
    }

    /// Starts the double.
    pub fn double() -> Self {
        Self::Double(Double::start())
    }

    /// Starts a real one. A test that needs one is ignored without the feature `api-server` of its package.
    pub fn real() -> Self {
        let assets = assets().expect("KUBEBUILDER_ASSETS: the directory of etcd, kube-apiserver and kubectl");
        Self::Real(Real::start(Path::new(&assets)))
    }

    /// A kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        match self {
            Self::Double(double) => &double.kubeconfig,
            Self::Real(real) => &real.kubeconfig,
        }
    }

    /// A kubeconfig of somebody who may do nothing.
    pub fn kubeconfig_of_stranger(&self) -> &Path {
        match self {
            Self::Double(double) => &double.stranger,
            Self::Real(real) => &real.stranger,
        }
    }

    /// Creates or updates an object, with its status.
    pub fn put(&self, object: Value) {
        match self {
            Self::Double(double) => double.put(object),
            Self::Real(real) => real.put(&object),
        }
    }

    /// Has objects that are made when they are sent; the double alone can.
    pub fn generate(&self, generated: Generated) {
        match self {
            Self::Double(double) => double.generate(generated),
            Self::Real(_) => panic!("a real API server stores its objects"),
        }
    }

    /// Deletes an object, which may be gone already. The namespace is empty for what has none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        match self {
            Self::Double(double) => double.delete(kind, namespace, name),
            Self::Real(real) => real.delete(kind, namespace, name),
        }
    }

    /// Sends any request as somebody who may do everything.
    pub fn send(&self, method: &str, path: &str, content_type: &str, object: &Value) -> Answer {
        send(self.kubeconfig(), method, path, content_type, object)
    }

    /// An object as the server has it; none: it has none.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let path = kind::Kind::named(kind).path(namespace, name);
        let Answer { status, object, .. } = self.send("GET", &path, "application/json", &Value::Null);
        assert!(status == 200 || status == 404, "{path}: {status} {object}");
        (status == 200).then_some(object)
    }

    /// Makes an object by a request of its own, as kubectl does.
    pub fn create(&self, query: &str, object: &Value) -> Answer {
        let kind = kind::Kind::of(object);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let path = kind.path(namespace, "");
        let path = format!("{}{query}", path.trim_end_matches('/'));
        let mut object = object.clone();
        object["apiVersion"] = kind.api_version().into();
        self.send("POST", &path, "application/json", &object)
    }

    /// Does something wrong; the double alone can.
    pub fn fault(&self, fault: Fault) {
        match self {
            Self::Double(double) => double.fault(fault),
            Self::Real(_) => panic!("a real API server has no {fault:?} on demand"),
        }
    }

    /// The requests that have come since the last call, path and query; the double alone tells.
    pub fn requests(&self) -> Vec<String> {
        match self {
            Self::Double(double) => double.requests(),
            Self::Real(_) => panic!("a real API server does not tell its requests"),
        }
    }

    /// What a service account has written or tried to: methods and paths; the double alone tells.
    pub fn writes(&self, account: &str) -> Vec<String> {
        match self {
            Self::Double(double) => double.writes(account),
            Self::Real(_) => panic!("a real API server does not tell its requests"),
        }
    }

    /// When each object of a kind was made, by namespace and name; the double alone tells.
    pub fn made(&self, kind: &str) -> Vec<(String, String, Instant)> {
        match self {
            Self::Double(double) => double.made(kind),
            Self::Real(_) => panic!("a real API server does not tell when"),
        }
    }

    /// What a service account has asked for; the double alone tells.
    pub fn calls(&self, account: &str) -> BTreeSet<ApiCall> {
        match self {
            Self::Double(double) => double.calls(account),
            Self::Real(_) => panic!("a real API server does not tell its requests"),
        }
    }

    /// A kubeconfig of a service account: of a real server with the rights that roles grant it, of the double with all.
    pub fn kubeconfig_of_account(&self, account: &str) -> PathBuf {
        assert!(ACCOUNTS.contains(&account), "no account {account}");
        match self {
            Self::Double(double) => double.kubeconfig_of_account(account),
            Self::Real(real) => real.kubeconfig_of_account(account),
        }
    }

    /// Runs kubectl as somebody who may do everything, and says what it says; a real server alone has one.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        match self {
            Self::Double(_) => panic!("kubectl asks more than the double answers"),
            Self::Real(real) => real.kubectl(args),
        }
    }
}
