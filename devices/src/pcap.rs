//! A device that writes its traffic to a capture file.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

use crate::segment::complete_checksum;
use crate::{Device, Hook, Hooked, Instant, Medium, PartialChecksum, Received, TxMeta};

/// A device around a device that writes every frame to a pcapng file (draft-ietf-opsawg-pcapng), in
/// nanoseconds, marked inbound or outbound.
///
/// Partial checksums are completed in the written copy; superframes are written whole. The time of a
/// frame is the `now` of the latest `fill` or `flush`. Give it a buffered writer: it is flushed
/// whenever the shard is idle. A write that fails ends the capture, not the traffic: see
/// [`error`](Pcap::error).
///
/// ```
/// use std::time::SystemTime;
/// use underpass_devices::{Device, MemoryConfig, MemoryDevice, Pcap, TxMeta, TxQueue};
///
/// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
/// let file = Vec::new();
/// let mut device = Pcap::new(device, "memory", file, SystemTime::now())?;
/// device.split().1.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// assert_eq!(device.frames(), 1);
/// assert!(device.error().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Pcap<D, W> = Hooked<D, PcapHook<W>>;

impl<D: Device, W: Write + Send> Pcap<D, W> {
    /// Starts a capture: writes the headers of the file. `name` is the name of the interface in it,
    /// and `epoch` the wall-clock time of [`Instant::ZERO`].
    pub fn new(device: D, name: &str, writer: W, epoch: SystemTime) -> io::Result<Self> {
        let linktype = match device.caps().medium {
            Medium::Ethernet => DataLink::ETHERNET,
            Medium::Ip => DataLink::RAW,
        };
        let interface = InterfaceDescriptionBlock {
            linktype,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                // 10^-9 s.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        let mut writer = PcapNgWriter::new(writer).map_err(io_error)?;
        writer.write_pcapng_block(interface).map_err(io_error)?;
        let epoch = epoch.duration_since(UNIX_EPOCH).unwrap_or_default();
        let hook = PcapHook {
            writer,
            epoch,
            now: Instant::ZERO,
            copy: Vec::new(),
            frames: 0,
            missed: 0,
            error: None,
        };
        Ok(Self::around(device, hook))
    }

    /// Frames written.
    pub fn frames(&self) -> u64 {
        self.hook().frames
    }

    /// Why the capture ended, if it did, and how many frames have passed since without being
    /// written.
    pub fn error(&self) -> Option<(String, u64)> {
        let hook = self.hook();
        hook.error.as_ref().map(|e| (e.to_string(), hook.missed))
    }

    /// Flushes the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.hook_mut().writer.get_mut().flush()
    }
}

/// The [`Hook`] of [`Pcap`].
pub struct PcapHook<W: Write> {
    writer: PcapNgWriter<W>,
    epoch: Duration,
    now: Instant,
    copy: Vec<u8>,
    frames: u64,
    missed: u64,
    error: Option<io::Error>,
}

/// `epb_flags`, bits 0 and 1.
#[derive(Clone, Copy)]
enum Direction {
    Inbound = 1,
    Outbound = 2,
}

impl<W: Write> PcapHook<W> {
    fn record(&mut self, direction: Direction, frame: &[u8], partial: Option<PartialChecksum>) {
        if self.error.is_some() {
            self.missed += 1;
            return;
        }
        let mut data = frame;
        if let Some(partial) = partial {
            self.copy.clear();
            self.copy.extend_from_slice(frame);
            // A request that does not fit the frame leaves nothing to complete.
            let _ = complete_checksum(&mut self.copy, partial);
            data = &self.copy;
        }
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: self.epoch + Duration::from_nanos(self.now.as_nanos()),
            original_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(data),
            options: vec![EnhancedPacketOption::Flags(direction as u32)],
        };
        match self.writer.write_pcapng_block(block) {
            Ok(_) => self.frames += 1,
            Err(e) => self.stop(io_error(e)),
        }
    }

    fn stop(&mut self, error: io::Error) {
        self.missed += 1;
        self.error = Some(error);
    }
}

