//! The filter, the counters and the steering of the program on an interface, for the process that
//! attached it and for every other.

use std::collections::HashSet;
use std::fmt;
use std::io;

use aya::maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, MapInfo, PerCpuArray};
use aya::programs::loaded_programs;
use rustix::time::{ClockId, clock_gettime};
use underpass_devices::{
    IpSelector, MacAddr, Rule, RuleError, RuleMatch, RuleReport, Selector, Tally, VerdictCounts,
    VlanId,
};

use super::maps::{
    self, FAMILY_ANY, FAMILY_ETHER_TYPE, RuleEntry, RuleKey, Settings, TARGET_PACKETS, TallyEntry,
    Target, VERDICTS, address_of, has_bit,
};
use super::opening::os_error;
use super::{program, rules};
use crate::netlink::{Netlink, NetlinkError};

/// Why the program on an interface could not be asked, or did not take a rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nothing is attached.
    #[error(
        "{0}: no XDP program is attached; start something on it, such as underpass http-serve \
         --device xdp:{0}"
    )]
    NotAttached(String),
    /// Another program is attached.
    #[error("{interface}: the attached XDP program '{name}' (id {id}) is not one of Underpass")]
    Foreign {
        /// The interface's name.
        interface: String,
        /// Number of the program.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The maps of a program cannot be opened without privilege.
    #[error("{0}: not permitted; it needs CAP_SYS_ADMIN: run as root")]
    NotPermitted(String),
    /// There is no such interface, or it cannot be looked up.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The rule makes no sense, or there are too many.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// There is no rule for exactly this.
    #[error("{interface}: there is no rule for {matches}")]
    NoSuchRule {
        /// The interface's name.
        interface: String,
        /// What it was to match.
        matches: Box<RuleMatch>,
    },
    /// A map could not be read or written.
    #[error("{interface}: {step}: {source}")]
    Io {
        /// The interface's name.
        interface: String,
        /// What was attempted.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// What is attached, and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Number of the program, as `bpftool prog` has it.
    pub id: u32,
    /// The stack's MAC address.
    pub mac: MacAddr,
    /// Every frame goes to the stack.
    pub takes_all: bool,
    /// The VLAN of the stack's frames; `None`: untagged.
    pub vlan: Option<u16>,
    /// What goes to the stack.
    pub selectors: Vec<Selector>,
}

/// The filter and the counters of an Underpass program on an interface.
///
/// ```no_run
/// use underpass_devices::{Action, Rule};
/// use underpass_drivers::xdp::XdpControl;
///
/// let mut control = XdpControl::of_interface("eth1")?;
/// control.insert(Rule { matches: "192.0.2.0/24,udp".parse()?, action: Action::Deny })?;
/// println!("{:?}", control.totals()?.drop);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct XdpControl {
    interface: String,
    id: u32,
    settings: Array<MapData, Settings>,
    targets: BpfHashMap<MapData, Target, u32>,
    rules: LpmTrie<MapData, RuleKey, RuleEntry>,
    rule_kinds: Array<MapData, u32>,
    tallies: PerCpuArray<MapData, TallyEntry>,
}

impl XdpControl {
    /// The program on an interface of the calling thread's network namespace, whoever attached it.
    pub fn of_interface(name: &str) -> Result<Self, ControlError> {
        let link = Netlink::open()?.link(name)?;
        let id = link.xdp_program.ok_or_else(|| ControlError::NotAttached(name.to_owned()))?;
        Self::of_program(id, name)
    }

