//! `Conflist`: the text of a CNI configuration, into which our entry is put and from which it is taken.
//!
//! The text is cut and joined, never written anew: it is somebody else's file, so what is not ours stays byte for
//! byte, with its order, its unknown keys and its formatting. What must not go in here: files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use attachment::{ON_AGENT_DOWN, OnAgentDown, PLUGIN_TYPE, POD_ANNOTATIONS, SOCKET, STATE_DIR};
use serde_json::Value;
use serde_json::value::RawValue;

/// Our entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    text: String,
    value: Value,
}

impl Entry {
    /// What is not said is left to the plugin.
    pub(crate) fn new(
        socket: Option<&Path>,
        state_dir: Option<&Path>,
        on_agent_down: Option<OnAgentDown>,
    ) -> anyhow::Result<Self> {
        let mut text =
            format!("{{\"type\": \"{PLUGIN_TYPE}\", \"capabilities\": {{\"{POD_ANNOTATIONS}\": true}}");
        for (key, path) in [(SOCKET.name, socket), (STATE_DIR.name, state_dir)] {
            if let Some(path) = path {
                let path = path.to_str().context("a path in a CNI configuration has to be text")?;
                text += &format!(", \"{key}\": {}", Value::from(path));
            }
        }
        if let Some(choice) = on_agent_down {
            text += &format!(", \"{}\": \"{}\"", ON_AGENT_DOWN.name, choice.name());
        }
        text.push('}');
        let value = serde_json::from_str(&text).context("understand our own entry")?;
        Ok(Self { text, value })
    }

    /// The entry as a file of its own.
    pub(crate) fn file(&self) -> String {
        format!("{}\n", self.text)
    }

    /// Whether this text means the same.
    pub(crate) fn is(&self, text: &str) -> bool {
        serde_json::from_str::<Value>(text).is_ok_and(|value| value == self.value)
    }
}

/// A configuration with several plugins.
#[derive(Debug)]
pub(crate) struct Conflist<'a> {
    text: &'a str,
    /// The name of its network.
    pub(crate) name: String,
    /// Whether plugins that stand in files of their own are left out.
    pub(crate) is_inlined_only: bool,
    versions: Vec<String>,
    plugins: Vec<Plugin>,
}

#[derive(Debug)]
struct Plugin {
    at: Range<usize>,
    kind: String,
}

