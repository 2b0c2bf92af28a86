//! Closing and opening.

use std::time::Instant as Clock;

use super::Harness;
use super::rig::{PATIENCE, Rig, Stop, fail};
use super::traffic::exchange;
use crate::Device;

pub(super) fn close<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let count = rig.slots().min(6);
    for _round in 0..3 {
        rig.inject(count, |at| 60 + at)?;
        let deadline = Clock::now() + PATIENCE;
        while rig.fill()? == 0 {
            if Clock::now() > deadline {
                return fail("none of the frames that were sent arrived");
            }
        }
        rig.next()?;
        for _ in 0..count / 2 {
            rig.must_send(60)?;
        }
        rig.flush()?;
        for _ in 0..count - count / 2 {
            // A device may still hold the flushed ones: full is as good.
            let _ = rig.send(60)?;
        }
        // One frame is lent, some are ready, some are queued, some are with the device.
        rig.reopen()?;
        let buffers = rig.device().buffers();
        if buffers.rx_lent != 0 || buffers.tx_busy != 0 {
            return fail(format!("a device just opened holds buffers: {buffers:?}"));
        }
        rig.settle()?;
        exchange(rig, count, |at| 60 + at)?;
    }
    Ok(())
}
