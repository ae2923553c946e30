//! Tests of the table of annotations: unique keys, and complete lists of values.

use super::*;
use crate::model::dns::DnsEndpoints;
use crate::model::node::ServiceProxy;
use crate::model::service::{Dial, HOLD_MS_MAX, Scheduler};

#[test]
fn keys_have_the_prefix_and_are_unique() {
    for (index, annotation) in ALL.iter().enumerate() {
        assert!(annotation.key.starts_with(PREFIX) && !annotation.name().is_empty(), "{}", annotation.key);
        assert!(ALL[..index].iter().all(|earlier| earlier.key != annotation.key), "{}", annotation.key);
    }
}

#[test]
fn values_list_every_service_proxy() {
    let words: Vec<&str> = SERVICE_PROXY.values.split([',', ' ']).collect();
    assert!(ServiceProxy::ALL.iter().all(|proxy| words.contains(&proxy.name())));
}

#[test]
fn values_list_every_scheduler_dial_dns_selection_and_the_maximum_hold() {
    let words = |values: &'static str| values.split([',', ' ']).collect::<Vec<_>>();
    for scheduler in Scheduler::ALL {
        assert!(words(SCHEDULER.values).contains(&scheduler.name()), "{}", scheduler.name());
    }
    for (name, _) in Dial::NAMES {
        assert!(words(DIAL.values).contains(&name), "{name}");
    }
    for (name, _) in DnsEndpoints::NAMES {
        assert!(words(DNS_ENDPOINTS.values).contains(&name), "{name}");
    }
    assert!(words(HOLD.values).contains(&format!("{}s", HOLD_MS_MAX / 1_000).as_str()));
}
