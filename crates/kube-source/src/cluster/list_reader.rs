//! `ListReader`: splits the response to a list into its items while it arrives.
//!
//! A response can be as long as the cluster is large, so at most one item and the text outside of the items are held in
//! memory. An item over `OBJECT_BYTES_MAX` is skipped except for its beginning, so that it can be named. The content of
//! items is not validated here.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The maximum length of an object. An API server accepts requests of up to 3 MiB.
pub(super) const OBJECT_BYTES_MAX: usize = 4 << 20;
/// The length to which a longer object is truncated. Its metadata is at its beginning.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// The maximum length of the text outside of the items: the type of the list and its metadata.
const SHELL_BYTES_MAX: usize = 64 << 10;

/// One item of a list.
pub(super) enum Item<'a> {
    /// The text of an object.
    Whole(&'a [u8]),
    /// The beginning of an object over `OBJECT_BYTES_MAX`.
    TooLarge(&'a [u8]),
}

/// The metadata of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(rename = "continue")]
    pub(super) token: String,
    pub(super) resource_version: String,
}

/// A list without its items.
#[derive(Deserialize)]
struct Shell {
    kind: Option<String>,
    metadata: Option<ListMeta>,
    #[serde(default)]
    items: Option<[IgnoredAny; 0]>,
}

/// Splits the text of a list into its items.
#[derive(Debug, Default)]
pub(super) struct ListReader {
    shell: Vec<u8>,
    item: Vec<u8>,
    /// Whether the item is over `OBJECT_BYTES_MAX`.
    is_too_large: bool,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    in_items: bool,
    in_item: bool,
    /// The start of the last string at the top level of the list, as an index into `shell`.
    string_start: usize,
    /// Whether that string is `items`.
    is_items: bool,
    pub(super) item_count: usize,
}

impl ListReader {
    /// Parses the next part of the response, and passes each item that is complete to `sink`.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Item<'_>)) -> Result<(), String> {
        let mut from = 0;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.in_string {
                at += self.skip_string(&bytes[at..], &bytes[from..at])?;
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    self.string_start = self.shell.len() + (at - from);
                }
                b'{' | b'[' => {
                    if self.depth == 2 && self.in_items && *byte == b'{' {
                        self.append(&bytes[from..at])?;
                        from = at;
                        self.in_item = true;
                    }
                    self.in_items |= self.depth == 1 && *byte == b'[' && self.is_items;
                    self.is_items = false;
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth =
                        self.depth.checked_sub(1).ok_or("invalid JSON: unexpected closing bracket")?;
                    if self.in_item && self.depth == 2 {
                        self.append(&bytes[from..=at])?;
                        from = at + 1;
                        self.finish_item(sink);
                    }
                    self.in_items &= self.depth > 1;
                }
                b',' if self.in_items && self.depth == 2 => {
                    self.append(&bytes[from..at])?;
                    from = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        self.append(&bytes[from..])
    }

    /// Skips a part of a string, and returns its length in bytes.
    fn skip_string(&mut self, rest: &[u8], before: &[u8]) -> Result<usize, String> {
        if std::mem::take(&mut self.is_escaped) {
            return Ok(1);
        }
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
            return Ok(rest.len());
        };
        if rest[end] == b'\\' {
            self.is_escaped = true;
            return Ok(end + 1);
        }
        self.in_string = false;
        if self.depth == 1 {
            let text: Vec<u8> = [&self.shell, before, &rest[..end]].concat();
            self.is_items = text.get(self.string_start + 1..) == Some(b"items");
        }
        Ok(end + 1)
    }

    /// Appends bytes to the current item, or to the text outside of the items.
    fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        if !self.in_item {
            self.shell.extend_from_slice(bytes);
            let is_too_long = self.shell.len() > SHELL_BYTES_MAX;
            return if is_too_long { Err("the metadata of the list is too long".to_owned()) } else { Ok(()) };
        }
        if self.item.len() + bytes.len() > OBJECT_BYTES_MAX {
            self.is_too_large = true;
        }
        if self.is_too_large {
            self.item.extend_from_slice(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]);
            self.item.truncate(HEAD_BYTES_MAX);
            self.item.shrink_to_fit();
        } else {
            self.item.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finish_item(&mut self, sink: &mut impl FnMut(Item<'_>)) {
        self.item_count += 1;
        sink(if self.is_too_large { Item::TooLarge(&self.item) } else { Item::Whole(&self.item) });
        self.in_item = false;
        self.is_too_large = false;
        self.item.clear();
        // Releases the memory of a large object.
        self.item.shrink_to(HEAD_BYTES_MAX);
    }

    /// Returns the metadata of the list. The response must be complete.
    pub(super) fn finish(self) -> Result<ListMeta, String> {
        let shell: Shell = serde_json::from_slice(&self.shell)
            .map_err(|error| format!("response is not a list: {error}"))?;
        let Shell { kind, metadata, items: None | Some([]) } = shell;
        let is_list = kind.is_some_and(|kind| kind.ends_with("List"));
        metadata.filter(|_| is_list).ok_or_else(|| "response is not a list".to_owned())
    }
}

#[cfg(test)]
mod tests;
