//! `Worker`: executes the jobs of the controller with an API server.
//!
//! Rendered variables can be large, so a job holds permits for as many KiB as they take, out of a budget that all jobs
//! share. `state` decides when a job runs, and `plan` which requests it makes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use http::Method;
use proxy_core::admission::{WantedConfigMap, config_maps, part_name};
use serde_json::Value;
use support::with_causes;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::api::{Api, ApiError};
use crate::controller::group::{Ensure, Outcome, Work};
use crate::controller::object::{Observed, REMINDER, collection, object};
use crate::controller::plan::{Action, must_wait, pad, plan, plan_deletion};
use crate::controller::quota::{Exceeded, Quotas, Usage};
use crate::controller::state::GroupKey;
use crate::counters::Counters;
use crate::services::ServiceState;

/// The budget of all jobs, in KiB.
const BUDGET_KIB: usize = 24 << 10;
/// The memory that a byte of a variable takes: as text, in a map and in JSON.
const BYTES_PER_BYTE: usize = 4;
/// The page size for whole pods: each can be as large as etcd accepts.
const PAGE_LEN: usize = 8;
/// The memory of such a page, in KiB.
const PAGE_KIB: u32 = 12 << 10;
/// Selects pods that have not terminated.
pub(crate) const ALIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";
const ALIVE_QUERY: &str = "&fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";

/// Executes jobs.
pub(crate) struct Worker {
    pub(crate) api: Api,
    pub(crate) services: watch::Receiver<ServiceState>,
    pub(crate) quotas: Quotas,
    pub(crate) counters: Counters,
    budget: Semaphore,
}

/// The reason why a job ended early.
enum WorkError {
    Api(ApiError),
    Exists,
    Refused(Exceeded),
}

impl From<ApiError> for WorkError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// ConfigMaps and reminders, by part.
type Parts = (BTreeMap<usize, Observed>, BTreeMap<usize, Observed>);

impl Worker {
    pub(crate) fn new(
        api: Api,
        services: watch::Receiver<ServiceState>,
        quotas: Quotas,
        counters: Counters,
    ) -> Self {
        Self { api, services, quotas, counters, budget: Semaphore::new(BUDGET_KIB) }
    }

    /// Executes the work of a group.
    pub(crate) async fn group(&self, key: &GroupKey, work: Work) -> Outcome {
        let result = match work {
            Work::Ensure(ensure) => self.ensure(key, ensure).await,
            Work::Delete(found, reminders) => self.delete(key, found, reminders).await,
        };
        let (namespace, name) = (&*key.0, &*key.1);
        match result {
            Ok((found, reminders)) => Outcome::Applied(found, reminders),
            Err(WorkError::Exists) => Outcome::Exists,
            Err(WorkError::Refused(exceeded)) => {
                self.counters.refused(exceeded.label());
                Outcome::Refused(exceeded)
            }
            Err(WorkError::Api(error)) if error.is_conflict() || error.is_absent() => {
                tracing::debug!(
                    namespace,
                    name,
                    error = with_causes(&error),
                    "ConfigMap was changed meanwhile; will retry"
                );
                Outcome::Conflict
            }
            Err(WorkError::Api(error)) => {
                self.counters.config_map("failed");
                tracing::warn!(
                    namespace,
                    name,
                    error = with_causes(&error),
                    "failed to update ConfigMap; will retry"
                );
                Outcome::Failed
            }
        }
    }

    async fn ensure(&self, key: &GroupKey, ensure: Ensure) -> Result<Parts, WorkError> {
        let (namespace, base) = key;
        let (mut wanted, _permit) = self.render(key, &ensure.text).await;
        pad(&mut wanted, base, &ensure);
        if !must_wait(&wanted) {
            let bytes = wanted.iter().map(|map| map.content().bytes).sum();
            let usage = Usage { count: wanted.len(), bytes };
            self.quotas.reserve(namespace, base, usage).map_err(WorkError::Refused)?;
        }
        let actions = plan(&ensure, &wanted);
        self.execute(key, &actions, &wanted, (ensure.found, ensure.reminders)).await
    }

    async fn delete(
        &self,
        key: &GroupKey,
        found: BTreeMap<usize, Observed>,
        reminders: BTreeMap<usize, Observed>,
    ) -> Result<Parts, WorkError> {
        let actions = plan_deletion(&found, &reminders);
        let parts = self.execute(key, &actions, &[], (found, reminders)).await?;
        self.counters.config_map("collected");
        tracing::debug!(namespace = &*key.0, name = &*key.1, "deleted ConfigMap that no pod refers to");
        Ok(parts)
    }

