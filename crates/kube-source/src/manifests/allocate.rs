//! `Pool`: assigns cluster IPs from the portal nets to services that have none.
//!
//! Services are processed by namespace and name, and each gets the first free host address, so the same manifests always
//! get the same addresses. When manifests are read again, a service keeps its address, so that a new service does not
//! move the others. `resolve` checks that addresses in manifests are unique.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::service::{ClusterIps, ServiceKey};

use crate::objects::draft::{Addresses, FamilyPolicy};

/// The cluster IPs of the services when the manifests were last read.
pub(crate) type PreviousAddresses = BTreeMap<ServiceKey, ClusterIps>;

/// The portal nets, and the addresses that are in use.
pub(crate) struct Pool<'a> {
    /// Each net and the next address to try.
    nets: Vec<(&'a IpNet, Option<u128>)>,
    taken: HashSet<IpAddr>,
    previous: &'a PreviousAddresses,
    /// Previous addresses of any service. Another service gets one only if no other address is left.
    reserved: HashSet<IpAddr>,
    /// The reserved addresses whose service was deleted.
    released: Vec<IpAddr>,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(
        nets: &'a [IpNet],
        taken: HashSet<IpAddr>,
        previous: &'a PreviousAddresses,
        exists: impl Fn(&ServiceKey) -> bool,
    ) -> Self {
        let addresses = |(_, ips): (&ServiceKey, &ClusterIps)| ips.iter().collect::<Vec<_>>();
        let reserved =
            previous.iter().flat_map(addresses).filter(|address| !taken.contains(address)).collect();
        let released = previous.iter().filter(|(key, _)| !exists(key)).flat_map(addresses).collect();
        let nets = nets.iter().map(|net| (net, to_number(net.network()).checked_add(1))).collect();
        Self { nets, taken, previous, reserved, released }
    }

    /// Assigns the cluster IPs that a service needs and does not have. The error is a message for the user.
    pub(crate) fn assign_missing(
        &mut self,
        key: &ServiceKey,
        addresses: &mut Addresses,
    ) -> Result<(), String> {
        if addresses.headless {
            return Ok(());
        }
        for family in self.missing_families(addresses)? {
            let address = match self.reassign(key, family) {
                Some(address) => address,
                None => self.allocate(family)?,
            };
            if addresses.given.is_empty() {
                addresses.text = Some(address.to_string().into());
            }
            addresses.given.push(address);
        }
        Ok(())
    }

    fn missing_families(&self, addresses: &Addresses) -> Result<Vec<Family>, String> {
        let Addresses { given, families, policy, .. } = addresses;
        let mut needed: Vec<Family> = given.iter().map(|address| Family::of(*address)).collect();
        let add = |needed: &mut Vec<Family>, family: Family| {
            if !needed.contains(&family) {
                needed.push(family);
            }
        };
        let has_net = |family: Family| self.nets.iter().any(|(net, _)| Family::of_net(net) == family);
        for family in families {
            // A second family is optional unless RequireDualStack is set, as on a single-stack API server.
            if needed.is_empty() || has_net(*family) || *policy == Some(FamilyPolicy::RequireDual) {
                add(&mut needed, *family);
            }
        }
        if needed.is_empty() {
            let first =
                self.nets.first().ok_or("failed to assign a cluster IP: no portal net is configured")?;
            needed.push(Family::of_net(first.0));
        }
        if matches!(policy, Some(FamilyPolicy::PreferDual | FamilyPolicy::RequireDual)) {
            for family in Family::BOTH {
                if has_net(family) || *policy == Some(FamilyPolicy::RequireDual) {
                    add(&mut needed, family);
                }
            }
        }
        Ok(needed.into_iter().filter(|family| !given.iter().any(|ip| Family::of(*ip) == *family)).collect())
    }

    /// Assigns the previous address of a service again if it is free and still in a portal net.
    fn reassign(&mut self, key: &ServiceKey, family: Family) -> Option<IpAddr> {
        let address = self.previous.get(key)?.of(family)?;
        let is_in_net = self.nets.iter().any(|(net, _)| net.contains(&address));
        (is_in_net && self.taken.insert(address)).then_some(address)
    }

    /// Assigns the first free address of a family.
    fn allocate(&mut self, family: Family) -> Result<IpAddr, String> {
        let mut exhausted = Vec::new();
        for (net, next) in &mut self.nets {
            if Family::of_net(net) != family {
                continue;
            }
            // The last address of an IPv4 net is the broadcast address.
            let end = to_number(net.broadcast()) - u128::from(family == Family::V4 && net.prefix_len() < 32);
            while let Some(candidate) = next.filter(|candidate| *candidate <= end) {
                *next = candidate.checked_add(1);
                let address = to_address(candidate, family);
                if !self.reserved.contains(&address) && self.taken.insert(address) {
                    return Ok(address);
                }
            }
            exhausted.push(net.to_string());
        }
        while let Some(address) = self.released.pop() {
            let is_in_net = self.nets.iter().any(|(net, _)| net.contains(&address));
            if is_in_net && Family::of(address) == family && self.taken.insert(address) {
                return Ok(address);
            }
        }
        Err(if exhausted.is_empty() {
            format!("failed to assign an {family} address: no portal net of this family")
        } else {
            format!("failed to assign an {family} address: portal net {} is exhausted", exhausted.join(", "))
        })
    }
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Converts a number to an address. The number must be within a net of the family.
fn to_address(number: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let bits = u32::try_from(number).expect("a number within an IPv4 net fits 32 bits");
            Ipv4Addr::from_bits(bits).into()
        }
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}
