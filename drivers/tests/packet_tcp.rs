//! TCP between two kernels through a forwarder of two AF_PACKET devices: superframes and partial
//! checksums are received as the kernel made them, and sent on with the same requests.

#![cfg(all(feature = "packet", feature = "lab"))]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant as Clock;

use underpass_devices::{
    Device, Instant, RxChecksum, RxMeta, RxQueue, SegmentKind, Segmentation, TxMeta, TxQueue,
};
use underpass_drivers::lab::{Namespace, veth};
use underpass_drivers::packet::{PacketConfig, PacketDevice};

const BYTES: usize = 64 << 20;

/// What a forwarder saw in one direction.
#[derive(Default, Debug)]
struct Seen {
    longest: usize,
    partial: usize,
    segmented: usize,
    refused: usize,
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kernel_superframes_pass_both_ways_over_ipv4() {
    forward(["10.9.0.1", "10.9.0.2"].map(|a| a.parse().unwrap()), 24);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kernel_superframes_pass_both_ways_over_ipv6() {
    forward(["fd09::1", "fd09::2"].map(|a| a.parse().unwrap()), 64);
}

fn forward(addresses: [IpAddr; 2], prefix: u8) {
    let [left, middle, right] = [(); 3].map(|()| Namespace::new().unwrap());
    // The forwarder's kernel stays silent.
    middle.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    veth((&left, "left"), (&middle, "a")).unwrap();
    veth((&right, "right"), (&middle, "b")).unwrap();
    for (namespace, name, address) in
        [(&left, "left", addresses[0]), (&right, "right", addresses[1])]
    {
        namespace.netlink(|n| n.add_address(name, address, prefix)).unwrap();
    }
    let open = |name: &str| middle.run(|| PacketDevice::open(name, &PacketConfig::default()));
    let (mut a, mut b) = (open("a").unwrap(), open("b").unwrap());
    let done = AtomicBool::new(false);

    let (there, back) = thread::scope(|scope| {
        let forwarder = scope.spawn(|| {
            let (mut there, mut back) = (Seen::default(), Seen::default());
            while !done.load(Ordering::Relaxed) {
                pass_on(&mut a, &mut b, &mut there);
                pass_on(&mut b, &mut a, &mut back);
            }
            (there, back)
        });
        exchange(&left, &right, addresses[1]);
        done.store(true, Ordering::Relaxed);
        forwarder.join().unwrap()
    });
    println!("{there:?}\n{back:?}\n{:?}\n{:?}", a.counters(), b.counters());
    for seen in [there, back] {
        assert!(seen.longest > 9000, "no superframe arrived: {seen:?}");
        assert!(seen.partial > 0 && seen.segmented > 0, "{seen:?}");
        assert_eq!(seen.refused, 0, "{seen:?}");
    }
    for device in [a, b] {
        assert_eq!(device.counters().tx_errors, 0);
        assert_eq!(device.counters().rx_errors, 0);
    }
}

/// Sends a stream to `address` on the right, which sends it back.
fn exchange(left: &Namespace, right: &Namespace, address: IpAddr) {
    let listener = right.run(|| TcpListener::bind((address, 7))).unwrap();
    let start = Clock::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; BYTES];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let mut stream = left.run(|| TcpStream::connect((address, 7))).unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        let mut received = vec![0; BYTES];
        stream.write_all(&sent).unwrap();
        stream.read_exact(&mut received).unwrap();
        assert!(sent == received, "the stream changed on its way");
    });
    let gigabits = (2 * BYTES * 8) as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("{gigabits:.1} Gbit/s");
}

fn pass_on(from: &mut PacketDevice, to: &mut PacketDevice, seen: &mut Seen) {
    let (rx, _) = from.split();
    let (_, tx) = to.split();
    if rx.fill(Instant::ZERO).unwrap() == 0 {
        return;
    }
    while tx.room() > 0
        && let Some(frame) = rx.next()
    {
        let meta = request(frame.bytes, &frame.meta);
        seen.longest = seen.longest.max(frame.bytes.len());
        seen.partial += usize::from(meta.checksum.is_some());
        seen.segmented += usize::from(meta.segmentation.is_some());
        let sent = tx.send(frame.bytes.len(), meta, |slot| {
            slot.copy_from_slice(frame.bytes);
        });
        seen.refused += usize::from(sent.is_err());
    }
    tx.flush(Instant::ZERO).unwrap();
    rx.release();
}

/// The request that sends a frame on as it came.
fn request(frame: &[u8], meta: &RxMeta) -> TxMeta {
    let RxChecksum::Partial(checksum) = meta.checksum else {
        return TxMeta::default();
    };
    let segmentation = meta.segmentation.map(|size| Segmentation {
        kind: if frame[12] == 0x86 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 },
        size,
        header_len: checksum.start + u16::from(frame[usize::from(checksum.start) + 12] >> 4) * 4,
    });
    TxMeta { checksum: Some(checksum), segmentation }
}
