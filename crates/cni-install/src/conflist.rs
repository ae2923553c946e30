//! `Conflist`: the text of a CNI configuration list, and edits that add or remove the plugin's entry.
//!
//! The file belongs to another program. Therefore an edit cuts and inserts text instead of serialising the parsed
//! value: everything else stays byte for byte the same, including order, unknown keys and formatting. No IO here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use agent_ipc::{
    DNS_CAPABILITY, ON_AGENT_DOWN, OnAgentDown, PLUGIN_TYPE, POD_ANNOTATIONS, SOCKET, STATE_DIR, is_cni_name,
};
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use serde_json::value::RawValue;

/// The plugin's entry, as text and as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    text: String,
    value: Value,
}

impl Entry {
    /// Builds an entry. The plugin uses its defaults for absent settings.
    pub fn new(
        socket: Option<&Path>,
        state_dir: Option<&Path>,
        on_agent_down: Option<OnAgentDown>,
    ) -> anyhow::Result<Self> {
        let capabilities = format!("{{\"{POD_ANNOTATIONS}\": true, \"{DNS_CAPABILITY}\": true}}");
        let mut text = format!("{{\"type\": \"{PLUGIN_TYPE}\", \"capabilities\": {capabilities}");
        for (key, path) in [(SOCKET.name, socket), (STATE_DIR.name, state_dir)] {
            if let Some(path) = path {
                let path = path.to_str().with_context(|| format!("{key}: path is not valid UTF-8"))?;
                text += &format!(", \"{key}\": {}", Value::from(path));
            }
        }
        if let Some(choice) = on_agent_down {
            text += &format!(", \"{}\": \"{}\"", ON_AGENT_DOWN.name, choice.name());
        }
        text.push('}');
        let value = serde_json::from_str(&text).expect("text that is built from JSON values is JSON");
        Ok(Self { text, value })
    }

    /// The content of a drop-in file.
    pub fn file_text(&self) -> String {
        format!("{}\n", self.text)
    }

    /// Whether this text is the same JSON value.
    pub fn is_equivalent(&self, text: &str) -> bool {
        serde_json::from_str::<Value>(text).is_ok_and(|value| value == self.value)
    }
}

/// A parsed configuration list.
#[derive(Debug)]
pub struct Conflist<'a> {
    text: &'a str,
    /// The name of the network.
    pub name: String,
    /// Whether libcni ignores drop-ins for this network (`loadOnlyInlinedPlugins`).
    pub is_inlined_only: bool,
    versions: Vec<String>,
    plugins: Vec<Plugin>,
}

#[derive(Debug)]
struct Plugin {
    /// The byte range of the plugin's object in the text.
    span: Range<usize>,
    plugin_type: String,
}

