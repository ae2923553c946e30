//! Random pods: containers get the same environment with Portico as without it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kubelet::{Map, Sources, environment};
use super::valid::{duplicates, mistakes};
use super::world::{Class, Draw, World};
use super::{applied, asking, made, with_mode};
use crate::admission::{InjectMode, Injection, inject};

const PODS: usize = 100_000;
/// Creating a world takes longer than creating a pod.
const PODS_OF_A_WORLD: usize = 50;

/// Returns the environment of each container of a pod, as the kubelet computes it.
fn environments(world: &World, pod: &Value, sources: &Sources) -> BTreeMap<String, Result<Map, String>> {
    let spec = &pod["spec"];
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list)?.as_array());
    let links = spec.get("enableServiceLinks").and_then(Value::as_bool).unwrap_or(true);
    let service_env = &world.service_env[usize::from(links)];
    let start = |container: &Value| environment(service_env, container, sources);
    lists.flatten().map(|one| (one["name"].as_str().unwrap().to_owned(), start(one))).collect()
}

/// Admits a pod and checks the result. Returns the injection and the containers whose environment differs from the
/// kubelet's.
fn judged<'a>(world: &World, pod: &'a Value, mode: InjectMode) -> (Injection<'a>, Vec<String>) {
    let done = inject(&world.snapshot, &with_mode(mode), &asking(world.namespace, pod));
    let patched = applied(pod, &done);
    assert_eq!(mistakes(&patched), [""; 0], "{pod:#}\n{done:#?}");
    assert_eq!(duplicates(&patched), duplicates(pod), "{pod:#}\n{done:#?}");
    let again = inject(&world.snapshot, &with_mode(mode), &asking(world.namespace, &patched));
    assert_eq!(
        (again.patch, again.config_maps),
        (vec![], done.config_maps.clone()),
        "{patched:#}\n{done:#?}"
    );
    let mut sources = world.sources.clone();
    let maps = made(&world.snapshot, world.namespace, &patched);
    assert!(maps.iter().map(|map| &map.name).eq(done.config_maps.iter().map(|map| &map.name)), "{patched:#}");
    sources.config_maps.extend(maps.into_iter().map(|map| (map.name, map.data)));
    let (expected, found) =
        (environments(world, pod, &world.sources), environments(world, &patched, &sources));
    let differs = |(name, env): &(&String, &Result<Map, String>)| found[*name] != **env;
    let different: Vec<String> = expected.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    (done, different)
}

/// Checks `count` pods; the seed is the number of the world.
fn each(class: Class, count: usize, has_controller: bool, check: &mut dyn FnMut(&World, &Value)) {
    for number in 0..count / PODS_OF_A_WORLD {
        let mut draw = Draw((number as u64) << 8 | class as u64);
        let world = World::new(&mut draw);
        for _ in 0..PODS_OF_A_WORLD {
            let pod = world.pod(&mut draw, class, has_controller);
            check(&world, &pod);
        }
    }
}

fn exact_in_auto_mode(class: Class) {
    let mut count = 0;
    each(class, PODS, true, &mut |world, pod| {
        let (done, different) = judged(world, pod, InjectMode::Auto);
        assert_eq!(different, [""; 0], "{pod:#}\n{done:#?}");
        count += 1;
    });
    assert_eq!(count, PODS);
}

#[test]
fn pods_with_own_variables_get_what_the_kubelet_gives() {
    exact_in_auto_mode(Class::EnvOnly);
}

#[test]
fn pods_with_optional_sources_get_what_the_kubelet_gives() {
    exact_in_auto_mode(Class::OptionalSources);
}

#[test]
fn pods_with_env_from_get_what_the_kubelet_gives() {
    exact_in_auto_mode(Class::EnvFrom);
}

#[test]
fn pods_with_all_features_get_what_the_kubelet_gives() {
    exact_in_auto_mode(Class::All);
}

#[test]
fn config_map_is_always_exact() {
    for has_controller in [true, false] {
        each(Class::All, PODS / 10, has_controller, &mut |world, pod| {
            let (done, different) = judged(world, pod, InjectMode::ConfigMap);
            assert_eq!(different, [""; 0], "{pod:#}\n{done:#?}");
        });
    }
}

#[test]
fn warning_names_the_container_if_inline_is_not_exact() {
    for class in [Class::EnvOnly, Class::OptionalSources, Class::EnvFrom, Class::All] {
        for (mode, has_controller) in [(InjectMode::Inline, true), (InjectMode::Auto, false)] {
            let mut inexact = 0;
            each(class, PODS / 20, has_controller, &mut |world, pod| {
                let (done, different) = judged(world, pod, mode);
                for name in different {
                    inexact += 1;
                    let says = |warning: &String| warning.contains(&format!("container {name}: "));
                    assert!(done.warnings.iter().any(says), "{name} in {pod:#}\n{done:#?}");
                }
            });
            assert!(inexact > 100, "{class:?} {mode:?}: {inexact}");
        }
    }
}
