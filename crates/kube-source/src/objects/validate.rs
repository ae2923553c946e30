//! The API's validation rules for names, ports, addresses and enums.
//!
//! The functions `is_*` check a string. The others parse a field, or reject the object and return `None`. The rules are
//! those of `validation.go` in apimachinery and in core. Rules about several fields belong to the parser of the kind.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_core::address::{parse_ip_sloppy, parse_net_sloppy};

use crate::objects::field::Field;

/// The maximum length of a DNS label, such as the name of a service.
const LABEL_LEN_MAX: usize = 63;
/// The maximum length of a DNS subdomain.
const SUBDOMAIN_LEN_MAX: usize = 253;
/// The maximum length of the name of a container port (RFC 6335).
const PORT_NAME_LEN_MAX: usize = 15;

pub(crate) const DNS_LABEL: &str =
    "a DNS label: at most 63 characters of a-z, 0-9 and '-', starting and ending with a letter or digit";
const DNS_SUBDOMAIN: &str = "a DNS name: at most 253 characters of a-z, 0-9, '-' and '.', each part starting and \
                             ending with a letter or digit";
const PORT_NAME: &str =
    "a port name: at most 15 characters of a-z, 0-9 and single '-', with at least one letter";
const PORT: &str = "a port from 1 to 65535";
pub(crate) const PORT_REQUIRED: &str = "missing: must be a port from 1 to 65535";
pub(crate) const CIDR: &str = "a CIDR such as 10.0.0.0/8";

/// Whether the text is an RFC 1123 label.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= LABEL_LEN_MAX && is_label_without_length_limit(text)
}

fn is_label_without_length_limit(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

/// Whether the text is an RFC 1123 subdomain. Kubernetes does not limit its labels to 63 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_LEN_MAX && text.split('.').all(is_label_without_length_limit)
}

/// Whether the text is an RFC 6335 service name (`IsValidPortName`).
pub(crate) fn is_port_name(text: &str) -> bool {
    text.len() <= PORT_NAME_LEN_MAX
        && is_label_without_length_limit(text)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.contains("--")
}

/// Whether the text is a label value: empty or a qualified name part.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

/// Whether the text is a label key: a name part with an optional DNS prefix and a slash (`IsQualifiedName`).
pub(crate) fn is_label_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= LABEL_LEN_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Parses a DNS label.
pub(crate) fn dns_label<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    checked(field, is_dns_label, DNS_LABEL)
}

/// Parses a DNS subdomain.
pub(crate) fn dns_subdomain<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    checked(field, is_dns_subdomain, DNS_SUBDOMAIN)
}

/// Parses the name of a container port.
pub(crate) fn port_name<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    checked(field, is_port_name, PORT_NAME)
}

fn checked<'v>(field: &Field<'_, 'v>, rule: fn(&str) -> bool, expected: &str) -> Option<&'v str> {
    let text = field.text()?;
    if !rule(text) {
        field.reject(expected);
        return None;
    }
    Some(text)
}

/// Parses a port from 1 to 65535.
pub(crate) fn port(field: &Field<'_, '_>) -> Option<u16> {
    let port = u16::try_from(field.integer()?).ok().filter(|port| *port != 0);
    if port.is_none() {
        field.reject(PORT);
    }
    port
}

/// Parses an optional port, where 0 means none.
pub(crate) fn port_or_zero(field: &Field<'_, '_>) -> Option<u16> {
    let number = field.integer()?;
    if number == 0 { None } else { port(field) }
}

/// Parses an enum, given the names of its values.
pub(crate) fn one_of<T: Copy>(field: &Field<'_, '_>, values: &[(&str, T)]) -> Option<T> {
    let text = field.text()?;
    let found = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        field.error(format_args!("{} is not one of {}", field.shown(), names.join(", ")));
    }
    found
}

/// Parses an IP address with the leniency of Kubernetes.
pub(crate) fn address(field: &Field<'_, '_>) -> Option<IpAddr> {
    let address = parse_ip_sloppy(field.text()?);
    if address.is_none() {
        field.reject("an IP address");
    }
    address
}

/// Parses a CIDR with the leniency of Kubernetes.
pub(crate) fn network(field: &Field<'_, '_>) -> Option<IpNet> {
    let net = parse_net_sloppy(field.text()?);
    if net.is_none() {
        field.reject(CIDR);
    }
    net
}
