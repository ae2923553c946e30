//! The requests that bring the ConfigMaps of a selection to their wanted state.
//!
//! A pure function from the known and the wanted state to actions in order; `work` executes them. If the
//! number of variables changes, some move to another part. A variable is written to its new part before it is removed
//! from the old one, so it is never missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_core::admission::{PARTS_MAX, WantedConfigMap, part_name};

use crate::controller::group::Ensure;
use crate::controller::object::Observed;

/// A request to the API server; the number is the index of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Creates a ConfigMap.
    Create(usize),
    /// Replaces a ConfigMap.
    Replace(usize),
    /// Deletes a ConfigMap.
    Delete(usize),
    /// Creates a reminder.
    CreateReminder(usize),
    /// Deletes a reminder.
    DeleteReminder(usize),
}

/// Appends empty ConfigMaps for parts that pods refer to, or that exist, beyond those with variables.
pub(crate) fn pad(wanted: &mut Vec<WantedConfigMap>, base: &Arc<str>, ensure: &Ensure) {
    let waits_for = wanted.first().map(|map| map.waits_for.clone()).unwrap_or_default();
    let existing = ensure.found.keys().chain(ensure.reminders.keys()).max().map_or(0, |part| part + 1);
    for part in wanted.len()..ensure.parts.max(existing).min(PARTS_MAX) {
        wanted.push(WantedConfigMap {
            name: part_name(base, part),
            selection: ensure.text.to_string(),
            data: BTreeMap::new(),
            waits_for: waits_for.clone(),
        });
    }
}

/// Whether the ConfigMaps must not exist, because containers wait for services.
pub(crate) fn must_wait(wanted: &[WantedConfigMap]) -> bool {
    wanted.first().is_some_and(|map| !map.waits_for.is_empty())
}

/// Returns the actions that lead from the known to the wanted state, which is padded.
pub(crate) fn plan(known: &Ensure, wanted: &[WantedConfigMap]) -> Vec<Action> {
    let Ensure { found, reminders, is_old, must_rewrite, .. } = known;
    if must_wait(wanted) {
        let missing =
            (0..wanted.len().min(PARTS_MAX)).filter(|part| *is_old && !reminders.contains_key(part));
        return missing
            .map(Action::CreateReminder)
            .chain(found.keys().copied().map(Action::Delete))
            .collect();
    }
    let is_current = |part: usize| {
        let known = found.get(&part).and_then(|found| found.content.as_ref());
        !must_rewrite && known == Some(&wanted[part].content())
    };
    let write = |part| if found.contains_key(&part) { Action::Replace(part) } else { Action::Create(part) };
    let writes = (0..wanted.len()).filter(|part| !is_current(*part)).map(write);
    let mut actions: Vec<Action> = writes.collect();
    let before: usize = found.values().filter_map(|found| Some(found.content.as_ref()?.variables)).sum();
    let after: usize = wanted.iter().map(|map| map.data.len()).sum();
    if after > before {
        actions.reverse();
    }
    actions.extend(reminders.keys().copied().map(Action::DeleteReminder));
    actions
}

/// Returns the actions that delete all ConfigMaps and reminders.
pub(crate) fn plan_deletion(
    found: &BTreeMap<usize, Observed>,
    reminders: &BTreeMap<usize, Observed>,
) -> Vec<Action> {
    let deletes = found.keys().copied().map(Action::Delete);
    deletes.chain(reminders.keys().copied().map(Action::DeleteReminder)).collect()
}

#[cfg(test)]
mod tests {
    use proxy_core::service::ServiceKey;

    use super::*;

    fn wanted(part: usize, variables: usize) -> WantedConfigMap {
        let data = (0..variables).map(|number| (format!("V{part}_{number}"), "x".to_owned())).collect();
        WantedConfigMap {
            name: part_name("base", part),
            selection: String::new(),
            data,
            waits_for: Vec::new(),
        }
    }

