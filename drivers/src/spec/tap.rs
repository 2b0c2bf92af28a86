//! `tap:INTERFACE`

use std::fmt;

use underpass_devices::VlanId;

use super::ParseSpecError;
use super::options::{
    Wanted, configured, given, interface, mac, number, on_or_off, option, switch, value,
};
use crate::tap::TapConfig;

const OPTIONS: &[&str] = &["offload", "mac", "mtu", "host", "io", "queues", "slots", "vlan"];

pub(super) fn parse(
    target: &str,
    options: Option<&str>,
) -> Result<(String, TapConfig, Option<VlanId>), ParseSpecError> {
    let name = interface("tap", target)?;
    let (config, vlan) = configured("tap", OPTIONS, options, set)?;
    Ok((name, config, vlan))
}

fn set(config: &mut TapConfig, key: &str, text: &str) -> Result<(), Wanted> {
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

pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    config: &TapConfig,
    vlan: Option<VlanId>,
) -> fmt::Result {
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
