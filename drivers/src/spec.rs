use std::fmt;
use std::str::FromStr;

use underpass_devices::MemoryConfig;
#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "xdp",
    feature = "dpdk",
    feature = "kring",
    feature = "rdma"
))]
use underpass_devices::VlanId;

#[cfg(feature = "dpdk")]
mod dpdk;
#[cfg(feature = "rdma")]
mod rdma;

#[cfg(feature = "dpdk")]
use crate::dpdk::DpdkConfig;
#[cfg(feature = "kring")]
use crate::kring::KringConfig;
#[cfg(feature = "packet")]
use crate::packet::PacketConfig;
#[cfg(feature = "rdma")]
use crate::rdma::RdmaConfig;
#[cfg(feature = "tap")]
use crate::tap::TapConfig;
#[cfg(feature = "xdp")]
use crate::xdp::XdpConfig;

/// Which device to open, in one line: `KIND:TARGET[,KEY=VALUE…]`.
///
/// | spec | keys |
/// |---|---|
/// | `tap:NAME` | `offload`, `mac`, `mtu`, `host` (may be repeated), `io`, `queues`, `slots`, `vlan` |
/// | `packet:INTERFACE` | `offload`, `mac`, `qdisc-bypass`, `fanout`, `rx-slots`, `tx-slots`, `vlan` |
/// | `xdp:INTERFACE` | `queue`, `mode`, `share`, `mac`, `only` and `ether-type` (may be repeated), `busy-poll`, `huge-pages`, `rx-slots`, `tx-slots`, `vlan` |
/// | `dpdk:DEVICE` | `offload`, `mac`, `mtu`, `eal` (may be repeated), `rx-slots`, `tx-slots`, `vlan`; every other key is an argument of the device's driver |
/// | `kring:INTERFACE` | `offload`, `share`, `mac`, `only` and `ether-type` (may be repeated), `echo`, `tx-poll`, `rx-slots`, `tx-slots`, `vlan` |
/// | `rdma:DEVICE` | `port`, `gid`, `peer` (may be repeated), `max-peers`, `multicast`, `rx-slots`, `tx-slots`, `vlan` |
/// | `memory:` | `offload`, `mtu`, `slots` |
///
/// The fields of the configurations say what the keys mean; `vlan` puts a
/// [`Vlan`](underpass_devices::Vlan) around the device. [`Display`](fmt::Display) writes what
/// differs from the defaults, and reads back as the same spec.
///
/// ```
/// use underpass_drivers::Spec;
///
/// let spec: Spec = "packet:eth1,offload=on,fanout=7".parse()?;
/// assert_eq!(spec.to_string(), "packet:eth1,fanout=7");
///
/// let error = "packet:eth1,queue=3".parse::<Spec>().unwrap_err();
/// assert!(error.to_string().starts_with("packet: unknown option 'queue' (options: offload, mac"));
/// # Ok::<(), underpass_drivers::ParseSpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `tap:NAME`
    #[cfg(feature = "tap")]
    Tap {
        /// Name of the interface.
        name: String,
        /// The options.
        config: TapConfig,
        /// The VLAN of the link to be on.
        vlan: Option<VlanId>,
    },
    /// `packet:INTERFACE`
    #[cfg(feature = "packet")]
    Packet {
        /// Name of the interface.
        name: String,
        /// The options.
        config: PacketConfig,
        /// The VLAN of the link to be on.
        vlan: Option<VlanId>,
    },
    /// `xdp:INTERFACE`
    #[cfg(feature = "xdp")]
    Xdp {
        /// Name of the interface.
        name: String,
        /// The options.
        config: XdpConfig,
        /// The VLAN of the link to be on.
        vlan: Option<VlanId>,
    },
    /// `dpdk:DEVICE`
    #[cfg(feature = "dpdk")]
    Dpdk {
        /// PCI address, or name of a virtual device.
        name: String,
        /// The options.
        config: DpdkConfig,
        /// The VLAN of the link to be on.
        vlan: Option<VlanId>,
    },
    /// `kring:INTERFACE`
    #[cfg(feature = "kring")]
    Kring {
        /// Name of the interface.
        name: String,
        /// The options.
        config: KringConfig,
        /// The VLAN of the link to be on.
        vlan: Option<VlanId>,
    },
    /// `rdma:DEVICE`
    #[cfg(feature = "rdma")]
    Rdma {
        /// Name of the RDMA device.
        name: String,
        /// The options.
        config: RdmaConfig,
        /// The VLAN of the link to be on.
        vlan: Option<VlanId>,
    },
    /// `memory:`
    Memory(MemoryConfig),
}

