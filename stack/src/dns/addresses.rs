//! The addresses of a host, in the order in which to try them.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;

use super::DnsError;
use super::message::{RecordData, RecordType};
use super::name::Name;
use super::resolver::{Answer, Resolver};
use crate::Stack;
use crate::block::{Mode, wait};

impl Stack {
    /// The addresses of `name`, each with `port`, in the order in which to try them: those with a
    /// route first, IPv6 before IPv4 (RFC 6724 for one interface), otherwise as the server ordered
    /// them. `name` may be an IP address. Only IP versions that the stack has an address of are
    /// asked for.
    ///
    /// # Errors
    /// Holds a [`DnsError`]. `NotFound`: there is no such host. `TimedOut`: no server answered.
    /// `AddrNotAvailable`: no server is known. `InvalidInput`: not a name. `InvalidData`: the servers
    /// cannot answer.
    pub async fn lookup_host(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let ips = self.resolver().lookup_ip(name).await?;
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// The same, on a thread that waits for it. Not for the thread that turns the stack.
    pub fn lookup_host_blocking(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut lookup = pin!(self.lookup_host(name, port));
        wait(Mode::Blocking(None), |cx| lookup.as_mut().poll(cx))
    }
}

impl Resolver {
    /// The addresses of `name`, as [`Stack::lookup_host`] orders them.
    pub async fn lookup_ip(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(ip) = bare.parse() {
            return Ok(vec![ip]);
        }
        let mut first = None;
        for name in self.candidates(name)? {
            match self.addresses(&name).await {
                Err(error) if error.is_absence() => {
                    first.get_or_insert(error);
                }
                result => return result,
            }
        }
        Err(first.unwrap_or_else(|| DnsError::NoName(name.to_owned())))
    }

    /// The addresses of a complete name; both versions are asked for at a time.
    async fn addresses(&self, name: &Name) -> Result<Vec<IpAddr>, DnsError> {
        let (v4, v6) = self.versions();
        let lookup = async |wanted: bool, kind| {
            if wanted { Some(self.lookup_complete(name, kind).await) } else { None }
        };
        let answers = both(lookup(v6, RecordType::Aaaa), lookup(v4, RecordType::A)).await;
        let mut ips: Vec<IpAddr> = Vec::new();
        let mut worst = None;
        for answer in [answers.0, answers.1].into_iter().flatten() {
            match answer {
                Ok(answer) => ips.extend(answer.addresses()),
                // One version without a record is not worth telling beside another failure.
                Err(error) if worst.is_none() || !error.is_absence() => worst = Some(error),
                Err(_) => {}
            }
        }
        if ips.is_empty() {
            return Err(worst.unwrap_or_else(|| DnsError::NoName(name.to_string())));
        }
        ips.sort_by_key(|ip| source_for(self.stack(), *ip).is_err());
        Ok(ips)
    }

    /// The IP versions that a connection can have: those we have an address of that is good for more
    /// than the link. With none at all, both.
    fn versions(&self) -> (bool, bool) {
        let addresses = self.stack().addresses();
        let v4 = addresses.iter().any(|address| address.net.addr().is_ipv4());
        let v6 = addresses.iter().any(
            |address| matches!(address.net.addr(), IpAddr::V6(ip) if !ip.is_unicast_link_local()),
        );
        if v4 || v6 { (v4, v6) } else { (true, true) }
    }
}

impl Answer {
    /// The addresses among the records.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(|record| match record.data {
            RecordData::A(ip) => Some(ip.into()),
            RecordData::Aaaa(ip) => Some(ip.into()),
            RecordData::Cname(_) => None,
        })
    }
}

/// The address that `stack` talks to `remote` from.
///
/// # Errors
/// There is no way to it.
pub(super) fn source_for(stack: &Stack, remote: IpAddr) -> io::Result<IpAddr> {
    stack.shard().with(|core| core.net.source_for(remote)).map(|(_, own)| own)
}

/// Awaits both at a time.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut got_a, mut got_b) = (None, None);
    poll_fn(|cx| {
        if got_a.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            got_a = Some(output);
        }
        if got_b.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(cx)
        {
            got_b = Some(output);
        }
        match (got_a.take(), got_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (got_a, got_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}
