//! Whether the manual page agrees with the program. It is written by hand, because the plugin has no command line from
//! which it could be generated.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use agent_ipc::{OnAgentDown, SOCKET_DEFAULT, STATE_DIR_DEFAULT, is_known_key};

const PAGE: &str = include_str!("../portico-cni.8");

/// The names of a section's items, which are in bold.
fn items(section: &str) -> BTreeSet<&'static str> {
    let text = PAGE.split("\n.SH ").find(|part| part.starts_with(section)).expect("the section");
    let lines = text.split("\n.TP\n").skip(1);
    lines.filter_map(|item| item.strip_prefix("\\fB")?.split("\\fR").next()).collect()
}

/// What the program prints for a command and a configuration, on both streams.
fn output(command: &str, conf: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portico-cni"))
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the plugin");
    // Some commands exit without reading their input.
    let _ = child.stdin.take().expect("piped above").write_all(conf.as_bytes());
    let streams = child.wait_with_output().expect("wait for the plugin");
    String::from_utf8_lossy(&[streams.stdout, streams.stderr].concat()).into_owned()
}

#[test]
fn plugin_manual_names_every_command() {
    let commands = items("COMMANDS");
    assert_eq!(commands, ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"].into());
    for command in commands {
        assert!(!output(command, "").contains("unknown CNI_COMMAND"), "{command}");
    }
    assert!(output("STOP", "").contains("unknown CNI_COMMAND"));
}

#[test]
fn keys_in_the_plugin_manual_are_read() {
    let keys = items("CONFIGURATION");
    assert_eq!(keys, ["onAgentDown", "socket", "stateDir"].into());
    for key in keys {
        assert!(is_known_key(key), "{key}");
        let conf = format!(r#"{{"cniVersion": "1.1.0", "name": "pods", "type": "portico-cni", "{key}": 1}}"#);
        assert!(output("STATUS", &conf).contains(&format!("{key}: ")), "{key}: {}", output("STATUS", &conf));
    }
}

#[test]
fn defaults_and_choices_in_the_plugin_manual_are_correct() {
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
