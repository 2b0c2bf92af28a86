//! What one hot function costs.

use std::num::NonZeroU16;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use underpass::devices::segment::{complete_checksum, segment};
use underpass::devices::{
    Device, Instant, MemoryConfig, MemoryDevice, PartialChecksum, RxQueue, SegmentKind,
    Segmentation, TxMeta, TxQueue,
};
use underpass::{Limits, UdpSocket};
use underpass_benches::pair::{CLIENT, Pair, SERVER};

const BURST: usize = 32;
const PARTIAL: PartialChecksum = PartialChecksum { start: 34, offset: 16 };
const CUT: Segmentation =
    Segmentation { kind: SegmentKind::Tcp4, size: NonZeroU16::new(1460).unwrap(), header_len: 54 };

/// A burst of frames through a link in memory.
fn memory_burst(c: &mut Criterion) {
    let (mut a, mut b) = MemoryDevice::pair(MemoryConfig::default());
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("burst of 32, 60 B", |bencher| {
        bencher.iter(|| {
            let (_, tx) = a.split();
            for _ in 0..BURST {
                tx.send(60, TxMeta::default(), |frame| frame.fill(7)).unwrap();
            }
            tx.flush(Instant::ZERO).unwrap();
            let (rx, _) = b.split();
            rx.fill(Instant::ZERO).unwrap();
            let mut bytes = 0;
            while let Some(frame) = rx.next() {
                bytes += frame.bytes.len();
            }
            rx.release();
            bytes
        });
    });
    group.finish();
}

/// Offloads in software.
fn software_offload(c: &mut Criterion) {
    let mut group = c.benchmark_group("segment");
    let superframe = superframe(54 + 44 * 1460);
    group.throughput(Throughput::Bytes(superframe.len() as u64));
    group.bench_function("cut 64 KiB into 1460 B", |bencher| {
        bencher.iter(|| {
            segment(&superframe, CUT, PARTIAL, |frame| {
                std::hint::black_box(frame);
            })
        });
    });
    let mut frame = self::superframe(1514);
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("checksum of 1514 B", |bencher| {
        bencher.iter(|| complete_checksum(&mut frame, PARTIAL));
    });
    group.finish();
}

/// An Ethernet, IPv4 and TCP header and zeroes.
fn superframe(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame[14 + 9] = 6;
    frame[34 + 12] = 5 << 4;
    frame
}

/// Turns of a shard: without a frame, with one datagram, and the four of a TCP round trip.
fn shard(c: &mut Criterion) {
    let mut group = c.benchmark_group("shard");
    let mut pair = Pair::new(MemoryConfig::default(), &Limits::default()).unwrap();
    group.bench_function("turn without a frame", |bencher| {
        bencher.iter(|| pair.turn_client());
    });

    let sender = UdpSocket::bind(&pair.client, (CLIENT, 7).into()).unwrap();
    let receiver = UdpSocket::bind(&pair.server, (SERVER, 7).into()).unwrap();
    receiver.set_nonblocking(true);
    let mut buffer = [0; 64];
    // The first datagram waits for the neighbour.
    sender.send_to(&[7; 64], receiver.local_addr()).unwrap();
    while receiver.recv_from(&mut buffer).is_err() {
        pair.turn_client().unwrap();
        pair.turn_server().unwrap();
    }
    group.bench_function("64 B datagram one way (two turns)", |bencher| {
        bencher.iter(|| {
            sender.send_to(&[7; 64], receiver.local_addr()).unwrap();
            pair.turn_client().unwrap();
            pair.turn_server().unwrap();
            receiver.recv_from(&mut buffer).unwrap()
        });
    });

    let flows = pair.connect(1).unwrap();
    group.bench_function("64 B TCP echo (four turns)", |bencher| {
        bencher.iter(|| pair.echo(&flows[0], &[7; 64], &mut buffer).unwrap());
    });
    group.finish();
}

criterion_group!(leaf, memory_burst, software_offload, shard);
criterion_main!(leaf);
