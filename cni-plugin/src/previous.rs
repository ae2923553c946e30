//! `Previous`: the result of the plugins before this one, which goes out as it came in.
//!
//! Runtimes and plugins put in it what no specification lists, so nothing is parsed and written again but
//! the version beside it. What must not go in here: a type of a result.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::conf::{Object, invalid, value};
use crate::failure::Failure;
use crate::version::Version;

/// A result, as text and as an object of raw values.
#[derive(Debug)]
pub(crate) struct Previous<'a> {
    text: &'a str,
    object: Object<'a>,
}

impl<'a> Previous<'a> {
    pub(crate) fn parse(raw: &'a RawValue) -> Result<Self, Failure> {
        let object = serde_json::from_str(raw.get()).map_err(|why| invalid(format!("prevResult: {why}")))?;
        Ok(Self { text: raw.get(), object })
    }

    /// The result in this version: the very text, unless that says another version.
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

    /// The addresses of this interface, and what is odd about the others.
    pub(crate) fn addresses(&self, interface: &str) -> Result<(Vec<IpAddr>, Vec<String>), Failure> {
        let within =
            |failure: Failure| Failure { message: format!("prevResult.{}", failure.message), ..failure };
        let interfaces: Vec<Interface> =
            value(&self.object, "interfaces").map_err(within)?.unwrap_or_default();
        let ips: Vec<Ip> = value(&self.object, "ips").map_err(within)?.unwrap_or_default();
        let (mut addresses, mut notes) = (Vec::new(), Vec::new());
        for Ip { address, interface: index } in ips {
            let net: IpNet =
                address.parse().map_err(|why| invalid(format!("prevResult.ips: {address:?}: {why}")))?;
            let Some(index) = index else {
                addresses.push(net.addr());
                continue;
            };
            match usize::try_from(index).ok().and_then(|index| interfaces.get(index)) {
                Some(owner) if owner.name == interface => addresses.push(net.addr()),
                Some(_) => {}
                None => {
                    notes.push(format!("prevResult.ips: {address} is of interface {index}, which is none"));
                }
            }
        }
        Ok((addresses, notes))
    }
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    /// An index; absent where the plugin does not say, and then the pod has one interface.
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
        Previous::parse(raw).expect("a result").in_version(version)
    }

    #[test]
    fn a_result_of_the_right_version_is_the_same_to_the_byte() {
        assert_eq!(in_version(PREVIOUS, Version::V1_0_0), PREVIOUS);
    }

    #[test]
    fn another_version_or_none_is_set_and_all_else_stays() {
        let set = r#"{"cniVersion":"0.4.0","a":{"deep":[1e400,{"x":null}]},"dns":{},"z":1.0}"#;
        assert_eq!(in_version(PREVIOUS, Version::V0_4_0), set);
        assert_eq!(in_version("{}", Version::V0_3_0), r#"{"cniVersion":"0.3.0"}"#);
        assert_eq!(
            in_version(r#"{"a\"b":"\u0000"}"#, Version::V0_3_0),
            r#"{"cniVersion":"0.3.0","a\"b":"\u0000"}"#
        );
    }

    fn addresses(text: &str) -> Result<(Vec<IpAddr>, Vec<String>), Failure> {
        Previous::parse(serde_json::from_str(text).unwrap())?.addresses("eth0")
    }

    #[test]
    fn addresses_are_those_of_the_interface() {
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
    fn what_is_missing_is_no_fault_and_a_strange_index_is_noted() {
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
    fn an_address_that_is_none_is_named() {
        for address in ["10.1.0.5", "10.1.0.5/33", "x/8", ""] {
            let failure = addresses(&format!(r#"{{"ips":[{{"address":"{address}"}}]}}"#)).unwrap_err();
            assert!(failure.message.contains(&format!("{address:?}")), "{}", failure.message);
        }
    }
}
