//! A port of the EAL: a device that is attached, configured and started, and taken away again.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr;

use dpdk_sys::{
    RTE_PKTMBUF_HEADROOM, UP_BURST, UP_RSS_FLOWS, UP_RX_CHECKSUMS, UP_RX_LRO, UP_RX_RSS_HASH,
    UP_RX_SCATTER, UP_TX_CHECKSUMS, UP_TX_IPV4_CHECKSUM, UP_TX_MULTI_SEGS, UP_TX_TCP_TSO,
    rte_eal_hotplug_add, rte_eal_hotplug_remove, rte_eth_allmulticast_enable, rte_eth_conf,
    rte_eth_dev_adjust_nb_rx_tx_desc, rte_eth_dev_close, rte_eth_dev_configure,
    rte_eth_dev_get_mtu, rte_eth_dev_get_port_by_name, rte_eth_dev_info, rte_eth_dev_info_get,
    rte_eth_dev_is_removed, rte_eth_dev_set_mtu, rte_eth_dev_start, rte_eth_dev_stop,
    rte_eth_macaddr_get, rte_eth_promiscuous_enable, rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS,
    rte_eth_rx_queue_setup, rte_eth_stats, rte_eth_stats_get, rte_eth_tx_queue_setup,
    up_link_speed, up_mbuf, up_rx_burst,
};
use underpass_devices::MacAddr;

use super::eal::{Eal, error_text};
use super::gate::{Gate, Pass};
use super::log;
use super::mbuf::Mbufs;
use super::namespace::Namespace;
use super::pool::{CACHED, Pool};
use super::target::Target;

/// An open port, with the pools of its queues. Dropped after its queues: it stops, is closed and goes,
/// and then its pools go.
#[derive(Debug)]
pub(super) struct Port {
    id: u16,
    /// The bus where it was plugged in, and its name there.
    bus: CString,
    name: CString,
    /// Where it is to be closed; `None`: anywhere.
    namespace: Option<Namespace>,
    gate: Option<Gate>,
    queues: u16,
    pools: Vec<Pool>,
}

/// What a port is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) queues: u16,
    /// Frames that the stack holds at a time.
    pub(super) rx_slots: usize,
    pub(super) tx_slots: usize,
    pub(super) mtu: Option<u16>,
    pub(super) offload: bool,
    /// Mbufs that the driver keeps.
    pub(super) keeps: usize,
    pub(super) tso: bool,
    /// Bytes of a frame that an mbuf is to hold at least.
    pub(super) room: usize,
    /// Take frames for other stations, too.
    pub(super) promiscuous: bool,
}

impl Wanted {
    /// Mbufs of a queue: in the rings, in the hands of the stack, in caches, and those of the driver.
    pub(super) fn mbufs(&self) -> usize {
        2 * (self.rx_slots + self.tx_slots) + CACHED + self.keeps
    }
}

/// What it turned out to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) mac: MacAddr,
    pub(super) mtu: u16,
    /// What it does to frames that are sent.
    pub(super) tx: TxOffloads,
    /// Most segments of a frame that it takes.
    pub(super) segments: usize,
    pub(super) coalesces: bool,
    /// Bytes of a frame that one mbuf holds.
    pub(super) room: usize,
}

/// What a device does to frames that are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct TxOffloads {
    /// Completes the checksums of TCP and UDP.
    pub(super) checksum: bool,
    /// Computes that of IPv4 headers.
    pub(super) ip_checksum: bool,
    /// Cuts TCP superframes.
    pub(super) tso: bool,
}

/// What the driver counts, for all queues together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statistics {
    /// No descriptor was free, or no mbuf.
    pub(super) rx_overruns: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_errors: u64,
}

/// Why there is no port.
#[derive(Debug)]
pub(super) enum PortError {
    /// There is one of this name.
    Busy,
    /// One line.
    Other(String),
}

/// Bytes of a frame that an mbuf holds at least; drivers count on it.
const LEAST_ROOM: usize = 2048;
/// Most bytes of an mbuf: its length is 16 bits.
const MOST_ROOM: usize = 65_535 - RTE_PKTMBUF_HEADROOM as usize;
/// Link header, a tag, and the check sequence that some drivers leave at the end.
const AROUND_MTU: usize = 14 + 4 + 4;

