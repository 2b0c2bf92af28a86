//! Segmentation offload for devices without it: TCP works once per superframe whatever the device
//! can do, and the superframe becomes segments here. That costs one more pass over the payload, in
//! which it is copied into the slots and summed, and spares each segment the way through TCP and IP.

use underpass_devices::segment::Cutter;
use underpass_devices::{MacAddr, TxMeta, TxQueue};

use super::{Out, ether_type_of, segmentation};
use crate::output::{Outgoing, Segment};
use crate::stats::DropReason;

/// One superframe on its way into an interface, and the memory for it.
#[derive(Debug, Default)]
pub(crate) struct Cutting {
    packet: Vec<u8>,
    rest: Option<Rest>,
}

/// What is not sent yet of a superframe.
#[derive(Clone, Copy, Debug)]
struct Rest {
    cutter: Cutter,
    dst: MacAddr,
    ether_type: u16,
}

impl Cutting {
    /// The device had no room for all of the last superframe.
    pub(crate) fn is_busy(&self) -> bool {
        self.rest.is_some()
    }
}

impl<T: TxQueue> Out<'_, T> {
    /// Sends a TCP superframe in segments that the device takes. `None`: the one before is not all
    /// sent, which is counted.
    pub(super) fn cut<R>(
        &mut self,
        interface: usize,
        dst: MacAddr,
        packet: &Outgoing,
        segment: Segment,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let cutting = &mut self.net.links[interface].cutting;
        if cutting.is_busy() {
            self.net.drop(DropReason::TxFull);
            return None;
        }
        cutting.packet.resize(packet.len, 0);
        let result = write(&mut cutting.packet);
        let cut = segmentation(packet.dst, segment, 0);
        let cutter = packet.checksum.map(|sum| Cutter::new(&cutting.packet, cut, sum));
        match cutter {
            Some(Ok(cutter)) => {
                let ether_type = ether_type_of(packet.dst);
                cutting.rest = Some(Rest { cutter, dst, ether_type });
                self.go_on_cutting(interface);
            }
            _ => self.net.drop(DropReason::TxUnsupported),
        }
        Some(result)
    }

    /// Sends what is left of superframes for which there was no room.
    pub(crate) fn poll_cutting(&mut self) {
        for interface in 0..self.net.links.len() {
            self.go_on_cutting(interface);
        }
    }

    fn go_on_cutting(&mut self, interface: usize) {
        let cutting = &mut self.net.links[interface].cutting;
        let Some(mut rest) = cutting.rest.take() else {
            return;
        };
        let packet = std::mem::take(&mut cutting.packet);
        while let Some(len) = rest.cutter.next_len() {
            if self.tx[interface].room() == 0 {
                self.net.links[interface].cutting.rest = Some(rest);
                break;
            }
            let Rest { dst, ether_type, ref mut cutter } = rest;
            let meta = TxMeta::default();
            match self
                .frame(interface, dst, ether_type, len, meta, |slot| cutter.write(&packet, slot))
            {
                Some(Ok(())) => {}
                Some(Err(_)) => {
                    self.net.drop(DropReason::TxUnsupported);
                    break;
                }
                // Refused and counted: the device would refuse the next one, too.
                None => break,
            }
        }
        self.net.links[interface].cutting.packet = packet;
    }
}
