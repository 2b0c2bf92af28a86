//! Frames both ways, within the limits and at them.

use std::time::Instant as Clock;

use super::rig::{PATIENCE, Received, Rig, Stop, fail, in_order, peer_error};
use super::{Harness, Peer};
use crate::{Device, PartialChecksum, SendError, TxMeta, TxQueue};

/// Bursts grow up to this size.
const BURST: usize = 64;
/// An overrun or a wrap sends at most this many frames.
const MOST_FRAMES: usize = 32_768;

pub(super) fn bursts<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let most = rig.slots().min(BURST);
    for size in 1..=most {
        exchange(rig, size, |at| 60 + (size * 7 + at) % 64)?;
    }
    Ok(())
}

pub(super) fn ring_wrap<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let buffers = rig.device().buffers();
    let total = (4 * buffers.rx_total.max(buffers.tx_total) + 7).min(MOST_FRAMES);
    let size = (rig.slots() / 2 + 1).min(BURST);
    let span = rig.caps.max_frame() - 60;
    let mut done = 0;
    while done < total {
        exchange(rig, size, |at| 60 + (done + at) * 37 % (span + 1))?;
        done += size;
    }
    Ok(())
}

pub(super) fn tx_full<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let most = 4 * rig.device().buffers().tx_total;
    for _round in 0..3 {
        let mark = rig.mark();
        let mut room = rig.device().split().1.room();
        let mut sent = 0;
        // The frame that is refused is not one the peer waits for, so it is sent apart.
        while room > 0 {
            rig.must_send(64)?;
            sent += 1;
            room = rig.device().split().1.room();
            if sent > most {
                return Err(Stop::Skip(format!(
                    "never full: it took {sent} frames without a flush"
                )));
            }
        }
        let frame = [0; 64];
        match rig.send_bytes(&frame, TxMeta::default())? {
            Err(SendError::Full) => {}
            other => return fail(format!("room() was 0: expected Full, got {other:?}")),
        }
        rig.flush()?;
        rig.expect_sent(&mark)?;
        rig.wait_for_room()?;
    }
    exchange(rig, 1, |_| 64)
}

pub(super) fn rx_overrun<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let slots = rig.device().buffers().rx_total;
    let most = (2 * slots + 64).min(MOST_FRAMES);
    let first = rig.probes.next();
    let lost_before = rig.rx_lost();
    let mut sent = 0;
    while sent < most {
        let (_, frame) = rig.inbound(60 + sent % 64);
        if !rig.peer().send(&frame).map_err(|e| peer_error("send", &e))? {
            break;
        }
        sent += 1;
    }
    let got = rig.receive_all()?;
    in_order("the device", &got)?;
    if got.iter().any(|seq| !(first..first + sent).contains(seq)) {
        return fail("received a frame that the peer did not send");
    }
    if got.is_empty() {
        return fail(format!("the peer sent {sent} frames to {slots} slots, none arrived"));
    }
    let lost = (sent - got.len()) as u64;
    let counted = rig.rx_lost() - lost_before;
    if lost > counted {
        rig.note(format!("of {sent} frames to {slots} slots {lost} were lost, {counted} counted"));
    }
    exchange(rig, slots.min(8), |_| 60)?;
    exchange(rig, slots.min(8), |_| 60)
}

pub(super) fn lengths<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let longest = rig.caps.max_frame();
    let near_longest = longest.saturating_sub(4).max(14)..=longest;
    let count = rig.slots().min(2);
    let lens: Vec<usize> = (14..=64.min(longest)).chain(near_longest).collect();
    for len in lens {
        exchange(rig, count, |_| len)
            .map_err(|stop| with_context(stop, &format!("with frames of {len} bytes")))?;
    }
    Ok(())
}

pub(super) fn oversize<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let longest = rig.caps.max_frame();
    let plain = TxMeta::default();
    let checksum = Some(PartialChecksum { start: 34, offset: 16 });
    let mut refused = vec![(longest + 1, plain), (4 * longest, plain), (1 << 20, plain)];
    if !rig.caps.tx_checksum {
        refused.push((100, TxMeta { checksum, segmentation: None }));
    }
    for (len, meta) in refused {
        match rig.send_bytes(&vec![0; len], meta)? {
            Err(SendError::Unsupported) => {}
            other => {
                return fail(format!(
                    "a frame of {len} bytes with {meta:?} on a device that takes {longest} bytes \
                     and has {:?}: expected Unsupported, got {other:?}",
                    rig.caps
                ));
            }
        }
    }
    exchange(rig, 1, |_| longest)
}

pub(super) fn release<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let count = rig.device().buffers().rx_total.min(8);
    let taken = (count / 2).min(3);
    for _round in 0..20 {
        let mark = rig.mark();
        rig.inject(count, |at| 60 + at)?;
        let deadline = Clock::now() + PATIENCE;
        while rig.fill()? < count {
            if Clock::now() > deadline {
                return fail(format!("fill did not gather the {count} frames that were sent"));
            }
        }
        let mut wanted = mark.first;
        while wanted < mark.first + taken {
            match rig.next()? {
                Some(Received::Probe(seq)) if seq == wanted => wanted += 1,
                Some(Received::Other) => {}
                other => return fail(format!("expected frame {wanted}, got {other:?}")),
            }
        }
        let ready = rig.device().buffers().rx_ready;
        rig.release()?;
        if rig.device().buffers().rx_ready < ready {
            return fail("release gave back frames that were not lent yet");
        }
        rig.expect_received(&mark.skip(taken))?;
    }
    Ok(())
}

/// `count` frames each way, with lengths `len(0)`, `len(1)`, …
pub(super) fn exchange<H: Harness>(
    rig: &mut Rig<'_, H>,
    count: usize,
    len: impl Fn(usize) -> usize,
) -> Result<(), Stop> {
    let mark = rig.mark();
    rig.inject(count, &len)?;
    rig.expect_received(&mark)?;
    let mark = rig.mark();
    for at in 0..count {
        rig.must_send(len(at))?;
    }
    rig.flush()?;
    rig.expect_sent(&mark)
}

fn with_context(stop: Stop, context: &str) -> Stop {
    match stop {
        Stop::Fail(message) => Stop::Fail(format!("{context}: {message}")),
        skip @ Stop::Skip(_) => skip,
    }
}
