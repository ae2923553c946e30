//! Random pods: containers get the same environment with Portico as without it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::generator::{PodClass, Rng, TestCluster};
use super::kubelet::{Map, Sources, environment};
use super::valid::{duplicates, violations};
use super::{admission_of, created_config_maps, patched_pod, with_mode};
use crate::admission::{InjectMode, Injection, inject};

const PODS: usize = 100_000;
/// Creating a cluster takes longer than creating a pod.
const PODS_PER_CLUSTER: usize = 50;

/// Returns the environment of each container of a pod, as the kubelet computes it.
fn environments(
    cluster: &TestCluster,
    pod: &Value,
    sources: &Sources,
) -> BTreeMap<String, Result<Map, String>> {
    let spec = &pod["spec"];
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list)?.as_array());
    let links = spec.get("enableServiceLinks").and_then(Value::as_bool).unwrap_or(true);
    let service_env = &cluster.service_env[usize::from(links)];
    let start = |container: &Value| environment(service_env, container, sources);
    lists.flatten().map(|one| (one["name"].as_str().unwrap().to_owned(), start(one))).collect()
}

/// Admits a pod and checks the result. Returns the injection and the containers whose environment differs from the
/// kubelet's.
fn inject_and_check<'a>(
    cluster: &TestCluster,
    pod: &'a Value,
    mode: InjectMode,
) -> (Injection<'a>, Vec<String>) {
    let injection = inject(&cluster.snapshot, &with_mode(mode), &admission_of(cluster.namespace, pod));
    let patched = patched_pod(pod, &injection);
    assert_eq!(violations(&patched), [""; 0], "{pod:#}\n{injection:#?}");
    assert_eq!(duplicates(&patched), duplicates(pod), "{pod:#}\n{injection:#?}");
    let again = inject(&cluster.snapshot, &with_mode(mode), &admission_of(cluster.namespace, &patched));
    assert_eq!(
        (again.patch, again.config_maps),
        (vec![], injection.config_maps.clone()),
        "{patched:#}\n{injection:#?}"
    );
    let mut sources = cluster.sources.clone();
    let maps = created_config_maps(&cluster.snapshot, cluster.namespace, &patched);
    assert!(
        maps.iter().map(|map| &map.name).eq(injection.config_maps.iter().map(|map| &map.name)),
        "{patched:#}"
    );
    sources.config_maps.extend(maps.into_iter().map(|map| (map.name, map.data)));
    let (expected, found) =
        (environments(cluster, pod, &cluster.sources), environments(cluster, &patched, &sources));
    let differs = |(name, env): &(&String, &Result<Map, String>)| found[*name] != **env;
    let different: Vec<String> = expected.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    (injection, different)
}

/// Checks `count` pods; the seed is the number of the cluster.
fn for_each_pod(
    class: PodClass,
    count: usize,
    has_controller: bool,
    check: &mut dyn FnMut(&TestCluster, &Value),
) {
    for number in 0..count / PODS_PER_CLUSTER {
        let mut rng = Rng((number as u64) << 8 | class as u64);
        let cluster = TestCluster::new(&mut rng);
        for _ in 0..PODS_PER_CLUSTER {
            let pod = cluster.pod(&mut rng, class, has_controller);
            check(&cluster, &pod);
        }
    }
}

fn assert_exact_in_auto_mode(class: PodClass) {
    let mut count = 0;
    for_each_pod(class, PODS, true, &mut |cluster, pod| {
        let (injection, different) = inject_and_check(cluster, pod, InjectMode::Auto);
        assert_eq!(different, [""; 0], "{pod:#}\n{injection:#?}");
        count += 1;
    });
    assert_eq!(count, PODS);
}

#[test]
fn pods_with_own_variables_get_what_the_kubelet_gives() {
    assert_exact_in_auto_mode(PodClass::EnvOnly);
}

#[test]
fn pods_with_optional_sources_get_what_the_kubelet_gives() {
    assert_exact_in_auto_mode(PodClass::OptionalSources);
}

#[test]
fn pods_with_env_from_get_what_the_kubelet_gives() {
    assert_exact_in_auto_mode(PodClass::EnvFrom);
}

#[test]
fn pods_with_all_features_get_what_the_kubelet_gives() {
    assert_exact_in_auto_mode(PodClass::All);
}

#[test]
fn config_map_is_always_exact() {
    for has_controller in [true, false] {
        for_each_pod(PodClass::All, PODS / 10, has_controller, &mut |cluster, pod| {
            let (injection, different) = inject_and_check(cluster, pod, InjectMode::ConfigMap);
            assert_eq!(different, [""; 0], "{pod:#}\n{injection:#?}");
        });
    }
}

#[test]
fn warning_names_the_container_if_inline_is_not_exact() {
    for class in [PodClass::EnvOnly, PodClass::OptionalSources, PodClass::EnvFrom, PodClass::All] {
        for (mode, has_controller) in [(InjectMode::Inline, true), (InjectMode::Auto, false)] {
            let mut inexact = 0;
            for_each_pod(class, PODS / 20, has_controller, &mut |cluster, pod| {
                let (injection, different) = inject_and_check(cluster, pod, mode);
                for name in different {
                    inexact += 1;
                    let says = |warning: &String| warning.contains(&format!("container {name}: "));
                    assert!(injection.warnings.iter().any(says), "{name} in {pod:#}\n{injection:#?}");
                }
            });
            assert!(inexact > 100, "{class:?} {mode:?}: {inexact}");
        }
    }
}
