use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use underpass_devices::{Buffers, Caps, Counters, Frame, Instant, RxMeta, RxQueue, Wake};

use super::overruns::Overruns;
use super::{Slot, gone, slots};
use crate::vnet_hdr;

/// Most frames taken by one `fill`, so that answers are not kept waiting.
const BURST: usize = 32;
/// Longest packet the kernel coalesces for a device that does not ask for more
/// (`GSO_LEGACY_MAX_SIZE`).
const LONGEST_PACKET: usize = 65_536;
/// Bytes of a VLAN tag, which the MTU does not include.
const VLAN_TAG: usize = 4;

/// The receive half of a [`TapDevice`](super::TapDevice).
#[derive(Debug)]
pub struct TapRx {
    file: Arc<OwnedFd>,
    overruns: Option<Overruns>,
    header_len: usize,
    total: usize,
    free: Vec<Slot>,
    ready: VecDeque<Received>,
    lent: Vec<Slot>,
    counters: Counters,
}

/// A slot that holds a frame.
#[derive(Debug)]
struct Received {
    slot: Slot,
    /// Bytes of the frame, after the `virtio_net_hdr`.
    len: usize,
    meta: RxMeta,
}

impl TapRx {
    pub(super) fn new(
        file: Arc<OwnedFd>,
        overruns: Option<Overruns>,
        caps: &Caps,
        total: usize,
    ) -> Self {
        let longest = if caps.rx_coalesced {
            caps.max_frame().max(caps.header_len() + LONGEST_PACKET)
        } else {
            caps.max_frame()
        };
        Self {
            file,
            overruns,
            header_len: caps.header_len(),
            total,
            // One byte more, so that a longer frame shows.
            free: slots(total, longest + VLAN_TAG + 1),
            ready: VecDeque::with_capacity(total),
            lent: Vec::with_capacity(total),
            counters: Counters::default(),
        }
    }

    /// Prepares to sleep until frames arrive.
    pub(super) fn wake(&self) -> Wake<'_> {
        if self.ready.is_empty() { Wake::Fd(self.file.as_fd()) } else { Wake::Ready }
    }

    /// What was received, beside what was `sent`.
    pub(super) fn counters(&self, sent: Counters) -> Counters {
        Counters {
            rx_frames: self.counters.rx_frames,
            rx_bytes: self.counters.rx_bytes,
            rx_overruns: self.overruns.as_ref().map_or(0, Overruns::count),
            rx_errors: self.counters.rx_errors,
            ..sent
        }
    }

    /// The receive slots, beside the transmit slots in `tx`.
    pub(super) fn buffers(&self, tx: Buffers) -> Buffers {
        Buffers {
            rx_total: self.total,
            rx_free: self.free.len(),
            rx_ready: self.ready.len(),
            rx_lent: self.lent.len(),
            ..tx
        }
    }

    /// Makes the first `len` bytes of a slot a frame, or drops them.
    fn accept(&mut self, slot: Slot, len: usize) {
        if let Some((len, meta)) = parse(&slot, len, self.header_len) {
            self.ready.push_back(Received { slot, len, meta });
        } else {
            self.counters.rx_errors += 1;
            self.free.push(slot);
        }
    }
}

impl RxQueue for TapRx {
    fn fill(&mut self, _now: Instant) -> io::Result<usize> {
        for _ in 0..BURST {
            // The slot freed last is the one still in the processor's cache.
            let Some(mut slot) = self.free.pop() else {
                break;
            };
            match rustix::io::read(&self.file, &mut slot[..]) {
                Ok(len) => self.accept(slot, len),
                Err(errno) => {
                    self.free.push(slot);
                    match errno {
                        Errno::AGAIN => break,
                        Errno::INTR => {}
                        _ if !self.ready.is_empty() => break,
                        _ => return Err(gone(errno)),
                    }
                }
            }
        }
        Ok(self.ready.len())
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let Received { slot, len, meta } = self.ready.pop_front()?;
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += len as u64;
        self.lent.push(slot);
        let bytes = self.lent.last_mut()?.get_mut(vnet_hdr::LEN..)?.get_mut(..len)?;
        Some(Frame { bytes, meta })
    }

    fn release(&mut self) {
        self.free.append(&mut self.lent);
    }
}

