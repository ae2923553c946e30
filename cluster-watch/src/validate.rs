//! The API's rules for names, ports and addresses.
//!
//! Each answers whether a text obeys, or what it stands for; which field it belongs to is the caller's
//! knowledge. The sources are apimachinery's `validation.go` and core's `validation.go`. What must not go in
//! here: rules that look at more than one field.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_core::address::{parse_ip_sloppy, parse_net_sloppy};

use crate::field::Field;

/// The longest DNS label, and with it the longest name of a service.
const LABEL_LEN_MAX: usize = 63;
/// The longest DNS name.
const SUBDOMAIN_LEN_MAX: usize = 253;
/// The longest name of a container's port (RFC 6335).
const PORT_NAME_LEN_MAX: usize = 15;

pub(crate) const DNS_LABEL: &str =
    "a DNS label: at most 63 of a-z, 0-9 and '-', with a letter or digit at both ends";
const DNS_SUBDOMAIN: &str = "a DNS name: at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at both \
                             ends of each part";
const PORT_NAME: &str = "a port name: at most 15 of a-z, 0-9 and single '-', with at least one letter";
const PORT: &str = "a port: 1 to 65535";

/// RFC 1123 label.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= LABEL_LEN_MAX && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

/// RFC 1123 subdomain; Kubernetes does not limit its labels to 63 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_LEN_MAX && text.split('.').all(is_label_of_any_length)
}

/// RFC 6335 service name (`IsValidPortName`).
pub(crate) fn is_port_name(text: &str) -> bool {
    text.len() <= PORT_NAME_LEN_MAX
        && is_label_of_any_length(text)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.contains("--")
}

/// The value of a label: empty, or a word.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

/// The name of a label: a word, perhaps after a DNS name and a slash.
pub(crate) fn is_label_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= LABEL_LEN_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A DNS label, or a refusal.
pub(crate) fn dns_label<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    obeying(field, is_dns_label, DNS_LABEL)
}

/// A DNS name, or a refusal.
pub(crate) fn dns_subdomain<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    obeying(field, is_dns_subdomain, DNS_SUBDOMAIN)
}

/// The name of a container's port, or a refusal.
pub(crate) fn port_name<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    obeying(field, is_port_name, PORT_NAME)
}

fn obeying<'v>(field: &Field<'_, 'v>, rule: fn(&str) -> bool, wanted: &str) -> Option<&'v str> {
    let text = field.text()?;
    if !rule(text) {
        field.refuse(wanted);
        return None;
    }
    Some(text)
}

/// A port from 1 to 65535, or a refusal.
pub(crate) fn port(field: &Field<'_, '_>) -> Option<u16> {
    let port = u16::try_from(field.integer()?).ok().filter(|port| *port != 0);
    if port.is_none() {
        field.refuse(PORT);
    }
    port
}

/// A port of which 0 says that there is none, or a refusal.
pub(crate) fn port_or_zero(field: &Field<'_, '_>) -> Option<u16> {
    let number = field.integer()?;
    if number == 0 { None } else { port(field) }
}

/// One of the values that a field takes, or a refusal that lists them.
pub(crate) fn one_of<T: Copy>(field: &Field<'_, '_>, values: &[(&str, T)]) -> Option<T> {
    let text = field.text()?;
    let found = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        field.error(format_args!("{} is none of {}", field.shown(), names.join(", ")));
    }
    found
}

/// An address as Kubernetes reads it, or a refusal.
pub(crate) fn address(field: &Field<'_, '_>) -> Option<IpAddr> {
    let address = parse_ip_sloppy(field.text()?);
    if address.is_none() {
        field.refuse("an IP address");
    }
    address
}

/// A network as Kubernetes reads it, or a refusal.
pub(crate) fn network(field: &Field<'_, '_>) -> Option<IpNet> {
    let net = parse_net_sloppy(field.text()?);
    if net.is_none() {
        field.refuse("a network, as 10.0.0.0/8");
    }
    net
}
