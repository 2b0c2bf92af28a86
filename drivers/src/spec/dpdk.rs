//! `dpdk:DEVICE`: options of ours and, among them, arguments of the device's driver.

use std::fmt;

use underpass_devices::VlanId;

use super::ParseSpecError;
use super::options::{Wanted, configured, given, mac, number, on_or_off, option, switch, value};
use crate::dpdk::DpdkConfig;

/// What is ours; every other key is the driver's.
const OPTIONS: &[&str] = &["offload", "mac", "mtu", "eal", "rx-slots", "tx-slots", "vlan"];

/// A device and its options.
pub(super) type Parsed = (String, DpdkConfig, Option<VlanId>);

pub(super) fn parse(target: &str, options: Option<&str>) -> Result<Parsed, ParseSpecError> {
    if target.is_empty() {
        return Err(ParseSpecError::Target {
            kind: "dpdk",
            problem: "the PCI address or name of a device is missing behind the colon, such as \
                      0000:01:00.0 or net_tap0",
        });
    }
    let (mut ours, mut args) = (Vec::new(), Vec::new());
    for text in options.into_iter().flat_map(|options| options.split(',')) {
        match text.split_once('=') {
            Some((key, value)) if !OPTIONS.contains(&key) => {
                args.push((key.to_owned(), value.to_owned()));
            }
            _ => ours.push(text),
        }
    }
    let ours = ours.join(",");
    let ours = Some(&ours[..]).filter(|text| !text.is_empty() || options == Some(""));
    let (config, vlan) = configured("dpdk", OPTIONS, ours, set)?;
    Ok((target.to_owned(), DpdkConfig { args, ..config }, vlan))
}

fn set(config: &mut DpdkConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "offload" => config.offload = on_or_off(text)?,
        "mac" => config.mac = Some(mac(text)?),
        "mtu" => config.mtu = Some(value(text, "a number from 0 to 65535")?),
        "eal" => config.eal.extend(text.split_whitespace().map(str::to_owned)),
        "rx-slots" => config.rx_slots = number(text)?,
        _ => config.tx_slots = number(text)?,
    }
    Ok(())
}

pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    config: &DpdkConfig,
    vlan: Option<VlanId>,
) -> fmt::Result {
    let default = DpdkConfig::default();
    write!(f, "dpdk:{name}")?;
    for (key, value) in &config.args {
        given(f, key, Some(value))?;
    }
    option(f, "offload", &switch(config.offload), &switch(default.offload))?;
    given(f, "mac", config.mac.as_ref())?;
    given(f, "mtu", config.mtu.as_ref())?;
    let eal = Some(config.eal.join(" ")).filter(|text| !text.is_empty());
    given(f, "eal", eal.as_ref())?;
    option(f, "rx-slots", &config.rx_slots, &default.rx_slots)?;
    option(f, "tx-slots", &config.tx_slots, &default.tx_slots)?;
    given(f, "vlan", vlan.as_ref())
}

#[cfg(test)]
mod tests {
    use crate::Spec;

    fn parse(text: &str) -> Result<Spec, String> {
        text.parse::<Spec>().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_ours_is_the_drivers() {
        let text = "dpdk:net_af_packet0,iface=eth0,blocksz=65536,offload=off,\
                    eal=--no-huge -m 64,rx-slots=64,vlan=7";
        let Ok(Spec::Dpdk { name, config, vlan }) = parse(text) else { panic!("{text}") };
        assert_eq!(name, "net_af_packet0");
        let args = [("iface", "eth0"), ("blocksz", "65536")];
        assert!(config.args.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(args));
        assert_eq!(config.eal, ["--no-huge", "-m", "64"]);
        assert_eq!((config.offload, config.rx_slots), (false, 64));
        assert!(vlan.is_some());
        assert_eq!(parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn a_pci_address_keeps_its_colons() {
        let Ok(Spec::Dpdk { name, .. }) = parse("dpdk:0000:01:00.0") else { panic!() };
        assert_eq!(name, "0000:01:00.0");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, expected) in [
            ("dpdk:", "dpdk: the PCI address or name of a device is missing"),
            ("dpdk:net_tap0,", "dpdk: '' is not KEY=VALUE"),
            ("dpdk:net_tap0,iface", "dpdk: 'iface' is not KEY=VALUE"),
            ("dpdk:net_tap0,mtu=70000", "dpdk: mtu: '70000' is not a number from 0 to 65535"),
            ("dpdk:net_tap0,offload=1,offload=1", "dpdk: offload is given twice"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}
