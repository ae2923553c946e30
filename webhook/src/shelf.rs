//! `Shelf`: the managed ConfigMaps that are known to be there, and those that a pod needs now.
//!
//! What is on the shelf as it should be costs an admission nothing. What must not go in here: what becomes of a
//! ConfigMap later; that is the keeper's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxy_core::inject::WantedConfigMap;

use crate::api::{Api, ApiError};
use crate::clock::now_s;
use crate::config_map::{Kept, collection, name, object};
use crate::tally::Tallied;

/// How often in a row somebody else may be faster.
const CONFLICTS_MAX: usize = 5;

/// A ConfigMap's namespace and name.
pub(crate) type MapKey = (String, String);

/// Why a ConfigMap is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    /// The API server refuses.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Somebody has another one of this name.
    #[error("ConfigMap {name} in namespace {namespace} is not managed by us and stays as it is")]
    Foreign { namespace: String, name: String },
}

/// Managed ConfigMaps. Whoever has a clone has the same.
#[derive(Clone)]
pub(crate) struct Shelf {
    pub(crate) api: Api,
    pub(crate) tallied: Tallied,
    /// How long one is kept that nobody refers to.
    pub(crate) grace: Duration,
    kept: Arc<Mutex<HashMap<MapKey, Kept>>>,
}

impl Shelf {
    pub(crate) fn new(api: Api, tallied: Tallied, grace: Duration) -> Self {
        Self { api, tallied, grace, kept: Arc::default() }
    }

    /// Makes what a pod needs, and sees to it that it stays for a while.
    pub(crate) async fn need(&self, namespace: &str, wanted: &[WantedConfigMap]) -> Result<(), ShelfError> {
        for wanted in self.in_order(namespace, wanted) {
            let mut conflicts = 0;
            while let Err(error) = self.put(namespace, wanted, true).await {
                let is_conflict = matches!(&error, ShelfError::Api(error) if error.is_conflict());
                conflicts += 1;
                if !is_conflict || conflicts > CONFLICTS_MAX {
                    return Err(error);
                }
                // It is not as it was thought to be.
                self.forget(namespace, &name(wanted));
            }
        }
        Ok(())
    }

    /// In which order to make these what they should be: with more variables some move on to a later one, with fewer
    /// back to an earlier one. What moves is in both for a moment, not in none.
    pub(crate) fn in_order<'a>(
        &self,
        namespace: &str,
        wanted: &'a [WantedConfigMap],
    ) -> Vec<&'a WantedConfigMap> {
        let known = wanted.iter().filter_map(|wanted| self.known(namespace, &name(wanted)));
        let before: usize = known.map(|kept| kept.data.len()).sum();
        let now: usize = wanted.iter().map(|wanted| wanted.data.len()).sum();
        if now > before { wanted.iter().rev().collect() } else { wanted.iter().collect() }
    }

    /// Makes one what it should be; `needed` says that a pod asks for it now.
    pub(crate) async fn put(
        &self,
        namespace: &str,
        wanted: &WantedConfigMap,
        needed: bool,
    ) -> Result<(), ShelfError> {
        let (name, now_s) = (name(wanted), now_s());
        let known = self.known(namespace, &name);
        if known.as_ref().is_some_and(|kept| self.is_good(kept, wanted, needed, now_s)) {
            return Ok(());
        }
        let path = collection(namespace);
        let found = match known {
            Some(kept) => Some(kept),
            None => match self.api.find(&path, &name).await?.0 {
                Some(object) => Some(Kept::read(&object).ok_or_else(|| ShelfError::Foreign {
                    namespace: namespace.to_owned(),
                    name: name.clone(),
                })?),
                None => None,
            },
        };
        let (what, made) = match found {
            None => ("made", self.api.create(&path, &object(namespace, wanted, now_s)).await?),
            Some(kept) if self.is_good(&kept, wanted, needed, now_s) => {
                self.lock().insert((namespace.to_owned(), name), kept);
                return Ok(());
            }
            Some(kept) => {
                let used_s = if needed { now_s } else { kept.used_s };
                let object = kept.replaced(wanted, used_s);
                ("updated", self.api.replace(&format!("{path}/{name}"), &object).await?)
            }
        };
        self.tallied.config_map(what);
        tracing::info!(namespace, name, what, variables = wanted.data.len(), "ConfigMap");
        if let Some(kept) = Kept::read(&made) {
            self.lock().insert((namespace.to_owned(), name), kept);
        }
        Ok(())
    }

    /// Whether it holds what it should, and will be there for as long as a pod takes to come.
    fn is_good(&self, kept: &Kept, wanted: &WantedConfigMap, needed: bool, now_s: i64) -> bool {
        let fresh_s = i64::try_from(self.grace.as_secs() / 2).unwrap_or(i64::MAX);
        let stays = !needed || kept.used_s.saturating_add(fresh_s) > now_s;
        stays && kept.data == wanted.data && kept.selection == wanted.selection
    }

    /// All that are known.
    pub(crate) fn all(&self) -> Vec<Kept> {
        self.lock().values().cloned().collect()
    }

    /// What an API server has listed; the answer is what was known and is not there any more.
    pub(crate) fn listed(&self, listed: Vec<Kept>) -> Vec<Kept> {
        let listed = listed.into_iter().map(|kept| ((kept.namespace.clone(), kept.name.clone()), kept));
        let before = std::mem::replace(&mut *self.lock(), listed.collect());
        let now = self.lock();
        before.into_iter().filter(|(key, _)| !now.contains_key(key)).map(|(_, kept)| kept).collect()
    }

    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn known(&self, namespace: &str, name: &str) -> Option<Kept> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MapKey, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