impl<'a> Conflist<'a> {
    /// Reads one. Where it is refused, the reason names the place.
    pub(crate) fn parse(text: &'a str) -> anyhow::Result<Self> {
        let object: BTreeMap<String, &'a RawValue> =
            serde_json::from_str(text).context("it is no JSON object")?;
        let name: String = value(&object, "name")?.context("it has no \"name\"")?;
        // What CNI allows; the name is also that of a folder.
        let is_sound = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_sound);
        ensure!(is_name, "name: {name:?} is no name of a network");
        let raw: Vec<&'a RawValue> =
            value(&object, "plugins")?.context("it has no list \"plugins\", so nothing can be chained")?;
        let place = |raw: &RawValue| {
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        };
        let plugin = |(index, raw): (usize, &&RawValue)| {
            let kind = serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get())
                .map_err(anyhow::Error::from)
                .and_then(|plugin| value::<String>(&plugin, "type")?.context("it has no \"type\""))
                .with_context(|| format!("plugins[{index}]"))?;
            anyhow::Ok(Plugin { at: place(raw), kind })
        };
        let plugins = raw.iter().enumerate().map(plugin).collect::<Result<Vec<_>, _>>()?;
        let versions: Vec<String> = value(&object, "cniVersions")?.unwrap_or_default();
        let version: Option<String> = value(&object, "cniVersion")?;
        // Without one it is 0.1.0, says the specification.
        let versions = [version.unwrap_or_else(|| "0.1.0".to_owned())].into_iter().chain(versions).collect();
        // libcni takes a boolean in quotes, too.
        let inlined: Option<Value> = value(&object, "loadOnlyInlinedPlugins")?;
        let is_inlined_only =
            inlined.is_some_and(|value| value == true || value.as_str().is_some_and(|text| text == "true"));
        Ok(Self { text, name, is_inlined_only, versions, plugins })
    }

    /// What its plugins are, in their order.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str())
    }

    /// Our entry in it, the last if there are several.
    pub(crate) fn own_entry(&self) -> Option<&str> {
        let place = self.ours().into_iter().next_back()?;
        Some(&self.text[self.plugins[place].at.clone()])
    }

    /// Refuses versions of CNI that our plugin does not speak: with one, each pod would fail.
    pub(crate) fn speaks(&self, supported: &[String]) -> anyhow::Result<()> {
        if let Some(version) = self.versions.iter().find(|version| !supported.contains(version)) {
            let known = supported.join(", ");
            bail!("it is of CNI {version}, and {PLUGIN_TYPE} speaks {known}: with it no pod would start");
        }
        Ok(())
    }

    /// The text with our entry in it; none where it is in it as it should be.
    ///
    /// Where ours stands behind another plugin it stays there: other installers want to be the last, too, and
    /// there is no end to that.
    pub(crate) fn with(&self, entry: &Entry) -> anyhow::Result<Option<String>> {
        let ours = self.ours();
        ensure!(ours.len() < self.plugins.len(), "none of its plugins makes an interface");
        match ours[..] {
            [] => Ok(Some(self.appended(entry))),
            [place] if place > 0 => {
                let Range { start, end } = self.plugins[place].at.clone();
                let is_right = entry.is(&self.text[start..end]);
                Ok((!is_right).then(|| format!("{}{}{}", &self.text[..start], entry.text, &self.text[end..])))
            }
            _ => {
                let bare = self.without().context("ours stands in it twice, or first")?;
                Ok(Some(Conflist::parse(&bare)?.appended(entry)))
            }
        }
    }

    /// The text without our entries; none where there is none of them in it.
    pub(crate) fn without(&self) -> Option<String> {
        let ours = self.ours();
        let mut text = self.text.to_owned();
        for (index, place) in ours.iter().copied().enumerate().rev() {
            // Those before it that are ours go, too, so this one may become the first.
            let is_first = index == place;
            let next = self.plugins.get(place + 1).map(|next| next.at.start);
            let Range { start, end } = self.plugins[place].at.clone();
            let cut = match (is_first, next) {
                (true, Some(next)) => start..next,
                (true, None) => start..end,
                (false, _) => self.plugins[place - 1].at.end..end,
            };
            text.replace_range(cut, "");
        }
        (!ours.is_empty()).then_some(text)
    }

    fn ours(&self) -> Vec<usize> {
        let places = self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.kind == PLUGIN_TYPE);
        places.map(|(place, _)| place).collect()
    }

    /// Ours as the last, set off as the one before it is.
    fn appended(&self, entry: &Entry) -> String {
        let last = self.plugins.last().map_or(0..0, |plugin| plugin.at.clone());
        let before = &self.text[..last.start];
        let space = &before[before.trim_end_matches([' ', '\t', '\r', '\n']).len()..];
        let is_airy = space.is_empty() && self.plugins.len() == 1 && self.text.contains("\": ");
        let space = if is_airy { " " } else { space };
        format!("{},{space}{}{}", &self.text[..last.end], entry.text, &self.text[last.end..])
    }
}

fn value<'a, T: serde::Deserialize<'a>>(
    object: &BTreeMap<String, &'a RawValue>,
    key: &str,
) -> anyhow::Result<Option<T>> {
    let raw = object.get(key).map(|raw| raw.get()).filter(|raw| *raw != "null");
    raw.map(serde_json::from_str).transpose().with_context(|| key.to_owned())
}

#[cfg(test)]
mod tests;
