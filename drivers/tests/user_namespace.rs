//! A lab without root, and a device in it. Not run by the test harness, whose threads would be in
//! the way.

use std::time::{Duration, Instant as Clock};

use underpass_devices::{Device, Instant, RxQueue, TxMeta, TxQueue};
use underpass_drivers::lab::{LabError, Namespace, enter_user_namespace, veth};
use underpass_drivers::packet::{PacketConfig, PacketDevice};

fn main() {
    match enter_user_namespace() {
        Ok(()) => {}
        Err(LabError::NotPermitted { cause, .. }) => {
            println!("user namespaces are not permitted here: {cause}");
            assert!(!cause.is_empty());
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    veth((&a, "left"), (&b, "right")).unwrap();
    let open = |namespace: &Namespace, name: &str| {
        namespace.run(|| PacketDevice::open(name, &PacketConfig::default()).unwrap())
    };
    let (mut left, mut right) = (open(&a, "left"), open(&b, "right"));
    let hello = [0xff; 60];
    let (_, tx) = left.split();
    tx.send(hello.len(), TxMeta::default(), |slot| {
        slot.copy_from_slice(&hello);
    })
    .unwrap();
    tx.flush(Instant::ZERO).unwrap();

    let deadline = Clock::now() + Duration::from_secs(2);
    let mut received = false;
    while !received {
        assert!(Clock::now() < deadline, "the frame did not arrive");
        let (rx, _) = right.split();
        rx.fill(Instant::ZERO).unwrap();
        while let Some(frame) = rx.next() {
            received |= frame.bytes == hello;
        }
        rx.release();
    }

    std::thread::spawn(|| {
        let error = enter_user_namespace().unwrap_err();
        assert!(matches!(error, LabError::SeveralThreads), "{error}");
    })
    .join()
    .unwrap();
    println!("a frame passed between two devices in a lab of an ordinary user");
}
