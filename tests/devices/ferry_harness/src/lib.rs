// SPDX-License-Identifier: GPL-2.0

//! A guest for tests of whole devices in one process: a vfio-user client with memory and
//! interrupts, on a real socket. For tests only: what must not fail panics.

#![forbid(unsafe_code)]

use ferry_vfio::control;
use ferry_vfio::memory::{Dma, GuestMemory};
use ferry_vfio::server::{Function, Socket};
use serde_json::Value;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX,
};
use vfio_user::Client;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::tempdir::TempDir;
use vmm_sys_util::tempfile::TempFile;

/// The address of the first byte of the guest's memory.
pub const BASE: u64 = 0x1_0000_0000;
/// The bytes of the guest's memory.
pub const SIZE: u64 = 16 << 20;
/// File descriptors in one message.
const FDS: usize = 8;
/// After this long a test that waits has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Guest {
    client: Option<Client>,
    function: Arc<Function>,
    path: PathBuf,
    file: File,
    memory: GuestMemory,
    events: Vec<EventFd>,
    vectors: (u16, u16),
    _dir: TempDir,
}

impl Guest {
    /// Serves `function`, with `vectors` of MSI and MSI-X, and connects to it.
    pub fn new(function: Function, vectors: (u16, u16)) -> Guest {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("device");
        let function = Arc::new(function);
        let socket = Socket::bind(&path, Arc::clone(&function)).unwrap();
        thread::spawn(move || socket.serve().unwrap());
        let file = TempFile::new().unwrap().into_file();
        file.set_len(SIZE).unwrap();
        let memory = GuestMemory::default();
        memory.set_bus_master(true);
        let own = file.try_clone().unwrap();
        memory.add(BASE, SIZE, Some(own), 0, true, true).unwrap();
        let mut guest = Guest {
            client: None,
            function,
            path,
            file,
            memory,
            events: Vec::new(),
            vectors,
            _dir: dir,
        };
        guest.connect();
        guest
    }

    /// Connects, maps the memory, takes the interrupts and enables bus mastering.
    pub fn connect(&mut self) {
        self.client = Some(Client::new(&self.path).unwrap());
        self.map();
        let (msi, msix) = self.vectors;
        let (index, count) = match msix {
            0 => (VFIO_PCI_MSI_IRQ_INDEX, msi),
            _ => (VFIO_PCI_MSIX_IRQ_INDEX, msix),
        };
        self.events = (0..count)
            .map(|_| EventFd::new(EFD_NONBLOCK).unwrap())
            .collect();
        let fds: Vec<RawFd> = self.events.iter().map(AsRawFd::as_raw_fd).collect();
        let flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
        // A message has no more descriptors than the server takes, as with QEMU.
        for (start, fds) in (0u32..).step_by(FDS).zip(fds.chunks(FDS)) {
            let count = fds.len() as u32;
            let client = self.client();
            client.set_irqs(index, flags, start, count, fds).unwrap();
        }
        self.bus_master(true);
    }

    /// Leaves.
    pub fn disconnect(&mut self) {
        if let Some(client) = self.client.take() {
            client.shutdown().unwrap();
        }
    }