impl<W: Write> Hook for PcapHook<W> {
    fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    fn received(&mut self, frame: &mut Received<'_>) {
        let partial = frame.meta.checksum.partial();
        self.record(Direction::Inbound, frame.bytes, partial);
    }

    fn sent(&mut self, frame: &mut [u8], meta: TxMeta) {
        self.record(Direction::Outbound, frame, meta.checksum);
    }

    fn idle(&mut self) {
        if self.error.is_none()
            && let Err(e) = self.writer.get_mut().flush()
        {
            self.error = Some(e);
        }
    }
}

impl<W: Write> fmt::Debug for PcapHook<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapHook")
            .field("frames", &self.frames)
            .field("missed", &self.missed)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(e) => e,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::{MemoryConfig, MemoryDevice, RxQueue, TxQueue};

    /// A file that takes `room` bytes.
    #[derive(Clone)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let mut bytes = self.bytes.lock().unwrap();
            if bytes.len() + data.len() > self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            bytes.extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(room: usize) -> (Pcap<MemoryDevice, Disk>, MemoryDevice, Disk) {
        let config = MemoryConfig { offloads: true, ..MemoryConfig::default() };
        let (device, peer) = MemoryDevice::pair(config);
        let disk = Disk { bytes: Arc::default(), room };
        let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        (Pcap::new(device, "mem0", disk.clone(), epoch).unwrap(), peer, disk)
    }

    fn send(device: &mut impl Device, byte: u8, meta: TxMeta) {
        let (_, mut tx) = device.split();
        tx.send(61, meta, |frame| frame.fill(byte)).unwrap();
        tx.flush(Instant::from_nanos(5)).unwrap();
    }

    fn receive(device: &mut impl Device, now: Instant) -> usize {
        let (mut rx, _) = device.split();
        rx.fill(now).unwrap();
        let count = std::iter::from_fn(|| rx.next().map(|_| ())).count();
        rx.release();
        count
    }

    #[test]
    fn the_file_holds_both_directions_with_time_and_complete_checksums() {
        let (mut device, mut peer, disk) = capture(usize::MAX);
        send(&mut peer, 1, TxMeta::default());
        assert_eq!(receive(&mut device, Instant::from_nanos(1_000_000_007)), 1);
        let partial = PartialChecksum { start: 34, offset: 16 };
        send(&mut device, 0, TxMeta { checksum: Some(partial), segmentation: None });
        assert_eq!((device.frames(), device.error()), (2, None));

        let bytes = disk.bytes.lock().unwrap().clone();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::EnhancedPacket(packet) => packets.push(packet.into_owned()),
                Block::InterfaceDescription(interface) => {
                    assert_eq!(interface.linktype, DataLink::ETHERNET);
                    assert_eq!(
                        interface.options,
                        [
                            InterfaceDescriptionOption::IfName("mem0".into()),
                            InterfaceDescriptionOption::IfTsResol(9),
                        ]
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        let [inbound, outbound] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(inbound.timestamp, Duration::new(1_700_000_001, 7));
        assert_eq!(inbound.options, [EnhancedPacketOption::Flags(1)]);
        assert_eq!(*inbound.data, [1; 61]);
        assert_eq!(outbound.options, [EnhancedPacketOption::Flags(2)]);
        assert_eq!(outbound.data[50..52], [0xff, 0xff], "completed in the copy");
        assert_eq!(outbound.original_len, 61);
        peer.split().0.fill(Instant::ZERO).unwrap();
        let (peer_rx, _) = peer.split();
        let frame = peer_rx.next().unwrap();
        assert_eq!(frame.bytes, [0; 61], "not in the frame itself");
    }

    #[test]
    fn a_full_disk_ends_the_capture_and_not_the_traffic() {
        let (mut device, mut peer, _disk) = capture(300);
        for _ in 0..10 {
            send(&mut device, 1, TxMeta::default());
        }
        assert_eq!(receive(&mut peer, Instant::ZERO), 10);
        let (_, missed) = device.error().expect("the capture ended");
        assert_eq!(device.frames() + missed, 10);
        assert!(device.frames() >= 1);
    }
}
