//! Drawing addresses for services that have none.
//!
//! The first free host address of the portal net, in the order of namespace and name: the same manifests always
//! get the same addresses. Where manifests are read again, a service keeps the address that it has drawn, so that
//! one more service does not move the others. What must not go in here: the check that given addresses are unique.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::service::{ClusterIps, ServiceKey};

use crate::addresses::{Addresses, FamilyPolicy};

/// The addresses that services had when they were last read.
pub(crate) type Earlier = BTreeMap<ServiceKey, ClusterIps>;

/// Nets to draw from, and what is taken already.
pub(crate) struct Pool<'a> {
    nets: Vec<(&'a IpNet, Option<u128>)>,
    taken: HashSet<IpAddr>,
    earlier: &'a Earlier,
    /// Addresses that somebody had earlier: drawn by others only when nothing else is left.
    kept: HashSet<IpAddr>,
    /// Those of them whose service is no longer there.
    released: Vec<IpAddr>,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(
        nets: &'a [IpNet],
        taken: HashSet<IpAddr>,
        earlier: &'a Earlier,
        is_there: impl Fn(&ServiceKey) -> bool,
    ) -> Self {
        let had = |(_, ips): (&ServiceKey, &ClusterIps)| ips.iter().collect::<Vec<_>>();
        let kept = earlier.iter().flat_map(had).filter(|address| !taken.contains(address)).collect();
        let released = earlier.iter().filter(|(key, _)| !is_there(key)).flat_map(had).collect();
        let nets = nets.iter().map(|net| (net, Some(number(net.network()).saturating_add(1)))).collect();
        Self { nets, taken, earlier, kept, released }
    }

    /// Gives a service the addresses that it lacks; an error says why it gets none.
    pub(crate) fn complete(&mut self, key: &ServiceKey, addresses: &mut Addresses) -> Result<(), String> {
        if addresses.headless {
            return Ok(());
        }
        for family in self.missing_families(addresses)? {
            let address = match self.keep(key, family) {
                Some(address) => address,
                None => self.draw(family)?,
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
        let mut wanted: Vec<Family> = given.iter().map(|address| Family::of(*address)).collect();
        let add = |wanted: &mut Vec<Family>, family: Family| {
            if !wanted.contains(&family) {
                wanted.push(family);
            }
        };
        let has_net = |family: Family| self.nets.iter().any(|(net, _)| Family::of_net(net) == family);
        for family in families {
            // A second family is a wish unless it is required, as it is for an API server with one family.
            if wanted.is_empty() || has_net(*family) || *policy == Some(FamilyPolicy::RequireDual) {
                add(&mut wanted, *family);
            }
        }
        if wanted.is_empty() {
            let first = self.nets.first().ok_or("draw an address: there is no portal net")?;
            wanted.push(Family::of_net(first.0));
        }
        if matches!(policy, Some(FamilyPolicy::PreferDual | FamilyPolicy::RequireDual)) {
            for family in Family::BOTH {
                if has_net(family) || *policy == Some(FamilyPolicy::RequireDual) {
                    add(&mut wanted, family);
                }
            }
        }
        Ok(wanted.into_iter().filter(|family| !given.iter().any(|ip| Family::of(*ip) == *family)).collect())
    }

    /// The address that the service had, if it may have it again.
    fn keep(&mut self, key: &ServiceKey, family: Family) -> Option<IpAddr> {
        let address = self.earlier.get(key)?.of(family)?;
        let is_in_net = self.nets.iter().any(|(net, _)| net.contains(&address));
        (is_in_net && self.taken.insert(address)).then_some(address)
    }

    fn draw(&mut self, family: Family) -> Result<IpAddr, String> {
        let mut exhausted = Vec::new();
        for (net, next) in &mut self.nets {
            if Family::of_net(net) != family {
                continue;
            }
            // The last address of an IPv4 net is for broadcast.
            let end = number(net.broadcast()) - u128::from(family == Family::V4 && net.prefix_len() < 32);
            while let Some(candidate) = next.filter(|candidate| *candidate <= end) {
                *next = candidate.checked_add(1);
                let Some(address) = address(candidate, family) else { break };
                if !self.kept.contains(&address) && self.taken.insert(address) {
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
            format!("draw an {family} address: there is no portal net of this family")
        } else {
            format!("draw an {family} address: portal net {} has none left", exhausted.join(", "))
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => Some(Ipv4Addr::from_bits(u32::try_from(number).ok()?).into()),
        Family::V6 => Some(Ipv6Addr::from_bits(number).into()),
    }
}
