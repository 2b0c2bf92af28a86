use std::fmt;
use std::str::FromStr;

use underpass_devices::MemoryConfig;

#[cfg(feature = "packet")]
use crate::packet::PacketConfig;
#[cfg(feature = "tap")]
use crate::tap::TapConfig;

/// Which device to open, in one line: `KIND:TARGET[,KEY=VALUE…]`.
///
/// | spec | keys |
/// |---|---|
/// | `tap:NAME` | `offload`, `mac`, `mtu`, `host` (may be repeated), `io`, `queues`, `slots` |
/// | `packet:INTERFACE` | `offload`, `mac`, `qdisc-bypass`, `fanout`, `rx-slots`, `tx-slots` |
/// | `memory:` | `offload`, `mtu`, `slots` |
///
/// The fields of the configurations say what the keys mean. [`Display`](fmt::Display) writes what
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
    },
    /// `packet:INTERFACE`
    #[cfg(feature = "packet")]
    Packet {
        /// Name of the interface.
        name: String,
        /// The options.
        config: PacketConfig,
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
                let mut config = TapConfig::default();
                set_each("tap", TAP_OPTIONS, options, |key, value| {
                    set_tap(&mut config, key, value)
                })?;
                Ok(Self::Tap { name, config })
            }
            #[cfg(feature = "packet")]
            "packet" => {
                let name = interface("packet", target)?;
                let mut config = PacketConfig::default();
                set_each("packet", PACKET_OPTIONS, options, |key, value| {
                    set_packet(&mut config, key, value)
                })?;
                Ok(Self::Packet { name, config })
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
            Self::Tap { name, config } => {
                let default = TapConfig::default();
                write!(f, "tap:{name}")?;
                option(
                    f,
                    "offload",
                    &switch(config.offload),
                    &switch(default.offload),
                )?;
                given(f, "mac", config.mac.as_ref())?;
                given(f, "mtu", config.mtu.as_ref())?;
                for host in &config.host {
                    given(f, "host", Some(host))?;
                }
                given(f, "io", config.io.as_ref())?;
                option(f, "queues", &config.queues, &default.queues)?;
                option(f, "slots", &config.slots, &default.slots)
            }
            #[cfg(feature = "packet")]
            Self::Packet { name, config } => {
                let default = PacketConfig::default();
                write!(f, "packet:{name}")?;
                option(
                    f,
                    "offload",
                    &switch(config.offload),
                    &switch(default.offload),
                )?;
                given(f, "mac", config.mac.as_ref())?;
                let bypass = (switch(config.qdisc_bypass), switch(default.qdisc_bypass));
                option(f, "qdisc-bypass", &bypass.0, &bypass.1)?;
                given(f, "fanout", config.fanout.as_ref())?;
                option(f, "rx-slots", &config.rx_slots, &default.rx_slots)?;
                option(f, "tx-slots", &config.tx_slots, &default.tx_slots)
            }
            Self::Memory(config) => {
                let default = MemoryConfig::default();
                write!(f, "memory:")?;
                option(
                    f,
                    "offload",
                    &switch(config.offloads),
                    &switch(default.offloads),
                )?;
                option(f, "mtu", &config.mtu, &default.mtu)?;
                option(f, "slots", &config.slots, &default.slots)
            }
        }
    }
}

/// All kinds, whether this program was built with them or not.
const KINDS: &[&str] = &["tap", "packet", "memory"];

#[cfg(feature = "tap")]
const TAP_OPTIONS: &[&str] = &["offload", "mac", "mtu", "host", "io", "queues", "slots"];
#[cfg(feature = "packet")]
const PACKET_OPTIONS: &[&str] = &[
    "offload",
    "mac",
    "qdisc-bypass",
    "fanout",
    "rx-slots",
    "tx-slots",
];
const MEMORY_OPTIONS: &[&str] = &["offload", "mtu", "slots"];

/// The option that may be given several times.
const REPEATABLE: &str = "host";

/// What a value should have been.
type Wanted = String;