impl<'a> Conflist<'a> {
    /// Parses a configuration list. An error names the key or the position.
    pub fn parse(text: &'a str) -> anyhow::Result<Self> {
        let object: BTreeMap<String, &'a RawValue> =
            serde_json::from_str(text).context("not a JSON object")?;
        let name: String = value(&object, "name")?.context("no \"name\"")?;
        // The name is also that of a directory.
        ensure!(is_cni_name(&name), "name: {name:?} is not a valid network name");
        let raw: Vec<&'a RawValue> =
            value(&object, "plugins")?.context("no \"plugins\" list: cannot chain")?;
        let span = |raw: &RawValue| {
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        };
        let plugin = |(index, raw): (usize, &&RawValue)| {
            let plugin_type = serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get())
                .map_err(anyhow::Error::from)
                .and_then(|plugin| value::<String>(&plugin, "type")?.context("no \"type\""))
                .with_context(|| format!("plugins[{index}]"))?;
            anyhow::Ok(Plugin { span: span(raw), plugin_type })
        };
        let plugins = raw.iter().enumerate().map(plugin).collect::<Result<Vec<_>, _>>()?;
        let versions: Option<Vec<String>> = value(&object, "cniVersions")?;
        let version: Option<String> = value(&object, "cniVersion")?;
        // The specification: a configuration without a version has version 0.1.0.
        let version = version.unwrap_or_else(|| "0.1.0".to_owned());
        let versions = [version].into_iter().chain(versions.into_iter().flatten()).collect();
        // libcni also accepts a boolean in quotes.
        let inlined: Option<Value> = value(&object, "loadOnlyInlinedPlugins")?;
        let is_inlined_only =
            inlined.is_some_and(|value| value == true || value.as_str().is_some_and(|text| text == "true"));
        Ok(Self { text, name, is_inlined_only, versions, plugins })
    }

    /// The types of the plugins, in the order of the chain.
    pub fn plugin_types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.plugin_type.as_str())
    }

    /// The text of the plugin's entry; if there are several, of the last one.
    pub fn portico_entry(&self) -> Option<&str> {
        let index = self.portico_indices().into_iter().next_back()?;
        Some(&self.text[self.plugins[index].span.clone()])
    }

    /// Rejects CNI versions that the plugin does not support: no pod of the network would start.
    pub fn check_versions(&self, supported: &[String]) -> anyhow::Result<()> {
        if let Some(version) = self.versions.iter().find(|version| !supported.contains(version)) {
            bail!(
                "CNI version {version} is not supported by {PLUGIN_TYPE} (supported: {}): no pod would start",
                supported.join(", ")
            );
        }
        Ok(())
    }

    /// Returns the text with the entry added or updated, or `None` if it is up to date.
    ///
    /// An entry after at least one other plugin keeps its position, even if it is not the last: other installers also
    /// move their entry to the end, and would compete forever.
    pub fn with_entry(&self, entry: &Entry) -> anyhow::Result<Option<String>> {
        let indices = self.portico_indices();
        ensure!(indices.len() < self.plugins.len(), "no plugin creates an interface");
        match indices[..] {
            [] => Ok(Some(self.append(entry))),
            [index] if index > 0 => {
                let Range { start, end } = self.plugins[index].span.clone();
                if entry.is_equivalent(&self.text[start..end]) {
                    return Ok(None);
                }
                Ok(Some(format!("{}{}{}", &self.text[..start], entry.text, &self.text[end..])))
            }
            _ => {
                let bare = self.without_entries().with_context(|| {
                    format!("{PLUGIN_TYPE} appears more than once, or first in the chain")
                })?;
                Ok(Some(Conflist::parse(&bare)?.append(entry)))
            }
        }
    }

    /// Returns the text without entries of the plugin, or `None` if there are none.
    pub fn without_entries(&self) -> Option<String> {
        let indices = self.portico_indices();
        let mut text = self.text.to_owned();
        for (removed, index) in indices.iter().copied().enumerate().rev() {
            // If all plugins before this one are removed, too, the comma to cut is the one after it.
            let is_first = removed == index;
            let next = self.plugins.get(index + 1).map(|next| next.span.start);
            let Range { start, end } = self.plugins[index].span.clone();
            let cut = match (is_first, next) {
                (true, Some(next)) => start..next,
                (true, None) => start..end,
                (false, _) => self.plugins[index - 1].span.end..end,
            };
            text.replace_range(cut, "");
        }
        (!indices.is_empty()).then_some(text)
    }

    fn portico_indices(&self) -> Vec<usize> {
        let entries = self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.plugin_type == PLUGIN_TYPE);
        entries.map(|(index, _)| index).collect()
    }

    /// Appends the entry with the white space that precedes the current last plugin.
    fn append(&self, entry: &Entry) -> String {
        let last = self.plugins.last().map_or(0..0, |plugin| plugin.span.clone());
        let before = &self.text[..last.start];
        let space = &before[before.trim_end_matches([' ', '\t', '\r', '\n']).len()..];
        let has_spaces = space.is_empty() && self.plugins.len() == 1 && self.text.contains("\": ");
        let space = if has_spaces { " " } else { space };
        format!("{},{space}{}{}", &self.text[..last.end], entry.text, &self.text[last.end..])
    }
}

/// Parses the value of a key. A key that is null counts as absent.
fn value<'a, T: serde::Deserialize<'a>>(
    object: &BTreeMap<String, &'a RawValue>,
    key: &str,
) -> anyhow::Result<Option<T>> {
    let raw = object.get(key).map(|raw| raw.get()).filter(|raw| *raw != "null");
    raw.map(serde_json::from_str).transpose().with_context(|| key.to_owned())
}

#[cfg(test)]
mod tests;
