//! A device on one VLAN of its link.

use std::fmt;
use std::io;
use std::str::FromStr;

use polonius_the_crab::{polonius_loop, polonius_return, polonius_try};

use crate::{
    Buffers, Caps, Counters, Device, Frame, Instant, Medium, RxChecksum, RxQueue, Selection,
    SendError, TxMeta, TxQueue, Wake,
};

/// Number of a VLAN (IEEE 802.1Q section 9.6): 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

/// Not the number of a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a VLAN has a number from 1 to 4094")]
pub struct NoVlanId;

/// A device around a device that is on one VLAN of its link: frames are tagged when they are sent
/// and untagged when they are received, where they lie (IEEE 802.1Q).
///
/// Frames of other VLANs, frames without a tag and frames with a priority tag only (VLAN 0) are
/// passed over and counted by [`foreign`](Vlan::foreign): they belong to the station without a VLAN.
/// Priorities are not looked at, and sent as 0.
///
/// The MTU is smaller by the four bytes of the tag. Checksum and segmentation requests go on to the
/// device, which finds everything four bytes further.
///
/// ```
/// use underpass_devices::{Device, MemoryConfig, MemoryDevice, TxMeta, TxQueue, Vlan, VlanId};
///
/// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
/// let mut device = Vlan::new(device, VlanId::new(42)?);
/// assert_eq!(device.caps().mtu, 1496);
/// device.split().1.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Vlan<D> {
    device: D,
    caps: Caps,
    id: Option<VlanId>,
    received: Received,
}

/// The receive half of a [`Vlan`].
#[derive(Debug)]
pub struct VlanRx<'a, Q> {
    queue: Q,
    id: Option<VlanId>,
    received: &'a mut Received,
}

/// The transmit half of a [`Vlan`].
#[derive(Debug)]
pub struct VlanTx<Q> {
    queue: Q,
    id: Option<VlanId>,
}

#[derive(Debug, Default)]
struct Received {
    frames: u64,
    bytes: u64,
    foreign: u64,
}

const MAC_ADDRESSES_LEN: usize = 12;
const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const TPID: [u8; 2] = [0x81, 0x00];
const ID_MASK: u16 = 0x0fff;

impl VlanId {
    /// The VLAN with this number.
    ///
    /// # Errors
    /// It is 0 or above 4094.
    pub fn new(id: u16) -> Result<Self, NoVlanId> {
        if (1..=4094).contains(&id) { Ok(Self(id)) } else { Err(NoVlanId) }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for VlanId {
    type Err = NoVlanId;

    fn from_str(text: &str) -> Result<Self, NoVlanId> {
        text.parse().map_err(|_| NoVlanId).and_then(Self::new)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<D: Device> Vlan<D> {
    /// The device on this VLAN; with `None`, the device as it is. On a medium without Ethernet
    /// headers there are no VLANs.
    pub fn new(device: D, id: impl Into<Option<VlanId>>) -> Self {
        let id = id.into().filter(|_| device.caps().medium == Medium::Ethernet);
        let mut caps = device.caps().clone();
        if id.is_some() {
            let limits =
                [Some(&mut caps.mtu), caps.tx_segment_tcp4.as_mut(), caps.tx_segment_tcp6.as_mut()];
            for limit in limits.into_iter().flatten() {
                *limit = limit.saturating_sub(TAG_LEN);
            }
        }
        Self { device, caps, id, received: Received::default() }
    }

    /// Frames passed over because they are not of this VLAN.
    pub fn foreign(&self) -> u64 {
        self.received.foreign
    }
}

impl<D: Device> Device for Vlan<D> {
    type Rx<'a>
        = VlanRx<'a, D::Rx<'a>>
    where
        Self: 'a;
    type Tx<'a>
        = VlanTx<D::Tx<'a>>
    where
        Self: 'a;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
        let (rx, tx) = self.device.split();
        let id = self.id;
        (VlanRx { queue: rx, id, received: &mut self.received }, VlanTx { queue: tx, id })
    }

    fn wake(&mut self) -> io::Result<Wake<'_>> {
        self.device.wake()
    }

    /// Asks the device for the same of this VLAN.
    fn select(&mut self, wanted: &Selection) -> io::Result<()> {
        if self.id.is_none() {
            return self.device.select(wanted);
        }
        self.device.select(&Selection { vlan: self.id, selectors: wanted.selectors.clone() })
    }

    fn counters(&self) -> Counters {
        let counted = self.device.counters();
        if self.id.is_none() {
            return counted;
        }
        Counters {
            rx_frames: self.received.frames,
            rx_bytes: self.received.bytes,
            tx_bytes: counted.tx_bytes - TAG_LEN as u64 * counted.tx_frames,
            ..counted
        }
    }

    fn buffers(&self) -> Buffers {
        self.device.buffers()
    }
}

impl<Q: RxQueue> RxQueue for VlanRx<'_, Q> {
    /// Counts the frames of other VLANs, too, until `next` has passed over them.
    fn fill(&mut self, now: Instant) -> io::Result<usize> {
        self.queue.fill(now)
    }

    fn next(&mut self) -> Option<Frame<'_>> {
        let mut this = self;
        // The borrow checker does not see yet that a frame passed over is not borrowed any more.
        polonius_loop!(|this| -> Option<Frame<'polonius>> {
            let frame = polonius_try!(this.queue.next());
            let Some(id) = this.id else { polonius_return!(Some(frame)) };
            if let Some(frame) = untag(frame, id) {
                this.received.frames += 1;
                this.received.bytes += frame.bytes.len() as u64;
                polonius_return!(Some(frame));
            }
            this.received.foreign += 1;
        })
    }

    fn release(&mut self) {
        self.queue.release();
    }
}

