//! Metadata that is read once, in addition to the watches: pods, and the uid of a service.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube_source::{ObjectKey, ObjectMeta, OwnerReference};
use proxy_core::admission::LABEL_CONFIG_MAP;
use proxy_core::annotation::{PREFIX, VARIABLES};
use serde::Deserialize;

use crate::api::{Api, ApiError, METADATA_LIST, named};

/// The number of pods in a page.
const PAGE_LEN: usize = 50;
/// The size of the annotations that one call returns.
const BYTES_MAX: usize = 512 << 10;

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Arc<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    labels: BTreeMap<Box<str>, Box<str>>,
    annotations: BTreeMap<Box<str>, Box<str>>,
    owner_references: Vec<OwnerReference>,
}

/// Returns the pod of this name, if it exists.
pub(crate) async fn pod(api: &Api, namespace: &Arc<str>, name: &str) -> Result<Option<ObjectMeta>, ApiError> {
    Ok(pods(api, namespace, &named(name), &HashSet::new()).await?.0.pop())
}

/// Returns pods that refer to managed ConfigMaps, without the known ones, and whether there are more.
pub(crate) async fn labelled(
    api: &Api,
    namespace: &Arc<str>,
    known: &HashSet<Arc<str>>,
) -> Result<(Vec<ObjectMeta>, bool), ApiError> {
    let selector = format!("&labelSelector={}%3D{LABEL_CONFIG_MAP}", VARIABLES.key.replace('/', "%2F"));
    pods(api, namespace, &selector, known).await
}

/// Returns the uid of the service of this name, if it exists.
pub(crate) async fn service_uid(
    api: &Api,
    namespace: &Arc<str>,
    name: &str,
) -> Result<Option<Box<str>>, ApiError> {
    let mut uid = None;
    let read = |text: &[u8]| {
        let page = serde_json::from_slice::<Page>(text);
        uid = page.ok().and_then(|mut page| Some(page.items.pop()?.metadata.uid));
    };
    let path = format!("/api/v1/namespaces/{namespace}/services");
    api.pages(&path, &named(name), METADATA_LIST, 1, read).await?;
    Ok(uid)
}

async fn pods(
    api: &Api,
    namespace: &Arc<str>,
    selector: &str,
    known: &HashSet<Arc<str>>,
) -> Result<(Vec<ObjectMeta>, bool), ApiError> {
    let (mut pods, mut bytes, mut are_more) = (Vec::new(), 0, false);
    let read = |text: &[u8]| {
        let items = serde_json::from_slice::<Page>(text).map(|page| page.items).unwrap_or_default();
        for Item { metadata } in items {
            let Metadata { name, uid, resource_version, labels, mut annotations, owner_references } =
                metadata;
            annotations.retain(|key, _| key.starts_with(PREFIX));
            if known.contains(&name) {
                continue;
            }
            bytes += annotations.values().map(|text| text.len()).sum::<usize>();
            are_more |= bytes > BYTES_MAX;
            if !are_more {
                let key = ObjectKey { namespace: Arc::clone(namespace), name };
                let (created_s, deleted_s) = (None, None);
                pods.push(ObjectMeta {
                    key,
                    uid,
                    resource_version,
                    labels,
                    annotations,
                    owner_references,
                    created_s,
                    deleted_s,
                });
            }
        }
    };
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    api.pages(&path, selector, METADATA_LIST, PAGE_LEN, read).await?;
    Ok((pods, are_more))
}
