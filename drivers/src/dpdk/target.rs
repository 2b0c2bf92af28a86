//! Which device of DPDK is meant, and what is special about its driver.

/// A device by its name, and the arguments of its driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// A PCI address or the name of a virtual device.
    pub(super) name: &'a str,
    pub(super) args: &'a [(String, String)],
}

/// What cannot be asked of a driver.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    /// The argument that says how many queues a virtual device has, unless it has as many as are asked for.
    pub(super) queues_arg: Option<&'static str>,
    /// The argument that names the network interface on which it puts itself.
    pub(super) interface_arg: Option<&'static str>,
    /// Mbufs that it keeps for itself while it is open, besides those in its rings.
    pub(super) keeps: usize,
    /// It has an interface of the kernel at its other end, which has its MAC address.
    pub(super) mirrors_mac: bool,
    /// Its interrupts must not come while it is polled.
    pub(super) needs_gate: bool,
    /// Its TCP segmentation takes no segment of a full MTU, for it counts the Ethernet header in
    /// (22.11), and it is done in software anyway.
    pub(super) poor_tso: bool,
}

impl Target<'_> {
    /// As in `0000:01:00.0`.
    pub(super) fn is_pci(&self) -> bool {
        let parts: Vec<&str> = self.name.split([':', '.']).collect();
        let hexadecimal = |part: &&str| part.bytes().all(|b| b.is_ascii_hexdigit());
        let lens: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        self.name.contains('.')
            && parts.iter().all(hexadecimal)
            && matches!(lens[..], [4, 2, 2, 1] | [2, 2, 1])
    }

    pub(super) fn bus(&self) -> &'static str {
        if self.is_pci() { "pci" } else { "vdev" }
    }

    pub(super) fn traits(&self) -> Traits {
        let is = |driver| self.name.starts_with(driver);
        let none = Traits::default();
        let interface_arg = Some("iface");
        if is("net_af_packet") {
            Traits { queues_arg: Some("qpairs"), interface_arg, ..none }
        } else if is("net_af_xdp") {
            Traits { queues_arg: Some("queue_count"), interface_arg, keeps: 4096, ..none }
        } else if is("net_pcap") {
            Traits { interface_arg, ..none }
        } else if is("net_tap") {
            Traits { mirrors_mac: true, poor_tso: true, ..none }
        } else if is("net_memif") {
            Traits { needs_gate: true, ..none }
        } else if is("net_vhost") || is("net_virtio_user") {
            Traits { queues_arg: Some("queues"), ..none }
        } else {
            none
        }
    }

    /// The interface that it is put on.
    pub(super) fn interface(&self) -> Option<&str> {
        self.traits().interface_arg.and_then(|key| self.arg(key))
    }

    /// Bytes of a frame that its driver wants to put into an mbuf, where an argument says so.
    pub(super) fn slot_len(&self) -> usize {
        let len = self.arg("framesz").filter(|_| self.name.starts_with("net_af_packet"));
        len.and_then(|len| len.parse().ok()).unwrap_or(0)
    }

    pub(super) fn arg(&self, wanted: &str) -> Option<&str> {
        self.args.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
    }

    /// As its driver takes them, for so many queues.
    pub(super) fn driver_args(&self, queues: u16) -> String {
        let mut args: Vec<String> =
            self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if let Some(key) = self.traits().queues_arg
            && queues > 1
            && self.arg(key).is_none()
        {
            args.push(format!("{key}={queues}"));
        }
        args.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target<'_> {
        Target { name, args: &[] }
    }

    #[test]
    fn a_pci_address_is_told_from_a_name() {
        for name in ["0000:01:00.0", "3b:00.1", "0000:af:1f.7"] {
            assert_eq!(target(name).bus(), "pci", "{name}");
        }
        for name in ["net_tap0", "net_af_packet0", "net_ring.0", "0000:01:00", ""] {
            assert_eq!(target(name).bus(), "vdev", "{name}");
        }
    }

    #[test]
    fn the_number_of_queues_is_said_where_a_driver_has_to_be_told() {
        let args = [("iface".to_owned(), "eth0".to_owned())];
        let target = Target { name: "net_af_packet0", args: &args };
        assert_eq!(target.driver_args(1), "iface=eth0");
        assert_eq!(target.driver_args(2), "iface=eth0,qpairs=2");
        assert_eq!(target.interface(), Some("eth0"));
        let tap = Target { name: "net_tap0", ..target };
        assert_eq!((tap.driver_args(2), tap.interface()), ("iface=eth0".to_owned(), None));
    }
}
