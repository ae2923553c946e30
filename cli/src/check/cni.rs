//! Checks of the CNI installation: whether the network's configuration contains the plugin at a valid position and
//! with valid settings, and whether the plugin binary works.

use std::fs;
use std::path::Path;

use agent_ipc::{DNS_CAPABILITY, ON_AGENT_DOWN, OnAgentDown, PLUGIN_TYPE, POD_ANNOTATIONS, is_known_key};
use serde_json::{Map, Value};

use cni_install::{ConfFile, DropIn, plugin_banner, plugin_path, supported_versions};

use crate::check::Finding::{self, Fail, Pass, Skip, Warn};

/// The results of the checks of the configuration.
pub(super) struct Findings {
    pub(super) conflist: Finding,
    pub(super) order: Finding,
    pub(super) entry: Finding,
}

/// Checks the configuration that the runtime uses. `versions` are the CNI versions that the plugin supports; empty if
/// they are unknown.
pub(super) fn conflist(conf_dir: &Path, network: Option<&str>, versions: &[String]) -> Findings {
    let only = |finding| Findings {
        conflist: finding,
        order: Skip("no configuration to check".to_owned()),
        entry: Skip("no configuration to check".to_owned()),
    };
    let fail = |error: &anyhow::Error, remedy: &str| only(Fail(format!("{error:#}"), remedy.to_owned()));
    let file = match ConfFile::find(conf_dir, network) {
        Ok(file) => file,
        Err(error) => return fail(&error, "no pod gets portals until this is resolved"),
    };
    let conf = match file.conflist() {
        Ok(conf) => conf,
        Err(error) => return fail(&error, "repair the file: no pod starts on this node until then"),
    };
    let file_name = file.path.display();
    let drop_in = DropIn::new(conf_dir, &conf.name);
    let mut types: Vec<&str> = conf.plugin_types().collect();
    let drop_in_text = fs::read_to_string(drop_in.path()).ok().filter(|_| !conf.is_inlined_only);
    let entry_file = if drop_in_text.is_some() {
        types.push(PLUGIN_TYPE);
        drop_in.path().display()
    } else {
        file.path.display()
    };
    let Some(position) = types.iter().position(|plugin_type| *plugin_type == PLUGIN_TYPE) else {
        let problem = format!("no {PLUGIN_TYPE} in {file_name} ({})", types.join(", "));
        return only(Fail(problem, "run portico install to add it".to_owned()));
    };
    let conflist = match conf.check_versions(versions) {
        Err(error) if !versions.is_empty() => Fail(
            format!("{file_name}: {error}"),
            "set a version in the configuration that all plugins support".to_owned(),
        ),
        _ if drop_in_text.is_some() => Pass(format!(
            "{PLUGIN_TYPE} is in {entry_file}, which only runtimes with libcni 1.3 or newer read"
        )),
        _ => Pass(format!("{PLUGIN_TYPE} is in {entry_file}")),
    };
    let entry =
        drop_in_text.as_deref().or(conf.portico_entry()).map(serde_json::from_str::<Map<String, Value>>);
    let malformed = || {
        Fail(
            format!("{entry_file}: the entry is not a JSON object"),
            "run portico install to repair it".to_owned(),
        )
    };
    Findings {
        conflist,
        order: order(&types, position),
        entry: entry.and_then(Result::ok).map_or_else(malformed, |entry| self::entry(&entry)),
    }
}

fn order(types: &[&str], position: usize) -> Finding {
    let chain = types.join(", ");
    if position == 0 {
        return Fail(
            format!("{PLUGIN_TYPE} is first: {chain}"),
            "move it after the plugin that creates the interface".to_owned(),
        );
    }
    if types.iter().filter(|plugin_type| **plugin_type == PLUGIN_TYPE).count() > 1 {
        return Warn(format!("{PLUGIN_TYPE} appears more than once: {chain}"), "remove one entry".to_owned());
    }
    if position + 1 < types.len() {
        return Warn(
            format!("{PLUGIN_TYPE} is not last: {chain}"),
            "move it to the end: later plugins may change the addresses that it has recorded".to_owned(),
        );
    }
    Pass(chain)
}

fn entry(entry: &Map<String, Value>) -> Finding {
    if let Some(choice) = entry.get(ON_AGENT_DOWN.name)
        && choice.as_str().and_then(OnAgentDown::from_name).is_none()
    {
        return Fail(
            format!("invalid value of {}: {choice}", ON_AGENT_DOWN.name),
            format!("must be one of: {}", OnAgentDown::ALL.map(OnAgentDown::name).join(", ")),
        );
    }
    let unknown: Vec<&str> = entry.keys().map(String::as_str).filter(|key| !is_known_key(key)).collect();
    if !unknown.is_empty() {
        return Warn(format!("unknown keys: {}", unknown.join(", ")), "correct or remove them".to_owned());
    }
    let capabilities = entry.get("capabilities");
    let is_requested = |name: &str| capabilities.and_then(|all| all.get(name)) == Some(&Value::Bool(true));
    if !is_requested(POD_ANNOTATIONS) {
        return Warn(
            "pod annotations are not requested: every pod sees all services".to_owned(),
            format!("add \"capabilities\": {{\"{POD_ANNOTATIONS}\": true}}"),
        );
    }
    if !is_requested(DNS_CAPABILITY) {
        // In-pod DNS then uses the cluster's DNS addresses, and the kubelet's search list.
        return Pass(format!(
            "valid; the DNS configuration of pods is not requested: \"capabilities\" lacks \"{DNS_CAPABILITY}\": true"
        ));
    }
    Pass("valid".to_owned())
}

