//! `packet:INTERFACE`

use std::fmt;

use underpass_devices::VlanId;

use super::ParseSpecError;
use super::options::{
    Wanted, configured, given, interface, mac, number, on_or_off, option, switch, value,
};
use crate::packet::PacketConfig;

const OPTIONS: &[&str] =
    &["offload", "mac", "qdisc-bypass", "fanout", "rx-slots", "tx-slots", "vlan"];

pub(super) fn parse(
    target: &str,
    options: Option<&str>,
) -> Result<(String, PacketConfig, Option<VlanId>), ParseSpecError> {
    let name = interface("packet", target)?;
    let (config, vlan) = configured("packet", OPTIONS, options, set)?;
    Ok((name, config, vlan))
}

fn set(config: &mut PacketConfig, key: &str, text: &str) -> Result<(), Wanted> {
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

pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    config: &PacketConfig,
    vlan: Option<VlanId>,
) -> fmt::Result {
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
