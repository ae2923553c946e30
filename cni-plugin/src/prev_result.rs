//! `PrevResult`: the result of the previous plugins in the chain, which is passed through.
//!
//! Runtimes and plugins add keys that no specification lists, so only the version is ever rewritten; all other values
//! keep their bytes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::CniError;
use crate::json::{Object, invalid, value};
use crate::version::Version;

/// A result, as text and as an object of raw values.
#[derive(Debug)]
pub(crate) struct PrevResult<'a> {
    text: &'a str,
    object: Object<'a>,
}

impl<'a> PrevResult<'a> {
    pub(crate) fn parse(raw: &'a RawValue) -> Result<Self, CniError> {
        let object =
            serde_json::from_str(raw.get()).map_err(|error| invalid(format!("prevResult: {error}")))?;
        Ok(Self { text: raw.get(), object })
    }

    /// The result in this version: the same text, unless its version differs.
    pub(crate) fn in_version(&self, version: Version) -> String {
        let name = format!("\"{}\"", version.name());
        if self.object.get("cniVersion").is_some_and(|stated| stated.get() == name) {
            return self.text.to_owned();
        }
        let others = self.object.iter().filter(|(key, _)| *key != "cniVersion");
        let others: String = others
            .map(|(key, raw)| format!(",{}:{}", serde_json::Value::from(key.as_str()), raw.get()))
            .collect();
        format!("{{\"cniVersion\":{name}{others}}}")
    }

    /// The addresses of this interface, and warnings about invalid entries.
    pub(crate) fn addresses(&self, interface: &str) -> Result<(Vec<IpAddr>, Vec<String>), CniError> {
        let in_result =
            |error: CniError| CniError { message: format!("prevResult.{}", error.message), ..error };
        let interfaces: Vec<Interface> =
            value(&self.object, "interfaces").map_err(in_result)?.unwrap_or_default();
        let ips: Vec<Ip> = value(&self.object, "ips").map_err(in_result)?.unwrap_or_default();
        let (mut addresses, mut notes) = (Vec::new(), Vec::new());
        for Ip { address, interface: index } in ips {
            let net: IpNet =
                address.parse().map_err(|error| invalid(format!("prevResult.ips: {address:?}: {error}")))?;
            let Some(index) = index else {
                addresses.push(net.addr());
                continue;
            };
            match usize::try_from(index).ok().and_then(|index| interfaces.get(index)) {
                Some(owner) if owner.name == interface => addresses.push(net.addr()),
                Some(_) => {}
                None => {
                    notes.push(format!("prevResult.ips: {address} has the unknown interface {index}"));
                }
            }
        }
        Ok((addresses, notes))
    }
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    /// The index of the interface; none if the pod has a single interface.
    #[serde(default)]
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREVIOUS: &str = r#"{"z":1.0,"cniVersion":"1.0.0","dns":{},"a":{"deep":[1e400,{"x":null}]}}"#;

    fn in_version(text: &str, version: Version) -> String {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        PrevResult::parse(raw).expect("a result").in_version(version)
    }

    #[test]
    fn result_of_the_same_version_is_passed_through_unchanged() {
        assert_eq!(in_version(PREVIOUS, Version::V1_0_0), PREVIOUS);
    }

    #[test]
    fn version_is_set_and_other_values_keep_their_bytes() {
        let set = r#"{"cniVersion":"0.4.0","a":{"deep":[1e400,{"x":null}]},"dns":{},"z":1.0}"#;
        assert_eq!(in_version(PREVIOUS, Version::V0_4_0), set);
        assert_eq!(in_version("{}", Version::V0_3_0), r#"{"cniVersion":"0.3.0"}"#);
        assert_eq!(
            in_version(r#"{"a\"b":"\u0000"}"#, Version::V0_3_0),
            r#"{"cniVersion":"0.3.0","a\"b":"\u0000"}"#
        );
    }

    fn addresses(text: &str) -> Result<(Vec<IpAddr>, Vec<String>), CniError> {
        PrevResult::parse(serde_json::from_str(text).unwrap())?.addresses("eth0")
    }

    #[test]
    fn addresses_of_other_interfaces_are_ignored() {
        let text = r#"{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"},{}],"ips":[
            {"version":"4","address":"10.1.0.5/16","interface":1},{"address":"fd00::5/64","interface":1},
            {"address":"10.2.0.1/16","interface":0},{"address":"10.3.0.1/32"}]}"#;
        let (found, notes) = addresses(text).unwrap();
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.1.0.5", "fd00::5", "10.3.0.1"]
        );
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn missing_lists_are_empty_and_an_unknown_index_is_a_note() {
        for text in ["{}", r#"{"ips":null,"interfaces":null}"#, r#"{"ips":[]}"#] {
            assert!(addresses(text).unwrap().0.is_empty(), "{text}");
        }
        for index in ["99", "-1"] {
            let text = format!(r#"{{"ips":[{{"address":"10.1.0.5/16","interface":{index}}}]}}"#);
            let (found, notes) = addresses(&text).unwrap();
            assert!(found.is_empty() && notes.len() == 1, "{notes:?}");
        }
    }

    #[test]
    fn invalid_address_is_rejected_with_its_text() {
        for address in ["10.1.0.5", "10.1.0.5/33", "x/8", ""] {
            let error = addresses(&format!(r#"{{"ips":[{{"address":"{address}"}}]}}"#)).unwrap_err();
            assert!(error.message.contains(&format!("{address:?}")), "{}", error.message);
        }
    }
}
