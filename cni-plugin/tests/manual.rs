//! Whether the manual page says what the program does. It is written by hand, as there is no command line to make it from.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use agent_ipc::{OnAgentDown, SOCKET_DEFAULT, STATE_DIR_DEFAULT, is_known_key};

const PAGE: &str = include_str!("../portico-cni.8");

/// The names in bold of a section's items.
fn items(section: &str) -> BTreeSet<&'static str> {
    let of = PAGE.split("\n.SH ").find(|part| part.starts_with(section)).expect("the section");
    let lines = of.split("\n.TP\n").skip(1);
    lines.filter_map(|item| item.strip_prefix("\\fB")?.split("\\fR").next()).collect()
}

/// What the program says to a command and a configuration, on both streams.
fn said(command: &str, conf: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portico-cni"))
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the plugin");
    // Some commands answer without reading anything.
    let _ = child.stdin.take().expect("piped above").write_all(conf.as_bytes());
    let output = child.wait_with_output().expect("wait for the plugin");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn the_manual_page_of_the_plugin_names_every_command() {
    let commands = items("COMMANDS");
    assert_eq!(commands, ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"].into());
    for command in commands {
        assert!(!said(command, "").contains("unknown CNI_COMMAND"), "{command}");
    }
    assert!(said("STOP", "").contains("unknown CNI_COMMAND"));
}

#[test]
fn every_key_in_the_manual_page_of_the_plugin_is_one_that_it_reads() {
    let keys = items("CONFIGURATION");
    assert_eq!(keys, ["onAgentDown", "socket", "stateDir"].into());
    for key in keys {
        assert!(is_known_key(key), "{key}");
        let conf = format!(r#"{{"cniVersion": "1.1.0", "name": "pods", "type": "portico-cni", "{key}": 1}}"#);
        assert!(said("STATUS", &conf).contains(&format!("{key}: ")), "{key}: {}", said("STATUS", &conf));
    }
}

#[test]
fn every_default_and_choice_in_the_manual_page_of_the_plugin_is_true() {
    let default = OnAgentDown::default().name();
    for (key, value) in
        [("socket", SOCKET_DEFAULT), ("stateDir", STATE_DIR_DEFAULT), ("onAgentDown", default)]
    {
        assert!(PAGE.contains(&format!("\\fB{key}\\fR (\\fI{value}\\fR)\n")), "{key}");
    }
    for choice in OnAgentDown::ALL {
        assert!(PAGE.contains(&format!("\\fB{}\\fR: ", choice.name())), "{choice:?}");
    }
}
