//! Lists a resource page by page, and sends each object as soon as it arrives.
//!
//! A page over its limit is abandoned, and requested again with the same continue token and fewer objects. Objects that
//! are sent twice do no harm.

use support::percent_encode_query;

use crate::cluster::decoder::Decoder;
use crate::cluster::list_reader::{Item, ListMeta, ListReader};
use crate::cluster::list_watch::page_size::OBJECT_PAGE_BYTES_MAX;
use crate::cluster::list_watch::state::{ListWatch, ResourceVersion, Stop, too_large};
use crate::cluster::message::WatchMessage;
use crate::cluster::object::Object;
use crate::cluster::object_head::ObjectHead;
use crate::cluster::request::ApiRequest;
use crate::cluster::watch_error::ErrorKind;

/// The result of reading a page.
enum Page {
    Complete(ListMeta),
    TooLarge,
}

impl<D: Decoder> ListWatch<D> {
    /// Sends all objects. Returns the resource version from which a watch continues.
    pub(super) async fn list_pages(&mut self) -> Result<ResourceVersion, Stop> {
        let mut token = String::new();
        self.send(WatchMessage::ListStarted).await?;
        loop {
            let (path, limit, selectors) = (self.path(), self.page_size.len, self.resource.selectors());
            let mut query = format!("{path}?limit={limit}{selectors}");
            if !token.is_empty() {
                query.push_str(&format!("&continue={}", percent_encode_query(&token)));
            }
            let mut reader = ListReader::default();
            let page = self.read_page(&query, &mut reader).await;
            let received = reader.item_count;
            let list = match page {
                Ok((Page::Complete(list), bytes)) => {
                    self.page_size.on_success(bytes);
                    list
                }
                Ok((Page::TooLarge, _)) => {
                    self.page_size.on_failure(received);
                    continue;
                }
                Err(stop) => {
                    // The page may have been too large for the API server or the connection.
                    if received > 0 {
                        self.page_size.on_failure(received);
                    }
                    return Err(stop);
                }
            };
            token = list.token;
            if token.is_empty() {
                self.send(WatchMessage::ListDone).await?;
                return Ok(ResourceVersion::from_text(list.resource_version));
            }
        }
    }

    /// Sends the objects of a page as they arrive. Returns how the page ended, and its size in bytes.
    async fn read_page(&self, query: &str, reader: &mut ListReader) -> Result<(Page, usize), Stop> {
        let request = self.list_request();
        let invalid = |cause: String| request.error(ErrorKind::InvalidResponse, &cause);
        let mut body = request.send(query).await?;
        let mut bytes = 0;
        while let Some(data) = request.next_data(&mut body).await? {
            let data = data.as_ref();
            bytes += data.len();
            let mut objects = Vec::new();
            let fed = reader.feed(data, &mut |item| objects.push(self.decode_item(item)));
            for object in objects {
                self.send(WatchMessage::Listed(object)).await?;
            }
            fed.map_err(invalid)?;
            if bytes > self.page_size.bytes_max() {
                return self.page_too_large(&request, bytes);
            }
        }
        let list = std::mem::take(reader);
        reader.item_count = list.item_count;
        Ok((Page::Complete(list.finish().map_err(invalid)?), bytes))
    }

    fn page_too_large(&self, request: &ApiRequest<'_>, bytes: usize) -> Result<(Page, usize), Stop> {
        if self.page_size.len > 1 {
            return Ok((Page::TooLarge, bytes));
        }
        let cause = format!("page of one object is longer than {OBJECT_PAGE_BYTES_MAX} bytes");
        Err(request.error(ErrorKind::InvalidResponse, &cause).into())
    }

    /// Decodes an item. One that cannot be decoded is rejected by its name.
    fn decode_item(&self, item: Item<'_>) -> Object<D::Content> {
        let mut names = self.names();
        match item {
            Item::Whole(text) => self.decoder.decode(text, &mut names).unwrap_or_else(|error| {
                let reason = format!("invalid JSON: {error}");
                self.decoder.undecoded(&ObjectHead::of_object(text), &reason, &mut names)
            }),
            Item::TooLarge(text) => {
                self.decoder.undecoded(&ObjectHead::of_object(text), &too_large(), &mut names)
            }
        }
    }
}