/// Checks the plugin binary. Returns also the CNI versions that it supports.
pub(super) fn plugin(bin_dir: &Path) -> (Finding, Vec<String>) {
    let path = plugin_path(bin_dir);
    let file_name = path.display();
    let remedy = "run portico install, or set the runtime's plugin directory with --cni-bin-dir".to_owned();
    let probed = supported_versions(&path).and_then(|versions| Ok((plugin_banner(&path)?, versions)));
    let (banner, versions) = match probed {
        Ok(probed) => probed,
        Err(error) => return (Fail(format!("{error:#}"), remedy), Vec::new()),
    };
    let expected = env!("CARGO_PKG_VERSION");
    let version = banner.strip_prefix("portico-cni ").and_then(|rest| rest.split(':').next());
    let finding = match version {
        Some(version) if version == expected => Pass(format!("{file_name}, version {version}")),
        Some(version) => Warn(
            format!("{file_name} has version {version}, this program has version {expected}"),
            "run portico install to install the plugin that is next to this program".to_owned(),
        ),
        None => Fail(format!("{file_name} is a different program"), remedy),
    };
    (finding, versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_plugins(plugins: &str) -> Findings {
        check_conf(&format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"net\",\"plugins\":{plugins}}}"))
    }

    fn check_conf(conf: &str) -> Findings {
        let dir = std::env::temp_dir().join(format!("portico-check-{}-{}", std::process::id(), conf.len()));
        fs::create_dir_all(&dir).expect("create a directory");
        fs::write(dir.join("10-net.conflist"), conf).expect("write a configuration");
        let findings = conflist(&dir, None, &["1.0.0".to_owned()]);
        fs::remove_dir_all(&dir).expect("remove the directory");
        findings
    }

    #[test]
    fn chain_with_the_plugin_last_and_annotations_requested_passes() {
        let plugins = r#"[{"type":"bridge"},{"type":"portico-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true,"dns":true}}]"#;
        let Findings { conflist, order, entry } = check_plugins(plugins);
        assert!(matches!([conflist, order, entry], [Pass(_), Pass(_), Pass(_)]));
    }

    #[test]
    fn entry_without_the_capability_dns_passes_with_a_note() {
        let entry = |dns: &str| {
            let capabilities = format!(r#"{{"io.kubernetes.cri.pod-annotations":true{dns}}}"#);
            let plugins =
                format!(r#"[{{"type":"bridge"}},{{"type":"portico-cni","capabilities":{capabilities}}}]"#);
            match check_plugins(&plugins).entry {
                Pass(text) => text,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(entry(",\"dns\":true"), "valid");
        for dns in ["", ",\"dns\":false", ",\"dns\":\"true\""] {
            assert!(entry(dns).contains("\"dns\": true"), "{dns}");
        }
    }

    #[test]
    fn each_mistake_in_the_configuration_is_reported() {
        let is_fail = |finding: &Finding| matches!(finding, Fail(..));
        assert!(is_fail(&check_conf("{").conflist));
        assert!(is_fail(&check_conf(r#"{"type":"bridge"}"#).conflist));
        let version =
            r#"{"cniVersion":"0.2.0","name":"net","plugins":[{"type":"bridge"},{"type":"portico-cni"}]}"#;
        assert!(is_fail(&check_conf(version).conflist));
        assert!(is_fail(&check_plugins(r#"[{"type":"bridge"}]"#).conflist));
        assert!(is_fail(&check_plugins(r#"[{"type":"portico-cni"},{"type":"bridge"}]"#).order));
        let not_last = check_plugins(r#"[{"type":"bridge"},{"type":"portico-cni"},{"type":"portmap"}]"#);
        assert!(matches!(not_last.order, Warn(..)));
        let choice = check_plugins(r#"[{"type":"bridge"},{"type":"portico-cni","onAgentDown":"wait"}]"#);
        assert!(is_fail(&choice.entry), "{:?}", choice.entry);
        let key = check_plugins(r#"[{"type":"bridge"},{"type":"portico-cni","sockett":"x"}]"#);
        let Warn(problem, _) = key.entry else { panic!("{:?}", key.entry) };
        assert!(problem.contains("sockett"));
    }
}
