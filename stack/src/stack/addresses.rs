//! Addresses and routes of a stack that runs.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use ipnet::IpNet;

use super::Stack;
use crate::block::{Mode, wait};
use crate::core::Core;
use crate::network::AddressError;
use crate::routes::{Address, Origin, Route};

impl Stack {
    /// The stack's addresses as they are now, those made by itself included.
    pub fn addresses(&self) -> Vec<Address> {
        self.shard().with(|core| core.net.routes.addresses().to_vec())
    }

    /// The stack's routes as they are now, those to connected networks included, in the order in
    /// which they are tried.
    pub fn routes(&self) -> Vec<Route> {
        self.shard().with(|core| core.net.routes.all().collect())
    }

    /// Gives an interface, counted from 0 in the order of the builder, one more address, to be used
    /// at once.
    pub fn add_address(&self, interface: usize, address: IpNet) -> Result<(), AddressError> {
        self.change(|core| core.net.add_address(interface, address))
    }

    /// Takes an address away. Connections from it are not ended: they hear nothing any more.
    pub fn remove_address(&self, address: IpAddr) -> Result<(), AddressError> {
        self.change(|core| core.net.remove_address(address))
    }

    /// Adds a route. Its gateway must be on a connected network of its interface.
    pub fn add_route(&self, route: Route) -> Result<(), AddressError> {
        self.change(|core| core.net.add_route(route))
    }

    /// Takes away a route that was added, or given to the builder.
    pub fn remove_route(&self, route: &Route) -> Result<(), AddressError> {
        self.change(|core| core.net.remove_route(route))
    }

    /// Waits until the stack has an address to use, other than a link-local one it made itself.
    ///
    /// # Errors
    /// The device is gone.
    pub async fn configured(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_configured(cx)).await
    }

    /// The same on a thread of one's own, for at most `timeout`; then `TimedOut`.
    pub fn wait_configured(&self, timeout: Duration) -> io::Result<()> {
        wait(Mode::Blocking(Some(timeout)), |cx| self.poll_configured(cx))
    }

    /// The same, for a future of one's own.
    pub fn poll_configured(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let beyond = |address: &Address| address.is_usable() && address.origin != Origin::LinkLocal;
        self.poll_addresses(cx, |addresses| addresses.iter().any(beyond))
    }

    /// Waits until the stack's addresses are as `wanted` says.
    ///
    /// # Errors
    /// The device is gone.
    pub async fn wait_addresses(&self, wanted: impl Fn(&[Address]) -> bool) -> io::Result<()> {
        poll_fn(|cx| self.poll_addresses(cx, &wanted)).await
    }

    fn poll_addresses(
        &self,
        cx: &mut Context<'_>,
        wanted: impl Fn(&[Address]) -> bool,
    ) -> Poll<io::Result<()>> {
        self.shard().with(|core| {
            core.check_running()?;
            if wanted(core.net.routes.addresses()) {
                return Poll::Ready(Ok(()));
            }
            core.net.watchers.add(cx.waker());
            Poll::Pending
        })
    }

    /// DNS servers that the network has named, those of the first interface first.
    pub fn dns_servers(&self) -> Vec<IpAddr> {
        self.shard().with(|core| core.net.dns_servers())
    }

    /// Domains that the network has named, to complete short names with.
    pub fn search_domains(&self) -> Vec<String> {
        self.shard().with(|core| core.net.search_domains())
    }

    /// Gives every DHCP address back and asks for none any more. A stack that ends does so by
    /// itself, unless its shard is turned by the program.
    pub fn release(&self) {
        self.shard().with(Core::release);
    }

    fn change<R>(&self, change: impl FnOnce(&mut Core) -> R) -> R {
        self.shard().with(|core| {
            let result = change(core);
            core.net.wake_watchers(&mut core.wakes);
            result
        })
    }
}
