//! Multicast groups of one interface: who is a member, and what routers and switches are told of it
//! (IGMPv3, RFC 3376; MLDv2, RFC 3810; and the versions before them for routers that speak those).
//! Every source is wanted: there are no source filters.

mod apply;
mod message;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use underpass_devices::Instant;

use crate::random::Random;

pub(crate) use self::message::{Query, Report};

/// Groups on one interface.
const MAX_GROUPS: usize = 256;
/// Changes are told twice, for one report may be lost, within this time (RFC 3376 §8.1, §8.11;
/// RFC 3810 §9.1, §9.11).
const REPORTS: u8 = 2;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// An older router counts as present for this long after its query (RFC 3376 §8.12).
const OLD_ROUTER_TIME: Duration = Duration::from_secs(260);

/// See the [module](self).
pub(crate) struct Groups {
    random: Random,
    members: Vec<Membership>,
    /// The first time at which one of them has a report due.
    next: Option<Instant>,
    /// Until when a router of IGMPv2 and of MLDv1 counts as present.
    old_router: [Instant; 2],
    /// The addresses whose groups are joined, as of this [version](crate::network::Network).
    pub(super) seen: u64,
}

struct Membership {
    group: IpAddr,
    /// Sockets, and one more if it is automatic.
    users: usize,
    /// An address of ours needs it.
    automatic: bool,
    /// How often a change is still to be told.
    changes: u8,
    /// When the next report is due.
    next: Option<Instant>,
}

impl Groups {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, members: Vec::new(), next: None, old_router: [Instant::ZERO; 2], seen: 0 }
    }

    /// Packets to this group are taken: it is joined, or that of all stations (RFC 1112 §4,
    /// RFC 4291 §2.8).
    pub(crate) fn is_member(&self, group: IpAddr) -> bool {
        is_everybody(group) || self.is_joined(group)
    }

    /// It was joined.
    pub(crate) fn is_joined(&self, group: IpAddr) -> bool {
        self.members.iter().any(|member| member.group == group && member.users > 0)
    }

    /// The groups that sockets have joined.
    pub(crate) fn joined_by_programs(&self) -> impl Iterator<Item = IpAddr> + Clone + '_ {
        let joined = |member: &&Membership| member.users > usize::from(member.automatic);
        self.members.iter().filter(joined).map(|member| member.group)
    }

    /// One more user of a group. False: there are too many groups.
    pub(crate) fn join(&mut self, now: Instant, group: IpAddr) -> bool {
        if let Some(member) = self.members.iter_mut().find(|member| member.group == group) {
            member.users += 1;
            if member.users == 1 {
                (member.changes, member.next) = (REPORTS, Some(now));
            }
        } else if self.members.len() < MAX_GROUPS {
            let (changes, next) = (REPORTS, Some(now));
            self.members.push(Membership { group, users: 1, automatic: false, changes, next });
        } else {
            return false;
        }
        self.find_next();
        true
    }

    /// One user less.
    pub(crate) fn leave(&mut self, now: Instant, group: IpAddr) {
        if let Some(member) = self.members.iter_mut().find(|m| m.group == group && m.users > 0) {
            member.users -= 1;
            if member.users == 0 {
                (member.changes, member.next) = (REPORTS, Some(now));
            }
        }
        self.find_next();
    }

    /// Joins the groups that addresses of ours need, and leaves those that none needs any more.
    pub(crate) fn follow(&mut self, now: Instant, needed: &[IpAddr]) {
        let gone: Vec<IpAddr> = self
            .members
            .iter_mut()
            .filter(|member| member.automatic && !needed.contains(&member.group))
            .map(|member| {
                member.automatic = false;
                member.group
            })
            .collect();
        for group in gone {
            self.leave(now, group);
        }
        for group in needed {
            let joined = self.members.iter().any(|m| m.group == *group && m.automatic);
            if !joined && self.join(now, *group) {
                for member in self.members.iter_mut().filter(|member| member.group == *group) {
                    member.automatic = true;
                }
            }
        }
    }

    /// A router asks who is there: the answer comes at a random time, so that not all do at once.
    pub(crate) fn on_query(&mut self, now: Instant, query: &Query) {
        if query.is_old {
            self.old_router[version(query.is_ipv4)] = now + OLD_ROUTER_TIME;
        }
        for member in &mut self.members {
            let asked = query
                .group
                .map_or(member.group.is_ipv4() == query.is_ipv4, |group| group == member.group);
            if asked && member.users > 0 {
                let most = (query.max_delay.as_millis() as u64).max(1);
                let at = now + Duration::from_millis(self.random.u64() % most);
                member.next = Some(member.next.map_or(at, |next| next.min(at)));
            }
        }
        self.find_next();
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.next
    }

    /// A report that is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Report> {
        self.next.filter(|at| *at <= now)?;
        let due = |member: &Membership| member.next.is_some_and(|at| at <= now);
        let index = self.members.iter().position(due)?;
        let member = &mut self.members[index];
        let report = Report {
            group: member.group,
            is_member: member.users > 0,
            is_change: member.changes > 0,
            is_old: self.old_router[version(member.group.is_ipv4())] > now,
        };
        member.changes = member.changes.saturating_sub(1);
        // The versions before tell a leave once.
        if member.changes > 0 && (report.is_member || !report.is_old) {
            let wait = self.random.u64() % REPORT_INTERVAL.as_millis() as u64;
            member.next = Some(now + Duration::from_millis(wait + 1));
        } else if report.is_member {
            member.next = None;
        } else {
            self.members.swap_remove(index);
        }
        self.find_next();
        Some(report)
    }

    fn find_next(&mut self) {
        self.next = self.members.iter().filter_map(|member| member.next).min();
    }
}

/// The groups of all stations on a link, and of all on the interface itself: nobody reports them.
fn is_everybody(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group == Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => {
            let all = |scope: u16| Ipv6Addr::new(0xff00 | scope, 0, 0, 0, 0, 0, 0, 1);
            group == all(1) || group == all(2)
        }
    }
}

fn version(is_ipv4: bool) -> usize {
    usize::from(!is_ipv4)
}