    fn known(found: &[WantedConfigMap]) -> Ensure {
        let observed = |map: &WantedConfigMap| Observed { version: "1".into(), content: Some(map.content()) };
        let found = found.iter().map(observed).enumerate().collect();
        let reminders = BTreeMap::new();
        Ensure { text: "".into(), parts: 1, found, reminders, is_old: false, must_rewrite: false }
    }

    fn waiting(mut maps: Vec<WantedConfigMap>) -> Vec<WantedConfigMap> {
        maps.iter_mut().for_each(|map| map.waits_for = vec![ServiceKey::new("a", "mysql")]);
        maps
    }

    #[test]
    fn missing_config_map_is_created_and_a_current_one_is_not_written() {
        let maps = [wanted(0, 3)];
        assert_eq!(plan(&known(&[]), &maps), [Action::Create(0)]);
        assert_eq!(plan(&known(&maps), &maps), []);
    }

    #[test]
    fn changed_config_map_is_replaced_and_all_are_after_a_foreign_write() {
        let (before, after) = ([wanted(0, 3), wanted(1, 1)], [wanted(0, 2), wanted(1, 1)]);
        assert_eq!(plan(&known(&before), &after), [Action::Replace(0)]);
        let rewrite = Ensure { must_rewrite: true, ..known(&before) };
        assert_eq!(plan(&rewrite, &before), [Action::Replace(0), Action::Replace(1)]);
    }

    #[test]
    fn later_parts_are_written_first_if_variables_are_added_and_last_if_they_are_removed() {
        let (few, many) = ([wanted(0, 2), wanted(1, 1)], [wanted(0, 4), wanted(1, 3)]);
        assert_eq!(plan(&known(&few), &many), [Action::Replace(1), Action::Replace(0)]);
        assert_eq!(plan(&known(&many), &few), [Action::Replace(0), Action::Replace(1)]);
        assert_eq!(plan(&known(&few[..1]), &many), [Action::Create(1), Action::Replace(0)]);
    }

    #[test]
    fn config_maps_are_deleted_while_containers_wait_and_old_ones_get_reminders() {
        let maps = [wanted(0, 2), wanted(1, 1)];
        let wanted = waiting(maps.to_vec());
        assert_eq!(plan(&known(&maps), &wanted), [Action::Delete(0), Action::Delete(1)]);
        let old = Ensure { is_old: true, ..known(&maps[..1]) };
        let expected = [Action::CreateReminder(0), Action::CreateReminder(1), Action::Delete(0)];
        assert_eq!(plan(&old, &wanted), expected);
        let reminders = old.found.clone();
        let reminded = Ensure { reminders: reminders.clone(), found: BTreeMap::new(), ..old };
        assert_eq!(plan(&reminded, &wanted), [Action::CreateReminder(1)]);
        assert_eq!(plan(&reminded, &maps), [Action::Create(1), Action::Create(0), Action::DeleteReminder(0)]);
        assert_eq!(plan_deletion(&reminders, &reminders), [Action::Delete(0), Action::DeleteReminder(0)]);
    }

    #[test]
    fn parts_that_pods_refer_to_or_that_exist_are_padded_with_empty_ones() {
        let mut maps = vec![wanted(0, 2)];
        let ensure = Ensure { parts: 2, ..known(&[wanted(0, 2), wanted(1, 1), wanted(2, 1)]) };
        pad(&mut maps, &"base".into(), &ensure);
        let sizes: Vec<usize> = maps.iter().map(|map| map.data.len()).collect();
        assert_eq!(sizes, [2, 0, 0]);
        assert_eq!(maps[2].name, part_name("base", 2));
        let mut maps = vec![wanted(0, 1)];
        pad(&mut maps, &"base".into(), &Ensure { parts: 1_000_000, ..ensure });
        assert_eq!(maps.len(), PARTS_MAX);
    }
}
