// SPDX-License-Identifier: GPL-2.0

//! Interrupts: the client's eventfds, which any thread may signal.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
};

/// Outcome of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The client has it.
    Yes,
    /// No eventfd is set for this vector, or the function may not send.
    Dropped,
}

#[derive(Default)]
struct Vector {
    event: Option<File>,
    masked: bool,
    pending: bool,
}

#[derive(Default)]
struct Inner {
    msi: Vec<Vector>,
    msix: Vec<Vector>,
}

/// See the module.
pub struct Interrupts {
    inner: Mutex<Inner>,
    master: AtomicBool,
}

fn vectors(count: u16) -> Vec<Vector> {
    (0..count).map(|_| Vector::default()).collect()
}

fn signal(event: &File) -> Sent {
    match (&*event).write_all(&1u64.to_ne_bytes()) {
        Ok(()) => Sent::Yes,
        Err(error) => {
            log::warn!("interrupt: {error}");
            Sent::Dropped
        }
    }
}

impl Interrupts {
    /// Creates the interrupts of a function with the given numbers of MSI and MSI-X vectors.
    pub fn new((msi, msix): (u16, u16)) -> Interrupts {
        let inner = Inner {
            msi: vectors(msi),
            msix: vectors(msix),
        };
        Interrupts {
            inner: Mutex::new(inner),
            master: AtomicBool::new(false),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns bus mastering on or off: a message is a write, so without bus mastering there is none.
    pub fn set_bus_master(&self, on: bool) {
        self.master.store(on, Ordering::SeqCst);
    }

    /// Sends a vector: by MSI-X if the client has set up any of it, else by MSI, where vectors
    /// wrap at the number that is there.
    pub fn send(&self, vector: u16) -> Sent {
        if !self.master.load(Ordering::SeqCst) {
            return Sent::Dropped;
        }
        let mut inner = self.inner();
        let Inner { msi, msix } = &mut *inner;
        let vector = if msix.iter().any(|v| v.event.is_some()) {
            msix.get_mut(usize::from(vector))
        } else {
            let ready = msi.iter().take_while(|v| v.event.is_some()).count();
            usize::from(vector)
                .checked_rem(ready)
                .and_then(|v| msi.get_mut(v))
        };
        match vector {
            Some(vector) if vector.masked && vector.event.is_some() => {
                vector.pending = true;
                Sent::Yes
            }
            Some(Vector {
                event: Some(event), ..
            }) => signal(event),
            _ => Sent::Dropped,
        }
    }

    /// Carries out the client's request, as in `VFIO_DEVICE_SET_IRQS`.
    pub fn set(
        &self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        mut fds: Vec<File>,
    ) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let mut inner = self.inner();
        let vectors = match index {
            VFIO_PCI_MSI_IRQ_INDEX => &mut inner.msi,
            VFIO_PCI_MSIX_IRQ_INDEX => &mut inner.msix,
            // The others have no vectors: there is nothing to disable.
            _ if count == 0 => return Ok(()),
            _ => return Err(invalid()),
        };
        let data = flags & (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_EVENTFD);
        let action = flags & !data;
        if (action, data, count) == (VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_NONE, 0) {
            vectors.iter_mut().for_each(|v| *v = Vector::default());
            return Ok(());
        }
        let (start, count) = (start as usize, count as usize);
        let end = start.checked_add(count).ok_or_else(invalid)?;
        let range = vectors.get_mut(start..end).ok_or_else(invalid)?;
        match (action, data) {
            (VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD) if fds.is_empty() => {
                range.iter_mut().for_each(|v| v.event = None);
            }
            (VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD) if fds.len() == count => {
                for (vector, event) in range.iter_mut().zip(fds.drain(..)) {
                    vector.event = Some(event);
                }
            }
            (VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_NONE) => {
                for event in range.iter().filter_map(|v| v.event.as_ref()) {
                    signal(event);
                }
            }
            (VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_DATA_NONE) => {
                range.iter_mut().for_each(|v| v.masked = true);
            }
            (VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_NONE) => {
                for vector in range {
                    vector.masked = false;
                    if std::mem::take(&mut vector.pending) {
                        vector.event.as_ref().map(signal);
                    }
                }
            }
            _ => return Err(invalid()),
        }
        Ok(())
    }

    /// Forgets the client.
    pub fn clear(&self) {
        let mut inner = self.inner();
        let Inner { msi, msix } = &mut *inner;
        for vector in msi.iter_mut().chain(msix) {
            *vector = Vector::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd, IntoRawFd};
    use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

    const SET: u32 = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
    const OFF: u32 = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_NONE;

    #[allow(unsafe_code)]
    fn event() -> (EventFd, File) {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let other = event.try_clone().unwrap().into_raw_fd();
        // SAFETY: into_raw_fd() gave the descriptor away, so that this is its only owner.
        (event, unsafe { File::from_raw_fd(other) })
    }

    fn interrupts() -> Interrupts {
        let interrupts = Interrupts::new((2, 4));
        interrupts.set_bus_master(true);
        interrupts
    }

    #[test]
    fn msix_goes_before_msi() {
        let irq = interrupts();
        assert_eq!(irq.send(0), Sent::Dropped);
        let (msi, fd) = event();
        irq.set(VFIO_PCI_MSI_IRQ_INDEX, SET, 0, 1, vec![fd])
            .unwrap();
        assert_eq!(irq.send(3), Sent::Yes, "one vector for all");
        assert_eq!(msi.read().unwrap(), 1);
        let (msix, fd) = event();
        irq.set(VFIO_PCI_MSIX_IRQ_INDEX, SET, 2, 1, vec![fd])
            .unwrap();
        assert_eq!(irq.send(2), Sent::Yes);
        assert_eq!(msix.read().unwrap(), 1);
        assert!(msi.read().is_err());
        assert_eq!(irq.send(1), Sent::Dropped, "no event is set");
        assert_eq!(irq.send(4), Sent::Dropped, "no such vector");
        irq.set(VFIO_PCI_MSIX_IRQ_INDEX, OFF, 0, 0, vec![]).unwrap();
        assert_eq!(irq.send(2), Sent::Yes);
        assert!(msix.read().is_err());
    }

    #[test]
    fn masked_is_pending() {
        let irq = interrupts();
        let (seen, fd) = event();
        irq.set(VFIO_PCI_MSIX_IRQ_INDEX, SET, 0, 1, vec![fd])
            .unwrap();
        let mask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK;
        irq.set(VFIO_PCI_MSIX_IRQ_INDEX, mask, 0, 1, vec![])
            .unwrap();
        irq.send(0);
        irq.send(0);
        assert!(seen.read().is_err());
        let unmask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
        irq.set(VFIO_PCI_MSIX_IRQ_INDEX, unmask, 0, 1, vec![])
            .unwrap();
        assert_eq!(seen.read().unwrap(), 1);
    }

    #[test]
    fn no_bus_master_no_message() {
        let irq = interrupts();
        let (seen, fd) = event();
        irq.set(VFIO_PCI_MSIX_IRQ_INDEX, SET, 0, 1, vec![fd])
            .unwrap();
        irq.set_bus_master(false);
        assert_eq!(irq.send(0), Sent::Dropped);
        irq.set_bus_master(true);
        irq.clear();
        assert_eq!(irq.send(0), Sent::Dropped);
        assert!(seen.read().is_err());
    }

    #[test]
    fn bad_requests_are_refused() {
        let irq = interrupts();
        let (_seen, fd) = event();
        for (index, flags, start, count, fds) in [
            (VFIO_PCI_MSIX_IRQ_INDEX, SET, 4, 1, vec![fd]),
            (VFIO_PCI_MSIX_IRQ_INDEX, SET, u32::MAX, u32::MAX, vec![]),
            (VFIO_PCI_MSIX_IRQ_INDEX, SET, 0, 2, vec![event().1]),
            (VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, 1, vec![]),
            (VFIO_PCI_MSIX_IRQ_INDEX, u32::MAX, 0, 1, vec![]),
            (0, SET, 0, 1, vec![event().1]),
            (99, SET, 0, 1, vec![]),
        ] {
            assert!(irq.set(index, flags, start, count, fds).is_err());
        }
        irq.set(0, OFF, 0, 0, vec![]).unwrap();
    }
}
