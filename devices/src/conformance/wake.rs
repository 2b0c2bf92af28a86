//! Sleeping, and being woken.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::rig::{PATIENCE, Rig, Stop, fail, now, peer_error};
use super::{Harness, Peer};
use crate::{Device, RxQueue, Wake};

const ROUNDS: usize = 250;

pub(super) fn after_idle<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    let mut descriptor = None;
    let mut sleepless = 0;
    for round in 0..ROUNDS {
        let (fd, readable_idle) = fall_asleep(rig)?;
        if *descriptor.get_or_insert(fd) != fd {
            return fail(format!("round {round}: wake returned another descriptor than before"));
        }
        // Spurious wake-ups are allowed, but a device that always wakes never sleeps.
        sleepless += usize::from(readable_idle);
        let mark = rig.mark();
        let (_, frame) = rig.inbound(60);
        let (device, peer) = rig.harness.parts();
        let wake = device.wake().map_err(|e| wake_error(&e))?;
        send_now(peer, &frame)?;
        if !wakes(&wake)? {
            return fail(format!(
                "round {round}: a frame was sent after wake; expected the descriptor readable \
                 within {PATIENCE:?}"
            ));
        }
        rig.expect_received(&mark)?;
    }
    if sleepless > ROUNDS / 2 {
        return fail(format!(
            "the descriptor was readable with nothing to receive in {sleepless} of {ROUNDS} rounds"
        ));
    }
    Ok(())
}

pub(super) fn race<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    fall_asleep(rig)?;
    for round in 0..ROUNDS {
        rig.receive_burst()?;
        let mark = rig.mark();
        let (_, frame) = rig.inbound(60);
        let (device, peer) = rig.harness.parts();
        send_now(peer, &frame)?;
        if !wakes(&device.wake().map_err(|e| wake_error(&e))?)? {
            return fail(format!(
                "round {round}: a frame was sent between fill and wake; expected Ready, or the \
                 descriptor readable within {PATIENCE:?}"
            ));
        }
        rig.expect_received(&mark)?;
    }
    Ok(())
}

/// The peer sends one frame at a time from its own thread, the next as soon as the last one has
/// been received, at moments that wander over everything the device does meanwhile.
pub(super) fn threads<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(), Stop> {
    fall_asleep(rig)?;
    let frames: Vec<_> = (0..4 * ROUNDS).map(|_| rig.inbound(60).1).collect();
    let first = rig.probes.next() - frames.len();
    let (received, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (device, peer) = rig.harness.parts();
    let probes = &rig.probes;
    let mut lent = (0, 0);
    let result = thread::scope(|scope| {
        let sender = scope.spawn(|| send_one_by_one(peer, &frames, &received, &stop));
        let result = receive_asleep(device, frames.len(), &received, |bytes| {
            lent = (lent.0 + 1, lent.1 + bytes.len() as u64);
            let seq = probes.check(bytes)?;
            Ok(seq.map(|seq| seq - first))
        });
        stop.store(true, Ordering::Release);
        let sent = sender.join().unwrap_or_else(|_| Err("the peer's thread panicked".to_owned()));
        result.and(sent)
    });
    rig.lent_elsewhere(lent.0, lent.1);
    result?;
    rig.audit("frames from another thread")
}

fn send_one_by_one<P: Peer>(
    peer: &mut P,
    frames: &[Vec<u8>],
    received: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<(), String> {
    for (at, frame) in frames.iter().enumerate() {
        while received.load(Ordering::Acquire) < at {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        for _ in 0..at * 61 % 4000 {
            std::hint::spin_loop();
        }
        while !peer.send(frame).map_err(|e| peer_error("send", &e))? {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn receive_asleep<D: Device>(
    device: &mut D,
    count: usize,
    received: &AtomicUsize,
    mut check: impl FnMut(&[u8]) -> Result<Option<usize>, String>,
) -> Result<(), String> {
    let mut next = 0;
    while next < count {
        let (mut rx, _) = device.split();
        rx.fill(now()).map_err(|e| format!("fill: {e}"))?;
        let mut taken = false;
        while let Some(frame) = rx.next() {
            taken = true;
            match check(frame.bytes)? {
                Some(seq) if seq == next => next += 1,
                Some(seq) => return Err(format!("expected frame {next}, received {seq}")),
                None => {}
            }
        }
        rx.release();
        drop(rx);
        received.store(next, Ordering::Release);
        if taken || next == count {
            continue;
        }
        let awake = wakes(&device.wake().map_err(|e| wake_error(&e))?)?;
        if !awake {
            return Err(format!("asleep for {PATIENCE:?} while frame {next} was sent"));
        }
    }
    Ok(())
}

/// Takes everything in until `wake` gives a descriptor. Returns it, and whether it is readable.
fn fall_asleep<H: Harness>(rig: &mut Rig<'_, H>) -> Result<(RawFd, bool), Stop> {
    let deadline = Clock::now() + PATIENCE;
    loop {
        rig.receive_burst()?;
        match rig.device().wake().map_err(|e| wake_error(&e))? {
            Wake::Fd(fd) => return Ok((fd.as_raw_fd(), readable(fd, Duration::ZERO)?)),
            Wake::Spin => {
                return Err(Stop::Skip("the device cannot wake anybody (Wake::Spin)".to_owned()));
            }
            Wake::Ready if Clock::now() > deadline => {
                return fail("wake says Ready all the time, and nothing arrives");
            }
            Wake::Ready => {}
        }
    }
}

fn send_now<P: Peer>(peer: &mut P, frame: &[u8]) -> Result<(), String> {
    let deadline = Clock::now() + PATIENCE;
    while !peer.send(frame).map_err(|e| peer_error("send", &e))? {
        if Clock::now() > deadline {
            return Err("the peer could not send one frame: the link stays full".to_owned());
        }
    }
    Ok(())
}

/// True if a shard that sleeps as told would wake up.
fn wakes(wake: &Wake<'_>) -> Result<bool, String> {
    match wake {
        Wake::Ready => Ok(true),
        Wake::Fd(fd) => readable(*fd, PATIENCE),
        Wake::Spin => Err("wake returned a descriptor before, and now Spin".to_owned()),
    }
}

fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool, String> {
    let timeout = Timespec::try_from(timeout).map_err(|e| format!("timeout: {e}"))?;
    loop {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
    }
}

fn wake_error(e: &io::Error) -> String {
    format!("wake: {e}")
}
