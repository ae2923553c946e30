//! An API server for tests: a double that supports list and watch over HTTPS, or a real one.
//!
//! Clients connect to it with a kubeconfig, and tests change its objects. The double can also produce the faults of a
//! server. `KUBEBUILDER_ASSETS` names the directory with the binaries of a real one.

pub mod certificates;
mod double;
mod kind;
mod kubeconfig;
mod listing;
mod real;
pub mod request;
pub mod rights;
mod store;
mod watch_stream;
mod writing;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use double::Double;
pub use listing::Generated;
use real::RealServer;
use request::{ApiResponse, send};
use rights::ApiCall;

/// Service accounts, whose tokens are their names because no controller creates real tokens.
pub const ACCOUNTS: [&str; 2] = ["portico-agent", "portico-webhook"];
/// The namespace of the service accounts.
const NAMESPACE: &str = "portico-system";

/// A fault of the double, which lasts or occurs once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Ends all lasting faults.
    Cleared,
    /// Closes the connections of all watches in the middle of a change, once.
    CutWatches,
    /// Ends all watches in order, once.
    EndWatches,
    /// Expires all versions except the last, and reports this to open watches.
    Expire,
    /// Sends a line to all watches of a resource, once.
    Line(&'static str, Vec<u8>),
    /// Sends a bookmark to all watches, once.
    Bookmark,
    /// Sends nothing more to watches, but keeps them open.
    SilentWatches,
    /// Accepts requests without a response.
    Hang,
    /// Accepts writes in a namespace without a response.
    HangIn(&'static str),
    /// Closes new and existing connections.
    Down,
    /// Responds to each request with this status, and with `Retry-After` in seconds if set.
    Answer(u16, Option<u64>),
    /// Forbids to read a resource.
    Deny(&'static str),
    /// Responds with 404 for a path.
    Absent(&'static str),
    /// Watches send no initial events.
    NoInitialEvents(InitialEvents),
    /// Responds with this text to lists of a resource.
    GarbageList(&'static str, &'static str),
    /// Delays changes of the services with this label (or without it, if it is prefixed with `!`) until the fault ends.
    HoldWatches(&'static str),
    /// Another client writes this object before the next write of this resource, once.
    Race(&'static str, Value),
}

/// The way in which a server refuses initial events.
#[derive(Debug, Clone, Copy)]
pub enum InitialEvents {
    /// With this status.
    Status(u16),
    /// With status 200 and an error event with this code.
    Error(u16),
    /// The watch sends all objects, and ends without the bookmark.
    Ends,
    /// The watch sends all objects and changes, but never the bookmark.
    NoBookmark,
}

/// The directory with the programs of a real API server.
fn assets() -> Option<OsString> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|assets| !assets.is_empty())
}

/// An API server for tests, which is stopped when the value is dropped.
pub enum ApiServer {
    Double(Double),
    Real(RealServer),
}

impl ApiServer {
    /// Starts a real API server if `KUBEBUILDER_ASSETS` is set, otherwise the double.
    pub fn start() -> Self {
        if assets().is_some() { Self::real() } else { Self::double() }
    }

    /// Starts the double.
    pub fn double() -> Self {
        Self::Double(Double::start())
    }

    /// Starts a real API server. A test that needs one is ignored without the feature `api-server` of its package.
    pub fn real() -> Self {
        Self::real_with_ranges("10.0.0.0/16")
    }

    /// Starts a real API server with these service ranges, separated by a comma.
    pub fn real_with_ranges(service_ranges: &str) -> Self {
        let assets = assets().expect("KUBEBUILDER_ASSETS: the directory of etcd, kube-apiserver and kubectl");
        Self::Real(RealServer::start(Path::new(&assets), service_ranges))
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        match self {
            Self::Double(double) => &double.kubeconfig,
            Self::Real(real) => &real.kubeconfig,
        }
    }

    /// The kubeconfig of a user without rights.
    pub fn kubeconfig_without_rights(&self) -> &Path {
        match self {
            Self::Double(double) => &double.kubeconfig_without_rights,
            Self::Real(real) => &real.kubeconfig_without_rights,
        }
    }

    /// Creates or updates an object, including its status.
    pub fn put(&self, object: Value) {
        match self {
            Self::Double(double) => double.put(object),
            Self::Real(real) => real.put(&object),
        }
    }

    /// Adds objects that are generated while they are sent; only with the double.
    pub fn generate(&self, generated: Generated) {
        match self {
            Self::Double(double) => double.generate(generated),
            Self::Real(_) => panic!("a real API server stores its objects"),
        }
    }

    /// Deletes an object if it exists. The namespace is empty for a cluster-scoped kind.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        match self {
            Self::Double(double) => double.delete(kind, namespace, name),
            Self::Real(real) => real.delete(kind, namespace, name),
        }
    }

    /// Sends a request as an administrator.
    pub fn send(&self, method: &str, path: &str, content_type: &str, object: &Value) -> ApiResponse {
        send(self.kubeconfig(), method, path, content_type, object)
    }

    /// Returns an object, or `None` if it does not exist.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let path = kind::Kind::named(kind).path(namespace, name);
        let ApiResponse { status, object, .. } = self.send("GET", &path, "application/json", &Value::Null);
        assert!(status == 200 || status == 404, "{path}: {status} {object}");
        (status == 200).then_some(object)
    }

    /// Creates an object with a POST request, as kubectl does.
    pub fn create(&self, query: &str, object: &Value) -> ApiResponse {
        let kind = kind::Kind::of(object);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let path = kind.path(namespace, "");
        let path = format!("{}{query}", path.trim_end_matches('/'));
        let mut object = object.clone();
        object["apiVersion"] = kind.api_version().into();
        self.send("POST", &path, "application/json", &object)
    }

    /// Causes a fault; only with the double.
    pub fn fault(&self, fault: Fault) {
        match self {
            Self::Double(double) => double.fault(fault),
            Self::Real(_) => panic!("a real API server cannot produce {fault:?}"),
        }
    }

    /// The paths and queries of the requests since the last call; only with the double.
    pub fn requests(&self) -> Vec<String> {
        match self {
            Self::Double(double) => double.requests(),
            Self::Real(_) => panic!("a real API server does not report its requests"),
        }
    }

    /// The methods and paths of the writes of a service account, including denied ones; only with the double.
    pub fn writes(&self, account: &str) -> Vec<String> {
        match self {
            Self::Double(double) => double.writes(account),
            Self::Real(_) => panic!("a real API server does not report its requests"),
        }
    }

    /// The namespace, name and time of creation of each object of a kind; only with the double.
    pub fn created_objects(&self, kind: &str) -> Vec<(String, String, Instant)> {
        match self {
            Self::Double(double) => double.created_objects(kind),
            Self::Real(_) => panic!("a real API server does not report the time"),
        }
    }

    /// The calls of a service account; only with the double.
    pub fn calls(&self, account: &str) -> BTreeSet<ApiCall> {
        match self {
            Self::Double(double) => double.calls(account),
            Self::Real(_) => panic!("a real API server does not report its requests"),
        }
    }

    /// The kubeconfig of a service account. A real server grants the rights of its roles, the double grants all.
    pub fn kubeconfig_of_account(&self, account: &str) -> PathBuf {
        assert!(ACCOUNTS.contains(&account), "no account {account}");
        match self {
            Self::Double(double) => double.kubeconfig_of_account(account),
            Self::Real(real) => real.kubeconfig_of_account(account),
        }
    }

    /// Runs kubectl as an administrator and returns its output; only with a real server.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        match self {
            Self::Double(_) => panic!("the double does not support kubectl"),
            Self::Real(real) => real.kubectl(args),
        }
    }
}
