//! `rdma:DEVICE`

use std::fmt;

use underpass_devices::VlanId;

use super::ParseSpecError;
use super::options::{Wanted, configured, given, number, on_or_off, option, switch, value};
use crate::rdma::RdmaConfig;

const OPTIONS: &[&str] =
    &["port", "gid", "peer", "max-peers", "multicast", "rx-slots", "tx-slots", "vlan"];

pub(super) fn parse(
    target: &str,
    options: Option<&str>,
) -> Result<(String, RdmaConfig, Option<VlanId>), ParseSpecError> {
    if target.is_empty() {
        return Err(ParseSpecError::Target {
            kind: "rdma",
            problem: "the name of an RDMA device, such as rxe0, is missing behind the colon",
        });
    }
    let (config, vlan) = configured("rdma", OPTIONS, options, set)?;
    Ok((target.to_owned(), config, vlan))
}

fn set(config: &mut RdmaConfig, key: &str, text: &str) -> Result<(), Wanted> {
    match key {
        "port" => config.port = value(text, "the number of a port, from 1 on")?,
        "gid" => config.gid = Some(value(text, "the number of a GID, 0 to 255")?),
        "peer" => config
            .peers
            .push(value(text, "a GID and the number of a queue pair, such as ::ffff:10.0.0.1/17")?),
        "max-peers" => config.max_peers = number(text)?,
        "multicast" => config.multicast = on_or_off(text)?,
        "rx-slots" => config.rx_slots = number(text)?,
        _ => config.tx_slots = number(text)?,
    }
    Ok(())
}

pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    config: &RdmaConfig,
    vlan: Option<VlanId>,
) -> fmt::Result {
    let default = RdmaConfig::default();
    write!(f, "rdma:{name}")?;
    option(f, "port", &config.port, &default.port)?;
    given(f, "gid", config.gid.as_ref())?;
    for peer in &config.peers {
        given(f, "peer", Some(peer))?;
    }
    option(f, "max-peers", &config.max_peers, &default.max_peers)?;
    option(f, "multicast", &switch(config.multicast), &switch(default.multicast))?;
    option(f, "rx-slots", &config.rx_slots, &default.rx_slots)?;
    option(f, "tx-slots", &config.tx_slots, &default.tx_slots)?;
    given(f, "vlan", vlan.as_ref())
}

#[cfg(test)]
mod tests {
    use crate::Spec;

    #[test]
    fn a_spec_reads_back_as_it_is_written() {
        for text in [
            "rdma:rxe0",
            "rdma:mlx5_0,port=2,gid=3,vlan=7",
            "rdma:rxe0,peer=::ffff:10.9.0.2/17,peer=fe80::1/18,max-peers=2,multicast=off",
            "rdma:rxe0,rx-slots=64,tx-slots=32",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let refusal = |text: &str| text.parse::<Spec>().unwrap_err().to_string();
        assert_eq!(
            refusal("rdma:rxe0,peer=10.9.0.2"),
            "rdma: peer: '10.9.0.2' is not a GID and the number of a queue pair, such as \
             ::ffff:10.0.0.1/17"
        );
        assert!(refusal("rdma:").contains("the name of an RDMA device, such as rxe0, is missing"));
        assert!(
            refusal("rdma:rxe0,mac=02:00:00:00:00:01").starts_with("rdma: unknown option 'mac'")
        );
    }
}
