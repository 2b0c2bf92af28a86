//! The device of our kernel module on real veth pairs, with the kernel at the other end. They run in
//! the guest, which has the module: `cargo xtask guest test kmod`.

#![cfg(all(feature = "kring", feature = "lab"))]

#[path = "../src/frame_cases.rs"]
#[allow(dead_code, reason = "a part is used here")]
mod frame_cases;
mod kernel_peer;
mod shared_interface;

mod guest {
    use std::cell::{Cell, RefCell};
    use std::time::{Duration, Instant as Clock};

    use proptest::prelude::*;
    use rustix::thread::CapabilitySet;
    use underpass_devices::conformance::Peer;
    use underpass_devices::{Device, Instant, MacAddr, RxQueue, VlanId};
    use underpass_drivers::doctor::Status;

    use super::frame_cases::{OTHER_MAC, frames, selections};
    use super::shared_interface::{Link, experiment, experiments, on_one_cpu, received, without};

    fn link() -> Link {
        Link::new("kring", 1)
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn conforms_beside_the_kernel() {
        link().conforms(",rx-slots=64,tx-slots=32");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn conforms_alone_and_without_offloads() {
        link().conforms(",share=off,offload=off,rx-slots=64,tx-slots=32");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn conforms_with_a_thread_of_the_kernels() {
        link().conforms(",tx-poll=200,rx-slots=64,tx-slots=32");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn what_is_selected_can_change() {
        link().what_is_selected_can_change();
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn a_tagged_link_gets_its_vlan_only() {
        link().a_tagged_link_gets_its_vlan_only();
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_module_echoes_one_protocol() {
        let link = link();
        let (mut device, mut peer) = (link.open(",echo=0x88b5").unwrap(), link.peer());
        device.select(&experiments()).unwrap();
        let frame = experiment(device.caps().mac);
        peer.send(&frame).unwrap();
        let answer = peer.recv(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(answer[..6], frame[6..12], "to where it came from");
        assert_eq!(answer[6..12], frame[..6], "from where it went to");
        assert_eq!(answer[12..], frame[12..]);
        assert_eq!(received(&mut device), 0, "nobody else sees it");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn an_interface_has_one_ring() {
        let link = link();
        let device = link.open("").unwrap();
        let refusal = link.refusal("");
        assert!(
            refusal.starts_with("kring:ours: in use by another process or thread; a ring, a"),
            "{refusal}"
        );
        drop(device);
        link.open("").unwrap();
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn an_interface_that_goes_ends_the_device() {
        let link = link();
        let mut device = link.open("").unwrap();
        link.ours.netlink(|n| n.delete_link("ours")).unwrap();
        let error = device.split().0.fill(Instant::ZERO).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(device.wake().is_err());
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_kernel_goes_on_beside_a_device() {
        link().the_kernel_goes_on_beside_a_device();
    }

    /// All frames that come in front of the last one.
    fn received_before(device: &mut impl Device, last: &[u8]) -> Vec<Vec<u8>> {
        let deadline = Clock::now() + Duration::from_secs(10);
        let mut received = Vec::new();
        loop {
            assert!(Clock::now() < deadline, "the last frame does not come");
            let (mut rx, _) = device.split();
            rx.fill(Instant::ZERO).unwrap();
            while let Some(frame) = rx.next() {
                received.push(frame.bytes.to_vec());
            }
            rx.release();
            if received.pop_if(|frame| frame == last).is_some() {
                return received;
            }
        }
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_module_decides_as_software_does() {
        on_one_cpu(compare_decisions);
    }

    /// Random frames, and what becomes of them.
    fn compare_decisions() {
        const LAST: u16 = 0x88b7;
        let link = link();
        let device = link.open(&format!(",ether-type={LAST}")).unwrap();
        let own = device.caps().mac;
        let ends = RefCell::new((device, link.peer()));
        let seen = [const { Cell::new(0_u32) }; 2];
        let frames = prop::collection::vec(frames(), 1..24);
        let config =
            ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
        proptest!(config, |(selection in selections(), frames in frames)| {
            let (device, peer) = &mut *ends.borrow_mut();
            device.select(&selection).unwrap();
            let mut expected = Vec::new();
            for (to, mut frame) in frames {
                let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
                frame[..6].copy_from_slice(&[own, OTHER_MAC, group][usize::from(to)].0);
                // The kernel drops a tag with less than two bytes behind its EtherType.
                if frame[12..14] == [0x81, 0] && frame.len() < 20 {
                    continue;
                }
                prop_assert!(peer.send(&frame).unwrap());
                let wanted = to != 1 && selection.matches(&frame);
                seen[usize::from(wanted)].update(|n| n + 1);
                if wanted {
                    expected.push(frame);
                }
            }
            let tag = selection.vlan.map(VlanId::number).map_or(vec![], |vlan| {
                [[0x81, 0], vlan.to_be_bytes()].concat()
            });
            let last = [&own.0[..], &[2; 6], &tag, &LAST.to_be_bytes(), &[0; 46]].concat();
            peer.send(&last).unwrap();
            let received = received_before(device, &last);
            prop_assert_eq!(received, expected, "{:?}", selection);
        });
        let seen = seen.map(|seen| seen.get());
        assert!(seen.iter().all(|seen| *seen > 200), "left to the kernel, taken: {seen:?}");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_doctor_finds_that_it_works() {
        let report = underpass_drivers::doctor::check();
        let kring = report.backends.iter().find(|backend| backend.name == "kring").unwrap();
        assert!(matches!(kring.status, Status::Works { .. }), "{kring:?}");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn what_is_refused_is_told_with_the_remedy() {
        let link = link();
        for unwanted in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW] {
            let refusal = without(unwanted, || link.refusal(""));
            let expected = "kring:ours: not permitted; it needs CAP_NET_ADMIN and CAP_NET_RAW: run";
            assert!(refusal.starts_with(expected), "{refusal}");
        }
        let refusal = link.refusal(",rx-slots=32768");
        assert!(refusal.contains("lower rx-slots or tx-slots, or take offload=off"), "{refusal}");
        let refusal = link.refusal(",rx-slots=500");
        assert_eq!(refusal, "kring:ours: slots are a power of two from 2 to 32768");
        let refusal = link.open_interface("lo").unwrap_err().to_string();
        assert!(refusal.contains("no MAC address; give one with mac="), "{refusal}");
        link.ours.netlink(|n| n.set_mtu("lo", 1500)).unwrap();
        let refusal = link.open_interface("lo,mac=02:00:00:00:00:01").unwrap_err().to_string();
        assert_eq!(refusal, "kring:lo: it is not an Ethernet interface");
        link.open("").unwrap();
    }
}
