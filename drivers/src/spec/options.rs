//! `KEY=VALUE,KEY=VALUE`, and the values that several kinds of devices have.
#![allow(dead_code, reason = "each kind uses some, and cargo features choose the kinds")]

use std::fmt;
use std::str::FromStr;

use underpass_devices::{MacAddr, VlanId};

use super::ParseSpecError;

/// The options that may be given several times.
const REPEATABLE: &[&str] = &["host", "only", "ether-type", "eal", "peer"];

/// What a value should have been.
pub(super) type Wanted = String;

/// A configuration with its options, and `vlan`, which every kind has.
pub(super) fn configured<C: Default>(
    kind: &'static str,
    known: &'static [&'static str],
    options: Option<&str>,
    set: impl Fn(&mut C, &str, &str) -> Result<(), Wanted>,
) -> Result<(C, Option<VlanId>), ParseSpecError> {
    let (mut config, mut vlan) = (C::default(), None);
    set_each(kind, known, options, |key, text| match key {
        "vlan" => {
            vlan = Some(value(text, "the number of a VLAN, 1 to 4094")?);
            Ok(())
        }
        _ => set(&mut config, key, text),
    })?;
    Ok((config, vlan))
}

/// Splits `KEY=VALUE,KEY=VALUE` and hands each known key to `set`.
pub(super) fn set_each(
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

pub(super) fn interface(kind: &'static str, target: &str) -> Result<String, ParseSpecError> {
    if target.is_empty() {
        return Err(ParseSpecError::Target {
            kind,
            problem: "the name of an interface is missing behind the colon",
        });
    }
    Ok(target.to_owned())
}

pub(super) fn ether_type(text: &str) -> Result<u16, Wanted> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an EtherType such as 0x88b5".to_owned())
}

pub(super) fn on_or_off(text: &str) -> Result<bool, Wanted> {
    match text {
        "on" | "1" => Ok(true),
        "off" | "0" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

pub(super) fn mac(text: &str) -> Result<MacAddr, Wanted> {
    value(text, "a MAC address such as 02:00:00:00:00:01")
}

pub(super) fn number(text: &str) -> Result<usize, Wanted> {
    value(text, "a number")
}

pub(super) fn limited(text: &str, most: usize) -> Result<usize, Wanted> {
    let wanted = || format!("a number from 1 to {most}");
    let number = text.parse().map_err(|_| wanted())?;
    if (1..=most).contains(&number) { Ok(number) } else { Err(wanted()) }
}

pub(super) fn value<T: FromStr>(text: &str, wanted: &str) -> Result<T, Wanted> {
    text.parse().map_err(|_| wanted.to_owned())
}

pub(super) fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Writes an option unless it has its default value.
pub(super) fn option<T: fmt::Display + PartialEq>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    value: &T,
    default: &T,
) -> fmt::Result {
    given(f, key, (value != default).then_some(value))
}

/// Writes an option that has a value.
pub(super) fn given<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    value: Option<&T>,
) -> fmt::Result {
    match value {
        Some(value) => write!(f, ",{key}={value}"),
        None => Ok(()),
    }
}