impl Port {
    /// Plugs a device in, in the calling thread's network namespace.
    pub(super) fn plug(eal: &Eal, target: &Target<'_>, queues: u16) -> Result<Self, PortError> {
        let zero = |_| PortError::Other("a name or argument has a zero byte".to_owned());
        let bus = CString::new(target.bus()).map_err(zero)?;
        let name = CString::new(target.name).map_err(zero)?;
        let args = CString::new(target.driver_args(queues)).map_err(zero)?;
        // Plugging one in a second time succeeds, and does nothing.
        if port_of(eal, &name).is_some() {
            return Err(PortError::Busy);
        }
        // SAFETY: the EAL runs and is ours; the strings live.
        let result = unsafe { rte_eal_hotplug_add(bus.as_ptr(), name.as_ptr(), args.as_ptr()) };
        if result != 0 {
            return Err(PortError::Other(not_plugged(target, result)));
        }
        let Some(id) = port_of(eal, &name) else {
            // SAFETY: as above; it was plugged in just now.
            unsafe { rte_eal_hotplug_remove(bus.as_ptr(), name.as_ptr()) };
            let reason = "it is a device of DPDK, but no network interface";
            return Err(PortError::Other(reason.to_owned()));
        };
        let namespace = Namespace::current().ok();
        let gate = target.traits().needs_gate.then(Gate::new);
        Ok(Self { id, bus, name, namespace, gate, queues: 0, pools: Vec::new() })
    }

    /// A port of a virtual device that its driver has made.
    pub(super) fn of_driver(id: u16, name: &str) -> Self {
        let name = CString::new(name).unwrap_or_default();
        let bus = c"vdev".to_owned();
        Self { id, bus, name, namespace: None, gate: None, queues: 0, pools: Vec::new() }
    }

    /// Configures it, gives its queues their mbufs, and starts it.
    pub(super) fn start(&mut self, eal: &Eal, wanted: &Wanted) -> Result<Found, String> {
        let info = self.info()?;
        let (most, queues) = (info.max_rx_queues.min(info.max_tx_queues), wanted.queues);
        if queues > most {
            return Err(format!("it has {most} queues, and {queues} are wanted"));
        }
        let mtu = wanted.mtu.unwrap_or(self.mtu()?);
        let room = (usize::from(mtu) + AROUND_MTU).next_multiple_of(64).max(wanted.room);
        let room = room.clamp(LEAST_ROOM, MOST_ROOM);
        let mut found = self.configure(&info, wanted, mtu, room)?;
        if wanted.mtu.is_some() {
            self.set_mtu(mtu, &info)?;
        }

        let (mut rx, mut tx) = (wanted.rx_slots as u16, wanted.tx_slots as u16);
        // SAFETY: the port is ours and stopped.
        let result = unsafe { rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &raw mut rx, &raw mut tx) };
        check(result, "choosing the sizes of its rings")?;
        // So that a frame does not wait for an empty ring; some drivers need a descriptor more.
        found.segments = found.segments.min(usize::from(tx / 2).max(1));
        // Some devices have larger rings than were asked for.
        let larger = |descriptors: u16, slots| usize::from(descriptors).saturating_sub(slots);
        let count = wanted.mbufs() + larger(rx, wanted.rx_slots) + larger(tx, wanted.tx_slots);
        for queue in 0..wanted.queues {
            let pool = Pool::new(eal, count, room)?;
            // SAFETY: the port is ours and stopped; the pool lives until it is closed.
            let results = unsafe {
                [
                    rte_eth_rx_queue_setup(self.id, queue, rx, 0, ptr::null(), pool.as_ptr()),
                    rte_eth_tx_queue_setup(self.id, queue, tx, 0, ptr::null()),
                ]
            };
            self.pools.push(pool);
            check(results[0], "setting up a receive queue")?;
            check(results[1], "setting up a transmit queue")?;
        }
        // SAFETY: as above.
        check(unsafe { rte_eth_dev_start(self.id) }, "starting it")?;
        self.queues = wanted.queues;
        self.listen(wanted.promiscuous);
        Ok(found)
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// Leave to do one burst, for as long as the value lives; `None`: not now.
    pub(super) fn pass(&self) -> Option<Pass> {
        self.gate.as_ref().map_or_else(|| Some(Pass::free()), Gate::pass)
    }

