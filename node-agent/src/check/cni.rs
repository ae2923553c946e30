//! The CNI configuration that the runtime uses: whether our plugin is in it, at the right place, and sound.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use attachment::{OnAgentDown, PLUGIN_TYPE, POD_ANNOTATIONS, is_known_key};
use serde_json::{Map, Value};

use crate::check::Finding::{self, Bad, Good, LeftOut, Odd};

/// What was found about the configuration.
pub(super) struct Findings {
    pub(super) conflist: Finding,
    pub(super) order: Finding,
    pub(super) entry: Finding,
}

/// Looks at the configuration that the runtime takes: the first by name.
pub(super) fn conflist(folder: &Path) -> Findings {
    let nothing = |finding| Findings {
        conflist: finding,
        order: LeftOut("there is no configuration to look at".to_owned()),
        entry: LeftOut("there is no configuration to look at".to_owned()),
    };
    let path = match first(folder) {
        Ok(Some(path)) => path,
        Ok(None) => {
            let to_do = "install a CNI first; ours is chained behind it".to_owned();
            return nothing(Bad(format!("{} has none", folder.display()), to_do));
        }
        Err(error) => {
            let to_do = "--cni-conf says where the runtime finds it".to_owned();
            return nothing(Bad(format!("read {}: {error}", folder.display()), to_do));
        }
    };
    let shown = path.display();
    let conf: Value = match fs::read(&path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(serde_json::from_slice(&text)?))
    {
        Ok(conf) => conf,
        Err(error) => {
            let to_do = "repair it: no pod starts on this node until then".to_owned();
            return nothing(Bad(format!("read {shown}: {error:#}"), to_do));
        }
    };
    let Some(plugins) = conf.get("plugins").and_then(Value::as_array) else {
        let to_do = "turn it into a .conflist with a list \"plugins\", ours last".to_owned();
        return nothing(Bad(format!("{shown} has one plugin alone, so nothing can be chained"), to_do));
    };
    let kinds: Vec<&str> = plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or("?")).collect();
    let Some(place) = kinds.iter().position(|kind| *kind == PLUGIN_TYPE) else {
        let to_do = format!("add {{\"type\":\"{PLUGIN_TYPE}\"}} as the last of its plugins");
        return nothing(Bad(format!("{shown} has no {PLUGIN_TYPE} ({})", kinds.join(", ")), to_do));
    };
    Findings {
        conflist: Good(format!("{shown} has {PLUGIN_TYPE}")),
        order: order(&kinds, place),
        entry: plugins[place].as_object().map_or_else(|| LeftOut("it is no object".to_owned()), entry),
    }
}

fn first(folder: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let is_conf = |path: &PathBuf| {
        path.extension().is_some_and(|kind| ["conf", "conflist", "json"].iter().any(|known| kind == *known))
    };
    paths.retain(is_conf);
    paths.sort();
    Ok(paths.into_iter().next())
}

fn order(kinds: &[&str], place: usize) -> Finding {
    let shown = kinds.join(", ");
    if place == 0 {
        return Bad(
            format!("{PLUGIN_TYPE} is the first: {shown}"),
            "put it behind the plugin that makes the interface".to_owned(),
        );
    }
    if kinds.iter().filter(|kind| **kind == PLUGIN_TYPE).count() > 1 {
        return Odd(format!("{PLUGIN_TYPE} is there twice: {shown}"), "remove one".to_owned());
    }
    if place + 1 < kinds.len() {
        let what = format!("{PLUGIN_TYPE} is not the last: {shown}");
        return Odd(what, "put it last: what comes behind may change addresses that we were told".to_owned());
    }
    Good(shown)
}

fn entry(entry: &Map<String, Value>) -> Finding {
    if let Some(choice) = entry.get("onAgentDown")
        && choice.as_str().and_then(OnAgentDown::named).is_none()
    {
        return Bad(
            format!("onAgentDown is {choice}"),
            format!("write one of {}", OnAgentDown::ALL.map(OnAgentDown::name).join(", ")),
        );
    }
    let strange: Vec<&str> = entry.keys().map(String::as_str).filter(|key| !is_known_key(key)).collect();
    if !strange.is_empty() {
        return Odd(
            format!("keys that mean nothing to us: {}", strange.join(", ")),
            "correct or remove them".to_owned(),
        );
    }
    let has_annotations =
        entry.get("capabilities").and_then(|all| all.get(POD_ANNOTATIONS)) == Some(&Value::Bool(true));
    if !has_annotations {
        let what = "pod annotations are not asked for: every pod sees all services".to_owned();
        return Odd(what, format!("add \"capabilities\": {{\"{POD_ANNOTATIONS}\": true}}"));
    }
    Good("sound".to_owned())
}

/// Looks at the plugin's file.
pub(super) fn plugin(folder: &Path) -> Finding {
    let path = folder.join(PLUGIN_TYPE);
    let shown = path.display();
    let to_do = format!("install {PLUGIN_TYPE} there; --cni-bin says where the runtime looks");
    match fs::metadata(&path) {
        Err(error) => Bad(format!("{shown}: {error}"), to_do),
        Ok(file) if !file.is_file() || file.permissions().mode() & 0o111 == 0 => {
            Bad(format!("{shown} cannot be executed"), to_do)
        }
        Ok(_) => Good(shown.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(conf: &str) -> Findings {
        let folder =
            std::env::temp_dir().join(format!("portico-check-{}-{}", std::process::id(), conf.len()));
        fs::create_dir_all(&folder).expect("make a folder");
        fs::write(folder.join("10-net.conflist"), conf).expect("write a configuration");
        let found = conflist(&folder);
        fs::remove_dir_all(&folder).expect("remove the folder");
        found
    }

    #[test]
    fn a_sound_chain_has_us_last_and_asks_for_annotations() {
        let conf = r#"{"plugins":[{"type":"bridge"},{"type":"portico-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}}]}"#;
        let Findings { conflist, order, entry } = found(conf);
        assert!(matches!([conflist, order, entry], [Good(_), Good(_), Good(_)]));
    }

    #[test]
    fn each_mistake_is_told_with_what_to_do() {
        let bad = |finding: &Finding| matches!(finding, Bad(..));
        assert!(bad(&found("{").conflist));
        assert!(bad(&found(r#"{"type":"bridge"}"#).conflist));
        assert!(bad(&found(r#"{"plugins":[{"type":"bridge"}]}"#).conflist));
        assert!(bad(&found(r#"{"plugins":[{"type":"portico-cni"},{"type":"bridge"}]}"#).order));
        let last = found(r#"{"plugins":[{"type":"bridge"},{"type":"portico-cni"},{"type":"portmap"}]}"#);
        assert!(matches!(last.order, Odd(..)));
        let down = found(r#"{"plugins":[{"type":"bridge"},{"type":"portico-cni","onAgentDown":"wait"}]}"#);
        assert!(bad(&down.entry), "{:?}", down.entry);
        let key = found(r#"{"plugins":[{"type":"bridge"},{"type":"portico-cni","sockett":"x"}]}"#);
        let Odd(what, _) = key.entry else { panic!("{:?}", key.entry) };
        assert!(what.contains("sockett"));
    }
}
