//! `Worker`: the jobs of the controller, done with an API server.
//!
//! What is written is bounded: whoever renders the variables of a selection holds as many bytes of a budget that all
//! share as they take. What must not go in here: when a job is to be done.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use http::Method;
use proxy_core::admission::{PARTS_MAX, WantedConfigMap, config_maps, part_name};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::api::{Api, ApiError};
use crate::controller::group::{Outcome, Provide, Work};
use crate::controller::object::{Found, REMINDER, collection, object};
use crate::controller::quota::{Exceeded, Quotas, Usage};
use crate::controller::state::GroupKey;
use crate::log::chain;
use crate::services::ServiceState;
use crate::tally::Tallied;

/// How much all that is being written may take together, in KiB.
const WRITING_KIB_MAX: usize = 24 << 10;
/// Variables as text, in a map and in JSON.
const BYTES_OF_BYTE: usize = 4;
/// How many pods are listed at once where the whole pod is needed: each may be as long as etcd takes.
const PODS_OF_PAGE: usize = 8;
/// How much such a page takes, in KiB.
const PAGE_KIB: u32 = 12 << 10;
/// Pods that run, or will.
pub(crate) const ALIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";
const ALIVE_QUERY: &str = "&fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";

/// Does the jobs.
pub(crate) struct Worker {
    pub(crate) api: Api,
    pub(crate) known: watch::Receiver<ServiceState>,
    pub(crate) quotas: Quotas,
    pub(crate) tallied: Tallied,
    writing: Semaphore,
}

