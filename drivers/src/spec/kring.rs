//! `kring:INTERFACE`

use std::fmt;

use underpass_devices::VlanId;

use super::ParseSpecError;
use super::options::{
    Wanted, configured, ether_type, given, interface, mac, number, on_or_off, option, switch, value,
};
use crate::kring::KringConfig;

const OPTIONS: &[&str] = &[
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

pub(super) fn parse(
    target: &str,
    options: Option<&str>,
) -> Result<(String, KringConfig, Option<VlanId>), ParseSpecError> {
    let name = interface("kring", target)?;
    let (config, vlan) = configured("kring", OPTIONS, options, set)?;
    Ok((name, config, vlan))
}

fn set(config: &mut KringConfig, key: &str, text: &str) -> Result<(), Wanted> {
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

pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    config: &KringConfig,
    vlan: Option<VlanId>,
) -> fmt::Result {
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
