//! Parses and validates the cluster IPs of a Service.
//!
//! `clusterIP` repeats the first of `clusterIPs`. `ipFamilies` and `ipFamilyPolicy` specify the families for which
//! `manifests::allocate` assigns missing addresses.

use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::{Family, parse_ip_sloppy};

use crate::objects::draft::{Addresses, FamilyPolicy, ServiceType};
use crate::objects::field::Field;
use crate::objects::validate;

const FAMILIES: [(&str, Family); 2] = [("IPv4", Family::V4), ("IPv6", Family::V6)];
const ADDRESSES_MAX: usize = 2;
const HEADLESS: &str = "None";

const POLICIES: [(&str, FamilyPolicy); 3] = [
    ("SingleStack", FamilyPolicy::Single),
    ("PreferDualStack", FamilyPolicy::PreferDual),
    ("RequireDualStack", FamilyPolicy::RequireDual),
];

/// Parses the addresses of a service. Invalid values are recorded as errors.
pub(crate) fn addresses(spec: &Field<'_, '_>, kind: ServiceType) -> Addresses {
    let policy = validate::one_of(&spec.at("ipFamilyPolicy"), &POLICIES);
    let families = families(spec);
    let listed: Vec<Field<'_, '_>> = spec.list("clusterIPs").collect();
    let single = spec.at("clusterIP");
    if kind == ServiceType::ExternalName {
        reject_addresses_of_external_name(spec, &single);
        return Addresses::none();
    }
    let texts: Vec<&str> = listed.iter().map(|field| field.text().unwrap_or_default()).collect();
    let single_text = single.text();
    if let (Some(single_text), Some(first)) = (single_text, texts.first())
        && single_text != *first
    {
        let (single_shown, first_shown) = (single.shown(), listed[0].shown());
        single.error(format_args!("{single_shown} is not the first of spec.clusterIPs, {first_shown}"));
    }
    // The API server derives a missing field from the other.
    let fields: &[Field<'_, '_>] = if listed.is_empty() { std::slice::from_ref(&single) } else { &listed };
    let text = single_text.or(texts.first().copied()).filter(|text| !text.is_empty());
    if text == Some(HEADLESS) {
        check_headless(spec, &single, kind, listed.len());
        return Addresses { families, policy, ..Addresses::none() };
    }
    let given = given(fields);
    check_families(spec, &families, policy, &given);
    Addresses { headless: false, given, families, policy, text: text.map(Arc::from) }
}

fn families(spec: &Field<'_, '_>) -> Vec<Family> {
    let mut families = Vec::new();
    for field in spec.list("ipFamilies") {
        match validate::one_of(&field, &FAMILIES) {
            Some(family) if families.contains(&family) => {
                field.error(format_args!("duplicate family {}", field.shown()));
            }
            Some(family) => families.push(family),
            None if field.is_missing() => field.reject("one of IPv4, IPv6"),
            None => {}
        }
    }
    families
}

fn reject_addresses_of_external_name(spec: &Field<'_, '_>, single: &Field<'_, '_>) {
    if single.text().is_some() {
        single.error(format_args!("{}: a service of type ExternalName has no address", single.shown()));
    }
    for key in ["clusterIPs", "ipFamilies"] {
        let field = spec.at(key);
        if !field.is_absent() && !field.is_empty_list() {
            field.error("a service of type ExternalName has no address");
        }
    }
    if !spec.at("ipFamilyPolicy").is_absent() {
        spec.at("ipFamilyPolicy").error("a service of type ExternalName has no address");
    }
}

fn check_headless(spec: &Field<'_, '_>, single: &Field<'_, '_>, kind: ServiceType, listed: usize) {
    if kind.has_node_ports() {
        single.error("\"None\" is not allowed for a service of type NodePort or LoadBalancer");
    }
    if listed > 1 {
        spec.at("clusterIPs").error("\"None\" must be the only value");
    }
}

fn given(fields: &[Field<'_, '_>]) -> Vec<IpAddr> {
    let mut given: Vec<IpAddr> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let Some(text) = field.text() else {
            if field.is_empty_text() && fields.len() > 1 {
                field.reject("an IP address");
            }
            continue;
        };
        if index >= ADDRESSES_MAX {
            field.error(format_args!("{}: a service has at most two addresses", field.shown()));
            break;
        }
        match parse_ip_sloppy(text) {
            None => field.reject("an IP address"),
            Some(address) if given.iter().any(|other| Family::of(*other) == Family::of(address)) => {
                let family = Family::of(address);
                field.error(format_args!("{} is the second {family} address: one per family", field.shown()));
            }
            Some(address) => given.push(address),
        }
    }
    given
}

fn check_families(spec: &Field<'_, '_>, families: &[Family], policy: Option<FamilyPolicy>, given: &[IpAddr]) {
    for (index, (family, address)) in families.iter().zip(given).enumerate() {
        if Family::of(*address) != *family {
            let field = spec.at("ipFamilies");
            field.error(format_args!("{family} at index {index} does not match the address {address}"));
        }
    }
    if families.len() == 1 && given.len() > 1 {
        spec.at("ipFamilies").error("one family, but two addresses in spec.clusterIPs");
    }
    if policy == Some(FamilyPolicy::Single) && (families.len() > 1 || given.len() > 1) {
        spec.at("ipFamilyPolicy").error("SingleStack, but two families are given");
    }
}
