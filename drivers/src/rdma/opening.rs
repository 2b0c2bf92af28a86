//! The steps of opening a device, and what is said when one fails.

use std::io;
use std::sync::Arc;

use nix::net::if_::if_indextoname;
use underpass_devices::Caps;

use super::group::Group;
use super::link::{Link, Plan};
use super::peers::Peers;
use super::rx::RdmaRx;
use super::tx::{Q_KEY, RdmaTx};
use super::verbs::{
    Access, CompletionChannel, CompletionQueue, Context, GidEntry, Kind, Limits, Memory, Port,
    PortState, ProtectionDomain, QueuePair, QueuePairConfig, Route, VerbsError,
};
use super::{RdmaConfig, RdmaDevice};
use crate::open::OpenError;
use crate::rdma_peer::Peer;

/// The device being opened.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) name: &'a str,
    pub(super) config: &'a RdmaConfig,
}

/// Most bytes that are copied into a request, if the device has such room: longer ones it had better
/// fetch.
const INLINE: usize = 256;
/// In front of the IP packet.
const ETHERNET_HEADER_LEN: usize = 14;
/// Routers between us and a peer, and one.
const HOP_LIMIT: u8 = 64;

impl Opening<'_> {
    pub(super) fn open(&self) -> Result<RdmaDevice, OpenError> {
        let config = self.config;
        let context = Context::open(self.name).map_err(|e| self.failed(e))?;
        let limits = context.limits().map_err(|e| self.failed(e))?;
        self.check(&limits)?;
        let port = context.port(config.port).map_err(|e| self.failed(e))?;
        let gid = self.gid(&context)?;
        self.check_port(&port, &gid)?;
        let max_frame = port.mtu;
        let (rx_slots, tx_slots) = (config.rx_slots, config.tx_slots);
        let requests = RdmaTx::requests(tx_slots).min(limits.requests);

        let step = |error| self.failed(error);
        let channel = CompletionChannel::new(&context).map_err(step)?;
        let queue = |slots| CompletionQueue::new(&context, slots, Some(&channel)).map_err(step);
        let (sent, received) = (queue(requests)?, queue(rx_slots)?);
        let domain = ProtectionDomain::new(&context).map_err(step)?;
        let plan = Plan::new(rx_slots, tx_slots, max_frame);
        let memory = Memory::new(&domain, plan.len(), Access::LOCAL_WRITE).map_err(step)?;
        let pair = QueuePairConfig {
            kind: Kind::Datagram,
            send_requests: requests,
            receive_requests: rx_slots,
            inline: INLINE,
        };
        let pair = QueuePair::new(&domain, &pair, &sent, &received).map_err(step)?;
        pair.start_datagrams(config.port, Q_KEY).map_err(step)?;
        let epoll = Link::poll_both(&channel, &context)
            .map_err(|source| self.io("making an epoll descriptor", source))?;

        let route = Route {
            port: config.port,
            gid_index: gid.index,
            destination: gid.gid,
            hop_limit: HOP_LIMIT,
        };
        let max_peers = config.max_peers.min(limits.address_handles.max(1));
        let (peers, finder) = Peers::start(&domain, route, max_peers, &config.peers)
            .map_err(|source| self.io("starting a thread", source))?;
        let own = Peer { gid: gid.gid, queue_pair: pair.number() };
        let link = Arc::new(Link {
            group: self.group(&pair, &gid),
            pair,
            sent,
            received,
            memory,
            plan,
            channel,
            epoll,
            context,
            port: config.port,
            gid,
        });
        let rx = RdmaRx::new(Arc::clone(&link), Arc::clone(&peers), finder, own)
            .map_err(|error| self.io("posting receive buffers", error.source))?;
        let caps = Caps::ethernet(own.mac(), max_frame - ETHERNET_HEADER_LEN);
        let tx = RdmaTx::new(Arc::clone(&link), Arc::clone(&peers), caps.clone());
        tracing::info!(device = %self.device(), station = %own, mac = %caps.mac, "opened");
        Ok(RdmaDevice { caps, rx, tx, link, peers, gid })
    }

    fn check(&self, limits: &Limits) -> Result<(), OpenError> {
        let most = RdmaConfig::MAX_SLOTS.min(limits.requests).min(limits.completions);
        let slots = 1..=most;
        if !slots.contains(&self.config.rx_slots) || !slots.contains(&self.config.tx_slots) {
            return Err(self.unsuitable(&format!("a queue has 1 to {most} slots")));
        }
        let peers = 1..=RdmaConfig::MAX_PEERS;
        if !peers.contains(&self.config.max_peers) {
            let most = peers.end();
            return Err(self.unsuitable(&format!("max-peers is 1 to {most}")));
        }
        if self.config.peers.len() > self.config.max_peers {
            let most = self.config.max_peers;
            return Err(self.unsuitable(&format!(
                "more peers than the {most} that are known at a time; raise max-peers"
            )));
        }
        Ok(())
    }

    fn check_port(&self, port: &Port, gid: &GidEntry) -> Result<(), OpenError> {
        let number = self.config.port;
        if !port.is_ethernet {
            return Err(self.unsuitable(&format!("port {number} is InfiniBand; it takes RoCE")));
        }
        if port.state != PortState::Active {
            return Err(match interface(gid) {
                Some(interface) => OpenError::Down { device: self.device(), interface },
                None => self.unsuitable(&format!("port {number} has no link")),
            });
        }
        Ok(())
    }

    /// The GID to use.
    fn gid(&self, context: &Context) -> Result<GidEntry, OpenError> {
        let port = self.config.port;
        if let Some(index) = self.config.gid {
            return context.gid(port, index).map_err(|error| self.failed(error));
        }
        let gid = context.default_gid(port).map_err(|error| self.failed(error))?;
        gid.ok_or_else(|| {
            self.unsuitable(&format!(
                "port {port} has no address; give its interface one (ip address add) and bring it up"
            ))
        })
    }

    /// A place in the group, unless it is not wanted or the device has none.
    fn group(&self, pair: &Arc<QueuePair>, gid: &GidEntry) -> Option<Group> {
        if !self.config.multicast {
            return None;
        }
        match Group::join(pair, self.config.port, gid) {
            Ok(group) => Some(group),
            Err(error) => {
                let device = self.device();
                tracing::warn!(%device, %error, "no multicast group: known peers get everything");
                None
            }
        }
    }

    fn failed(&self, error: VerbsError) -> OpenError {
        match error {
            VerbsError::Failed { step, source } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted {
                    device: self.device(),
                    needs: "to read and write /dev/infiniband/uverbs*: run as root, or give the \
                            files to the group rdma (udev of rdma-core) and join it"
                        .to_owned(),
                },
                _ => self.io(step, source),
            },
            error => self.unsuitable(&error.to_string()),
        }
    }

    pub(super) fn unsuitable(&self, reason: &str) -> OpenError {
        OpenError::Unsuitable { device: self.device(), reason: reason.to_owned() }
    }

    fn io(&self, step: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { device: self.device(), step, source }
    }

    fn device(&self) -> String {
        format!("rdma:{}", self.name)
    }
}

/// The network interface of an address.
fn interface(gid: &GidEntry) -> Option<String> {
    if_indextoname(gid.interface).ok()?.into_string().ok()
}