    /// The same, as soon as it may be.
    pub(super) fn wait(&self) -> Pass {
        self.gate.as_ref().map_or_else(Pass::free, Gate::wait)
    }

    /// The pool of a queue, if the port has it.
    pub(super) fn pool(&self, queue: u16) -> Option<&Pool> {
        self.pools.get(usize::from(queue))
    }

    /// Megabits per second; `None`: the link is down.
    pub(super) fn link_speed(&self) -> Option<u32> {
        // SAFETY: the port is open.
        Some(unsafe { up_link_speed(self.id) }).filter(|speed| *speed > 0)
    }

    pub(super) fn is_removed(&self) -> bool {
        // SAFETY: the port is open.
        unsafe { rte_eth_dev_is_removed(self.id) != 0 }
    }

    pub(super) fn statistics(&self) -> Statistics {
        let mut counts = rte_eth_stats::default();
        // SAFETY: the port is open; the value lives.
        if unsafe { rte_eth_stats_get(self.id, &raw mut counts) } != 0 {
            return Statistics::default();
        }
        Statistics {
            rx_overruns: counts.imissed + counts.rx_nombuf,
            rx_errors: counts.ierrors,
            tx_errors: counts.oerrors,
        }
    }

    fn info(&self) -> Result<rte_eth_dev_info, String> {
        let mut info = MaybeUninit::uninit();
        // SAFETY: the port is attached; the value lives.
        let result = unsafe { rte_eth_dev_info_get(self.id, info.as_mut_ptr()) };
        check(result, "asking what it can do")?;
        // SAFETY: filled by the call that succeeded.
        Ok(unsafe { info.assume_init() })
    }

    fn mtu(&self) -> Result<u16, String> {
        let mut mtu = 0;
        // SAFETY: the port is attached; the value lives.
        check(unsafe { rte_eth_dev_get_mtu(self.id, &raw mut mtu) }, "asking for the MTU")?;
        Ok(mtu)
    }

    fn set_mtu(&self, mtu: u16, info: &rte_eth_dev_info) -> Result<(), String> {
        // SAFETY: the port is ours and stopped.
        let result = unsafe { rte_eth_dev_set_mtu(self.id, mtu) };
        // Such a driver has no MTU to set.
        if result == -libc::ENOTSUP && mtu <= info.max_mtu {
            return Ok(());
        }
        check(result, "setting the MTU")
    }

    /// Takes of the offloads what the device has.
    fn configure(
        &self,
        info: &rte_eth_dev_info,
        wanted: &Wanted,
        mtu: u16,
        room: usize,
    ) -> Result<Found, String> {
        let has = |capabilities: u64, all: u64| capabilities & all == all;
        let (rx, tx) = (info.rx_offload_capa, info.tx_offload_capa);
        let tx_checksum = wanted.offload && has(tx, UP_TX_CHECKSUMS);
        let ip_checksum = tx_checksum && has(tx, UP_TX_IPV4_CHECKSUM);
        let tso = wanted.tso && tx_checksum && has(tx, UP_TX_TCP_TSO | UP_TX_MULTI_SEGS);
        let coalesces = wanted.offload && has(rx, UP_RX_LRO);

        // SAFETY: the configuration is integers, and pointers that may be null.
        let mut conf: rte_eth_conf = unsafe { std::mem::zeroed() };
        conf.rxmode.mtu = mtu.into();
        let mut rx_wanted = UP_RX_CHECKSUMS | UP_RX_SCATTER;
        rx_wanted |= if coalesces { UP_RX_LRO } else { 0 };
        if wanted.queues > 1 && info.flow_type_rss_offloads & UP_RSS_FLOWS != 0 {
            rx_wanted |= UP_RX_RSS_HASH;
            conf.rxmode.mq_mode = rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS;
        }
        conf.rxmode.offloads = rx & rx_wanted;
        if coalesces {
            conf.rxmode.max_lro_pkt_size = info.max_lro_pkt_size;
        }
        let when = |on, offload| if on { offload } else { 0 };
        conf.txmode.offloads = when(tx_checksum, UP_TX_CHECKSUMS)
            | when(ip_checksum, UP_TX_IPV4_CHECKSUM)
            | when(tso, UP_TX_TCP_TSO)
            | (tx & UP_TX_MULTI_SEGS);
        let mut key = symmetric_key(info.hash_key_size);
        if info.hash_key_size > 0 {
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
        }
        conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & UP_RSS_FLOWS;
        let queues = wanted.queues;
        // SAFETY: the port is ours and stopped; the configuration, and the key that it points to, live.
        let result = unsafe { rte_eth_dev_configure(self.id, queues, queues, &raw const conf) };
        check(result, "configuring it")?;

        let mut mac = dpdk_sys::rte_ether_addr::default();
        // SAFETY: the port is attached; the value lives.
        check(unsafe { rte_eth_macaddr_get(self.id, &raw mut mac) }, "asking for its address")?;
        let most = usize::from(info.tx_desc_lim.nb_seg_max);
        Ok(Found {
            mac: MacAddr(mac.addr_bytes),
            mtu,
            tx: TxOffloads { checksum: tx_checksum, ip_checksum, tso },
            // Zero stands for no limit.
            segments: if most == 0 { usize::MAX } else { most },
            coalesces,
            room,
        })
    }