    pub(super) fn of_program(id: u32, interface: &str) -> Result<Self, ControlError> {
        let failed = |step| {
            move |error: &(dyn std::error::Error + 'static)| control_error(interface, step, error)
        };
        let reading = failed("reading about the XDP program");
        let info = loaded_programs()
            .find(|info| info.as_ref().is_ok_and(|info| info.id() == id))
            .transpose()
            .map_err(|error| reading(&error))?
            // Programs cannot even be listed.
            .ok_or_else(|| ControlError::NotPermitted(interface.to_owned()))?;
        let name = info.name_as_str().unwrap_or_default().to_owned();
        if !program::NAMES.contains(&name.as_str()) {
            return Err(ControlError::Foreign { interface: interface.to_owned(), id, name });
        }
        let ids = info.map_ids().map_err(|error| reading(&error))?.unwrap_or_default();
        let opening = failed("opening the maps of the XDP program");
        let mut maps = Vec::new();
        for id in ids {
            let info = MapInfo::from_id(id).map_err(|error| opening(&error))?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            let data = MapData::from_id(id).map_err(|error| opening(&error))?;
            maps.push((name, Map::from_map_data(data).map_err(|error| opening(&error))?));
        }
        let mut take = |wanted: &str| {
            let at = maps.iter().position(|(name, _)| name == wanted);
            at.map(|at| maps.swap_remove(at).1)
                .ok_or_else(|| opening(&io::Error::other(format!("it has no map {wanted}"))))
        };
        Ok(Self {
            settings: Array::try_from(take(maps::SETTINGS)?).map_err(|e| opening(&e))?,
            targets: BpfHashMap::try_from(take(maps::TARGETS)?).map_err(|e| opening(&e))?,
            rules: LpmTrie::try_from(take(maps::RULES)?).map_err(|e| opening(&e))?,
            rule_kinds: Array::try_from(take(maps::RULE_KINDS)?).map_err(|e| opening(&e))?,
            tallies: PerCpuArray::try_from(take(maps::TALLIES)?).map_err(|e| opening(&e))?,
            interface: interface.to_owned(),
            id,
        })
    }

    /// What the program does apart from its rules.
    pub fn program(&self) -> Result<ProgramInfo, ControlError> {
        let settings = self.settings.get(&0, 0).map_err(|e| self.failed("reading", &e))?;
        let mut selectors = Vec::new();
        for entry in &self.targets {
            let (target, flags) = entry.map_err(|e| self.failed("reading", &e))?;
            if flags & TARGET_PACKETS != 0 {
                selectors.extend(selector(&target));
            }
        }
        Ok(ProgramInfo {
            id: self.id,
            mac: MacAddr(settings.mac),
            takes_all: settings.flags & maps::TAKE_ALL != 0,
            vlan: Some(settings.vlan).filter(|vlan| *vlan != 0),
            selectors,
        })
    }

    /// Adds a rule, or changes the action of the one that matches the same. It works from the next
    /// packet on; a new rate begins with a full burst for every source.
    pub fn insert(&mut self, rule: Rule) -> Result<(), ControlError> {
        let matches = rule.matches.checked()?;
        let key = rules::key(&matches);
        let entries = self.entries()?;
        let same = entries.iter().find(|(known, _)| *known == matches);
        let slot = match same {
            Some((_, entry)) => entry.slot,
            None => {
                let used: HashSet<u32> = entries.iter().map(|(_, entry)| entry.slot).collect();
                let slot = (1..=maps::MAX_RULES).find(|slot| !used.contains(slot));
                let slot = slot.ok_or(RuleError::Full(maps::MAX_RULES as usize))?;
                self.clear(slot)?;
                slot
            }
        };
        let kinds = self.kinds()? | has_bit(key.data().kind);
        self.set_kinds(kinds)?;
        let mut entry = rules::entry(&Rule { matches, ..rule }, slot);
        // Hardly ever the same twice.
        entry.epoch = clock_gettime(ClockId::Monotonic).tv_nsec as u32;
        self.rules.insert(&key, entry, 0).map_err(|e| self.failed("writing a rule", &e))
    }

    /// Takes a rule away, and its counters.
    pub fn remove(&mut self, matches: &RuleMatch) -> Result<(), ControlError> {
        let matches = matches.checked()?;
        if !self.entries()?.iter().any(|(known, _)| *known == matches) {
            return Err(ControlError::NoSuchRule {
                interface: self.interface.clone(),
                matches: Box::new(matches),
            });
        }
        self.rules.remove(&rules::key(&matches)).map_err(|e| self.failed("removing a rule", &e))?;
        let rest = self.entries()?;
        let kinds = rest
            .iter()
            .fold(0, |kinds, (matches, _)| kinds | has_bit(rules::key(matches).data().kind));
        self.set_kinds(kinds)
    }

    /// The rules and what became of the frames that they matched, by source.
    pub fn rules(&self) -> Result<Vec<RuleReport>, ControlError> {
        let mut reports = Vec::new();
        for (matches, entry) in self.entries()? {
            if let Some(rule) = rules::rule(&rules::key(&matches), &entry) {
                reports.push(RuleReport { rule, counts: self.counts(entry.slot)? });
            }
        }
        reports.sort_by_key(|report| report.rule.matches);
        Ok(reports)
    }

    /// What became of the frames that no rule matched.
    pub fn unmatched(&self) -> Result<VerdictCounts, ControlError> {
        self.counts(0)
    }

    /// What became of all frames. Counts of rules that were removed are not in it.
    pub fn totals(&self) -> Result<VerdictCounts, ControlError> {
        let mut totals = self.unmatched()?;
        for (_, entry) in self.entries()? {
            totals += self.counts(entry.slot)?;
        }
        Ok(totals)
    }

    fn entries(&self) -> Result<Vec<(RuleMatch, RuleEntry)>, ControlError> {
        let mut entries = Vec::new();
        for entry in &self.rules {
            let (key, entry) = entry.map_err(|e| self.failed("reading the rules", &e))?;
            entries.extend(rules::rule(&key, &entry).map(|rule| (rule.matches, entry)));
        }
        Ok(entries)
    }

    /// The counters of a slot, over all CPUs.
    fn counts(&self, slot: u32) -> Result<VerdictCounts, ControlError> {
        let tally = |verdict| {
            let index = slot * VERDICTS + verdict;
            let per_cpu =
                self.tallies.get(&index, 0).map_err(|e| self.failed("reading a counter", &e))?;
            Ok::<_, ControlError>(per_cpu.iter().fold(Tally::default(), |mut sum, cpu| {
                sum += Tally { packets: cpu.packets, bytes: cpu.bytes };
                sum
            }))
        };
        Ok(VerdictCounts { pass: tally(0)?, redirect: tally(1)?, drop: tally(2)? })
    }

    fn clear(&mut self, slot: u32) -> Result<(), ControlError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| self.failed("counting the CPUs", &error))?;
        for verdict in 0..VERDICTS {
            let zero = aya::maps::PerCpuValues::try_from(vec![TallyEntry::default(); cpus])
                .map_err(|error| self.failed("clearing a counter", &error))?;
            self.tallies
                .set(slot * VERDICTS + verdict, zero, 0)
                .map_err(|e| self.failed("clearing a counter", &e))?;
        }
        Ok(())
    }

    fn kinds(&self) -> Result<u32, ControlError> {
        self.rule_kinds.get(&0, 0).map_err(|e| self.failed("reading the rules", &e))
    }

    fn set_kinds(&mut self, kinds: u32) -> Result<(), ControlError> {
        self.rule_kinds.set(0, kinds, 0).map_err(|e| self.failed("writing a rule", &e))
    }

    fn failed(
        &self,
        step: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> ControlError {
        control_error(&self.interface, step, error)
    }
}

