//! The program on an API server: the double, and a real one where `KUBEBUILDER_ASSETS` names its binaries.
//!
//! What both show is shown by both. The real one calls the webhook itself; the double has the conflicts.

#[path = "../../tests/apiserver/api.rs"]
#[allow(dead_code)]
mod apiserver;
#[path = "cluster/attacks.rs"]
mod attacks;
#[path = "fixture/caller.rs"]
#[allow(dead_code)]
mod caller;
#[path = "cluster/double.rs"]
mod double;
#[path = "../../tests/chart/helm.rs"]
#[allow(dead_code)]
mod helm;
#[path = "cluster/notices.rs"]
mod notices;
#[path = "cluster/parts.rs"]
mod parts;
#[path = "fixture/pod.rs"]
#[allow(dead_code)]
mod pod;
#[path = "fixture/program.rs"]
#[allow(dead_code)]
mod program;
#[path = "cluster/quota.rs"]
mod quota;
#[path = "cluster/real.rs"]
mod real;
#[path = "cluster/replica.rs"]
mod replica;
#[path = "cluster/rights.rs"]
mod rights;
#[path = "cluster/side_effects.rs"]
mod side_effects;
#[path = "cluster/upgrade.rs"]
mod upgrade;
