// SPDX-License-Identifier: GPL-2.0

//! System calls and instructions, behind safe functions. The only unsafe code of the benchmark.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;

/// Mappings are aligned to this, so that folios up to it can fill them.
const ALIGN: usize = 2 << 20;

/// `MPOL_*` and `MPOL_MF_*` of `<linux/mempolicy.h>`.
const MPOL_DEFAULT: libc::c_int = 0;
const MPOL_BIND: libc::c_int = 2;
const MPOL_MF_MOVE: libc::c_int = 2;

/// User and system time and page faults of one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user_s: f64,
    pub sys_s: f64,
    pub faults: u64,
}

/// Private anonymous memory, aligned to 2 MiB, seen as words that any thread may read and write.
pub struct Mapping {
    base: *mut libc::c_void,
    mapped: usize,
    start: *const AtomicU64,
    words: usize,
}

// SAFETY: the mapping is plain memory, owned by this object and reached through atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn new(bytes: usize) -> io::Result<Mapping> {
        let mapped = bytes + ALIGN;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
        // that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let offset = (base as usize).next_multiple_of(ALIGN) - base as usize;
        Ok(Mapping {
            base,
            mapped,
            start: base.wrapping_byte_add(offset).cast_const().cast(),
            words: bytes / 8,
        })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is aligned and `words` words from it lie in the mapping, which lives as
        // long as `self`. Fresh anonymous memory is zero, a valid value, and all access is atomic.
        unsafe { std::slice::from_raw_parts(self.start, self.words) }
    }

    pub fn address(&self) -> usize {
        self.start as usize
    }

    /// Tells the kernel that folios larger than a page are welcome here, or not.
    pub fn advise_huge(&self, huge: bool) -> io::Result<()> {
        let advice = if huge {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        // SAFETY: the range is this mapping's own and the advice does not change its content.
        check(unsafe { libc::madvise(self.start.cast_mut().cast(), self.words * 8, advice) }.into())
            .map(drop)
    }

    /// Gives the memory of these words back. They read as zero, and new memory comes when they
    /// are touched next.
    pub fn discard(&self, words: Range<usize>) -> io::Result<()> {
        let range = &self.words()[words];
        let (start, bytes) = (range.as_ptr().cast_mut(), size_of_val(range));
        // SAFETY: the range lies in this mapping, nothing but atomic words lives there, and to
        // readers in other threads this is one more writer, of zeroes.
        check(unsafe { libc::madvise(start.cast(), bytes, libc::MADV_DONTNEED) }.into()).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what `new` mapped; every reference into it has ended with `self`.
        unsafe { libc::munmap(self.base, self.mapped) };
    }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Moves the folios at `pages` (one address each) of this process to `node`. Says how many the
/// kernel gave up on; `status` holds the node or the negative error of each.
pub fn move_pages(pages: &[usize], nodes: &[i32], status: &mut [i32]) -> io::Result<i64> {
    assert!(nodes.len() == pages.len() && status.len() == pages.len());
    // SAFETY: the kernel reads `pages` and `nodes` and writes `status`, each as long as the count
    // says. Moving a page changes neither its address nor, to the process, its content.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    })
}

/// Stores the node of each page, or a negative error, in `status`.
pub fn where_are_pages(pages: &[usize], status: &mut [i32]) -> io::Result<()> {
    assert!(status.len() == pages.len());
    // SAFETY: as above; without nodes the kernel only writes `status`.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    })
    .map(drop)
}

/// Takes new memory of this thread from `node` only, or from any node again.
pub fn allocate_on(node: Option<i32>) -> io::Result<()> {
    let mask = match node {
        None => 0u64,
        Some(node @ 0..=63) => 1 << node,
        Some(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let (mode, nodes) = match node {
        None => (MPOL_DEFAULT, std::ptr::null()),
        Some(_) => (MPOL_BIND, &raw const mask),
    };
    // The kernel takes one off the number of bits.
    let bits = u64::BITS as usize + 1;
    // SAFETY: the kernel reads the 64 bits of `mask`, or nothing at NULL.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes, bits) }).map(drop)
}

/// Binds this thread to one CPU.
pub fn bind_to_cpu(cpu: usize) -> io::Result<()> {
    let mut mask = [0u64; 128];
    if cpu >= mask.len() * 64 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    mask[cpu / 64] |= 1 << (cpu % 64);
    // SAFETY: the kernel reads the mask, whose size is given; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) }.into())
        .map(drop)
}

/// Loads a kernel module with these parameters.
pub fn load_module(file: &File, parameters: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads an open file and a string that ends with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0 as libc::c_int,
        )
    })
    .map(drop)
}

/// Unloads a kernel module.
pub fn unload_module(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads a string that ends with NUL.
    check(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) })
        .map(drop)
}

/// Returns the resource usage of the calling thread.
pub fn thread_usage() -> Usage {
    // SAFETY: `rusage` is plain data, for which zero is valid, and the kernel fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Usage {
        user_s: seconds(usage.ru_utime),
        sys_s: seconds(usage.ru_stime),
        faults: (usage.ru_minflt + usage.ru_majflt) as u64,
    }
}

fn clock_s(clock: libc::clockid_t) -> io::Result<f64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one `timespec`, or nothing if there is no such clock.
    check(unsafe { libc::clock_gettime(clock, &mut time) }.into())?;
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Returns the CPU time of this process so far, of all its threads.
pub fn process_s() -> io::Result<f64> {
    clock_s(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Returns the CPU time of another process or kernel thread so far.
pub fn cpu_s_of(pid: libc::pid_t) -> io::Result<f64> {
    let mut clock = 0;
    // SAFETY: writes one `clockid_t`, or nothing if there is no such process.
    match unsafe { libc::clock_getcpuclockid(pid, &mut clock) } {
        0 => clock_s(clock),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Ticks per second of `/proc/stat`.
pub fn clock_ticks_per_s() -> f64 {
    // SAFETY: reads a constant.
    (unsafe { libc::sysconf(libc::_SC_CLK_TCK) }) as f64
}

/// Returns the time stamp counter. It can be read in nanoseconds, where a clock of the kernel may
/// cost microseconds in an emulator, and it is the same on all CPUs.
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC, and Linux leaves it to user space.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Returns the twelve letters by which a hypervisor names itself, if there is one.
pub fn hypervisor() -> Option<[u8; 12]> {
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 CPU has CPUID; the hypervisor leaf is read only if leaf 1 announces it.
    let leaf = unsafe {
        if std::arch::x86_64::__cpuid(1).ecx & 1 << 31 == 0 {
            return None;
        }
        std::arch::x86_64::__cpuid(0x4000_0000)
    };
    let mut name = [0; 12];
    for (bytes, register) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    Some(name)
}