    /// Executes actions in order, and returns the ConfigMaps and reminders that exist then.
    async fn execute(
        &self,
        (namespace, base): &GroupKey,
        actions: &[Action],
        wanted: &[WantedConfigMap],
        (mut found, mut reminders): Parts,
    ) -> Result<Parts, WorkError> {
        let path = collection(namespace);
        for action in actions {
            match *action {
                Action::Create(part) => {
                    let object = object(namespace, &wanted[part], None);
                    found.insert(part, self.create(&path, &wanted[part], &object).await?);
                }
                Action::Replace(part) => {
                    let version = found.get(&part).map(|found| &*found.version);
                    let object = object(namespace, &wanted[part], version);
                    found.insert(part, self.replace(&path, &wanted[part], &object).await?);
                }
                Action::CreateReminder(part) => {
                    let name = [REMINDER, &wanted[part].name].concat();
                    let reminder = WantedConfigMap { name, ..wanted[part].clone() };
                    let object = object(namespace, &reminder, None);
                    reminders.insert(part, self.create(&path, &reminder, &object).await?);
                }
                Action::Delete(part) => self.delete_part(&path, base, "", part, &mut found).await?,
                Action::DeleteReminder(part) => {
                    self.delete_part(&path, base, REMINDER, part, &mut reminders).await?;
                }
            }
        }
        Ok((found, reminders))
    }

    async fn create(&self, path: &str, map: &WantedConfigMap, object: &Value) -> Result<Observed, WorkError> {
        let created = self.api.write(Method::POST, path, object).await;
        let version =
            created.map_err(|error| if error.is_conflict() { WorkError::Exists } else { error.into() })?;
        Ok(self.written("made", path, map, version))
    }

    async fn replace(
        &self,
        path: &str,
        map: &WantedConfigMap,
        object: &Value,
    ) -> Result<Observed, WorkError> {
        let version = self.api.write(Method::PUT, &format!("{path}/{}", map.name), object).await?;
        Ok(self.written("updated", path, map, version))
    }

    fn written(&self, verb: &'static str, path: &str, map: &WantedConfigMap, version: Box<str>) -> Observed {
        self.counters.config_map(verb);
        tracing::debug!(path, name = map.name, verb, "wrote ConfigMap");
        Observed { version, content: Some(map.content()) }
    }

    async fn delete_part(
        &self,
        path: &str,
        base: &str,
        prefix: &str,
        part: usize,
        parts: &mut BTreeMap<usize, Observed>,
    ) -> Result<(), WorkError> {
        if let Some(Observed { version, .. }) = parts.get(&part) {
            self.api.delete(&format!("{path}/{prefix}{}", part_name(base, part)), version).await?;
            parts.remove(&part);
        }
        Ok(())
    }

    /// Renders the ConfigMaps of a selection, and takes permits for their memory.
    async fn render(&self, key: &GroupKey, text: &str) -> (Vec<WantedConfigMap>, SemaphorePermit<'_>) {
        let mut permit = None;
        loop {
            let snapshot = self.services.borrow().snapshot.clone();
            let wanted = config_maps(&snapshot, &key.0, &key.1, text);
            let bytes: usize =
                wanted.iter().flat_map(|map| &map.data).map(|(name, value)| name.len() + value.len()).sum();
            let kib = (bytes * BYTES_PER_BYTE / 1_024 + 1).min(BUDGET_KIB);
            let kib = u32::try_from(kib).unwrap_or(u32::MAX);
            if let Some((permit, granted)) = permit
                && granted >= kib
            {
                return (wanted, permit);
            }
            if let Ok(permit) = self.budget.try_acquire_many(kib) {
                return (wanted, permit);
            }
            // A waiting job holds no memory: it renders again afterwards.
            drop(wanted);
            let acquired = self.budget.acquire_many(kib).await.expect("the budget is never closed");
            permit = Some((acquired, kib));
        }
    }

    /// Returns which of these names occur in the pods of a namespace; any mention in a pod counts.
    pub(crate) async fn old_references(
        &self,
        namespace: &str,
        names: &[Arc<str>],
    ) -> Result<HashSet<Arc<str>>, ApiError> {
        let _permit = self.budget.acquire_many(PAGE_KIB).await.expect("the budget is never closed");
        let mut referenced = HashSet::new();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let search = |page: &[u8]| {
            let text = String::from_utf8_lossy(page);
            let found = names.iter().filter(|name| text.contains(&format!("\"{name}")));
            referenced.extend(found.cloned());
        };
        self.api.pages(&path, ALIVE_QUERY, "application/json", PAGE_LEN, search).await?;
        Ok(referenced)
    }
}
