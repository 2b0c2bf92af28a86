//! The steps of opening a device, and what is said when one fails.

use std::io;
use std::sync::Arc;

use underpass_devices::{Caps, MacAddr};

use super::KringConfig;
use super::area::Area;
use super::control::Control;
use super::uapi::{self, Setup};
use crate::netlink::Link;
use crate::open::OpenError;

/// The interface being opened, for error messages.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) name: &'a str,
}

const VLAN_TAG: usize = 4;

impl Opening<'_> {
    pub(super) fn check(&self, config: &KringConfig) -> Result<(), OpenError> {
        let slots = uapi::MIN_SLOTS as usize..=uapi::MAX_SLOTS as usize;
        for count in [config.rx_slots, config.tx_slots] {
            if !count.is_power_of_two() || !slots.contains(&count) {
                let (least, most) = (slots.start(), slots.end());
                return Err(
                    self.unsuitable(&format!("slots are a power of two from {least} to {most}"))
                );
            }
        }
        if let Some(mac) = config.mac.filter(|mac| !mac.is_unicast()) {
            return Err(self.unsuitable(&format!("{mac} is not the address of one station")));
        }
        if config.tx_poll_us > uapi::MAX_POLL_US {
            let most = uapi::MAX_POLL_US;
            return Err(self.unsuitable(&format!("tx-poll is at most {most} microseconds")));
        }
        Ok(())
    }

    pub(super) fn mac(&self, link: &Link, config: &KringConfig) -> Result<MacAddr, OpenError> {
        config
            .mac
            .or_else(|| link.mac.filter(|mac| mac.is_unicast()))
            .ok_or_else(|| self.unsuitable("the interface has no MAC address; give one with mac="))
    }

    /// Has the module make rings and frames, and maps them.
    pub(super) fn area(
        &self,
        control: &Control,
        caps: &Caps,
        config: &KringConfig,
    ) -> Result<Arc<Area>, OpenError> {
        let longest = (caps.max_frame() + VLAN_TAG).max(caps.max_tx_frame());
        let frame_len = (longest.max(uapi::MIN_FRAME as usize)).next_power_of_two();
        if frame_len > uapi::MAX_FRAME as usize {
            return Err(self.unsuitable("its MTU is too large: a frame has 64 KiB at most"));
        }
        let mut setup = Setup {
            abi: uapi::ABI,
            rx_slots: config.rx_slots as u32,
            tx_slots: config.tx_slots as u32,
            frame_len: frame_len as u32,
            ..Setup::default()
        };
        control.set_up(&mut setup).map_err(|source| match source.raw_os_error() {
            Some(libc::EPROTO) => self.unsuitable(&format!(
                "the kernel module speaks version {} of the interface and this program {}; build \
                 and load the one that belongs to it (kmod/README.md)",
                setup.abi,
                uapi::ABI
            )),
            Some(libc::E2BIG) => {
                let bytes = (config.rx_slots + config.tx_slots) * frame_len;
                self.unsuitable(&format!(
                    "its frames would take {} MiB of kernel memory, and {} are allowed; lower \
                     rx-slots or tx-slots, or take offload=off",
                    bytes >> 20,
                    uapi::MAX_BYTES >> 20
                ))
            }
            _ => self.failed("making the rings", source),
        })?;
        let area = Area::map(control, &setup)
            .map_err(|source| self.failed("mapping the rings", source))?;
        Ok(Arc::new(area))
    }

    pub(super) fn no_module(&self, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                OpenError::KernelLacks { device: self.device(), feature: MODULE }
            }
            Some(libc::EPERM | libc::EACCES) => self.not_permitted(),
            _ => self.failed("opening /dev/underpass_ring", source),
        }
    }

    pub(super) fn no_filter(&self, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => self.not_permitted(),
            _ => self.failed("setting the receive filter", source),
        }
    }

    pub(super) fn not_attached(&self, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EBUSY) => OpenError::Busy {
                device: self.device(),
                hint: "; a ring, a bridge, a bond or a macvlan has the interface: ip -d link show \
                       tells which",
            },
            Some(libc::EOPNOTSUPP) => self.unsuitable("it is not an Ethernet interface"),
            _ => self.failed("attaching to the interface", source),
        }
    }

    fn not_permitted(&self) -> OpenError {
        OpenError::NotPermitted {
            device: self.device(),
            needs: "CAP_NET_ADMIN and CAP_NET_RAW: run as root, or grant them to the program with \
                    setcap cap_net_admin,cap_net_raw+ep PROGRAM"
                .to_owned(),
        }
    }

    pub(super) fn unsuitable(&self, reason: &str) -> OpenError {
        OpenError::Unsuitable { device: self.device(), reason: reason.to_owned() }
    }

    pub(super) fn failed(&self, step: &'static str, source: io::Error) -> OpenError {
        OpenError::Io { device: self.device(), step, source }
    }

    pub(super) fn device(&self) -> String {
        format!("kring:{}", self.name)
    }
}

/// What is missing where there is no device file.
const MODULE: &str = "our module underpass_ring; build it with make -C kmod and load it with insmod \
                      kmod/underpass_ring.ko (kmod/README.md)";