    /// Has frames come that are not for its own address alone. Not all drivers know the difference.
    fn listen(&self, promiscuous: bool) {
        // SAFETY: the port is open and ours.
        unsafe {
            if promiscuous || rte_eth_allmulticast_enable(self.id) != 0 {
                rte_eth_promiscuous_enable(self.id);
            }
        }
    }

    /// Frees what has arrived and nobody has taken. A driver may pass mbufs of other pools.
    fn drain(&self) {
        const MOST_BURSTS: usize = 4096;
        let mut frames = [up_mbuf::default(); UP_BURST as usize];
        for queue in 0..self.queues {
            for _ in 0..MOST_BURSTS {
                // SAFETY: the queue is one of this port, which runs; `frames` has room for a burst.
                let taken =
                    unsafe { up_rx_burst(self.id, queue, frames.as_mut_ptr(), UP_BURST as u16) };
                if taken == 0 {
                    break;
                }
                let mut mbufs = Mbufs::with_capacity(usize::from(taken));
                for frame in frames.iter().take(usize::from(taken)) {
                    mbufs.push(frame.mbuf);
                }
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _eal = Eal::running();
        let _pass = self.wait();
        self.drain();
        match &self.namespace {
            Some(namespace) => namespace.run(|| self.close()),
            None => self.close(),
        }
    }
}

impl Port {
    fn close(&self) {
        // SAFETY: the queues that used the port are gone, and control calls are ours. What fails here has
        // nothing to be undone.
        unsafe {
            if self.queues > 0 {
                rte_eth_dev_stop(self.id);
            }
            rte_eth_dev_close(self.id);
            rte_eal_hotplug_remove(self.bus.as_ptr(), self.name.as_ptr());
        }
    }
}

/// The number of the port of that name.
fn port_of(_eal: &Eal, name: &CString) -> Option<u16> {
    let mut id = 0;
    // SAFETY: the EAL runs; name and number live.
    let result = unsafe { rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (result == 0).then_some(id)
}

fn not_plugged(target: &Target<'_>, result: i32) -> String {
    let cause = log::cause();
    let because = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    if target.is_pci() {
        return format!(
            "no poll-mode driver took it{because}; underpass doctor says how to bind it to vfio-pci"
        );
    }
    // What the bus of virtual devices says if no driver's name is the beginning of this one.
    if result == -libc::EFAULT || result == -libc::ENODEV {
        return format!(
            "no poll-mode driver of this DPDK is called so; there are net_af_packet0, net_af_xdp0, \
             net_tap0, net_memif0, net_ring0, net_pcap0, net_vhost0, net_virtio_user0 and more\
             {because}"
        );
    }
    match because.as_str() {
        "" => format!("its driver did not take it: {}", error_text(result)),
        because => format!("its driver did not take it{because}"),
    }
}

fn check(result: i32, step: &str) -> Result<(), String> {
    if result >= 0 {
        return Ok(());
    }
    let cause = log::cause().unwrap_or_else(|| error_text(result));
    Err(format!("{step}: {cause}"))
}

/// A Toeplitz key that puts both directions of a flow on one queue (Woo and Park, "Scalable TCP Session
/// Monitoring with Symmetric Receive-side Scaling", 2012).
fn symmetric_key(len: u8) -> Vec<u8> {
    [0x6d, 0x5a].into_iter().cycle().take(len.into()).collect()
}
