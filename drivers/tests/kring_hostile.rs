//! The kernel module and processes that mean it harm: every shared word is written at random while
//! traffic runs, and then the process is killed, the interface goes, the module is taken out. What
//! the kernel thinks of it is in its log, which the guest looks through:
//! `cargo xtask guest test kmod`.

#![cfg(all(feature = "kring", feature = "lab", feature = "fuzzing"))]

mod kernel_peer;

mod guest {
    use std::collections::HashMap;
    use std::env;
    use std::fs;
    use std::os::fd::AsFd;
    use std::process::{Child, Command};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant as Clock};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use underpass_devices::conformance::Peer;
    use underpass_drivers::fuzzing::RawKring;
    use underpass_drivers::kring::KringConfig;
    use underpass_drivers::lab::{Namespace, veth};
    use underpass_drivers::netlink::Netlink;

    use super::kernel_peer::KernelPeer;

    const ROUNDS: u64 = 36;
    /// The module is taken out once in so many rounds.
    const ROUNDS_PER_LOAD: u64 = 6;
    /// What tells the program that it is the hostile one: the seed of what it does.
    const SEED: &str = "KRING_HOSTILE_SEED";

    /// Marsaglia's xorshift64.
    struct Random(u64);

    impl Random {
        fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        fn next(&mut self) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as u32
        }

        fn below(&mut self, limit: u32) -> u32 {
            self.next() % limit
        }
    }

    /// Two namespaces joined by the veth pair `ours`, `theirs`, both silent.
    fn link() -> (Namespace, Namespace) {
        let (ours, theirs) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        for namespace in [&ours, &theirs] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        veth((&ours, "ours"), (&theirs, "theirs")).unwrap();
        (ours, theirs)
    }

    fn open(seed: u64) -> RawKring {
        let config = KringConfig {
            offload: !seed.is_multiple_of(5),
            rx_slots: 64,
            tx_slots: 32,
            tx_poll_us: if seed.is_multiple_of(3) { 100 } else { 0 },
            echo: seed.is_multiple_of(7).then_some(0x88b6),
            ..KringConfig::default()
        };
        let index = Netlink::open().unwrap().link("ours").unwrap().index;
        RawKring::open(index, &config).unwrap()
    }

    /// Writes into the rings, makes requests and polls, until `stop`.
    fn scribble(ring: &RawKring, seed: u64, stop: &AtomicBool) {
        let words = ring.words();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    match random.below(1 << 16) {
                        // An index that is far off stays so: it is seldom.
                        0 if random.below(8) == 0 => {
                            let word = &words[random.below(11) as usize * 16];
                            word.store(random.next(), Ordering::Relaxed);
                        }
                        0..4 => {
                            let word = &words[random.below(11) as usize * 16];
                            word.fetch_add(random.below(9), Ordering::Relaxed);
                        }
                        4..4096 => {
                            let word = 11 * 16 + random.below(words.len() as u32 - 11 * 16);
                            words[word as usize].store(random.next(), Ordering::Relaxed);
                        }
                        // Mostly sense, so that frames flow.
                        4096..36_000 => ring.offer(random.below(66)),
                        _ => {
                            let lengths = [60, 300, 1500, 4000, 65_000, random.next()];
                            let masks = [0, 0, 0x0501, u32::MAX];
                            let mut masked =
                                |most| random.next() & masks[random.below(most) as usize];
                            let known = [masked(4), masked(4), masked(4)];
                            let len = lengths[random.below(6) as usize];
                            ring.queue(random.below(34), [len, known[0], known[1], known[2]]);
                        }
                    }
                }
            });
            let mut random = Random::new(seed ^ 7);
            while !stop.load(Ordering::Relaxed) {
                let _ = ring.ring_doorbell();
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                poll(&mut [PollFd::new(&ring.as_fd(), PollFlags::IN)], Some(&now)).unwrap();
                let mut argument = [0; 128];
                for byte in &mut argument[..random.below(40) as usize] {
                    *byte = random.next() as u8;
                }
                // A rule that takes every frame, should it be one.
                argument[0] |= 1;
                let _ = ring.request(random.below(5) as usize, &mut argument);
            }
        });
    }

    /// The hostile program, if it is told to be; and once, for a moment, within the tests.
    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn scribbling_harms_the_scribbler_alone() {
        if let Ok(seed) = env::var(SEED) {
            let seed = seed.parse().unwrap();
            // Until it is killed.
            scribble(&open(seed), seed, &AtomicBool::new(false));
        }
        let (ours, theirs) = link();
        let mut counts = [0; 14];
        // Frames got through both ways, and nonsense was seen for what it is: see `kring.rs` for what
        // an honest process gets.
        let wanted = [
            ("received", 0),
            ("bad fill", 6),
            ("sent", 7),
            ("bad frames", 10),
            ("bad indices", 12),
        ];
        let deadline = Clock::now() + Duration::from_secs(120);
        for seed in 0.. {
            let missing: Vec<_> = wanted.iter().filter(|(_, at)| counts[*at] == 0).collect();
            if seed >= 12 && missing.is_empty() {
                break;
            }
            assert!(Clock::now() < deadline, "{missing:?} of {counts:?}");
            let ring = ours.run(|| open(seed));
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| scribble(&ring, seed + 1, &stop));
                flood(&theirs, Duration::from_millis(150), seed + 1);
                stop.store(true, Ordering::Relaxed);
            });
            for (sum, count) in counts.iter_mut().zip(ring.statistics().unwrap()) {
                *sum += count;
            }
        }
        unload();
        load();
    }

    fn hostile_program(ours: &Namespace, seed: u64) -> Child {
        ours.run(|| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "guest::scribbling_harms_the_scribbler_alone", "--ignored"])
                .env(SEED, seed.to_string())
                .spawn()
                .unwrap()
        })
    }

    /// Frames of all lengths towards the ring.
    fn flood(theirs: &Namespace, time: Duration, seed: u64) {
        let mut random = Random::new(seed);
        let Ok(mut peer) = KernelPeer::open(theirs, "theirs") else { return };
        let deadline = Clock::now() + time;
        while Clock::now() < deadline {
            let mut frame = vec![random.next() as u8; 14 + random.below(1500) as usize];
            frame[..6].fill(0xff);
            frame[12..14].copy_from_slice(&[0x88, 0xb5 + (random.below(2) as u8)]);
            // The interface may be gone.
            let _ = peer.send(&frame);
            let _ = peer.recv(Duration::ZERO);
        }
    }

    fn references() -> i64 {
        fs::read_to_string("/sys/module/underpass_ring/refcnt").unwrap().trim().parse().unwrap()
    }

    fn unload() {
        // The last packet may still be on its way.
        let deadline = Clock::now() + Duration::from_secs(20);
        loop {
            let output = Command::new("rmmod").arg("underpass_ring").output().unwrap();
            if output.status.success() {
                return;
            }
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(Clock::now() < deadline, "{} references: {error}", references());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn load() {
        let module = env::var("MODULE").expect("the guest names the module");
        assert!(Command::new("insmod").arg(module).status().unwrap().success());
    }

    /// KiB in pages that the kernel has given out and that it does not count as anything, as those of
    /// rings.
    fn uncounted_memory() -> i64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let lines: HashMap<_, _> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let kib = |name| lines[name].trim().trim_end_matches(" kB").parse::<i64>().unwrap();
        let counted = [
            "MemFree",
            "Buffers",
            "Cached",
            "SwapCached",
            "AnonPages",
            "Slab",
            "KernelStack",
            "PageTables",
            "VmallocUsed",
            "Percpu",
        ];
        kib("MemTotal") - counted.into_iter().map(kib).sum::<i64>()
    }

    /// Waits until the hostile program has its ring.
    fn wait_for_ring() {
        let deadline = Clock::now() + Duration::from_secs(20);
        while references() == 0 {
            assert!(Clock::now() < deadline, "the program does not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn every_end_is_survived() {
        let mut random = Random::new(42);
        let mut at_first = None;
        for round in 0..ROUNDS {
            let (ours, theirs) = link();
            let mut program = hostile_program(&ours, round);
            wait_for_ring();
            flood(&theirs, Duration::from_millis(random.below(150).into()), round);
            match round % 4 {
                // Killed in the middle of it.
                0 => {}
                1 => ours.netlink(|n| n.delete_link("ours")).unwrap(),
                2 => {
                    for up in [false, true] {
                        ours.netlink(|n| n.set_up("ours", up)).unwrap();
                        flood(&theirs, Duration::from_millis(20), round);
                    }
                }
                // With the namespace, from the other end.
                _ => theirs.netlink(|n| n.delete_link("theirs")).unwrap(),
            }
            flood(&theirs, Duration::from_millis(random.below(30).into()), round);
            program.kill().unwrap();
            program.wait().unwrap();
            if round % ROUNDS_PER_LOAD == ROUNDS_PER_LOAD - 1 {
                unload();
                load();
                let first = *at_first.get_or_insert_with(uncounted_memory);
                // Most rings are 6 MiB, so each way to end would leak more than this; what else the
                // rounds have used comes back late, and up to half of it was seen.
                let deadline = Clock::now() + Duration::from_secs(10);
                while uncounted_memory() > first + 32 * 1024 {
                    assert!(Clock::now() < deadline, "{first} KiB, now {}", uncounted_memory());
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_module_stays_while_it_is_used() {
        let (ours, theirs) = link();
        let refused = || !Command::new("rmmod").arg("underpass_ring").status().unwrap().success();
        let ring = ours.run(|| open(2));
        assert!(refused());

        // A frame that lies in a queue, and in the pages of the ring, holds the module after its end.
        let delay = ["qdisc", "add", "dev", "ours", "root", "netem", "delay", "2s"];
        assert!(ours.run(|| Command::new("tc").args(delay).status()).unwrap().success());
        ring.queue(0, [1400, 0, 0, 0]);
        ring.ring_doorbell().unwrap();
        let sent = Clock::now();
        drop(ring);
        assert!(refused());
        let mut peer = KernelPeer::open(&theirs, "theirs").unwrap();
        let frame = peer.recv(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(frame, vec![0; 1400], "its bytes are those that were there");
        assert!(sent.elapsed() >= Duration::from_secs(1));
        unload();
        load();
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn rings_are_given_back() {
        // More than the guest's memory in all.
        for round in 0..40 {
            let (ours, _theirs) = link();
            let config = KringConfig { rx_slots: 512, tx_slots: 256, ..KringConfig::default() };
            let index = ours.netlink(|n| n.link("ours")).unwrap().index;
            let ring = ours.run(|| RawKring::open(index, &config)).unwrap();
            if round % 2 == 0 {
                drop(ours);
            }
            drop(ring);
        }
        unload();
        load();
    }
}