/// Why a text is not the spec of a device, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSpecError {
    /// There is no colon.
    #[error("'{0}' is not KIND:TARGET[,KEY=VALUE...] (kinds: {kinds}), such as packet:eth1", kinds = kinds())]
    NoKind(String),
    /// The kind does not exist.
    #[error("unknown kind of device '{0}' (kinds: {kinds})", kinds = kinds())]
    UnknownKind(String),
    /// This program was built without the kind.
    #[error(
        "{kind}: this program was built without it; build with the cargo feature '{kind}' of \
         underpass-drivers"
    )]
    NotBuilt {
        /// The kind.
        kind: &'static str,
    },
    /// The name of the interface is missing, or there is one too many.
    #[error("{kind}: {problem}")]
    Target {
        /// The kind.
        kind: &'static str,
        /// What is wrong, with an example.
        problem: &'static str,
    },
    /// An option is not `KEY=VALUE`.
    #[error("{kind}: '{option}' is not KEY=VALUE")]
    NotAnOption {
        /// The kind.
        kind: &'static str,
        /// The text between two commas.
        option: String,
    },
    /// The kind has no such option.
    #[error("{kind}: unknown option '{key}' (options: {})", .known.join(", "))]
    UnknownOption {
        /// The kind.
        kind: &'static str,
        /// The text in front of the `=`.
        key: String,
        /// What the kind has.
        known: &'static [&'static str],
    },
    /// An option is given twice that can have one value.
    #[error("{kind}: {key} is given twice")]
    Repeated {
        /// The kind.
        kind: &'static str,
        /// The option.
        key: String,
    },
    /// The value of an option is not one.
    #[error("{kind}: {key}: '{value}' is not {wanted}")]
    BadValue {
        /// The kind.
        kind: &'static str,
        /// The option.
        key: String,
        /// Its value.
        value: String,
        /// What would be.
        wanted: String,
    },
}

