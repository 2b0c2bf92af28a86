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
use crate::header::{Field, FieldKind, Header};
use crate::probe::ProbeHeader;

/// What Wireshark is to know of a protocol.
#[derive(Clone, Copy, Debug)]
pub struct Dissector {
    name: &'static str,
    title: &'static str,
    selector: Selector,
    fields: &'static [Field],
    len: usize,
}

impl Dissector {
    /// Of the protocol that begins with this header.
    pub const fn of<H: Header>() -> Self {
        Self {
            name: H::NAME,
            title: H::TITLE,
            selector: H::SELECTOR,
            fields: H::FIELDS,
            len: H::LEN,
        }
    }
}

/// Those of the protocols in this crate.
pub fn shipped() -> Vec<Dissector> {
    vec![Dissector::of::<BeaconHeader>(), Dissector::of::<ProbeHeader>()]
}

/// A Lua script for Wireshark (its "Lua API Reference Manual"). A dissector names the fields of its
/// header; what follows is shown as data.
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
        let Self { name, title, len, .. } = self;
        writeln!(to, "\ndo\n  local proto = Proto({}, {})", quoted(name), quoted(title))?;
        writeln!(to, "  local fields = {{")?;
        for field in self.fields {
            let (kind, base) = match (field.kind, field.width) {
                (FieldKind::Checksum, _) => ("uint16", "base.HEX"),
                (FieldKind::Unsigned, 1) => ("uint8", "base.DEC"),
                (FieldKind::Unsigned, 2) => ("uint16", "base.DEC"),
                (FieldKind::Unsigned, 4) => ("uint32", "base.DEC"),
                (FieldKind::Unsigned, 8) => ("uint64", "base.DEC"),
                (FieldKind::Unsigned | FieldKind::Bytes, _) => ("bytes", "base.NONE"),
            };
            let filter = quoted(&format!("{name}.{}", field.name));
            let (label, about) = (quoted(field.name), quoted(field.about));
            let unused = if kind == "bytes" { "" } else { " nil, nil," };
            writeln!(to, "    ProtoField.{kind}({filter}, {label}, {base},{unused} {about}),")?;
        }
        writeln!(to, "  }}\n  proto.fields = fields")?;
        writeln!(to, "  function proto.dissector(buffer, pinfo, tree)")?;
        writeln!(to, "    if buffer:len() < {len} then return 0 end")?;
        writeln!(to, "    pinfo.cols.protocol = {}", quoted(&name.to_uppercase()))?;
        writeln!(to, "    local header = tree:add(proto, buffer(0, {len}))")?;
        for (n, field) in self.fields.iter().enumerate() {
            let Field { offset, width, .. } = field;
            writeln!(to, "    header:add(fields[{}], buffer({offset}, {width}))", n + 1)?;
        }
        writeln!(to, "    if buffer:len() > {len} then")?;
        writeln!(to, "      Dissector.get(\"data\"):call(buffer({len}):tvb(), pinfo, tree)")?;
        writeln!(to, "    end\n    return buffer:len()\n  end")?;
        if let Some((table, number)) = table(&self.selector) {
            writeln!(to, "  DissectorTable.get(\"{table}\"):add({number}, proto)")?;
        }
        writeln!(to, "end")
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
