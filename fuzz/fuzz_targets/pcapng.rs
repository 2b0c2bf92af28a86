//! What is written to a capture file is read back from it, by another program's reader.

#![no_main]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use underpass_devices::segment::complete_checksum;
use underpass_devices::{
    Device, Instant, MemoryConfig, MemoryDevice, PartialChecksum, Pcap, RxQueue, TxMeta, TxQueue,
};

#[derive(Arbitrary, Debug)]
struct Input {
    name: String,
    epoch: u32,
    frames: Vec<Frame>,
}

#[derive(Arbitrary, Debug)]
struct Frame {
    received: bool,
    nanos: u32,
    partial: Option<(u8, u8)>,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send(device: &mut impl Device, frame: &Frame, meta: TxMeta, now: Instant) -> bool {
    let (_, mut tx) = device.split();
    let len = frame.bytes.len();
    // The time of a frame is that of the `flush` before it.
    tx.flush(now).unwrap();
    let taken = tx.send(len, meta, |slot| slot.copy_from_slice(&frame.bytes)).is_ok();
    tx.flush(now).unwrap();
    taken
}

fuzz_target!(|input: Input| {
    let config = MemoryConfig { offloads: true, slots: 2, ..MemoryConfig::default() };
    let (device, mut peer) = MemoryDevice::pair(config);
    let (file, epoch) = (File::default(), Duration::from_secs(input.epoch.into()));
    // An option of pcapng is at most so long.
    let name: String = input.name.chars().take(1000).collect();
    let mut device = Pcap::new(device, &name, file.clone(), UNIX_EPOCH + epoch).unwrap();
    let mut expected = Vec::new();
    let mut now = Duration::ZERO;
    for frame in input.frames.iter().take(16) {
        now += Duration::from_nanos(frame.nanos.into());
        let at = Instant::from_nanos(now.as_nanos() as u64);
        let partial = frame
            .partial
            .map(|(start, offset)| PartialChecksum { start: start.into(), offset: offset.into() });
        let meta = TxMeta { checksum: partial, segmentation: None };
        let taken = if frame.received {
            let taken = send(&mut peer, frame, meta, at);
            let (mut rx, _) = device.split();
            rx.fill(at).unwrap();
            assert_eq!(rx.next().is_some(), taken);
            rx.release();
            taken
        } else {
            let taken = send(&mut device, frame, meta, at);
            let (rx, _) = peer.split();
            rx.fill(at).unwrap();
            assert_eq!(rx.next().is_some(), taken);
            rx.release();
            taken
        };
        if taken {
            let mut bytes = frame.bytes.clone();
            if let Some(partial) = partial {
                let _does_not_fit = complete_checksum(&mut bytes, partial);
            }
            expected.push((epoch + now, if frame.received { 1 } else { 2 }, bytes));
        }
    }
    assert_eq!((device.frames(), device.error()), (expected.len() as u64, None));

    let bytes = file.0.lock().unwrap().clone();
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    let mut read = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::EnhancedPacket(packet) => {
                assert_eq!(packet.original_len as usize, packet.data.len());
                let [EnhancedPacketOption::Flags(flags)] = packet.options[..] else {
                    panic!("{:?}", packet.options)
                };
                read.push((packet.timestamp, flags, packet.data.to_vec()));
            }
            Block::InterfaceDescription(interface) => {
                let [InterfaceDescriptionOption::IfName(read), _] = &interface.options[..] else {
                    panic!("{:?}", interface.options)
                };
                assert_eq!(*read, name);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, expected);
});
