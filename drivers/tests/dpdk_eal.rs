//! How the EAL is started, which happens once in a process: this one has one test.

#![cfg(feature = "dpdk")]

use rustix::thread::sched_getaffinity;
use underpass_devices::{Device, Instant, MacAddr, RxQueue, TxMeta, TxQueue};
use underpass_drivers::dpdk::{DpdkConfig, DpdkDevice, has_huge_pages, mbufs_lost, version};

fn pair(eal: &[&str]) -> Result<(DpdkDevice, DpdkDevice), String> {
    let eal = eal.iter().map(|argument| (*argument).to_owned()).collect();
    let config = DpdkConfig { eal, rx_slots: 64, tx_slots: 64, ..DpdkConfig::default() };
    let result = DpdkDevice::ring_pair(&config).map_err(|error| error.to_string());
    result.inspect_err(|error| assert_eq!(error.lines().count(), 1, "{error}"))
}

#[test]
fn the_eal_is_started_once_and_leaves_the_process_as_it_was() {
    assert!(version().starts_with("DPDK "));
    let cpus = sched_getaffinity(None).unwrap();
    let wrong = pair(&["--no-such-thing"]).unwrap_err();
    assert!(wrong.starts_with("dpdk:net_ring: starting the EAL with '"), "{wrong}");
    assert!(wrong.contains("--no-such-thing"), "{wrong}");

    // What was wrong can be put right.
    let memory = ["--no-huge", "-m", "128"];
    let (mut a, mut b) = pair(&memory).unwrap();
    assert!(!has_huge_pages());
    assert_eq!(sched_getaffinity(None).unwrap(), cpus);
    let child = std::thread::spawn(|| sched_getaffinity(None).unwrap());
    assert_eq!(child.join().unwrap(), cpus);

    let (_, tx) = a.split();
    tx.send(64, TxMeta::default(), |slot| slot.fill(7)).unwrap();
    tx.flush(Instant::ZERO).unwrap();
    let (rx, _) = b.split();
    assert_eq!(rx.fill(Instant::ZERO).unwrap(), 1);
    assert_eq!(rx.next().unwrap().bytes, [7; 64]);
    assert_ne!(a.caps().mac, b.caps().mac);
    assert_ne!(a.caps().mac, MacAddr::BROADCAST);

    // Others may be opened by those who do not care, and by those who want the same.
    drop(pair(&[]).unwrap());
    drop(pair(&memory).unwrap());
    let other = pair(&["--no-huge", "-m", "256"]).unwrap_err();
    assert_eq!(
        other,
        "dpdk:net_ring: the EAL of this process runs already, with eal=--no-huge -m 128; it is \
         started once, by the first device"
    );

    // A frame that was received and not released is given back by whoever holds it.
    drop(a);
    assert!(mbufs_lost() > 0);
    drop(b);
    assert_eq!(mbufs_lost(), 0);
}