/// Length of the frame in a slot that `len` bytes were read to, and what is known of it. `None` if
/// it is cut off, too short, or contradicts its `virtio_net_hdr`.
fn parse(slot: &[u8], len: usize, link_header_len: usize) -> Option<(usize, RxMeta)> {
    if len >= slot.len() {
        return None;
    }
    let (header, frame) = slot.get(..len)?.split_first_chunk()?;
    if frame.len() < link_header_len {
        return None;
    }
    let meta = vnet_hdr::decode(*header, frame.len()).ok()?;
    Some((frame.len(), meta))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use underpass_devices::{MacAddr, PartialChecksum, RxChecksum};

    use super::*;

    const SLOTS: usize = 4;
    const CAPS: Caps = Caps::ethernet(MacAddr([2, 0, 0, 0, 0, 1]), 1500);

    fn pair(caps: &Caps) -> (TapRx, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (TapRx::new(Arc::new(near.into()), None, caps, SLOTS), far)
    }

    fn send(far: &UnixDatagram, frame: &[u8]) {
        let bytes = [&[0; vnet_hdr::LEN], frame].concat();
        assert_eq!(far.send(&bytes).unwrap(), bytes.len());
    }

    fn fill(rx: &mut TapRx) -> usize {
        let ready = rx.fill(Instant::ZERO).unwrap();
        assert_eq!(audit(rx).rx_ready, ready);
        ready
    }

    fn audit(rx: &TapRx) -> Buffers {
        let buffers = rx.buffers(Buffers::default());
        assert!(buffers.add_up(), "{buffers:?}");
        buffers
    }

    #[test]
    fn frames_are_lent_in_order_and_stay_until_released() {
        let (mut rx, far) = pair(&CAPS);
        assert_eq!(fill(&mut rx), 0);
        for round in 0..20 {
            send(&far, &[round; 14]);
            send(&far, &[round + 1; 1514]);
            assert_eq!(fill(&mut rx), 2);
            assert_eq!(rx.next().unwrap().bytes, [round; 14]);
            rx.release();
            assert_eq!((audit(&rx).rx_lent, audit(&rx).rx_ready), (0, 1));
            assert_eq!(rx.next().unwrap().bytes, [round + 1; 1514]);
            assert!(rx.next().is_none());
            assert_eq!(audit(&rx).rx_lent, 1);
            rx.release();
            assert_eq!(audit(&rx).rx_free, SLOTS);
        }
        assert_eq!(rx.counters.rx_frames, 40);
        assert_eq!(rx.counters.rx_bytes, 20 * (14 + 1514));
    }

    #[test]
    fn without_a_free_slot_frames_wait_in_the_kernel() {
        let (mut rx, far) = pair(&CAPS);
        for number in 0..6 {
            send(&far, &[number; 20]);
        }
        assert_eq!(fill(&mut rx), SLOTS);
        assert_eq!(fill(&mut rx), SLOTS);
        for number in 0..SLOTS as u8 {
            assert_eq!(rx.next().unwrap().bytes[0], number);
        }
        assert_eq!(fill(&mut rx), 0);
        rx.release();
        assert_eq!(fill(&mut rx), 2);
        assert_eq!(rx.next().unwrap().bytes[0], 4);
    }

    #[test]
    fn runts_and_truncated_frames_are_dropped_and_counted() {
        let (mut rx, far) = pair(&CAPS);
        far.send(&[0; vnet_hdr::LEN - 1]).unwrap();
        send(&far, &[0; 13]);
        send(&far, &[0; 1514 + VLAN_TAG + 1]);
        send(&far, &[0; 9000]);
        far.send(&[0xff; 60]).unwrap();
        assert_eq!(fill(&mut rx), 0);
        assert_eq!(rx.counters.rx_errors, 5);
        assert_eq!(audit(&rx).rx_free, SLOTS);
        send(&far, &[7; 1514 + VLAN_TAG]);
        assert_eq!(fill(&mut rx), 1);
        assert_eq!(rx.next().unwrap().bytes.len(), 1514 + VLAN_TAG);
    }

    #[test]
    fn superframes_carry_what_the_kernel_knows() {
        let (mut rx, far) = pair(&CAPS.with_offloads(vnet_hdr::MAX_SUPERFRAME));
        let mut bytes = vec![5; vnet_hdr::LEN + 14 + 65_535];
        bytes[..vnet_hdr::LEN].fill(0);
        bytes[..2].copy_from_slice(&[1, 1]);
        bytes[2..4].copy_from_slice(&54u16.to_ne_bytes());
        bytes[4..6].copy_from_slice(&1460u16.to_ne_bytes());
        bytes[6..8].copy_from_slice(&34u16.to_ne_bytes());
        bytes[8..10].copy_from_slice(&16u16.to_ne_bytes());
        far.send(&bytes).unwrap();
        assert_eq!(fill(&mut rx), 1);
        let frame = rx.next().unwrap();
        assert_eq!(frame.bytes, &bytes[vnet_hdr::LEN..]);
        let partial = PartialChecksum { start: 34, offset: 16 };
        assert_eq!(frame.meta.checksum, RxChecksum::Partial(partial));
        assert_eq!(frame.meta.segmentation.unwrap().get(), 1460);
    }
}
