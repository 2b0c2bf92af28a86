//! Which shard a packet is for, and the way there.

use std::net::SocketAddr;

use underpass_devices::TxQueue;

use super::{Arrival, BURST, Core};
use crate::handover::{Content, Siblings};
use crate::icmp::{self, IcmpMessage};
use crate::packet::{Packet, Tuple, protocol, transport_ports};

impl Core {
    /// Takes what other shards have handed over. Returns the number of packets.
    pub(super) fn receive_handed_over(&mut self, tx: &mut [impl TxQueue]) -> usize {
        let mut received = 0;
        for from in 0..self.siblings.as_ref().map_or(0, Siblings::count) {
            for _ in 0..BURST {
                let Some(parcel) = self.siblings.as_mut().and_then(|all| all.take(from)) else {
                    break;
                };
                match parcel.content {
                    Content::Ip => self.on_ip(&parcel.bytes, parcel.arrival, tx),
                    Content::Arp => self.on_arp(&parcel.bytes, parcel.arrival, tx),
                    Content::Frame => self.on_other_frame(&parcel.bytes, parcel.arrival, tx),
                }
                if let Some(siblings) = &mut self.siblings {
                    siblings.give_back(from, parcel);
                }
                received += 1;
            }
        }
        received
    }

    /// Hands a whole packet to the shard it is for. False: it is for this one.
    pub(super) fn is_handed_over(&mut self, packet: &Packet<'_>, arrival: Arrival) -> bool {
        let Some(siblings) = &self.siblings else {
            return false;
        };
        if arrival.handed_over {
            return false;
        }
        let to = owner(siblings, packet).unwrap_or(siblings.index);
        self.hand_over(to, Content::Ip, packet.bytes, arrival)
    }

    /// This shard has what belongs to the stack as a whole.
    pub(super) fn is_first(&self) -> bool {
        self.siblings.as_ref().is_none_or(Siblings::is_first)
    }

    /// Hands a packet to the first shard, if this is another one and the packet is not from there.
    pub(super) fn is_for_first(&mut self, packet: &Packet<'_>, arrival: Arrival) -> bool {
        !arrival.handed_over && self.hand_over(FIRST, Content::Ip, packet.bytes, arrival)
    }

    /// Lets every shard hear of what arrived here.
    pub(super) fn spread(&mut self, content: Content, bytes: &[u8], arrival: Arrival) {
        if arrival.handed_over {
            return;
        }
        for to in 0..self.siblings.as_ref().map_or(0, Siblings::count) {
            self.hand_over(to, content, bytes, arrival);
        }
    }

    /// True if `to` is another shard: it has got the packet, or its ring was full, which is counted.
    pub(super) fn hand_over(
        &mut self,
        to: usize,
        content: Content,
        bytes: &[u8],
        arrival: Arrival,
    ) -> bool {
        match &mut self.siblings {
            Some(siblings) if siblings.index != to => {
                if let Err(reason) = siblings.hand_over(to, content, arrival, bytes) {
                    self.net.drop(reason);
                }
                true
            }
            _ => false,
        }
    }
}

/// The shard that has what belongs to no flow: reassembly, pings, group memberships, custom protocols,
/// and whatever gives the stack its addresses.
const FIRST: usize = 0;

/// Who is to have a packet. `None`: whoever got it.
fn owner(siblings: &Siblings, packet: &Packet<'_>) -> Option<usize> {
    match packet.protocol {
        protocol::TCP => {
            let (src, dst) = transport_ports(packet.payload())?;
            Some(siblings.owner(&Tuple {
                local: SocketAddr::new(packet.dst, dst),
                remote: SocketAddr::new(packet.src, src),
            }))
        }
        protocol::UDP => siblings.ports.get(transport_ports(packet.payload())?.1),
        protocol::ICMP | protocol::ICMPV6 => match icmp::receive(packet).ok()? {
            IcmpMessage::EchoRequest(_) => None,
            IcmpMessage::Error(error) => {
                let quoted = error.quoted;
                match quoted.protocol {
                    protocol::TCP => Some(siblings.owner(&Tuple {
                        local: SocketAddr::new(quoted.src, quoted.src_port),
                        remote: SocketAddr::new(quoted.dst, quoted.dst_port),
                    })),
                    protocol::UDP => siblings.ports.get(quoted.src_port),
                    _ => Some(FIRST),
                }
            }
            IcmpMessage::EchoReply(_) | IcmpMessage::Other => Some(FIRST),
        },
        _ => Some(FIRST),
    }
}