    /// Returns the transport.
    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("connected")
    }

    /// Maps the memory for the device.
    pub fn map(&mut self) {
        let fd = self.file.as_raw_fd();
        self.client().dma_map(0, BASE, SIZE, fd).unwrap();
    }

    /// Takes it away.
    pub fn unmap(&mut self) {
        self.client().dma_unmap(BASE, SIZE).unwrap();
    }

    /// Turns memory accesses on, and bus mastering on or off, in the command register.
    pub fn bus_master(&mut self, on: bool) {
        let command = if on { [0x06, 0x04] } else { [0x02, 0x04] };
        self.write_config(4, &command);
    }

    /// Reads configuration space.
    pub fn read_config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        let region = VFIO_PCI_CONFIG_REGION_INDEX;
        self.client()
            .region_read(region, offset, &mut data)
            .unwrap();
        data
    }

    /// Writes configuration space.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        let region = VFIO_PCI_CONFIG_REGION_INDEX;
        self.client().region_write(region, offset, data).unwrap();
    }

    /// Returns the offset of a capability; `None` if the function does not have it.
    pub fn capability(&mut self, id: u8) -> Option<u64> {
        let [mut at] = self.read_config(0x34);
        while at != 0 {
            let [this, next] = self.read_config(at.into());
            if this == id {
                return Some(at.into());
            }
            at = next;
        }
        None
    }

    /// Reads a register.
    pub fn read32(&mut self, bar: u8, offset: u64) -> u32 {
        let mut data = [0; 4];
        let client = self.client();
        client.region_read(bar.into(), offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write32(&mut self, bar: u8, offset: u64, value: u32) {
        let client = self.client();
        client
            .region_write(bar.into(), offset, &value.to_le_bytes())
            .unwrap();
    }

    /// Reads a register.
    pub fn read64(&mut self, bar: u8, offset: u64) -> u64 {
        let mut data = [0; 8];
        let client = self.client();
        client.region_read(bar.into(), offset, &mut data).unwrap();
        u64::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write64(&mut self, bar: u8, offset: u64, value: u64) {
        let client = self.client();
        client
            .region_write(bar.into(), offset, &value.to_le_bytes())
            .unwrap();
    }

    /// Resets the function by a function level reset.
    pub fn flr(&mut self) {
        let express = self.capability(0x10).expect("PCI Express");
        self.write_config(express + 8, &[0, 0x80]);
    }

    /// Reads memory, by offset from [`BASE`].
    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read(BASE + offset, &mut data).unwrap();
        data
    }

    /// Writes memory, by offset from [`BASE`].
    pub fn put(&self, offset: u64, data: &[u8]) {
        self.memory.write(BASE + offset, data).unwrap();
    }

    /// Returns a 64-bit word of memory, in one piece, by offset from [`BASE`].
    pub fn get64(&self, offset: u64) -> u64 {
        self.memory.load64(BASE + offset).unwrap()
    }

    /// Writes a 64-bit word of memory, in one piece, by offset from [`BASE`].
    pub fn put64(&self, offset: u64, value: u64) {
        self.memory.store64(BASE + offset, value).unwrap();
    }

    /// Returns the number of interrupts since the last call.
    pub fn interrupts(&self, vector: usize) -> u64 {
        self.events[vector].read().unwrap_or(0)
    }

    /// Waits for an interrupt. Returns how many came.
    pub fn await_interrupt(&self, vector: usize) -> u64 {
        let mut seen = 0;
        wait_for("an interrupt", || {
            seen = self.interrupts(vector);
            seen > 0
        });
        seen
    }

    /// Sends a request to control, which must be granted. Returns the answer.
    pub fn control(&self, request: &str) -> Value {
        let (answer, _) = control::answer(&self.function, request);
        assert_eq!(answer["ok"], true, "{request}: {answer}");
        answer
    }

    /// Sends a request to control, which must be refused. Returns the reason.
    pub fn refused(&self, request: &str) -> String {
        let (answer, _) = control::answer(&self.function, request);
        assert_eq!(answer["ok"], false, "{request}: {answer}");
        answer["error"].as_str().expect("a reason").to_owned()
    }

    /// Waits until the given number of faults has struck.
    pub fn await_faults(&self, count: u64) {
        wait_for("the fault", || {
            self.control(r#"{"cmd":"stats"}"#)["faults_fired"] == count
        });
    }

    /// Returns a counter of a channel.
    pub fn counter(&self, channel: usize, name: &str) -> u64 {
        let stats = self.control(r#"{"cmd":"stats"}"#);
        stats["channels"][channel][name]
            .as_u64()
            .expect("a counter")
    }
}

/// Waits until `ready`, and fails the test if that never happens.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that differ by place and seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
