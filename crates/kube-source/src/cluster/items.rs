//! `ListReader`: the answer to a list, cut into its items while it comes.
//!
//! An answer may be as long as a cluster is large, so it is never held as a whole: at most one item is, and what stands
//! around the items. An item over `OBJECT_BYTES_MAX` is passed over; its beginning is kept, so that it can be named.
//! What must not go in here: the meaning of an object.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The longest object that is read. An API server takes requests of up to 3 MiB.
pub(super) const OBJECT_BYTES_MAX: usize = 4 << 20;
/// How much of a longer one is kept. Its name stands at its beginning.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// What stands around the items: the kind of the list and its metadata.
const SHELL_BYTES_MAX: usize = 64 << 10;

/// One item of a list.
pub(super) enum Item<'a> {
    /// The text of an object.
    Whole(&'a [u8]),
    /// The beginning of an object over `OBJECT_BYTES_MAX`.
    TooLarge(&'a [u8]),
}

/// What a list says of itself.
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

/// Cuts a list into its items.
#[derive(Debug, Default)]
pub(super) struct ListReader {
    shell: Vec<u8>,
    item: Vec<u8>,
    /// The item is over `OBJECT_BYTES_MAX`.
    is_too_large: bool,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    in_items: bool,
    in_item: bool,
    /// Where in the shell the last string of the list itself begins.
    string_start: usize,
    /// That string is `items`.
    is_items: bool,
    pub(super) item_count: usize,
}

impl ListReader {
    /// Takes the next piece of the answer, and hands on each item that it completes.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Item<'_>)) -> Result<(), String> {
        let mut from = 0;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.in_string {
                at += self.string(&bytes[at..], &bytes[from..at])?;
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    self.string_start = self.shell.len() + (at - from);
                }
                b'{' | b'[' => {
                    if self.depth == 2 && self.in_items && *byte == b'{' {
                        self.keep(&bytes[from..at])?;
                        from = at;
                        self.in_item = true;
                    }
                    self.in_items |= self.depth == 1 && *byte == b'[' && self.is_items;
                    self.is_items = false;
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or("the answer is no JSON: it ends twice")?;
                    if self.in_item && self.depth == 2 {
                        self.keep(&bytes[from..=at])?;
                        from = at + 1;
                        self.item(sink);
                    }
                    self.in_items &= self.depth > 1;
                }
                b',' if self.in_items && self.depth == 2 => {
                    self.keep(&bytes[from..at])?;
                    from = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        self.keep(&bytes[from..])
    }

    /// Passes over the rest of a string: how many bytes.
    fn string(&mut self, rest: &[u8], before: &[u8]) -> Result<usize, String> {
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

    fn keep(&mut self, bytes: &[u8]) -> Result<(), String> {
        if !self.in_item {
            self.shell.extend_from_slice(bytes);
            let is_long = self.shell.len() > SHELL_BYTES_MAX;
            return if is_long { Err("the metadata of the list is too long".to_owned()) } else { Ok(()) };
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

    fn item(&mut self, sink: &mut impl FnMut(Item<'_>)) {
        self.item_count += 1;
        sink(if self.is_too_large { Item::TooLarge(&self.item) } else { Item::Whole(&self.item) });
        self.in_item = false;
        self.is_too_large = false;
        self.item.clear();
        // What one large object took is given back.
        self.item.shrink_to(HEAD_BYTES_MAX);
    }

    /// The answer is complete: what the list says of itself.
    pub(super) fn end(self) -> Result<ListMeta, String> {
        let shell: Shell =
            serde_json::from_slice(&self.shell).map_err(|error| format!("the answer is no list: {error}"))?;
        let Shell { kind, metadata, items: None | Some([]) } = shell;
        let is_list = kind.is_some_and(|kind| kind.ends_with("List"));
        metadata.filter(|_| is_list).ok_or_else(|| "the answer is no list".to_owned())
    }
}

#[cfg(test)]
mod tests;
