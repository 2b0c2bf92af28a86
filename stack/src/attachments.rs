//! Custom protocols that run beside the stack's own: which frames are theirs, and when they are asked
//! for what they send.

mod slots;

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use slab::Slab;
use underpass_devices::{Instant, Selector, TxQueue, VlanId};
use underpass_protocols::{Incoming, Outbox, Protocol, Refused, Undelivered};

use self::slots::Lending;
use crate::link::Out;
use crate::recent::RecentPeers;
use crate::stats::DropReason;
use crate::wake::Waiters;

/// The custom protocols of a shard. They are few: look-ups try them all.
pub(crate) struct Attachments {
    entries: Slab<Attachment>,
    limit: usize,
    dirty: bool,
}

/// What a custom protocol has done since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProtocolCounters {
    /// Frames it was given, the refused ones included.
    pub received: u64,
    /// Frames it did not take.
    pub refused: u64,
    /// Frames it has sent. Some may wait for the address of their next hop.
    pub sent: u64,
    /// Times that there was no slot, or that it had sent all that it may in one call.
    pub full: u64,
    /// Frames that could not be sent: too long, or no way.
    pub unsent: u64,
}

struct Attachment {
    protocol: Box<dyn Protocol>,
    /// When it wants to be asked.
    deadline: Option<Instant>,
    /// It is to be asked in this turn, or the next one.
    dirty: bool,
    pub(crate) waiters: Waiters,
    sending: Sending,
}

/// What sending needs.
struct Sending {
    selector: Selector,
    counters: ProtocolCounters,
    sent_to: RecentPeers,
    /// Frames it may still send in this call.
    share: usize,
}

/// Frames that one protocol sends in a call, so that it does not keep the others from sending.
const SHARE: usize = 64;

