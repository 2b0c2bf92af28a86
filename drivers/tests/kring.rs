//! The device of our kernel module on real veth pairs, with the kernel at the other end. They run in
//! the guest, which has the module: `cargo xtask guest test kmod`.

#![cfg(all(feature = "kring", feature = "lab"))]

#[path = "../src/frame_cases.rs"]
#[allow(dead_code, reason = "a part is used here")]
mod frame_cases;
mod kernel_peer;

mod guest {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant as Clock};

    use proptest::prelude::*;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use underpass_devices::conformance::{self, Harness, Peer};
    use underpass_devices::{Device, Instant, MacAddr, RxQueue, Selection, Selector, VlanId};
    use underpass_drivers::doctor::Status;
    use underpass_drivers::lab::{Namespace, veth};
    use underpass_drivers::{AnyDevice, OpenError, Spec};

    use super::frame_cases::{OTHER_MAC, frames, selections};
    use super::kernel_peer::KernelPeer;

    /// Our namespace and the peer's, joined by the veth pair `ours`, `theirs`, both silent.
    struct Link {
        ours: Namespace,
        theirs: Namespace,
    }

    impl Link {
        fn new() -> Self {
            let link = Self { ours: Namespace::new().unwrap(), theirs: Namespace::new().unwrap() };
            for namespace in [&link.ours, &link.theirs] {
                namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
            }
            veth((&link.ours, "ours"), (&link.theirs, "theirs")).unwrap();
            link
        }

        /// Opening fails, with one line.
        fn refusal(&self, options: &str) -> String {
            let error = self.open(options).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
            error
        }

        fn open(&self, options: &str) -> Result<AnyDevice, OpenError> {
            let spec: Spec = format!("kring:ours{options}").parse().unwrap();
            self.ours.run(|| AnyDevice::open(&spec))
        }

        fn peer(&self) -> KernelPeer {
            KernelPeer::open(&self.theirs, "theirs").unwrap()
        }
    }

    struct Veth {
        link: Link,
        options: &'static str,
        device: Option<AnyDevice>,
        peer: KernelPeer,
    }

    impl Harness for Veth {
        type Device = AnyDevice;
        type Peer = KernelPeer;

        fn parts(&mut self) -> (&mut AnyDevice, &mut KernelPeer) {
            (self.device.as_mut().unwrap(), &mut self.peer)
        }

        fn reopen(&mut self) -> io::Result<()> {
            self.device = None;
            let mut device = self.link.open(self.options).map_err(io::Error::other)?;
            // The frames of the kit; with share=off they come without being asked for.
            device.select(&experiments())?;
            self.device = Some(device);
            Ok(())
        }
    }

    fn conforms(options: &'static str) {
        let link = Link::new();
        let peer = link.peer();
        let mut harness = Veth { link, options, device: None, peer };
        harness.reopen().unwrap();
        println!("{}", conformance::run(&mut harness).unwrap());
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn conforms_beside_the_kernel() {
        conforms(",rx-slots=64,tx-slots=32");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn conforms_alone_and_without_offloads() {
        conforms(",share=off,offload=off,rx-slots=64,tx-slots=32");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn conforms_with_a_thread_of_the_kernels() {
        conforms(",tx-poll=200,rx-slots=64,tx-slots=32");
    }

    /// Frames of the EtherType for experiments.
    fn experiments() -> Selection {
        Selection { vlan: None, selectors: vec![Selector::EtherType(0x88b5)] }
    }

    fn experiment(dst: MacAddr) -> Vec<u8> {
        let mut frame = [&dst.0[..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
        frame.resize(60, 7);
        frame
    }

    /// Frames that arrive within a fifth of a second.
    fn received(device: &mut impl Device) -> usize {
        let deadline = Clock::now() + Duration::from_millis(200);
        let mut frames = 0;
        while Clock::now() < deadline {
            let (mut rx, _) = device.split();
            rx.fill(Instant::ZERO).unwrap();
            while rx.next().is_some() {
                frames += 1;
            }
            rx.release();
        }
        frames
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn what_is_selected_can_change() {
        let link = Link::new();
        let (mut device, mut peer) = (link.open("").unwrap(), link.peer());
        let frame = experiment(device.caps().mac);
        let nothing = Selection::default();
        let (wanted, none) = (experiments(), nothing);
        for (selection, frames) in [(&none, 0), (&wanted, 1), (&none, 0), (&wanted, 1)] {
            device.select(selection).unwrap();
            peer.send(&frame).unwrap();
            assert_eq!(received(&mut device), frames);
        }
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn a_tagged_link_gets_its_vlan_only() {
        let link = Link::new();
        let (mut device, mut peer) = (link.open(",vlan=7").unwrap(), link.peer());
        device.select(&experiments()).unwrap();
        let plain = experiment(device.caps().mac);
        for (tag, frames) in [(7, 1), (8, 0)] {
            peer.send(&[&plain[..12], &[0x81, 0, 0, tag], &plain[12..]].concat()).unwrap();
            assert_eq!(received(&mut device), frames, "{tag}");
        }
        peer.send(&plain).unwrap();
        assert_eq!(received(&mut device), 0, "untagged");
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_module_echoes_one_protocol() {
        let link = Link::new();
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
        let link = Link::new();
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
        let link = Link::new();
        let mut device = link.open("").unwrap();
        link.ours.netlink(|n| n.delete_link("ours")).unwrap();
        let error = device.split().0.fill(Instant::ZERO).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(device.wake().is_err());
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_kernel_goes_on_beside_a_device() {
        let link = Link::new();
        link.ours.netlink(|n| n.add_address("ours", [10, 9, 0, 1].into(), 24)).unwrap();
        link.theirs.netlink(|n| n.add_address("theirs", [10, 9, 0, 2].into(), 24)).unwrap();
        let mut device = link.open("").unwrap();
        let selectors = vec![Selector::address([10, 9, 0, 3].into())];
        device.select(&Selection { vlan: None, selectors }).unwrap();
        let kernel = link.ours.run(|| UdpSocket::bind("10.9.0.1:9")).unwrap();
        kernel.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = link.theirs.run(|| UdpSocket::bind("10.9.0.2:9")).unwrap();
        sender.send_to(b"to the kernel", "10.9.0.1:9").unwrap();
        let mut buffer = [0; 64];
        let (len, _) = kernel.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"to the kernel");
        // The question for our address comes to us.
        sender.send_to(b"to the stack", "10.9.0.3:9").unwrap();
        assert!(received(&mut device) >= 1);
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
        const LAST: u16 = 0x88b7;
        let link = Link::new();
        let device = link.open(&format!(",ether-type={LAST}")).unwrap();
        let own = device.caps().mac;
        let ends = RefCell::new((device, link.peer()));
        let seen = [const { Cell::new(0_u32) }; 2];
        let frames = prop::collection::vec(frames(), 1..24);
        let config = ProptestConfig::with_cases(400);
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

    /// On a thread of its own, for what is given up here does not come back.
    fn without<T: Send>(unwanted: CapabilitySet, then: impl FnOnce() -> T + Send) -> T {
        let work = || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(unwanted);
            set_capabilities(None, sets).unwrap();
            then()
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn what_is_refused_is_told_with_the_remedy() {
        let link = Link::new();
        // Threads that are made inherit what their maker has.
        for unwanted in [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW] {
            let refusal = without(unwanted, || link.refusal(""));
            let expected = "kring:ours: not permitted; it needs CAP_NET_ADMIN and CAP_NET_RAW: run";
            assert!(refusal.starts_with(expected), "{refusal}");
        }
        let refusal = link.refusal(",rx-slots=32768");
        assert!(refusal.contains("lower rx-slots or tx-slots, or take offload=off"), "{refusal}");
        let refusal = link.refusal(",rx-slots=500");
        assert_eq!(refusal, "kring:ours: slots are a power of two from 2 to 32768");
        let refusal = link.ours.run(|| AnyDevice::open(&"kring:lo".parse().unwrap())).unwrap_err();
        assert!(refusal.to_string().contains("no MAC address; give one with mac="), "{refusal}");
        link.ours.netlink(|n| n.set_mtu("lo", 1500)).unwrap();
        let spec: Spec = "kring:lo,mac=02:00:00:00:00:01".parse().unwrap();
        let refusal = link.ours.run(|| AnyDevice::open(&spec)).unwrap_err().to_string();
        assert_eq!(refusal, "kring:lo: it is not an Ethernet interface");
        link.open("").unwrap();
    }
}
