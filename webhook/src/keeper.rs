//! The keeper of managed ConfigMaps: fresh while services change, there while a pod refers to them, collected after.
//!
//! Every replica keeps all of them; each change is made only to what is as it was read, so that they do not disturb one
//! another. A container whose ConfigMap is not there does not start, so one that somebody deletes is made again. What
//! must not go in here: what a ConfigMap holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proxy_core::inject::{WantedConfigMap, config_maps};
use proxy_core::snapshot::Snapshot;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::api::ApiError;
use crate::clock::now_s;
use crate::config_map::{Kept, MANAGED, collection, references};
use crate::log::chain;
use crate::services::Known;
use crate::shelf::{Shelf, ShelfError};

const ALL: &str = "/api/v1/configmaps";
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Changes of services are brought into ConfigMaps at most so often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// What nobody refers to is looked for at least so often.
const COLLECT_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Keeps managed ConfigMaps.
pub(crate) struct Keeper {
    shelf: Shelf,
    known: watch::Receiver<Known>,
    /// Which have been looked for in pods, and when.
    looked: HashMap<(String, String), Instant>,
}

/// Why a look ended.
enum Woken {
    /// ConfigMaps changed, or the time is over.
    Listing,
    /// Services changed.
    Services,
}

impl Keeper {
    pub(crate) fn new(shelf: Shelf, known: watch::Receiver<Known>) -> Self {
        Self { shelf, known, looked: HashMap::new() }
    }