impl FromStr for Spec {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, ParseSpecError> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(ParseSpecError::NoKind(text.to_owned()));
        };
        let (target, options) = match rest.split_once(',') {
            Some((target, options)) => (target, Some(options)),
            None => (rest, None),
        };
        match kind {
            #[cfg(feature = "tap")]
            "tap" => {
                let name = interface("tap", target)?;
                let (mut config, mut vlan) = (TapConfig::default(), None);
                set_each("tap", TAP_OPTIONS, options, |key, value| match key {
                    "vlan" => set_vlan(&mut vlan, value),
                    _ => set_tap(&mut config, key, value),
                })?;
                Ok(Self::Tap { name, config, vlan })
            }
            #[cfg(feature = "packet")]
            "packet" => {
                let name = interface("packet", target)?;
                let (mut config, mut vlan) = (PacketConfig::default(), None);
                set_each("packet", PACKET_OPTIONS, options, |key, value| match key {
                    "vlan" => set_vlan(&mut vlan, value),
                    _ => set_packet(&mut config, key, value),
                })?;
                Ok(Self::Packet { name, config, vlan })
            }
            #[cfg(feature = "xdp")]
            "xdp" => {
                let name = interface("xdp", target)?;
                let (mut config, mut vlan) = (XdpConfig::default(), None);
                set_each("xdp", XDP_OPTIONS, options, |key, value| match key {
                    "vlan" => set_vlan(&mut vlan, value),
                    _ => set_xdp(&mut config, key, value),
                })?;
                Ok(Self::Xdp { name, config, vlan })
            }
            #[cfg(feature = "dpdk")]
            "dpdk" => {
                let (name, config, vlan) = dpdk::parse(target, options)?;
                Ok(Self::Dpdk { name, config, vlan })
            }
            #[cfg(feature = "kring")]
            "kring" => {
                let name = interface("kring", target)?;
                let (mut config, mut vlan) = (KringConfig::default(), None);
                set_each("kring", KRING_OPTIONS, options, |key, value| match key {
                    "vlan" => set_vlan(&mut vlan, value),
                    _ => set_kring(&mut config, key, value),
                })?;
                Ok(Self::Kring { name, config, vlan })
            }
            #[cfg(feature = "rdma")]
            "rdma" => {
                let (name, config, vlan) = rdma::parse(target, options)?;
                Ok(Self::Rdma { name, config, vlan })
            }
            "memory" => {
                let mut config = MemoryConfig::default();
                if !target.is_empty() {
                    return Err(ParseSpecError::Target {
                        kind: "memory",
                        problem: "it has no name: write memory: or memory:,mtu=9000",
                    });
                }
                set_each("memory", MEMORY_OPTIONS, options, |key, value| {
                    set_memory(&mut config, key, value)
                })?;
                Ok(Self::Memory(config))
            }
            _ => Err(match KINDS.iter().find(|known| **known == kind) {
                Some(kind) => ParseSpecError::NotBuilt { kind },
                None => ParseSpecError::UnknownKind(kind.to_owned()),
            }),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "tap")]
            Self::Tap { name, config, vlan } => {
                let default = TapConfig::default();
                write!(f, "tap:{name}")?;
                option(f, "offload", &switch(config.offload), &switch(default.offload))?;
                given(f, "mac", config.mac.as_ref())?;
                given(f, "mtu", config.mtu.as_ref())?;
                for host in &config.host {
                    given(f, "host", Some(host))?;
                }
                given(f, "io", config.io.as_ref())?;
                option(f, "queues", &config.queues, &default.queues)?;
                option(f, "slots", &config.slots, &default.slots)?;
                given(f, "vlan", vlan.as_ref())
            }
            #[cfg(feature = "packet")]
            Self::Packet { name, config, vlan } => {
                let default = PacketConfig::default();
                write!(f, "packet:{name}")?;
                option(f, "offload", &switch(config.offload), &switch(default.offload))?;
                given(f, "mac", config.mac.as_ref())?;
                let bypass = (switch(config.qdisc_bypass), switch(default.qdisc_bypass));
                option(f, "qdisc-bypass", &bypass.0, &bypass.1)?;
                given(f, "fanout", config.fanout.as_ref())?;
                option(f, "rx-slots", &config.rx_slots, &default.rx_slots)?;
                option(f, "tx-slots", &config.tx_slots, &default.tx_slots)?;
                given(f, "vlan", vlan.as_ref())
            }
            #[cfg(feature = "xdp")]
            Self::Xdp { name, config, vlan } => {
                let default = XdpConfig::default();
                write!(f, "xdp:{name}")?;
                given(f, "queue", config.queue.as_ref())?;
                option(f, "mode", &config.mode, &default.mode)?;
                option(f, "share", &switch(config.share), &switch(default.share))?;
                given(f, "mac", config.mac.as_ref())?;
                for service in &config.only {
                    given(f, "only", Some(service))?;
                }
                for ether_type in &config.ether_types {
                    given(f, "ether-type", Some(&format_args!("{ether_type:#06x}")))?;
                }
                option(f, "busy-poll", &switch(config.busy_poll), &switch(default.busy_poll))?;
                option(f, "huge-pages", &switch(config.huge_pages), &switch(default.huge_pages))?;
                option(f, "rx-slots", &config.rx_slots, &default.rx_slots)?;
                option(f, "tx-slots", &config.tx_slots, &default.tx_slots)?;
                given(f, "vlan", vlan.as_ref())
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk { name, config, vlan } => dpdk::write(f, name, config, *vlan),
            #[cfg(feature = "kring")]
            Self::Kring { name, config, vlan } => {
                let default = KringConfig::default();
                write!(f, "kring:{name}")?;
                option(f, "offload", &switch(config.offload), &switch(default.offload))?;
                option(f, "share", &switch(config.share), &switch(default.share))?;
                given(f, "mac", config.mac.as_ref())?;
                for service in &config.only {
                    given(f, "only", Some(service))?;
                }
                for ether_type in &config.ether_types {
                    given(f, "ether-type", Some(&format_args!("{ether_type:#06x}")))?;
                }
                if let Some(ether_type) = config.echo {
                    given(f, "echo", Some(&format_args!("{ether_type:#06x}")))?;
                }
                option(f, "tx-poll", &config.tx_poll_us, &default.tx_poll_us)?;
                option(f, "rx-slots", &config.rx_slots, &default.rx_slots)?;
                option(f, "tx-slots", &config.tx_slots, &default.tx_slots)?;
                given(f, "vlan", vlan.as_ref())
            }
            #[cfg(feature = "rdma")]
            Self::Rdma { name, config, vlan } => rdma::write(f, name, config, *vlan),
            Self::Memory(config) => {
                let default = MemoryConfig::default();
                write!(f, "memory:")?;
                option(f, "offload", &switch(config.offloads), &switch(default.offloads))?;
                option(f, "mtu", &config.mtu, &default.mtu)?;
                option(f, "slots", &config.slots, &default.slots)
            }
        }
    }
}

