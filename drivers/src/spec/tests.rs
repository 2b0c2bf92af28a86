use proptest::option::of;
use proptest::prelude::*;
use underpass_devices::MacAddr;

use super::*;
use crate::tap::IoMode;

fn error(text: &str) -> String {
    text.parse::<Spec>().unwrap_err().to_string()
}

#[test]
fn options_are_taken() {
    let spec = "tap:tap0,host=10.7.0.1/24,host=fd07::1/64,mac=02:00:00:00:00:09,io=plain";
    let Ok(Spec::Tap { name, config, vlan: None }) = spec.parse() else { panic!("{spec}") };
    assert_eq!(name, "tap0");
    assert_eq!(config.host.len(), 2);
    assert_eq!(config.mac, Some(MacAddr([2, 0, 0, 0, 0, 9])));
    assert_eq!(config.io, Some(IoMode::Plain));

    let spec = "packet:eth1,offload=off,qdisc-bypass=1,fanout=7,rx-slots=1024,vlan=42";
    let Ok(Spec::Packet { name, config, vlan }) = spec.parse() else { panic!("{spec}") };
    assert_eq!(name, "eth1");
    assert!(!config.offload && config.qdisc_bypass);
    assert_eq!((config.fanout, config.rx_slots), (Some(7), 1024));
    assert_eq!(vlan, VlanId::new(42).ok());

    let memory = "memory:,mtu=9000".parse();
    assert!(matches!(memory, Ok(Spec::Memory(MemoryConfig { mtu: 9000, .. }))));
}

#[test]
fn errors_name_what_is_wrong_and_what_is_allowed() {
    for (text, expected) in [
        (
            "eth0",
            "'eth0' is not KIND:TARGET[,KEY=VALUE...] (kinds: tap, packet, xdp, dpdk, kring, rdma, memory)",
        ),
        (
            "tun:tun0",
            "unknown kind of device 'tun' (kinds: tap, packet, xdp, dpdk, kring, rdma, memory)",
        ),
        ("tap:", "tap: the name of an interface is missing behind the colon"),
        ("packet:,fanout=1", "packet: the name of an interface is missing"),
        ("memory:x", "memory: it has no name"),
        ("tap:tap0,offload", "tap: 'offload' is not KEY=VALUE"),
        ("tap:tap0,", "tap: '' is not KEY=VALUE"),
        ("tap:tap0,size=3", "tap: unknown option 'size' (options: offload, mac, mtu, host"),
        ("tap:tap0,mtu=9000,mtu=1500", "tap: mtu is given twice"),
        ("tap:tap0,mtu=big", "tap: mtu: 'big' is not a number"),
        ("tap:tap0,io=fast", "tap: io: 'fast' is not uring or plain"),
        ("tap:tap0,host=10.7.0.1", "tap: host: '10.7.0.1' is not an address and prefix length"),
        ("packet:eth0,mac=1", "packet: mac: '1' is not a MAC address such as 02:"),
        ("packet:eth0,offload=yes", "packet: offload: 'yes' is not on or off"),
        ("packet:eth0,fanout=65536", "packet: fanout: '65536' is not the number of a group"),
        ("packet:eth0,vlan=4095", "packet: vlan: '4095' is not the number of a VLAN, 1 to 4094"),
        ("memory:,slots=0", "memory: slots: '0' is not a number from 1 to 65536"),
    ] {
        let message = error(text);
        assert!(message.starts_with(expected), "{text}: {message}");
    }
}

fn any_tap() -> impl Strategy<Value = Spec> {
    let host = prop_oneof![Just("10.7.0.1/24"), Just("fd07::1/64"), Just("192.0.2.1/32")];
    let io = prop_oneof![Just(IoMode::Uring), Just(IoMode::Plain)];
    let mac = any::<[u8; 6]>().prop_map(MacAddr);
    let hosts = proptest::collection::vec(host.prop_map(|h| h.parse().unwrap()), 0..3);
    let numbers = (of(any::<usize>()), any::<usize>(), any::<usize>(), any_vlan());
    ("[a-z0-9._-]{1,15}", any::<bool>(), of(mac), hosts, of(io), numbers).prop_map(
        |(name, offload, mac, host, io, (mtu, queues, slots, vlan))| {
            let config = TapConfig { offload, mac, mtu, host, io, queues, slots };
            Spec::Tap { name, config, vlan }
        },
    )
}

fn any_packet() -> impl Strategy<Value = Spec> {
    let mac = any::<[u8; 6]>().prop_map(MacAddr);
    let switches = (any::<bool>(), any::<bool>());
    let slots = (any::<usize>(), any::<usize>());
    ("[^,]{1,15}", of(mac), switches, of(any::<u16>()), slots, any_vlan()).prop_map(
        |(name, mac, (offload, qdisc_bypass), fanout, (rx_slots, tx_slots), vlan)| {
            let config = PacketConfig { mac, offload, qdisc_bypass, fanout, rx_slots, tx_slots };
            Spec::Packet { name, config, vlan }
        },
    )
}

fn any_vlan() -> impl Strategy<Value = Option<VlanId>> {
    of((1u16..=4094).prop_map(|id| VlanId::new(id).unwrap()))
}

fn any_memory() -> impl Strategy<Value = Spec> {
    (any::<bool>(), 1usize..=65_535, 1usize..=65_536).prop_map(|(offloads, mtu, slots)| {
        Spec::Memory(MemoryConfig { offloads, mtu, slots, ..MemoryConfig::default() })
    })
}

proptest! {
    #[test]
    fn a_spec_reads_back_as_it_is_written(
        spec in prop_oneof![any_tap(), any_packet(), any_memory()],
    ) {
        prop_assert_eq!(spec.to_string().parse(), Ok(spec));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        let _ = text.parse::<Spec>();
    }

    #[test]
    fn no_options_make_the_parser_panic(
        kind in prop_oneof![Just("tap"), Just("packet"), Just("memory")],
        options in "(x|)(,(offload|mac|mtu|host|io|queues|slots|fanout|x)=?[0-9a-f:./]{0,8}){0,4}",
    ) {
        let _ = format!("{kind}:{options}").parse::<Spec>();
    }
}