    /// Keeps them for ever.
    pub(crate) async fn run(mut self) {
        // Before all services are known, what others have made is better than what we would make.
        if self.known.wait_for(|known| known.is_synced).await.is_err() {
            return;
        }
        loop {
            match self.round().await {
                Ok(version) => self.wait(&version).await,
                Err(error) => {
                    tracing::error!(error = chain(error), "keep the ConfigMaps");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits for a change of ConfigMaps, and brings changes of services into them meanwhile.
    async fn wait(&mut self, version: &str) {
        let until = Instant::now() + COLLECT_INTERVAL_MAX.min(self.shelf.grace);
        loop {
            let shelf = self.shelf.clone();
            let left = until.saturating_duration_since(Instant::now());
            let listing = timeout(left, shelf.api.changed(ALL, MANAGED, version));
            let woken = tokio::select! {
                changed = listing => {
                    if let Ok(Err(_)) = changed {
                        sleep(RETRY).await;
                    }
                    Woken::Listing
                }
                changed = self.known.changed() => match changed {
                    Ok(()) => Woken::Services,
                    Err(_) => std::future::pending().await,
                },
            };
            if matches!(woken, Woken::Listing) {
                return;
            }
            self.refresh(self.shelf.all()).await;
            sleep(REFRESH_INTERVAL).await;
        }
    }

    /// Lists them, and does all that is to be done.
    async fn round(&mut self) -> Result<String, ApiError> {
        let (listed, version) = self.shelf.api.list(ALL, MANAGED, Kept::read).await?;
        let lost = self.shelf.listed(listed.clone());
        let mut pods = Pods { shelf: self.shelf.clone(), seen: BTreeMap::new() };
        for kept in lost {
            if pods.refer_to(&kept).await? {
                tracing::warn!(
                    namespace = kept.namespace,
                    name = kept.name,
                    "a ConfigMap in use is gone: what there must be is made"
                );
                self.refresh(vec![kept]).await;
            }
        }
        let mut left = Vec::new();
        for kept in listed {
            if self.is_due(&kept) && !pods.refer_to(&kept).await? {
                self.collect(&kept).await?;
            } else {
                left.push(kept);
            }
        }
        self.looked.retain(|(namespace, name), _| {
            left.iter().any(|kept| kept.namespace == *namespace && kept.name == *name)
        });
        self.refresh(left).await;
        Ok(version)
    }

    /// Whether it is long ago that a pod asked for it, or that pods were looked through for it.
    fn is_due(&mut self, kept: &Kept) -> bool {
        let grace_s = i64::try_from(self.shelf.grace.as_secs()).unwrap_or(i64::MAX);
        if kept.used_s.saturating_add(grace_s) > now_s() {
            return false;
        }
        let key = (kept.namespace.clone(), kept.name.clone());
        let is_due = self.looked.get(&key).is_none_or(|looked| looked.elapsed() >= self.shelf.grace);
        if is_due {
            self.looked.insert(key, Instant::now());
        }
        is_due
    }

    async fn collect(&self, kept: &Kept) -> Result<(), ApiError> {
        let Kept { namespace, name, version, .. } = kept;
        match self.shelf.api.delete(&format!("{}/{name}", collection(namespace)), version).await {
            Ok(()) => {
                self.shelf.forget(namespace, name);
                self.shelf.tallied.config_map("collected");
                tracing::info!(namespace, name, "ConfigMap collected: no pod refers to it");
                Ok(())
            }
            // A pod has asked for it this moment.
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes these hold what they should by now.
    async fn refresh(&mut self, all: Vec<Kept>) {
        let snapshot = self.known.borrow_and_update().snapshot.clone();
        let mut groups: BTreeMap<(&str, &str), Vec<&Kept>> = BTreeMap::new();
        for kept in &all {
            groups.entry((&kept.namespace, &kept.selection)).or_default().push(kept);
        }
        for ((namespace, _), group) in groups {
            if let Err(error) = self.refresh_group(&snapshot, namespace, &group).await {
                let is_conflict = matches!(&error, ShelfError::Api(error) if error.is_conflict());
                // Somebody else has changed it, so it will be listed again.
                if !is_conflict {
                    tracing::error!(namespace, error = chain(error), "keep a ConfigMap");
                }
            }
        }
    }

    /// Those of one namespace and one selection.
    async fn refresh_group(
        &self,
        snapshot: &Snapshot,
        namespace: &str,
        group: &[&Kept],
    ) -> Result<(), ShelfError> {
        let Some(selection) = group.first().and_then(|kept| kept.selection()) else { return Ok(()) };
        let wanted = config_maps(snapshot, namespace, &selection);
        let Some(first) = wanted.first() else { return Ok(()) };
        let is_first_of = |kept: &&&Kept| kept.referred().starts_with(&first.name);
        let (group, odd): (Vec<&Kept>, Vec<&Kept>) = group.iter().partition(is_first_of);
        for kept in odd {
            let (name, why) = (&kept.name, "its selection is not the one that its name stands for");
            tracing::warn!(namespace, name, why, "a managed ConfigMap was altered; it stays as it is");
        }
        if group.is_empty() {
            return Ok(());
        }
        // Pods may refer to more than there is by now, and each of those must be there, or be waited for.
        let WantedConfigMap { selection, waits_for, .. } = first;
        let is_wanted = |kept: &Kept| wanted.iter().any(|wanted| wanted.name == kept.referred());
        let more = group.iter().filter(|kept| !is_wanted(kept)).map(|kept| WantedConfigMap {
            name: kept.referred(),
            selection: selection.clone(),
            data: BTreeMap::new(),
            waits_for: waits_for.clone(),
        });
        let more: Vec<WantedConfigMap> = more.collect();
        for wanted in self.shelf.in_order(namespace, &wanted).into_iter().chain(&more) {
            self.shelf.put(namespace, wanted, false).await?;
        }
        // A reminder where there is no waiting any more, or what must not be there while containers wait again.
        for kept in group.iter().filter(|kept| kept.is_reminder() == waits_for.is_empty()) {
            let Kept { name, version, .. } = kept;
            self.shelf.api.delete(&format!("{}/{name}", collection(namespace)), version).await?;
            self.shelf.forget(namespace, name);
            tracing::info!(namespace, name, waits = !waits_for.is_empty(), "ConfigMap deleted");
        }
        Ok(())
    }
}

/// What the pods of each namespace refer to, looked up once.
struct Pods {
    shelf: Shelf,
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl Pods {
    async fn refer_to(&mut self, kept: &Kept) -> Result<bool, ApiError> {
        if !self.seen.contains_key(&kept.namespace) {
            let path = format!("/api/v1/namespaces/{}/pods", kept.namespace);
            let (names, _) = self.shelf.api.list(&path, "", references).await?;
            self.seen.insert(kept.namespace.clone(), names.into_iter().flatten().collect());
        }
        Ok(self.seen.get(&kept.namespace).is_some_and(|names| names.contains(&kept.referred())))
    }
}