impl fmt::Debug for XdpControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, id, .. } = self;
        f.debug_struct("XdpControl")
            .field("interface", interface)
            .field("id", id)
            .finish_non_exhaustive()
    }
}

fn control_error(
    interface: &str,
    step: &'static str,
    error: &(dyn std::error::Error + 'static),
) -> ControlError {
    let source = os_error(error).unwrap_or_else(|| io::Error::other(error.to_string()));
    let interface = interface.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ControlError::NotPermitted(interface),
        _ => ControlError::Io { interface, step, source },
    }
}

/// What an entry stands for.
fn selector(target: &Target) -> Option<Selector> {
    let (shape, family) = (target.kind & 0xf0, target.kind & 0x0f);
    let port = u16::from_be_bytes(target.port);
    if family == FAMILY_ETHER_TYPE {
        let [high, low, ..] = target.address;
        let vlan = VlanId::new(u16::from_be_bytes([high, low]));
        return Some(vlan.map_or(Selector::EtherType(port), |vlan| Selector::Tagged(vlan, port)));
    }
    let to = match family {
        FAMILY_ANY => None,
        _ => Some(address_of(target.address, family)?),
    };
    Some(Selector::Ip(match shape {
        0x10 => IpSelector { to, ..IpSelector::default() },
        0x20 => IpSelector { to, protocol: Some(target.protocol), port: None },
        _ => IpSelector { to, protocol: Some(target.protocol), port: Some(port) },
    }))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_refusal_for_lack_of_privilege_says_so() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let error = control_error("eth1", "reading", &refused);
        assert!(matches!(error, ControlError::NotPermitted(_)), "{error}");
        let error = control_error("eth1", "reading", &io::Error::from_raw_os_error(libc::EIO));
        assert!(error.source().is_some() && error.to_string().starts_with("eth1: reading: "));
    }
}