#[cfg(feature = "tap")]
fn set_tap(config: &mut TapConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offload = on_or_off(text)?,
        "mac" => config.mac = Some(mac(text)?),
        "mtu" => config.mtu = Some(number(text)?),
        "host" => config
            .host
            .push(value(text, "an address and prefix length, as 10.7.0.1/24")?),
        "io" => config.io = Some(value(text, "uring or plain")?),
        "queues" => config.queues = number(text)?,
        _ => config.slots = number(text)?,
    }
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
        if seen.contains(&key) && key != REPEATABLE {
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

#[cfg(any(feature = "tap", feature = "packet"))]
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

#[cfg(any(feature = "tap", feature = "packet"))]
fn mac(text: &str) -> Result<underpass_devices::MacAddr, Wanted> {
    value(text, "a MAC address such as 02:00:00:00:00:01")
}

#[cfg(any(feature = "tap", feature = "packet"))]
fn number(text: &str) -> Result<usize, Wanted> {
    value(text, "a number")
}

fn limited(text: &str, most: usize) -> Result<usize, Wanted> {
    let wanted = || format!("a number from 1 to {most}");
    let number = text.parse().map_err(|_| wanted())?;
    if (1..=most).contains(&number) {
        Ok(number)
    } else {
        Err(wanted())
    }
}

#[cfg(any(feature = "tap", feature = "packet"))]
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
mod tests {
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
        let Ok(Spec::Tap { name, config }) = spec.parse() else {
            panic!("{spec}")
        };
        assert_eq!(name, "tap0");
        assert_eq!(config.host.len(), 2);
        assert_eq!(config.mac, Some(MacAddr([2, 0, 0, 0, 0, 9])));
        assert_eq!(config.io, Some(IoMode::Plain));

        let spec = "packet:eth1,offload=off,qdisc-bypass=1,fanout=7,rx-slots=1024";
        let Ok(Spec::Packet { name, config }) = spec.parse() else {
            panic!("{spec}")
        };
        assert_eq!(name, "eth1");
        assert!(!config.offload && config.qdisc_bypass);
        assert_eq!((config.fanout, config.rx_slots), (Some(7), 1024));

        let memory = "memory:,mtu=9000".parse();
        assert!(matches!(
            memory,
            Ok(Spec::Memory(MemoryConfig { mtu: 9000, .. }))
        ));
    }

    #[test]
    fn errors_name_what_is_wrong_and_what_is_allowed() {
        for (text, expected) in [
            (
                "eth0",
                "'eth0' is not KIND:TARGET[,KEY=VALUE...] (kinds: tap, packet, memory)",
            ),
            (
                "tun:tun0",
                "unknown kind of device 'tun' (kinds: tap, packet, memory)",
            ),
            (
                "tap:",
                "tap: the name of an interface is missing behind the colon",
            ),
            (
                "packet:,fanout=1",
                "packet: the name of an interface is missing",
            ),
            ("memory:x", "memory: it has no name"),
            ("tap:tap0,offload", "tap: 'offload' is not KEY=VALUE"),
            ("tap:tap0,", "tap: '' is not KEY=VALUE"),
            (
                "tap:tap0,size=3",
                "tap: unknown option 'size' (options: offload, mac, mtu, host",
            ),
            ("tap:tap0,mtu=9000,mtu=1500", "tap: mtu is given twice"),
            ("tap:tap0,mtu=big", "tap: mtu: 'big' is not a number"),
            ("tap:tap0,io=fast", "tap: io: 'fast' is not uring or plain"),
            (
                "tap:tap0,host=10.7.0.1",
                "tap: host: '10.7.0.1' is not an address and prefix length",
            ),
            (
                "packet:eth0,mac=1",
                "packet: mac: '1' is not a MAC address such as 02:",
            ),
            (
                "packet:eth0,offload=yes",
                "packet: offload: 'yes' is not on or off",
            ),
            (
                "packet:eth0,fanout=65536",
                "packet: fanout: '65536' is not the number of a group",
            ),
            (
                "memory:,slots=0",
                "memory: slots: '0' is not a number from 1 to 65536",
            ),
        ] {
            let message = error(text);
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }

    fn any_tap() -> impl Strategy<Value = Spec> {
        let host = prop_oneof![
            Just("10.7.0.1/24"),
            Just("fd07::1/64"),
            Just("192.0.2.1/32")
        ];
        let io = prop_oneof![Just(IoMode::Uring), Just(IoMode::Plain)];
        let mac = any::<[u8; 6]>().prop_map(MacAddr);
        let hosts = proptest::collection::vec(host.prop_map(|h| h.parse().unwrap()), 0..3);
        let numbers = (of(any::<usize>()), any::<usize>(), any::<usize>());
        (
            "[a-z0-9._-]{1,15}",
            any::<bool>(),
            of(mac),
            hosts,
            of(io),
            numbers,
        )
            .prop_map(|(name, offload, mac, host, io, (mtu, queues, slots))| {
                let config = TapConfig {
                    offload,
                    mac,
                    mtu,
                    host,
                    io,
                    queues,
                    slots,
                };
                Spec::Tap { name, config }
            })
    }

    fn any_packet() -> impl Strategy<Value = Spec> {
        let mac = any::<[u8; 6]>().prop_map(MacAddr);
        let switches = (any::<bool>(), any::<bool>());
        let slots = (any::<usize>(), any::<usize>());
        ("[^,]{1,15}", of(mac), switches, of(any::<u16>()), slots).prop_map(
            |(name, mac, (offload, qdisc_bypass), fanout, (rx_slots, tx_slots))| {
                let config = PacketConfig {
                    mac,
                    offload,
                    qdisc_bypass,
                    fanout,
                    rx_slots,
                    tx_slots,
                };
                Spec::Packet { name, config }
            },
        )
    }

    fn any_memory() -> impl Strategy<Value = Spec> {
        (any::<bool>(), 1usize..=65_535, 1usize..=65_536).prop_map(|(offloads, mtu, slots)| {
            Spec::Memory(MemoryConfig {
                offloads,
                mtu,
                slots,
                ..MemoryConfig::default()
            })
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
}
