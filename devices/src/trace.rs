//! A device that logs its traffic.

use crate::summary::FrameSummary;
use crate::{Caps, Device, Hook, Hooked, Instant, Medium, Received, TxMeta};

/// A device around a device that emits a [`tracing`] event at level TRACE for every frame: its
/// direction, its offloads and a [`FrameSummary`].
///
/// ```
/// use underpass_devices::{Device, MemoryConfig, MemoryDevice, Trace, TxMeta, TxQueue};
///
/// let (device, _peer) = MemoryDevice::pair(MemoryConfig::default());
/// let mut device = Trace::new(device, "mem0");
/// device.split().1.send(60, TxMeta::default(), |frame| frame.fill(7))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Trace<D> = Hooked<D, TraceHook>;

impl<D: Device> Trace<D> {
    /// The device, called `name` in the events.
    pub fn new(device: D, name: impl Into<String>) -> Self {
        let Caps { medium, .. } = *device.caps();
        Self::around(device, TraceHook { name: name.into(), medium, now: Instant::ZERO })
    }
}

/// The [`Hook`] of [`Trace`].
#[derive(Debug)]
pub struct TraceHook {
    name: String,
    medium: Medium,
    now: Instant,
}

impl Hook for TraceHook {
    fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    fn received(&mut self, frame: &mut Received<'_>) {
        tracing::trace!(
            device = %self.name,
            now = %self.now,
            checksum = ?frame.meta.checksum,
            segment = frame.meta.segmentation.map_or(0, u16::from),
            "rx {}",
            FrameSummary::new(self.medium, frame.bytes)
        );
    }

    fn sent(&mut self, frame: &mut [u8], meta: TxMeta) {
        tracing::trace!(
            device = %self.name,
            now = %self.now,
            checksum = if meta.checksum.is_some() { "Partial" } else { "Complete" },
            segment = meta.segmentation.map_or(0, |cut| u16::from(cut.size)),
            "tx {}",
            FrameSummary::new(self.medium, frame)
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::{MemoryConfig, MemoryDevice, RxQueue, TxQueue};

    /// Keeps the messages of all events.
    #[derive(Clone, Default)]
    struct Messages(Arc<Mutex<Vec<String>>>);

    impl Visit for Messages {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0.lock().unwrap().push(format!("{value:?}"));
            }
        }
    }

    impl Subscriber for Messages {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn both_directions_are_logged() {
        let messages = Messages::default();
        tracing::subscriber::with_default(messages.clone(), || {
            let (device, mut peer) = MemoryDevice::pair(MemoryConfig::default());
            let mut device = Trace::new(device, "mem0");
            let (mut rx, mut tx) = device.split();
            tx.send(60, TxMeta::default(), |frame| frame.fill(2)).unwrap();
            let (_, peer_tx) = peer.split();
            peer_tx.send(61, TxMeta::default(), |frame| frame.fill(2)).unwrap();
            peer_tx.flush(Instant::ZERO).unwrap();
            rx.fill(Instant::ZERO).unwrap();
            rx.next().unwrap();
        });
        let addresses = "02:02:02:02:02:02 > 02:02:02:02:02:02";
        assert_eq!(
            *messages.0.lock().unwrap(),
            [
                format!("tx 60 {addresses} ethertype 0x0202"),
                format!("rx 61 {addresses} ethertype 0x0202"),
            ]
        );
    }
}
