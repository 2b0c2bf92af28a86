//! What a station says of itself, and its bytes behind the header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::header::BeaconHeader;
use crate::header::{Header, HeaderError};

/// Addresses of one station, at most.
pub const MAX_ADDRESSES: usize = 16;
/// Services of one station, at most.
pub const MAX_SERVICES: usize = 32;

/// What a station says of itself. Nobody checks it: see the module about lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// How many shards share its work.
    pub shards: u16,
    /// Where it is reached: IPv4 before IPv6, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// Numbers of what it offers, at most [`MAX_SERVICES`]: ports, or what applications agree on.
    pub services: Vec<u16>,
}

/// An announcement cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// There are more than [`MAX_ADDRESSES`].
    #[error("more than {MAX_ADDRESSES} addresses")]
    TooManyAddresses,
    /// There are more than [`MAX_SERVICES`].
    #[error("more than {MAX_SERVICES} services")]
    TooManyServices,
    /// No single station can have it.
    #[error("{0} is not the address of a station")]
    NotAStation(IpAddr),
}

/// An announcement as it lies in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists<'a> {
    shards: u16,
    ipv4: &'a [[u8; 4]],
    ipv6: &'a [[u8; 16]],
    services: &'a [U16],
}

impl Announcement {
    /// Puts IPv4 addresses before IPv6 ones, as they are on the wire, if all of it can be sent.
    pub(super) fn checked(mut self) -> Result<Self, AnnounceError> {
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(AnnounceError::TooManyAddresses);
        }
        if self.services.len() > MAX_SERVICES {
            return Err(AnnounceError::TooManyServices);
        }
        match self.addresses.iter().find(|address| !is_of_a_station(address)) {
            Some(strange) => Err(AnnounceError::NotAStation(*strange)),
            None => {
                self.addresses.sort_by_key(IpAddr::is_ipv6);
                Ok(self)
            }
        }
    }

    /// Header and lists, in bytes.
    pub(super) fn len(&self) -> usize {
        let addresses: usize =
            self.addresses.iter().map(|a| if a.is_ipv4() { 4 } else { 16 }).sum();
        BeaconHeader::LEN + addresses + self.services.len() * size_of::<U16>()
    }

    /// Writes a frame of [`len`](Self::len) bytes, whose header gets the numbers of what follows.
    pub(super) fn emit(&self, header: &BeaconHeader, frame: &mut [u8]) -> Result<(), HeaderError> {
        let mut rest = frame.get_mut(BeaconHeader::LEN..).ok_or(HeaderError::TooShort)?;
        let mut put = |bytes: &[u8]| {
            let (place, behind) = std::mem::take(&mut rest)
                .split_at_mut_checked(bytes.len())
                .ok_or(HeaderError::TooShort)?;
            place.copy_from_slice(bytes);
            rest = behind;
            Ok(())
        };
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => put(&address.octets())?,
                IpAddr::V6(address) => put(&address.octets())?,
            }
        }
        for service in &self.services {
            put(U16::new(*service).as_bytes())?;
        }
        let ipv4 = self.addresses.iter().filter(|address| address.is_ipv4()).count();
        let header = BeaconHeader {
            shards: self.shards.into(),
            ipv4: ipv4 as u8,
            ipv6: (self.addresses.len() - ipv4) as u8,
            services: self.services.len() as u8,
            ..*header
        };
        header.emit(frame)
    }
}

impl<'a> Lists<'a> {
    /// Header and announcement of a frame, whatever it is padded with. `None`: it is malformed, or there
    /// is more in it than a station may have, or an address that no station has.
    pub(super) fn parse(frame: &'a [u8]) -> Option<(&'a BeaconHeader, Self)> {
        let (header, rest) = BeaconHeader::ref_from_prefix(frame).ok()?;
        let [ipv4, ipv6, services] = [header.ipv4, header.ipv6, header.services].map(usize::from);
        if ipv4 + ipv6 > MAX_ADDRESSES || services > MAX_SERVICES {
            return None;
        }
        let (ipv4, rest) = <[[u8; 4]]>::ref_from_prefix_with_elems(rest, ipv4).ok()?;
        let (ipv6, rest) = <[[u8; 16]]>::ref_from_prefix_with_elems(rest, ipv6).ok()?;
        let (services, padding) = <[U16]>::ref_from_prefix_with_elems(rest, services).ok()?;
        let (header, _) = BeaconHeader::parse(&frame[..frame.len() - padding.len()]).ok()?;
        let lists = Self { shards: header.shards.get(), ipv4, ipv6, services };
        lists.addresses().all(|address| is_of_a_station(&address)).then_some((header, lists))
    }

    /// It says what `known` says.
    pub(super) fn is(&self, known: &Announcement) -> bool {
        self.shards == known.shards
            && self.addresses().eq(known.addresses.iter().copied())
            && self.services().eq(known.services.iter().copied())
    }

    /// Overwrites `known` in its place.
    pub(super) fn copy_to(&self, known: &mut Announcement) {
        known.shards = self.shards;
        known.addresses.clear();
        known.addresses.extend(self.addresses());
        known.services.clear();
        known.services.extend(self.services());
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.iter().map(|octets| Ipv4Addr::from(*octets).into());
        ipv4.chain(self.ipv6.iter().map(|octets| Ipv6Addr::from(*octets).into()))
    }

    fn services(&self) -> impl Iterator<Item = u16> {
        self.services.iter().map(|service| service.get())
    }
}

/// A single station other than the one who reads it can have this address.
fn is_of_a_station(address: &IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(is_broadcast || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}