/// Why a job has not ended well.
enum Stop {
    Api(ApiError),
    Exists,
    Refused(Exceeded),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl Worker {
    pub(crate) fn new(
        api: Api,
        known: watch::Receiver<ServiceState>,
        quotas: Quotas,
        tallied: Tallied,
    ) -> Self {
        Self { api, known, quotas, tallied, writing: Semaphore::new(WRITING_KIB_MAX) }
    }

    /// Does the job of a group.
    pub(crate) async fn group(&self, key: &GroupKey, work: Work) -> Outcome {
        let done = match work {
            Work::Provide(provide) => self.provide(key, provide).await,
            Work::Collect(found, reminders) => self.collect(key, found, reminders).await,
        };
        let (namespace, name) = (&*key.0, &*key.1);
        match done {
            Ok((found, reminders)) => Outcome::Provided(found, reminders),
            Err(Stop::Exists) => Outcome::Exists,
            Err(Stop::Refused(why)) => {
                self.tallied.refused(why.label());
                Outcome::Refused(why)
            }
            Err(Stop::Api(error)) if error.is_conflict() || error.is_absent() => {
                tracing::debug!(namespace, name, error = chain(error), "a ConfigMap is not as it was");
                Outcome::Conflict
            }
            Err(Stop::Api(error)) => {
                self.tallied.config_map("failed");
                tracing::warn!(namespace, name, error = chain(error), "failed to write a ConfigMap");
                Outcome::Failed
            }
        }
    }

    async fn provide(&self, key: &GroupKey, provide: Provide) -> Result<Parts, Stop> {
        let (namespace, base) = key;
        let (mut wanted, _permit) = self.rendered(key, &provide).await;
        let Provide { text, parts, mut found, mut reminders, is_old, rewrites } = provide;
        let waits_for = wanted.first().map(|map| map.waits_for.clone()).unwrap_or_default();
        // Pods may refer to more than there is by now, and each of those must be there.
        let last = found.keys().chain(reminders.keys()).max().map_or(0, |part| part + 1);
        for part in wanted.len()..parts.max(last).min(PARTS_MAX) {
            let (name, selection) = (part_name(base, part), text.to_string());
            wanted.push(WantedConfigMap {
                name,
                selection,
                data: BTreeMap::new(),
                waits_for: waits_for.clone(),
            });
        }
        if !waits_for.is_empty() {
            if is_old {
                self.remind(namespace, &wanted, &mut reminders).await?;
            }
            self.delete_all(key, "", &found).await?;
            return Ok((BTreeMap::new(), reminders));
        }
        let contents: Vec<_> = wanted.iter().map(WantedConfigMap::content).collect();
        let bytes = contents.iter().map(|content| content.bytes).sum();
        let usage = Usage { count: wanted.len(), bytes };
        self.quotas.reserve(namespace, base, usage).map_err(Stop::Refused)?;
        // With more variables some move on to a later part, with fewer back to an earlier one. What moves is in both
        // for a moment, not in none.
        let before: usize = found.values().filter_map(|found| Some(found.content.as_ref()?.variables)).sum();
        let now: usize = contents.iter().map(|content| content.variables).sum();
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        if now > before {
            order.reverse();
        }
        for part in order {
            let (wanted, content) = (&wanted[part], &contents[part]);
            let before = found.get(&part);
            if before.is_some_and(|found| found.content.as_ref() == Some(content)) && !rewrites {
                continue;
            }
            let object = object(namespace, wanted, before.map(|found| &*found.version));
            let version = self.write(namespace, &wanted.name, &object, before.is_some()).await?;
            found.insert(part, Found { version, content: Some(content.clone()) });
        }
        self.delete_all(key, REMINDER, &reminders).await?;
        Ok((found, BTreeMap::new()))
    }

    /// What is to be there, and what it takes of the budget.
    async fn rendered(
        &self,
        key: &GroupKey,
        provide: &Provide,
    ) -> (Vec<WantedConfigMap>, SemaphorePermit<'_>) {
        let mut permit = None;
        loop {
            let snapshot = self.known.borrow().snapshot.clone();
            let wanted = config_maps(&snapshot, &key.0, &key.1, &provide.text);
            let bytes: usize =
                wanted.iter().flat_map(|map| &map.data).map(|(name, value)| name.len() + value.len()).sum();
            let kib = (bytes * BYTES_OF_BYTE / 1_024 + 1).min(WRITING_KIB_MAX);
            let kib = u32::try_from(kib).unwrap_or(u32::MAX);
            if let Some((permit, granted)) = permit
                && granted >= kib
            {
                return (wanted, permit);
            }
            if let Ok(permit) = self.writing.try_acquire_many(kib) {
                return (wanted, permit);
            }
            // Nothing is held while it waits.
            drop(wanted);
            let acquired = self.writing.acquire_many(kib).await.expect("the budget is never closed");
            permit = Some((acquired, kib));
        }
    }

    async fn write(
        &self,
        namespace: &str,
        name: &str,
        object: &Value,
        is_there: bool,
    ) -> Result<Box<str>, Stop> {
        let path = collection(namespace);
        let (what, written) = if is_there {
            ("updated", self.api.write(Method::PUT, &format!("{path}/{name}"), object).await)
        } else {
            ("made", self.api.write(Method::POST, &path, object).await)
        };
        let version = written.map_err(|error| {
            if error.is_conflict() && !is_there { Stop::Exists } else { Stop::Api(error) }
        })?;
        self.tallied.config_map(what);
        tracing::debug!(namespace, name, what, "ConfigMap");
        Ok(version)
    }

    /// What release 0.1.0 understands: a reminder in the place of each that must not be there.
    async fn remind(
        &self,
        namespace: &str,
        wanted: &[WantedConfigMap],
        reminders: &mut BTreeMap<usize, Found>,
    ) -> Result<(), Stop> {
        for (part, wanted) in wanted.iter().enumerate().filter(|(part, _)| *part < PARTS_MAX) {
            if let Entry::Vacant(missing) = reminders.entry(part) {
                let wanted = WantedConfigMap { name: [REMINDER, &wanted.name].concat(), ..wanted.clone() };
                let object = object(namespace, &wanted, None);
                let version = self.write(namespace, &wanted.name, &object, false).await?;
                missing.insert(Found { version, content: Some(wanted.content()) });
            }
        }
        Ok(())
    }

    async fn collect(
        &self,
        key: &GroupKey,
        found: BTreeMap<usize, Found>,
        reminders: BTreeMap<usize, Found>,
    ) -> Result<Parts, Stop> {
        self.delete_all(key, "", &found).await?;
        self.delete_all(key, REMINDER, &reminders).await?;
        self.tallied.config_map("collected");
        tracing::debug!(namespace = &*key.0, name = &*key.1, "ConfigMap collected: no pod refers to it");
        Ok((BTreeMap::new(), BTreeMap::new()))
    }

    async fn delete_all(
        &self,
        (namespace, base): &GroupKey,
        prefix: &str,
        found: &BTreeMap<usize, Found>,
    ) -> Result<(), ApiError> {
        for (part, found) in found {
            let path = format!("{}/{prefix}{}", collection(namespace), part_name(base, *part));
            self.api.delete(&path, &found.version).await?;
        }
        Ok(())
    }

    /// Which of these names the pods of a namespace refer to, or may: whatever pod has one in its text counts.
    pub(crate) async fn old_references(
        &self,
        namespace: &str,
        names: &[Arc<str>],
    ) -> Result<HashSet<Arc<str>>, ApiError> {
        let _permit = self.writing.acquire_many(PAGE_KIB).await.expect("the budget is never closed");
        let mut referred = HashSet::new();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let look = |page: &[u8]| {
            let text = String::from_utf8_lossy(page);
            let found = names.iter().filter(|name| text.contains(&format!("\"{name}")));
            referred.extend(found.cloned());
        };
        self.api.pages(&path, ALIVE_QUERY, "application/json", PODS_OF_PAGE, look).await?;
        Ok(referred)
    }
}

/// ConfigMaps, and reminders.
type Parts = (BTreeMap<usize, Found>, BTreeMap<usize, Found>);
