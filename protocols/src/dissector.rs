//! Dissectors for Wireshark and tshark, from the declarations of headers.
//!
//! `cargo xtask dissector --out underpass.lua` writes the one for the protocols of this crate. For
//! protocols of your own, print what [`lua`] makes of them:
//!
//! ```
//! use underpass_protocols::dissector::{Dissector, lua};
//! use underpass_protocols::probe::ProbeHeader;
//!
//! let text = lua(&[Dissector::of::<ProbeHeader>()]);
//! assert!(text.contains(r#"ProtoField.uint8("probe.kind""#));
//! ```
//!
//! Then `tshark -X lua_script:underpass.lua -r FILE` names every field.

use std::fmt::{self, Write};

use underpass_devices::{IpSelector, Selector};

use crate::beacon::BeaconHeader;
use crate::courier;
use crate::header::{Field, FieldKind, Header};
use crate::probe::ProbeHeader;

/// What Wireshark is to know of a protocol.
#[derive(Clone, Debug)]
pub struct Dissector {
    title: &'static str,
    selector: Selector,
    first: Part,
    followers: Vec<Follower>,
}

/// A header.
#[derive(Clone, Copy, Debug)]
struct Part {
    name: &'static str,
    fields: &'static [Field],
    len: usize,
}

/// A header behind the first one, and when it is there.
#[derive(Clone, Debug)]
struct Follower {
    part: Part,
    field: Field,
    values: Vec<u64>,
}

impl Dissector {
    /// Of the protocol that begins with this header.
    pub const fn of<H: Header>() -> Self {
        Self {
            title: H::TITLE,
            selector: H::SELECTOR,
            first: Part::of::<H>(),
            followers: Vec::new(),
        }
    }

    /// With another header behind the first one, where this field of the first one, up to four bytes, has one of
    /// these values.
    ///
    /// # Panics
    /// There is no such field.
    #[must_use]
    pub fn followed_by<H: Header>(mut self, field: &str, values: Vec<u64>) -> Self {
        let field = self.first.fields.iter().find(|known| known.name == field);
        let field = *field.expect("a field of the first header");
        self.followers.push(Follower { part: Part::of::<H>(), field, values });
        self
    }
}

impl Part {
    const fn of<H: Header>() -> Self {
        Self { name: H::NAME, fields: H::FIELDS, len: H::LEN }
    }
}

/// Those of the protocols in this crate.
pub fn shipped() -> Vec<Dissector> {
    vec![
        Dissector::of::<BeaconHeader>(),
        courier::wire::dissector(),
        Dissector::of::<ProbeHeader>(),
    ]
}

/// A Lua script for Wireshark (its "Lua API Reference Manual"). A dissector names the fields of its
/// headers; what follows is shown as data.
pub fn lua(dissectors: &[Dissector]) -> String {
    let mut script = String::from("-- Made from the declarations of the headers. Do not edit.\n");
    for dissector in dissectors {
        // Writing to a string does not fail.
        let _ = dissector.write(&mut script);
    }
    script
}

impl Dissector {
    fn write(&self, to: &mut String) -> fmt::Result {
        let Part { name, len, .. } = self.first;
        writeln!(to, "\ndo\n  local proto = Proto({}, {})", quoted(name), quoted(self.title))?;
        writeln!(to, "  local fields = {{")?;
        self.first.declare(to)?;
        for follower in &self.followers {
            follower.part.declare(to)?;
        }
        writeln!(to, "  }}\n  proto.fields = fields")?;
        writeln!(to, "  function proto.dissector(buffer, pinfo, tree)")?;
        writeln!(to, "    if buffer:len() < {len} then return 0 end")?;
        writeln!(to, "    pinfo.cols.protocol = {}", quoted(&name.to_uppercase()))?;
        writeln!(to, "    local header = tree:add(proto, buffer(0, {len}))")?;
        self.first.show(to, 0, 0)?;
        writeln!(to, "    local at = {len}")?;
        let mut declared = self.first.fields.len();
        for Follower { part, field, values } in &self.followers {
            let Field { offset, width, .. } = field;
            let values: Vec<_> = values.iter().map(|value| format!("[{value}] = true")).collect();
            writeln!(to, "    if ({{ {} }})[buffer({offset}, {width}):uint()]", values.join(", "))?;
            writeln!(to, "      and buffer:len() >= {} then", len + part.len)?;
            let range = format!("buffer({len}, {})", part.len);
            writeln!(to, "    header = tree:add(proto, {range}, {})", quoted(part.name))?;
            part.show(to, declared, len)?;
            writeln!(to, "    at = {}\n    end", len + part.len)?;
            declared += part.fields.len();
        }
        writeln!(to, "    if buffer:len() > at then")?;
        writeln!(to, "      Dissector.get(\"data\"):call(buffer(at):tvb(), pinfo, tree)")?;
        writeln!(to, "    end\n    return buffer:len()\n  end")?;
        if let Some((table, number)) = table(&self.selector) {
            writeln!(to, "  DissectorTable.get(\"{table}\"):add({number}, proto)")?;
        }
        writeln!(to, "end")
    }
}

impl Part {
    /// The elements of `fields`.
    fn declare(&self, to: &mut String) -> fmt::Result {
        for field in self.fields {
            let (kind, base) = match (field.kind, field.width) {
                (FieldKind::Checksum, _) => ("uint16", "base.HEX"),
                (FieldKind::Unsigned, 1) => ("uint8", "base.DEC"),
                (FieldKind::Unsigned, 2) => ("uint16", "base.DEC"),
                (FieldKind::Unsigned, 4) => ("uint32", "base.DEC"),
                (FieldKind::Unsigned, 8) => ("uint64", "base.DEC"),
                (FieldKind::Unsigned | FieldKind::Bytes, _) => ("bytes", "base.NONE"),
            };
            let filter = quoted(&format!("{}.{}", self.name, field.name));
            let (label, about) = (quoted(field.name), quoted(field.about));
            let unused = if kind == "bytes" { "" } else { " nil, nil," };
            writeln!(to, "    ProtoField.{kind}({filter}, {label}, {base},{unused} {about}),")?;
        }
        Ok(())
    }

    /// Adds its fields to `header`: elements of `fields` behind `declared` others, `at` bytes from the
    /// front.
    fn show(&self, to: &mut String, declared: usize, at: usize) -> fmt::Result {
        for (n, Field { offset, width, .. }) in self.fields.iter().enumerate() {
            let place = format!("buffer({}, {width})", at + offset);
            writeln!(to, "    header:add(fields[{}], {place})", declared + n + 1)?;
        }
        Ok(())
    }
}

/// The table that leads Wireshark to a protocol. It knows neither VLANs nor addresses there.
fn table(selector: &Selector) -> Option<(&'static str, u16)> {
    match *selector {
        Selector::EtherType(number) | Selector::Tagged(_, number) => Some(("ethertype", number)),
        Selector::Ip(IpSelector { protocol: Some(17), port: Some(port), .. }) => {
            Some(("udp.port", port))
        }
        Selector::Ip(IpSelector { protocol: Some(number), port: None, .. }) => {
            Some(("ip.proto", number.into()))
        }
        _ => None,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
