use std::sync::Arc;
use std::time::Duration;

use super::adapter::{Adapter, unsuitable};
use super::connection::Connection;
use crate::rdma::verbs::{
    Access, Atomics, CompletionChannel, CompletionQueue, Gid, Kind, Link, QueuePair,
    QueuePairConfig, Route, VerbsError,
};
use crate::rdma_wire::{RemoteRegion, Station};

/// Every limit of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Operations that are under way, or finished and not yet asked for.
    pub operations: usize,
    /// Bytes of one transfer at most. It is several messages if the device's are shorter, and the send queue
    /// has room for `operations` of the longest ones.
    pub longest_transfer: usize,
    /// Writes of up to so many bytes go into the request itself, if the device has such room.
    pub inline: usize,
    /// Regions that the peer may offer at the start.
    pub peer_regions: usize,
    /// A packet that the peer does not acknowledge in this time is sent again; rounded up to 4.096 µs times a
    /// power of two. Devices may take four times as long.
    pub resend_after: Duration,
    /// How often, up to 6, before the peer counts as gone.
    pub resends: u8,
}

impl Default for ConnectionConfig {
    /// 64 operations of up to 64 MiB, 64 regions; a peer is gone after some two seconds of silence.
    fn default() -> Self {
        Self {
            operations: 64,
            longest_transfer: 64 << 20,
            inline: 220,
            peer_regions: 64,
            resend_after: Duration::from_millis(250),
            resends: 6,
        }
    }
}

impl ConnectionConfig {
    /// As `ibv_qp_attr::timeout` has it.
    fn timeout(&self) -> u8 {
        let steps = self.resend_after.as_nanos().div_ceil(4096).max(1).next_power_of_two();
        u8::try_from(steps.ilog2()).unwrap_or(31).clamp(1, 31)
    }
}

/// A queue pair that is not connected yet.
pub(super) struct Endpoint {
    adapter: Adapter,
    config: ConnectionConfig,
    pair: Arc<QueuePair>,
    completions: Arc<CompletionQueue>,
    first_packet: u32,
    /// Reads and atomic operations at a time, answered and asked for.
    depths: (u8, u8),
}

impl Endpoint {
    pub(super) fn new(adapter: &Adapter, config: &ConnectionConfig) -> Result<Self, VerbsError> {
        let limits = adapter.context().limits()?;
        let pieces = config.longest_transfer.div_ceil(adapter.longest_message()).max(1);
        let requests = config.operations.max(1).saturating_mul(pieces);
        let most = limits.requests.min(limits.completions);
        if requests > most {
            let why = format!(
                "{} operations of {pieces} messages are more than the {most} requests of the device: use \
                 fewer operations or shorter transfers",
                config.operations
            );
            return Err(unsuitable("making a queue pair", why));
        }
        let channel = CompletionChannel::new(adapter.context())?;
        // When the queue pair fails, every request has a completion.
        let completions = CompletionQueue::new(adapter.context(), requests, Some(&channel))?;
        let wanted = QueuePairConfig {
            kind: Kind::Connection,
            send_requests: requests,
            // None is ever posted.
            receive_requests: 1,
            inline: config.inline,
        };
        let pair = QueuePair::new(adapter.domain(), &wanted, &completions, &completions)?;
        let mut access = Access::LOCAL_WRITE | Access::REMOTE_READ | Access::REMOTE_WRITE;
        if adapter.atomics() != Atomics::None {
            access = access | Access::REMOTE_ATOMIC;
        }
        pair.prepare_connection(adapter.port(), access)?;
        Ok(Self {
            adapter: adapter.clone(),
            config: *config,
            pair,
            completions,
            first_packet: random()? as u32 & 0xff_ffff,
            depths: (limits.responder_resources, limits.initiator_depth),
        })
    }

    /// What the peer has to know to connect to it.
    pub(super) fn station(&self, regions: Vec<RemoteRegion>) -> Station {
        Station {
            gid: self.adapter.gid().0,
            queue_pair: self.pair.number(),
            first_packet: self.first_packet,
            mtu: u16::try_from(self.adapter.mtu()).unwrap_or(4096),
            responder_resources: self.depths.0,
            initiator_depth: self.depths.1,
            regions,
        }
    }

    /// Connects to the peer.
    pub(super) fn connect(self, peer: Station) -> Result<Connection, VerbsError> {
        let (responder, initiator) = self.depths;
        self.pair.start_connection(&Link {
            route: Route {
                port: self.adapter.port(),
                gid_index: self.adapter.gid_index(),
                destination: Gid(peer.gid),
                hop_limit: 64,
            },
            queue_pair: peer.queue_pair,
            mtu: self.adapter.mtu().min(peer.mtu.into()),
            our_packet: self.first_packet,
            peer_packet: peer.first_packet,
            initiator_depth: initiator.min(peer.responder_resources),
            responder_resources: responder.min(peer.initiator_depth),
            timeout: self.config.timeout(),
            // With Soft-RoCE, 7 means for ever.
            retries: self.config.resends.min(6),
        })?;
        Connection::new(&self.adapter, &self.config, self.pair, self.completions, peer.regions)
    }
}

/// A number that nobody guesses.
pub(super) fn random() -> Result<u64, VerbsError> {
    getrandom::u64().map_err(|error| VerbsError::Failed {
        step: "asking the operating system for a random number",
        source: std::io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_rounded_up_to_what_devices_know() {
        let timeout =
            |resend_after| ConnectionConfig { resend_after, ..Default::default() }.timeout();
        assert_eq!(timeout(Duration::ZERO), 1);
        assert_eq!(timeout(Duration::from_nanos(4096 * 8)), 3);
        assert_eq!(timeout(Duration::from_nanos(4096 * 8 + 1)), 4);
        assert_eq!(timeout(Duration::from_millis(250)), 16);
        assert_eq!(timeout(Duration::MAX), 31);
    }
}