/// All kinds, whether this program was built with them or not.
const KINDS: &[&str] = &["tap", "packet", "xdp", "dpdk", "kring", "rdma", "memory"];

#[cfg(feature = "tap")]
const TAP_OPTIONS: &[&str] = &["offload", "mac", "mtu", "host", "io", "queues", "slots", "vlan"];
#[cfg(feature = "packet")]
const PACKET_OPTIONS: &[&str] =
    &["offload", "mac", "qdisc-bypass", "fanout", "rx-slots", "tx-slots", "vlan"];
#[cfg(feature = "xdp")]
const XDP_OPTIONS: &[&str] = &[
    "queue",
    "mode",
    "share",
    "mac",
    "only",
    "ether-type",
    "busy-poll",
    "huge-pages",
    "rx-slots",
    "tx-slots",
    "vlan",
];
#[cfg(feature = "kring")]
const KRING_OPTIONS: &[&str] = &[
    "offload",
    "share",
    "mac",
    "only",
    "ether-type",
    "echo",
    "tx-poll",
    "rx-slots",
    "tx-slots",
    "vlan",
];
const MEMORY_OPTIONS: &[&str] = &["offload", "mtu", "slots"];

/// The options that may be given several times.
const REPEATABLE: &[&str] = &["host", "only", "ether-type", "eal", "peer"];

/// What a value should have been.
type Wanted = String;

#[cfg(feature = "tap")]
fn set_tap(config: &mut TapConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offload = on_or_off(text)?,
        "mac" => config.mac = Some(mac(text)?),
        "mtu" => config.mtu = Some(number(text)?),
        "host" => config.host.push(value(text, "an address and prefix length, as 10.7.0.1/24")?),
        "io" => config.io = Some(value(text, "uring or plain")?),
        "queues" => config.queues = number(text)?,
        _ => config.slots = number(text)?,
    }
    Ok(())
}

#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "xdp",
    feature = "dpdk",
    feature = "kring",
    feature = "rdma"
))]
fn set_vlan(vlan: &mut Option<VlanId>, text: &str) -> Result<(), Wanted> {
    *vlan = Some(value(text, "the number of a VLAN, 1 to 4094")?);
    Ok(())
}

#[cfg(feature = "packet")]
fn set_packet(config: &mut PacketConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offload = on_or_off(text)?,
        "mac" => config.mac = Some(mac(text)?),
        "qdisc-bypass" => config.qdisc_bypass = on_or_off(text)?,
        "fanout" => config.fanout = Some(value(text, "the number of a group, 0 to 65535")?),
        "rx-slots" => config.rx_slots = number(text)?,
        _ => config.tx_slots = number(text)?,
    }
    Ok(())
}

#[cfg(feature = "xdp")]
fn set_xdp(config: &mut XdpConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "queue" => config.queue = Some(value(text, "the number of a queue")?),
        "mode" => config.mode = value(text, "auto, zerocopy, copy or skb")?,
        "share" => config.share = on_or_off(text)?,
        "mac" => config.mac = Some(mac(text)?),
        "only" => config.only.push(value(text, "a protocol or port such as icmp or tcp/80")?),
        "ether-type" => config.ether_types.push(ether_type(text)?),
        "busy-poll" => config.busy_poll = on_or_off(text)?,
        "huge-pages" => config.huge_pages = on_or_off(text)?,
        "rx-slots" => config.rx_slots = number(text)?,
        _ => config.tx_slots = number(text)?,
    }
    Ok(())
}

