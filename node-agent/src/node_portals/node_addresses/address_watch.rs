//! `follow_addresses`: the addresses of this network namespace, and their changes.
//!
//! Notifications of the kernel (RTM_NEWADDR and RTM_DELADDR) only say that something changed. After each one, and after
//! an overflow of the socket (ENOBUFS), all addresses are listed again, so no notification can be missed and none is
//! applied twice. The kernel also sends RTM_DELADDR for each address of a link that is removed, so notifications of
//! links, of which every pod causes some, are not needed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use support::Backoff;
use tokio::time::{sleep, timeout};

/// The maximum number of addresses; further ones are ignored. A node has a few; one that announces load-balancer
/// addresses by an interface can have hundreds.
pub const NODE_ADDRESSES_MAX: usize = 4_096;
/// The number of ignored addresses that the log names.
const LOGGED_MAX: usize = 8;
/// The time for which further notifications are awaited: a program that changes many addresses causes one list.
const COALESCE: Duration = Duration::from_millis(5);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// The interface on which kube-proxy's IPVS mode has every address of every service, also after it has stopped.
const IPVS_INTERFACE: &str = "kube-ipvs0";

/// Calls `on_change` with all addresses of this thread's network namespace, first as soon as they are known, then after
/// each change. Needs a tokio runtime. Errors are logged, and the list is retried; the last addresses remain valid.
pub async fn follow_addresses(mut on_change: impl FnMut(BTreeSet<IpAddr>)) -> Infallible {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut last = None;
    loop {
        let Err(error) = follow_on_one_socket(&mut last, &mut backoff, &mut on_change).await;
        let delay = backoff.next_delay_with_jitter();
        tracing::warn!(
            error = format_args!("{error:#}"),
            retry_in_ms = delay.as_millis(),
            "failed to follow the addresses of the node; will retry"
        );
        sleep(delay).await;
    }
}

async fn follow_on_one_socket(
    last: &mut Option<AddressList>,
    backoff: &mut Backoff,
    on_change: &mut impl FnMut(BTreeSet<IpAddr>),
) -> Result<Infallible> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut notifications) =
        new_multicast_connection(&groups).context("failed to open netlink socket")?;
    // The task ends when `handle` and `notifications` are dropped.
    tokio::spawn(connection);
    loop {
        let found = timeout(LIST_TIMEOUT, list(&handle)).await.context("timed out")?;
        let found = found.context("failed to list addresses")?;
        backoff.reset();
        let list = AddressList::new(found, last.as_ref());
        if last.as_ref() != Some(&list) {
            list.log_ignored(last.as_ref());
            on_change(list.addresses.clone());
            *last = Some(list);
        }
        if notifications.next().await.is_none() {
            bail!("netlink socket was closed");
        }
        sleep(COALESCE).await;
        while notifications.try_recv().is_ok() {}
    }
}

/// Lists the addresses in the order of the kernel.
async fn list(handle: &Handle) -> Result<Vec<IpAddr>, rtnetlink::Error> {
    let ipvs = ipvs_interface(handle).await;
    let mut messages = std::pin::pin!(handle.address().get().execute());
    let mut addresses = Vec::new();
    while let Some(message) = messages.try_next().await? {
        if ipvs != Some(message.header.index) {
            addresses.extend(address_of(&message));
        }
    }
    Ok(addresses)
}

/// Returns the index of the interface of kube-proxy's IPVS mode. An error means that the interface does not exist.
async fn ipvs_interface(handle: &Handle) -> Option<u32> {
    let request = handle.link().get().match_name(IPVS_INTERFACE.to_owned());
    let mut messages = std::pin::pin!(request.execute());
    messages.try_next().await.ok().flatten().map(|link| link.header.index)
}

/// Returns the address of a message, unless another host on the link has it.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    if message.header.flags.contains(AddressHeaderFlags::Dadfailed) {
        return None;
    }
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link, the other attribute is the peer's address.
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

/// A bounded list of addresses.
#[derive(Debug, PartialEq, Eq)]
struct AddressList {
    addresses: BTreeSet<IpAddr>,
    ignored: BTreeSet<IpAddr>,
}

impl AddressList {
    /// Returns at most [`NODE_ADDRESSES_MAX`] addresses; those that were in the last list take precedence.
    fn new(found: Vec<IpAddr>, last: Option<&Self>) -> Self {
        let was_listed = |address: &IpAddr| last.is_some_and(|last| last.addresses.contains(address));
        let (old, new): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(was_listed);
        let mut list = Self { addresses: old.into_iter().collect(), ignored: BTreeSet::new() };
        for address in new {
            if list.addresses.len() < NODE_ADDRESSES_MAX {
                list.addresses.insert(address);
            } else if !list.addresses.contains(&address) {
                list.ignored.insert(address);
            }
        }
        list
    }

    /// Logs addresses that are ignored from now on.
    fn log_ignored(&self, last: Option<&Self>) {
        let was_ignored = |address: &&IpAddr| last.is_some_and(|last| last.ignored.contains(address));
        let ignored: Vec<&IpAddr> =
            self.ignored.iter().filter(|address| !was_ignored(address)).take(LOGGED_MAX).collect();
        if !ignored.is_empty() {
            tracing::warn!(
                limit = NODE_ADDRESSES_MAX,
                ignored = self.ignored.len(),
                addresses = ?ignored,
                "node has too many addresses; node ports are not served at some of them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_core::sample::ip;
    use rtnetlink::packet_route::address::AddressHeader;

    use super::*;

    fn message(attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.attributes = attributes;
        message
    }

    #[test]
    fn local_address_of_a_point_to_point_link_is_not_that_of_its_peer() {
        let (local, peer) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for attributes in [
            vec![AddressAttribute::Address(peer), AddressAttribute::Local(local)],
            vec![AddressAttribute::Local(local), AddressAttribute::Address(peer)],
            vec![AddressAttribute::Address(local)],
        ] {
            assert_eq!(address_of(&message(attributes)), Some(local));
        }
        assert_eq!(address_of(&message(Vec::new())), None);
    }

    #[test]
    fn address_of_another_host_is_omitted() {
        let mut duplicate = message(vec![AddressAttribute::Address(ip("fd00::1"))]);
        duplicate.header = AddressHeader { flags: AddressHeaderFlags::Dadfailed, ..AddressHeader::default() };
        assert_eq!(address_of(&duplicate), None);
    }

    #[test]
    fn addresses_beyond_the_limit_are_ignored_and_listed_ones_stay() {
        let address = |number: usize| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number as u32));
        let first = AddressList::new((1..=NODE_ADDRESSES_MAX).map(address).collect(), None);
        assert_eq!((first.addresses.len(), first.ignored.len()), (NODE_ADDRESSES_MAX, 0));
        // The new address is first in the kernel's order.
        let more: Vec<IpAddr> = (0..=NODE_ADDRESSES_MAX).map(address).collect();
        let second = AddressList::new(more.clone(), Some(&first));
        assert_eq!(second.addresses, first.addresses);
        assert_eq!(second.ignored, BTreeSet::from([address(0)]));
        let third = AddressList::new(more[..NODE_ADDRESSES_MAX].to_vec(), Some(&second));
        assert_eq!((third.addresses.contains(&address(0)), third.ignored.len()), (true, 0));
    }
}
