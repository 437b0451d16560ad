// SPDX-License-Identifier: GPL-2.0

//! An example of [`Queue`](super::Queue), and tests of what a channel relies on.
//!
//! `Loopback` is the smallest engine: it copies in software, when it is polled. The addresses that
//! it is given are virtual, as nothing is mapped for a device.

#[kernel::macros::kunit_tests(ferry_queue)]
mod tests {
    use crate::{
        engine::channel::Queue,
        kapi::bus::DeviceId, //
    };
    use core::ptr::NonNull;
    use ferry_bindings as fb;
    use kernel::{
        bindings,
        prelude::*,
        sync::atomic::{
            Atomic,
            Relaxed, //
        },
    };

    /// The number of descriptors that the queue takes.
    const DEPTH: usize = 4;

    /// The length of each copy, in bytes.
    const LEN: usize = 64;

    /// A prepared copy.
    struct Descriptor {
        dst: u64,
        src: u64,
        len: u64,
        end: *const fb::ferry_end,
        issued: bool,
    }

    /// An engine that copies when it is polled.
    #[derive(Default)]
    struct Loopback([Option<Descriptor>; DEPTH]);

    // SAFETY: The pointers of descriptors may be used by any thread: the channel calls the
    // functions of a queue in the context of any mover.
    unsafe impl Send for Loopback {}

    // SAFETY: `copy()` stores a descriptor, or fails. `poll()` takes each issued descriptor out,
    // copies exactly its bytes, and then calls its end once, with `true` as all bytes were copied.
    // `quiesce()` and dropping the queue drop the others, which are neither copied nor reported
    // after that. The queue has no locks.
    unsafe impl Queue for Loopback {
        fn device(&self) -> NonNull<bindings::device> {
            // An engine returns the device for which its memory is mapped.
            NonNull::dangling()
        }

        fn align(&self) -> u64 {
            1
        }

        unsafe fn copy(
            &mut self,
            dst: u64,
            src: u64,
            len: u64,
            _interrupt: bool,
            end: *const fb::ferry_end,
        ) -> Result {
            let free = self.0.iter_mut().find(|d| d.is_none()).ok_or(EAGAIN)?;
            *free = Some(Descriptor {
                dst,
                src,
                len,
                end,
                issued: false,
            });
            Ok(())
        }

        fn issue(&mut self) {
            self.0.iter_mut().flatten().for_each(|d| d.issued = true);
        }

        fn poll(&mut self) {
            for place in &mut self.0 {
                let Some(d) = place.take_if(|d| d.issued) else {
                    continue;
                };
                // SAFETY: By the requirements of `copy()`, which took the descriptor: both sides
                // have `len` bytes, and `end` lives until its function has been called.
                unsafe {
                    core::ptr::copy(d.src as *const u8, d.dst as *mut u8, d.len as usize);
                    if let Some(report) = (*d.end).fn_ {
                        report(d.end, true);
                    }
                }
            }
        }

        fn quiesce(&mut self) -> bool {
            self.0 = Default::default();
            true
        }

        fn is_bound(&self) -> bool {
            true
        }

        fn belongs_to(&self, _device: DeviceId) -> bool {
            false
        }
    }

    /// The owner of a descriptor, in place of a slot of a channel.
    #[repr(C)]
    struct Owner {
        /// The first field, so that a pointer to it is a pointer to the owner.
        end: fb::ferry_end,
        /// The number of reports of success. Accessed by one thread.
        ends: Atomic<u32>,
    }

    impl Owner {
        fn new() -> Self {
            Self {
                end: fb::ferry_end {
                    fn_: Some(ended),
                    given_up: None,
                },
                ends: Atomic::new(0),
            }
        }

        fn end(&self) -> *const fb::ferry_end {
            core::ptr::from_ref(self).cast()
        }
    }

    /// Counts a report of success.
    ///
    /// # Safety
    ///
    /// `end` is the first field of an `Owner` that lives until this returns.
    unsafe extern "C" fn ended(end: *const fb::ferry_end, ok: bool) {
        // SAFETY: By the requirement of this function.
        let owner = unsafe { &*end.cast::<Owner>() };
        owner
            .ends
            .store(owner.ends.load(Relaxed) + u32::from(ok), Relaxed);
    }

    /// Passes a copy of `src` to `dst` to the queue.
    fn prepare(
        queue: &mut Loopback,
        dst: &mut [u8; LEN],
        src: &[u8; LEN],
        owner: &Owner,
    ) -> Result {
        let (dst, src) = (dst.as_mut_ptr() as u64, src.as_ptr() as u64);
        // SAFETY: All three live until the test ends, which drops the queue, or polls it before.
        unsafe { queue.copy(dst, src, LEN as u64, true, owner.end()) }
    }

    #[test]
    fn a_copy_ends_once_after_it_was_issued() -> Result {
        let (mut dst, src, owner) = ([0; LEN], [0x5a; LEN], Owner::new());
        let mut queue = Loopback::default();
        prepare(&mut queue, &mut dst, &src, &owner)?;
        queue.poll();
        assert_eq!(owner.ends.load(Relaxed), 0);
        queue.issue();
        queue.poll();
        assert_eq!(owner.ends.load(Relaxed), 1);
        assert!(dst == src);
        queue.poll();
        assert_eq!(owner.ends.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn a_full_queue_reports_no_end_of_what_it_refuses() -> Result {
        let (mut dst, src, owner, refused) = ([0; LEN], [0x5a; LEN], Owner::new(), Owner::new());
        let mut queue = Loopback::default();
        for _ in 0..DEPTH {
            prepare(&mut queue, &mut dst, &src, &owner)?;
        }
        assert!(prepare(&mut queue, &mut dst, &src, &refused) == Err(EAGAIN));
        queue.issue();
        queue.poll();
        assert_eq!(owner.ends.load(Relaxed), DEPTH as u32);
        assert_eq!(refused.ends.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn a_quiet_queue_copies_and_reports_nothing() -> Result {
        let (mut dst, src, owner) = ([0; LEN], [0x5a; LEN], Owner::new());
        let mut queue = Loopback::default();
        prepare(&mut queue, &mut dst, &src, &owner)?;
        queue.issue();
        assert!(queue.quiesce());
        queue.poll();
        assert_eq!(owner.ends.load(Relaxed), 0);
        assert!(dst == [0; LEN]);
        Ok(())
    }
}
