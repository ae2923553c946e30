//! The CNI configuration that the runtime uses: whether our plugin is in it, at the right place, and sound.

use std::fs;
use std::path::Path;

use attachment::{ON_AGENT_DOWN, OnAgentDown, PLUGIN_TYPE, POD_ANNOTATIONS, is_known_key};
use serde_json::{Map, Value};

use crate::check::Finding::{self, Bad, Good, LeftOut, Odd};
use crate::install::{ConfFile, DropIn, about, own_path, versions};

/// What was found about the configuration.
pub(super) struct Findings {
    pub(super) conflist: Finding,
    pub(super) order: Finding,
    pub(super) entry: Finding,
}

/// Looks at the configuration that the runtime takes. `versions` are those that the plugin speaks, if it was asked.
pub(super) fn conflist(folder: &Path, network: Option<&str>, versions: &[String]) -> Findings {
    let nothing = |finding| Findings {
        conflist: finding,
        order: LeftOut("there is no configuration to look at".to_owned()),
        entry: LeftOut("there is no configuration to look at".to_owned()),
    };
    let bad = |error: &anyhow::Error, to_do: &str| nothing(Bad(format!("{error:#}"), to_do.to_owned()));
    let file = match ConfFile::find(folder, network) {
        Ok(file) => file,
        Err(error) => return bad(&error, "no pod gets portals until then"),
    };
    let conf = match file.conflist() {
        Ok(conf) => conf,
        Err(error) => return bad(&error, "repair it: no pod starts on this node until then"),
    };
    let shown = file.path.display();
    let drop_in = DropIn::of(folder, &conf.name);
    let mut kinds: Vec<&str> = conf.kinds().collect();
    let apart = fs::read_to_string(drop_in.path()).ok().filter(|_| !conf.is_inlined_only);
    let by = if apart.is_some() {
        kinds.push(PLUGIN_TYPE);
        drop_in.path().display()
    } else {
        file.path.display()
    };
    let Some(place) = kinds.iter().position(|kind| *kind == PLUGIN_TYPE) else {
        let what = format!("{shown} has no {PLUGIN_TYPE} ({})", kinds.join(", "));
        return nothing(Bad(what, "portico install puts it in".to_owned()));
    };
    let to_do = "give the network a version that all of its plugins speak".to_owned();
    let conflist = match conf.speaks(versions) {
        Err(error) if !versions.is_empty() => Bad(format!("{shown}: {error}"), to_do),
        _ if apart.is_some() => {
            Good(format!("{by} has {PLUGIN_TYPE}; only runtimes with libcni 1.3 or newer look there"))
        }
        _ => Good(format!("{by} has {PLUGIN_TYPE}")),
    };
    let entry = apart.as_deref().or(conf.own_entry()).map(serde_json::from_str::<Map<String, Value>>);
    let broken =
        || Bad(format!("{by}: our entry is no JSON object"), "portico install repairs it".to_owned());
    Findings {
        conflist,
        order: order(&kinds, place),
        entry: entry.and_then(Result::ok).map_or_else(broken, |entry| self::entry(&entry)),
    }
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
    if let Some(choice) = entry.get(ON_AGENT_DOWN.name)
        && choice.as_str().and_then(OnAgentDown::named).is_none()
    {
        return Bad(
            format!("{} is {choice}", ON_AGENT_DOWN.name),
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

/// Looks at the plugin's file; says which versions of CNI it speaks, too.
pub(super) fn plugin(folder: &Path) -> (Finding, Vec<String>) {
    let path = own_path(folder);
    let shown = path.display();
    let to_do = "portico install puts it there; --cni-bin-dir says where the runtime looks".to_owned();
    let asked = versions(&path).and_then(|versions| Ok((about(&path)?, versions)));
    let (said, versions) = match asked {
        Ok(answer) => answer,
        Err(error) => return (Bad(format!("{error:#}"), to_do), Vec::new()),
    };
    let own = env!("CARGO_PKG_VERSION");
    let finding = match said.strip_prefix("portico-cni ").and_then(|said| said.split(':').next()) {
        Some(version) if version == own => Good(format!("{shown}, version {version}")),
        Some(version) => {
            let what = format!("{shown} is of version {version}, and this is {own}");
            Odd(what, "portico install puts the one beside this program there".to_owned())
        }
        None => Bad(format!("{shown} is another program"), to_do),
    };
    (finding, versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(plugins: &str) -> Findings {
        found_in(&format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"net\",\"plugins\":{plugins}}}"))
    }

    fn found_in(conf: &str) -> Findings {
        let folder =
            std::env::temp_dir().join(format!("portico-check-{}-{}", std::process::id(), conf.len()));
        fs::create_dir_all(&folder).expect("make a folder");
        fs::write(folder.join("10-net.conflist"), conf).expect("write a configuration");
        let found = conflist(&folder, None, &["1.0.0".to_owned()]);
        fs::remove_dir_all(&folder).expect("remove the folder");
        found
    }

    #[test]
    fn a_sound_chain_has_us_last_and_asks_for_annotations() {
        let conf = r#"[{"type":"bridge"},{"type":"portico-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}}]"#;
        let Findings { conflist, order, entry } = found(conf);
        assert!(matches!([conflist, order, entry], [Good(_), Good(_), Good(_)]));
    }

    #[test]
    fn each_mistake_is_told_with_what_to_do() {
        let bad = |finding: &Finding| matches!(finding, Bad(..));
        assert!(bad(&found_in("{").conflist));
        assert!(bad(&found_in(r#"{"type":"bridge"}"#).conflist));
        let version =
            r#"{"cniVersion":"0.2.0","name":"net","plugins":[{"type":"bridge"},{"type":"portico-cni"}]}"#;
        assert!(bad(&found_in(version).conflist));
        assert!(bad(&found(r#"[{"type":"bridge"}]"#).conflist));
        assert!(bad(&found(r#"[{"type":"portico-cni"},{"type":"bridge"}]"#).order));
        let last = found(r#"[{"type":"bridge"},{"type":"portico-cni"},{"type":"portmap"}]"#);
        assert!(matches!(last.order, Odd(..)));
        let down = found(r#"[{"type":"bridge"},{"type":"portico-cni","onAgentDown":"wait"}]"#);
        assert!(bad(&down.entry), "{:?}", down.entry);
        let key = found(r#"[{"type":"bridge"},{"type":"portico-cni","sockett":"x"}]"#);
        let Odd(what, _) = key.entry else { panic!("{:?}", key.entry) };
        assert!(what.contains("sockett"));
    }
}