#[cfg(feature = "kring")]
fn set_kring(config: &mut KringConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offload = on_or_off(text)?,
        "share" => config.share = on_or_off(text)?,
        "mac" => config.mac = Some(mac(text)?),
        "only" => config.only.push(value(text, "a protocol or port such as icmp or tcp/80")?),
        "ether-type" => config.ether_types.push(ether_type(text)?),
        "echo" => config.echo = Some(ether_type(text)?),
        "tx-poll" => config.tx_poll_us = value(text, "a number of microseconds")?,
        "rx-slots" => config.rx_slots = number(text)?,
        _ => config.tx_slots = number(text)?,
    }
    Ok(())
}

#[cfg(any(feature = "xdp", feature = "kring"))]
fn ether_type(text: &str) -> Result<u16, Wanted> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an EtherType such as 0x88b5".to_owned())
}

fn set_memory(config: &mut MemoryConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offloads = on_or_off(text)?,
        "mtu" => config.mtu = limited(text, 65_535)?,
        _ => config.slots = limited(text, 65_536)?,
    }
    Ok(())
}

/// Splits `KEY=VALUE,KEY=VALUE` and hands each known key to `set`.
fn set_each(
    kind: &'static str,
    known: &'static [&'static str],
    options: Option<&str>,
    mut set: impl FnMut(&str, &str) -> Result<(), Wanted>,
) -> Result<(), ParseSpecError> {
    let mut seen = Vec::new();
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let Some((key, value)) = option.split_once('=') else {
            let option = option.to_owned();
            return Err(ParseSpecError::NotAnOption { kind, option });
        };
        if !known.contains(&key) {
            let key = key.to_owned();
            return Err(ParseSpecError::UnknownOption { kind, key, known });
        }
        if seen.contains(&key) && !REPEATABLE.contains(&key) {
            let key = key.to_owned();
            return Err(ParseSpecError::Repeated { kind, key });
        }
        seen.push(key);
        set(key, value).map_err(|wanted| ParseSpecError::BadValue {
            kind,
            key: key.to_owned(),
            value: value.to_owned(),
            wanted,
        })?;
    }
    Ok(())
}

#[cfg(any(feature = "tap", feature = "packet", feature = "xdp", feature = "kring"))]
fn interface(kind: &'static str, target: &str) -> Result<String, ParseSpecError> {
    if target.is_empty() {
        return Err(ParseSpecError::Target {
            kind,
            problem: "the name of an interface is missing behind the colon",
        });
    }
    Ok(target.to_owned())
}

fn on_or_off(text: &str) -> Result<bool, Wanted> {
    match text {
        "on" | "1" => Ok(true),
        "off" | "0" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "xdp",
    feature = "dpdk",
    feature = "kring"
))]
fn mac(text: &str) -> Result<underpass_devices::MacAddr, Wanted> {
    value(text, "a MAC address such as 02:00:00:00:00:01")
}

#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "xdp",
    feature = "dpdk",
    feature = "kring",
    feature = "rdma"
))]
fn number(text: &str) -> Result<usize, Wanted> {
    value(text, "a number")
}

fn limited(text: &str, most: usize) -> Result<usize, Wanted> {
    let wanted = || format!("a number from 1 to {most}");
    let number = text.parse().map_err(|_| wanted())?;
    if (1..=most).contains(&number) { Ok(number) } else { Err(wanted()) }
}

#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "xdp",
    feature = "dpdk",
    feature = "kring",
    feature = "rdma"
))]
fn value<T: FromStr>(text: &str, wanted: &str) -> Result<T, Wanted> {
    text.parse().map_err(|_| wanted.to_owned())
}

fn kinds() -> String {
    KINDS.join(", ")
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Writes an option unless it has its default value.
fn option<T: fmt::Display + PartialEq>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    value: &T,
    default: &T,
) -> fmt::Result {
    given(f, key, (value != default).then_some(value))
}

fn given<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, value: Option<&T>) -> fmt::Result {
    match value {
        Some(value) => write!(f, ",{key}={value}"),
        None => Ok(()),
    }
}

#[cfg(all(test, feature = "tap", feature = "packet"))]
mod tests;