impl<Q: TxQueue> TxQueue for VlanTx<Q> {
    fn room(&self) -> usize {
        self.queue.room()
    }

    fn send<R>(
        &mut self,
        len: usize,
        meta: TxMeta,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, SendError> {
        let Some(id) = self.id else { return self.queue.send(len, meta, write) };
        let Some(meta) = behind_tag(meta).filter(|_| len >= ETHERNET_LEN) else {
            // No device takes an empty frame: it is refused and counted.
            return self.queue.send(0, TxMeta::default(), write);
        };
        self.queue.send(len + TAG_LEN, meta, |slot| {
            let (_, untagged) = slot.split_at_mut(TAG_LEN);
            let result = write(untagged);
            slot.copy_within(TAG_LEN..TAG_LEN + MAC_ADDRESSES_LEN, 0);
            let tag = slot.get_mut(MAC_ADDRESSES_LEN..).and_then(|rest| rest.first_chunk_mut());
            if let Some(tag) = tag {
                let ([high, low], [tpid_high, tpid_low]) = (id.0.to_be_bytes(), TPID);
                *tag = [tpid_high, tpid_low, high, low];
            }
            result
        })
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.queue.flush(now)
    }
}

/// The frame without its tag; `None`: it is not of this VLAN.
fn untag(frame: Frame<'_>, id: VlanId) -> Option<Frame<'_>> {
    let Frame { bytes, mut meta } = frame;
    let [tpid_high, tpid_low, high, low] = *bytes.get(MAC_ADDRESSES_LEN..)?.first_chunk()?;
    let is_ours = u16::from_be_bytes([high, low]) & ID_MASK == id.0;
    if [tpid_high, tpid_low] != TPID || !is_ours || bytes.len() < ETHERNET_LEN + TAG_LEN {
        return None;
    }
    if let RxChecksum::Partial(partial) = &mut meta.checksum {
        partial.start = partial.start.checked_sub(TAG_LEN as u16)?;
    }
    bytes.copy_within(..MAC_ADDRESSES_LEN, TAG_LEN);
    Some(Frame { bytes: bytes.get_mut(TAG_LEN..)?, meta })
}

/// The same requests for a frame with a tag.
fn behind_tag(mut meta: TxMeta) -> Option<TxMeta> {
    if let Some(checksum) = &mut meta.checksum {
        checksum.start = checksum.start.checked_add(TAG_LEN as u16)?;
    }
    if let Some(cut) = &mut meta.segmentation {
        cut.header_len = cut.header_len.checked_add(TAG_LEN as u16)?;
    }
    Some(meta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{MemoryConfig, MemoryDevice, PartialChecksum, Selector};

    const NOW: Instant = Instant::ZERO;
    const FRAME: [u8; 60] = {
        let mut frame = [0; 60];
        let mut n = 0;
        while n < 60 {
            frame[n] = n as u8;
            n += 1;
        }
        frame
    };

    fn offloads() -> MemoryConfig {
        MemoryConfig { offloads: true, ..MemoryConfig::default() }
    }

    fn send(device: &mut impl Device, frame: &[u8], meta: TxMeta) {
        let (_, mut tx) = device.split();
        tx.send(frame.len(), meta, |slot| slot.copy_from_slice(frame)).unwrap();
        tx.flush(NOW).unwrap();
    }

    fn received(device: &mut impl Device) -> Vec<Vec<u8>> {
        let (mut rx, _) = device.split();
        rx.fill(NOW).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = rx.next() {
            frames.push(frame.bytes.to_vec());
        }
        rx.release();
        frames
    }

    #[test]
    fn a_frame_is_tagged_behind_its_addresses() {
        let (device, mut peer) = MemoryDevice::pair(offloads());
        let mut device = Vlan::new(device, VlanId::new(0x123).unwrap());
        let partial = PartialChecksum { start: 34, offset: 16 };
        send(&mut device, &FRAME, TxMeta { checksum: Some(partial), segmentation: None });
        let (rx, _) = peer.split();
        rx.fill(NOW).unwrap();
        let frame = rx.next().unwrap();
        assert_eq!(frame.bytes[..12], FRAME[..12]);
        assert_eq!(frame.bytes[12..16], [0x81, 0x00, 0x01, 0x23]);
        assert_eq!(frame.bytes[16..], FRAME[12..]);
        let expected = PartialChecksum { start: 38, offset: 16 };
        assert_eq!(frame.meta.checksum, RxChecksum::Partial(expected));
        assert_eq!(device.counters().tx_bytes, 60);
    }

    #[test]
    fn only_frames_of_the_vlan_are_received() {
        let (device, mut peer) = MemoryDevice::pair(offloads());
        let mut device = Vlan::new(device, VlanId::new(42).unwrap());
        let tagged = |tag: [u8; 4]| [&FRAME[..12], &tag, &FRAME[12..]].concat();
        for tag in [[0x81, 0, 0, 41], [0x81, 0, 0, 42], [0x81, 0, 0, 0], [0x88, 0xa8, 0, 42]] {
            send(&mut peer, &tagged(tag), TxMeta::default());
        }
        send(&mut peer, &FRAME, TxMeta::default());
        // The priority and drop bits are no part of the number.
        send(&mut peer, &tagged([0x81, 0, 0xf0, 42]), TxMeta::default());
        send(&mut peer, &tagged([0x81, 0, 0, 42])[..17], TxMeta::default());
        assert_eq!(received(&mut device), [FRAME, FRAME]);
        assert_eq!(device.foreign(), 5);
        let counters = device.counters();
        assert_eq!((counters.rx_frames, counters.rx_bytes), (2, 120));
    }

    /// Notes what is selected.
    struct Noting(MemoryDevice, Selection);

    impl Device for Noting {
        type Rx<'a> = &'a mut crate::MemoryRx;
        type Tx<'a> = &'a mut crate::MemoryTx;

        fn caps(&self) -> &Caps {
            self.0.caps()
        }

        fn split(&mut self) -> (Self::Rx<'_>, Self::Tx<'_>) {
            self.0.split()
        }

        fn wake(&mut self) -> io::Result<Wake<'_>> {
            self.0.wake()
        }

        fn select(&mut self, wanted: &Selection) -> io::Result<()> {
            self.1 = wanted.clone();
            Ok(())
        }

        fn counters(&self) -> Counters {
            self.0.counters()
        }

        fn buffers(&self) -> Buffers {
            self.0.buffers()
        }
    }

    #[test]
    fn what_is_wanted_is_wanted_of_the_vlan() {
        for id in [None, VlanId::new(42).ok()] {
            let (device, _peer) = MemoryDevice::pair(offloads());
            let mut noting = Noting(device, Selection::default());
            let selectors = vec![Selector::EtherType(0x88b5)];
            let wanted = Selection { vlan: None, selectors: selectors.clone() };
            // Through wrappers of other kinds as well.
            let mut device = crate::Trace::new(Vlan::new(&mut noting, id), "noting");
            device.select(&wanted).unwrap();
            assert_eq!(noting.1, Selection { vlan: id, selectors });
        }
    }

    #[test]
    fn without_a_vlan_it_is_the_device_itself() {
        let (device, mut peer) = MemoryDevice::pair(offloads());
        let caps = device.caps().clone();
        let mut device = Vlan::new(device, None);
        assert_eq!(*device.caps(), caps);
        send(&mut device, &FRAME, TxMeta::default());
        assert_eq!(received(&mut peer), [FRAME]);
        send(&mut peer, &FRAME, TxMeta::default());
        assert_eq!(received(&mut device), [FRAME]);
    }

    #[test]
    fn what_is_no_number_of_a_vlan_is_refused() {
        for text in ["0", "4095", "-1", "", "70000", "x"] {
            assert_eq!(text.parse::<VlanId>(), Err(NoVlanId));
        }
        assert_eq!("4094".parse::<VlanId>().unwrap().to_string(), "4094");
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..40), tagged: bool, start: u16,
        ) {
            if tagged && let Some(tag) = bytes.get_mut(12..16) {
                tag.copy_from_slice(&[0x81, 0, 0, 7]);
            }
            let (len, id) = (bytes.len(), VlanId::new(7).unwrap());
            let checksum = RxChecksum::Partial(PartialChecksum { start, offset: 0 });
            let meta = crate::RxMeta { checksum, ..crate::RxMeta::default() };
            if let Some(frame) = untag(Frame { bytes: &mut bytes, meta }, id) {
                prop_assert_eq!(frame.bytes.len(), len - 4);
                prop_assert!(frame.bytes.len() >= 14);
            }
        }
    }
}
