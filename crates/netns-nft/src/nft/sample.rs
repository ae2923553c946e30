//! A ruleset for the tests of the encoder and of the reader.

use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{slice, snapshot, svc};
use proxy_core::snapshot::Change;

/// Returns a ruleset with elements in most of its sets.
pub(crate) fn sample_ruleset(settings: Settings) -> Ruleset {
    let endpoints = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1").at("10.1.0.2").at("fd01::1");
    let changes = [
        Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()]),
        svc("web").ip("10.96.0.1").ip("fd00::1").tcp("", 80).into(),
        endpoints("web").into(),
        svc("sticky").ip("10.96.0.2").tcp("", 80).sticky(10_800).into(),
        endpoints("sticky").into(),
        svc("guarded").ip("10.96.0.3").tcp("", 80).balanced("192.0.2.2").only_from("10.2.0.0/16").into(),
        endpoints("guarded").into(),
        svc("refused").ip("10.96.0.4").tcp("", 80).into(),
    ];
    Ruleset::new(&portals(&snapshot(changes), &NodeContext::default()), settings)
}