impl Attachments {
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: Slab::new(), limit, dirty: false }
    }

    /// The selectors in use.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = Selector> {
        self.entries.iter().map(|(_, entry)| entry.sending.selector)
    }

    /// Adds a protocol, whose selector nobody has. `None`: there are too many.
    pub(crate) fn add(&mut self, selector: Selector, protocol: Box<dyn Protocol>) -> Option<u32> {
        if self.entries.len() >= self.limit {
            return None;
        }
        self.dirty = true;
        let (counters, sent_to) = (ProtocolCounters::default(), RecentPeers::default());
        Some(self.entries.insert(Attachment {
            protocol,
            deadline: None,
            dirty: true,
            waiters: Waiters::default(),
            sending: Sending { selector, counters, sent_to, share: SHARE },
        }) as u32)
    }

    /// Takes a protocol away.
    pub(crate) fn remove(&mut self, id: u32) -> (Selector, Box<dyn Protocol>) {
        let entry = self.entries.remove(id as usize);
        (entry.sending.selector, entry.protocol)
    }

    /// The protocol as the application knows it, which may change it: it is asked for what it sends.
    pub(crate) fn protocol<P: Protocol>(&mut self, id: u32) -> &mut P {
        let entry = &mut self.entries[id as usize];
        entry.dirty = true;
        self.dirty = true;
        let protocol: &mut dyn Any = entry.protocol.as_mut();
        protocol.downcast_mut().expect("a handle is made with the protocol that it is for")
    }

    pub(crate) fn waiters(&mut self, id: u32) -> &mut Waiters {
        &mut self.entries[id as usize].waiters
    }

    pub(crate) fn counters(&self, id: u32) -> ProtocolCounters {
        self.entries[id as usize].sending.counters
    }

    /// Whose a frame of this type is.
    pub(crate) fn find_ether_type(&self, vlan: Option<VlanId>, ether_type: u16) -> Option<u32> {
        let wanted =
            vlan.map_or(Selector::EtherType(ether_type), |vlan| Selector::Tagged(vlan, ether_type));
        self.find(|selector| *selector == wanted)
    }

    /// Whose a packet to `to` is.
    pub(crate) fn find_packet(&self, to: IpAddr, protocol: u8, port: Option<u16>) -> Option<u32> {
        self.find(|selector| {
            is_of(selector, protocol, port)
                && matches!(selector, Selector::Ip(ip) if ip.to.is_none_or(|own| own == to))
        })
    }

    /// Gives a protocol a frame, to be answered while it is lent.
    pub(crate) fn on_frame(
        &mut self,
        id: u32,
        frame: &Incoming<'_>,
        out: &mut Out<'_, impl TxQueue>,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let now = out.now;
        let entry = &mut self.entries[id as usize];
        let result = entry.call(out, wakes, |protocol, out| protocol.on_frame(now, frame, out));
        let counters = &mut entry.sending.counters;
        counters.received += 1;
        counters.refused += u64::from(result.is_err());
        // After the burst, for what is better said once than for each frame.
        entry.dirty = true;
        self.dirty = true;
        result.map_err(|Refused| DropReason::ProtocolRefused)
    }

    /// Asks the protocols that may have something to send.
    pub(crate) fn emit(&mut self, out: &mut Out<'_, impl TxQueue>, wakes: &mut Vec<Waker>) {
        let now = out.now;
        self.dirty = false;
        for (_, entry) in &mut self.entries {
            let is_due = entry.deadline.is_some_and(|at| at <= now);
            if std::mem::take(&mut entry.dirty) || is_due {
                entry.call(out, wakes, |protocol, out| protocol.poll_transmit(now, out));
            }
            self.dirty |= entry.dirty;
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|(_, entry)| entry.deadline).min()
    }

    /// Who has lately sent from this protocol and port to `remote` (port 0: it has none).
    pub(crate) fn find_sender(
        &self,
        protocol: u8,
        port: Option<u16>,
        remote: SocketAddr,
    ) -> Option<u32> {
        let is_it = |sending: &Sending| {
            is_of(&sending.selector, protocol, port) && sending.sent_to.contains(remote)
        };
        let found = self.entries.iter().find(|(_, entry)| is_it(&entry.sending));
        found.map(|(id, _)| id as u32)
    }

    /// Tells a protocol what has become of a packet.
    pub(crate) fn on_undelivered(
        &mut self,
        id: u32,
        now: Instant,
        report: &Undelivered<'_>,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), DropReason> {
        let entry = &mut self.entries[id as usize];
        let result = entry.protocol.on_undelivered(now, report);
        result.map_err(|Refused| DropReason::IcmpIgnored)?;
        entry.dirty = true;
        self.dirty = true;
        entry.waiters.wake(wakes);
        Ok(())
    }

    /// Wakes everybody, because the device is gone.
    pub(crate) fn stop(&mut self, wakes: &mut Vec<Waker>) {
        for (_, entry) in &mut self.entries {
            entry.waiters.wake(wakes);
        }
    }

    fn find(&self, wanted: impl Fn(&Selector) -> bool) -> Option<u32> {
        let found = self.entries.iter().find(|(_, entry)| wanted(&entry.sending.selector));
        found.map(|(id, _)| id as u32)
    }
}

impl Attachment {
    fn call<R>(
        &mut self,
        out: &mut Out<'_, impl TxQueue>,
        wakes: &mut Vec<Waker>,
        call: impl FnOnce(&mut dyn Protocol, &mut Outbox<'_>) -> R,
    ) -> R {
        self.sending.share = SHARE;
        let mut lending = Lending::new(out, &mut self.sending);
        let result = call(self.protocol.as_mut(), &mut Outbox::new(&mut lending));
        let (was_full, notified) = (lending.was_full, lending.notified);
        self.dirty |= was_full;
        if notified {
            self.waiters.wake(wakes);
        }
        self.deadline = self.protocol.poll_timeout();
        result
    }
}

fn is_of(selector: &Selector, protocol: u8, port: Option<u16>) -> bool {
    matches!(selector, Selector::Ip(ip) if ip.protocol == Some(protocol) && ip.port == port)
}
