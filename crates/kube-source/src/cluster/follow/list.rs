//! A list of one resource, page by page, each read while it comes.
//!
//! A page that turns out too large is given up, and asked for again from the same token with fewer objects, down to
//! one. Objects of the first attempt that come again do no harm. What must not go in here: watches.

use crate::cluster::answer::Ask;
use crate::cluster::decoder::Decoder;
use crate::cluster::fault::Cause;
use crate::cluster::follow::{Follower, Position, Stop, too_large};
use crate::cluster::head::Head;
use crate::cluster::items::{Item, ListMeta, ListReader};
use crate::cluster::object::Object;
use crate::cluster::resource::encoded;
use crate::cluster::said::Said;

/// How many objects are asked for at once, at most.
const PAGE_LEN_MAX: usize = 500;
/// How long pages are to be; much shorter ones make the next ones longer.
const PAGE_BYTES_AIM: usize = 4 << 20;
/// A page of several objects that is longer than this is asked for again in parts.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// A page of one object that is longer than this is no answer of an API server.
const OBJECT_PAGE_BYTES_MAX: usize = 256 << 20;

/// How much of a list is asked for at once.
#[derive(Debug)]
pub(super) struct Page {
    len: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { len: PAGE_LEN_MAX }
    }
}

impl Page {
    /// The longest page that is read.
    fn bytes_max(&self) -> usize {
        if self.len == 1 { OBJECT_PAGE_BYTES_MAX } else { PAGE_BYTES_MAX }
    }

    /// A page did not come, or not all of it: how many of its objects did.
    fn failed(&mut self, came: usize) {
        self.len = (self.len.min(came) / 2).max(1);
    }

    /// A page has come.
    fn read(&mut self, bytes: usize) {
        if bytes > PAGE_BYTES_AIM {
            self.len = (self.len / 2).max(1);
        } else if bytes < PAGE_BYTES_AIM / 4 {
            self.len = (self.len * 2).min(PAGE_LEN_MAX);
        }
    }
}

/// How a page ended.
enum Ended {
    Complete(ListMeta),
    TooLarge,
}

impl<D: Decoder> Follower<D> {
    /// Says all that the server has, and where a watch goes on from there.
    pub(super) async fn list(&mut self) -> Result<Position, Stop> {
        let mut token = String::new();
        self.say(Said::Begin).await?;
        loop {
            let mut query = format!("{}?limit={}{}", self.path(), self.page.len, self.resource.selectors());
            if !token.is_empty() {
                query.push_str(&format!("&continue={}", encoded(&token)));
            }
            let mut reader = ListReader::default();
            let page = self.read_page(&query, &mut reader).await;
            let came = reader.item_count;
            let list = match page {
                Ok((Ended::Complete(list), bytes)) => {
                    self.page.read(bytes);
                    list
                }
                Ok((Ended::TooLarge, _)) => {
                    self.page.failed(came);
                    continue;
                }
                Err(stop) => {
                    // It may have been too much for the server or the connection.
                    if came > 0 {
                        self.page.failed(came);
                    }
                    return Err(stop);
                }
            };
            let ListMeta { token: next, resource_version: text } = list;
            token = next;
            if token.is_empty() {
                self.say(Said::End).await?;
                return Ok(Position { number: text.parse().unwrap_or(0), text });
            }
        }
    }

    /// Says the objects of a page as they come; how it ended, and after how many bytes.
    async fn read_page(&self, query: &str, reader: &mut ListReader) -> Result<(Ended, usize), Stop> {
        let ask = self.ask("list");
        let content = |why: String| ask.fault(Cause::Content, &why);
        let mut body = ask.open(query).await?;
        let mut bytes = 0;
        while let Some(data) = ask.next(&mut body).await? {
            let data = data.as_ref();
            bytes += data.len();
            let mut objects = Vec::new();
            let fed = reader.feed(data, &mut |item| objects.push(self.object(item)));
            for object in objects {
                self.say(Said::Listed(object)).await?;
            }
            fed.map_err(content)?;
            if bytes > self.page.bytes_max() {
                return self.too_large(&ask, bytes);
            }
        }
        let list = std::mem::take(reader);
        reader.item_count = list.item_count;
        Ok((Ended::Complete(list.end().map_err(content)?), bytes))
    }

    fn too_large(&self, ask: &Ask<'_>, bytes: usize) -> Result<(Ended, usize), Stop> {
        if self.page.len > 1 {
            return Ok((Ended::TooLarge, bytes));
        }
        let why = format!("a page of one object is longer than {OBJECT_PAGE_BYTES_MAX} bytes");
        Err(ask.fault(Cause::Content, &why).into())
    }

    /// The object of an item; one that cannot be read is refused by its name.
    pub(super) fn object(&self, item: Item<'_>) -> Object<D::Content> {
        let mut names = self.names();
        match item {
            Item::Whole(text) => self.decoder.decode(text, &mut names).unwrap_or_else(|error| {
                let why = format!("it is no JSON of this kind: {error}");
                self.decoder.unread(&Head::of_object(text), &why, &mut names)
            }),
            Item::TooLarge(text) => {
                let head = Head::of_object(text);
                self.decoder.unread(&head, &too_large(), &mut names)
            }
        }
    }
}
