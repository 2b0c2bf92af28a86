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
#[cfg(feature = "kring")]
mod kring;
mod options;
#[cfg(feature = "packet")]
mod packet;
#[cfg(feature = "rdma")]
mod rdma;
#[cfg(feature = "tap")]
mod tap;
#[cfg(feature = "xdp")]
mod xdp;

use self::options::{Wanted, limited, on_or_off, option, set_each, switch};
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
                let (name, config, vlan) = tap::parse(target, options)?;
                Ok(Self::Tap { name, config, vlan })
            }
            #[cfg(feature = "packet")]
            "packet" => {
                let (name, config, vlan) = packet::parse(target, options)?;
                Ok(Self::Packet { name, config, vlan })
            }
            #[cfg(feature = "xdp")]
            "xdp" => {
                let (name, config, vlan) = xdp::parse(target, options)?;
                Ok(Self::Xdp { name, config, vlan })
            }
            #[cfg(feature = "dpdk")]
            "dpdk" => {
                let (name, config, vlan) = dpdk::parse(target, options)?;
                Ok(Self::Dpdk { name, config, vlan })
            }
            #[cfg(feature = "kring")]
            "kring" => {
                let (name, config, vlan) = kring::parse(target, options)?;
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
            Self::Tap { name, config, vlan } => tap::write(f, name, config, *vlan),
            #[cfg(feature = "packet")]
            Self::Packet { name, config, vlan } => packet::write(f, name, config, *vlan),
            #[cfg(feature = "xdp")]
            Self::Xdp { name, config, vlan } => xdp::write(f, name, config, *vlan),
            #[cfg(feature = "dpdk")]
            Self::Dpdk { name, config, vlan } => dpdk::write(f, name, config, *vlan),
            #[cfg(feature = "kring")]
            Self::Kring { name, config, vlan } => kring::write(f, name, config, *vlan),
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

const MEMORY_OPTIONS: &[&str] = &["offload", "mtu", "slots"];

fn set_memory(config: &mut MemoryConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offloads = on_or_off(text)?,
        "mtu" => config.mtu = limited(text, 65_535)?,
        _ => config.slots = limited(text, 65_536)?,
    }
    Ok(())
}

fn kinds() -> String {
    KINDS.join(", ")
}

#[cfg(all(test, feature = "tap", feature = "packet"))]
mod tests;
