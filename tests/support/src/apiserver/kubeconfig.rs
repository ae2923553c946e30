//! Kubeconfig files for a server and a token.

use std::path::{Path, PathBuf};

use crate::temp_dir::TempDir;

/// Writes a kubeconfig for a server and a token, and returns its path.
pub(super) fn write(dir: &TempDir, name: &str, server: &str, ca: &Path, token: &str) -> PathBuf {
    // JSON is YAML.
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    });
    dir.write(name, config.to_string())
}
