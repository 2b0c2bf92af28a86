//! `xdp:INTERFACE`

use std::fmt;

use underpass_devices::VlanId;

use super::ParseSpecError;
use super::options::{
    Wanted, configured, ether_type, given, interface, mac, number, on_or_off, option, switch, value,
};
use crate::xdp::XdpConfig;

const OPTIONS: &[&str] = &[
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

pub(super) fn parse(
    target: &str,
    options: Option<&str>,
) -> Result<(String, XdpConfig, Option<VlanId>), ParseSpecError> {
    let name = interface("xdp", target)?;
    let (config, vlan) = configured("xdp", OPTIONS, options, set)?;
    Ok((name, config, vlan))
}

fn set(config: &mut XdpConfig, key: &str, text: &str) -> Result<(), Wanted> {
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

pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    config: &XdpConfig,
    vlan: Option<VlanId>,
) -> fmt::Result {
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
