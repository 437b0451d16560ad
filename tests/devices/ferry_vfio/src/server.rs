// SPDX-License-Identifier: GPL-2.0

//! A function on a socket, one client after the other.

use crate::config::ConfigSpace;
use crate::fault::Kind;
use crate::host::{Device, Host};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_bindings::bindings::vfio::{
    vfio_region_info, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

/// A PCI function: a device behind a configuration space.
pub struct Function {
    host: Arc<Host>,
    device: Box<dyn Device>,
    config: Mutex<ConfigSpace>,
}

impl Function {
    /// Creates a function. `host` is the host that the device was made with.
    pub fn new(config: ConfigSpace, device: Box<dyn Device>, host: Arc<Host>) -> Function {
        Function {
            host,
            device,
            config: Mutex::new(config),
        }
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Returns the device.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// Resets the function: configuration space, registers and channels.
    pub fn reset(&self) {
        self.host.count_reset();
        self.device.reset();
        self.reset_config();
    }

    fn reset_config(&self) {
        self.config().reset();
        self.host.set_bus_master(false);
    }

    /// Carries out a function level reset.
    fn flr(&self) {
        let lost = |fault: &Kind| matches!(fault, Kind::LostFlr {});
        match self.host.strike(0, lost).is_empty() {
            true => self.reset(),
            false => self.reset_config(),
        }
    }

    /// Removes the function by surprise. Nothing of the device is in flight on return.
    pub fn remove(&self) {
        self.host.set_gone(true);
        self.device.reset();
    }

    /// Restores the function in its state after power-on.
    pub fn restore(&self) {
        self.reset();
        self.host.set_gone(false);
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) {
        match u8::try_from(region) {
            _ if self.host.gone() => data.fill(0xff),
            _ if region == VFIO_PCI_CONFIG_REGION_INDEX => self.config().read(offset, data),
            // The answer is that of a bus where no device answers: QEMU does not see that a reset
            // has taken the bit away.
            Ok(0..=5) if !self.config().memory() => data.fill(0xff),
            Ok(bar @ 0..=5) => self.device.read(bar, offset, data),
            _ => data.fill(0xff),
        }
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) {
        match u8::try_from(region) {
            _ if self.host.gone() => {}
            _ if region == VFIO_PCI_CONFIG_REGION_INDEX => {
                let mut config = self.config();
                let before = config.bus_master();
                let effects = config.write(offset, data);
                let master = config.bus_master();
                if !before && master && !self.device.idle() {
                    self.host.count_mastered_at_work();
                }
                self.host.set_bus_master(master);
                drop(config);
                if master != before {
                    self.device.bus_master_changed();
                }
                if effects.flr {
                    self.flr();
                }
            }
            Ok(0..=5) if !self.config().memory() => {}
            Ok(bar @ 0..=5) => self.device.write(bar, offset, data),
            _ => {}
        }
    }

    fn regions(&self) -> Vec<ServerRegion> {
        let config = self.config();
        (0..VFIO_PCI_NUM_REGIONS)
            .map(|index| {
                let bar = config.bars().get(index as usize).copied().flatten();
                let size = match bar {
                    Some(bar) => bar.size,
                    None if index == VFIO_PCI_CONFIG_REGION_INDEX => crate::config::SIZE as u64,
                    None => 0,
                };
                let region_info = vfio_region_info {
                    argsz: size_of::<vfio_region_info>() as u32,
                    flags: if size == 0 {
                        0
                    } else {
                        VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
                    },
                    index,
                    size,
                    ..Default::default()
                };
                ServerRegion {
                    region_info,
                    sparse_areas: Vec::new(),
                    mmap_fd: None,
                }
            })
            .collect()
    }

    fn irqs(&self) -> Vec<IrqInfo> {
        let (msi, msix) = self.config().vectors();
        (0..VFIO_PCI_NUM_IRQS)
            .map(|index| {
                let count = match index {
                    VFIO_PCI_MSI_IRQ_INDEX => msi,
                    VFIO_PCI_MSIX_IRQ_INDEX => msix,
                    _ => 0,
                };
                IrqInfo {
                    index,
                    flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
                    count: count.into(),
                }
            })
            .collect()
    }
}

/// The client's requests, as the crate hands them over.
struct Backend<'a>(&'a Function);

impl ServerBackend for Backend<'_> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read(region, offset, data);
        log::trace!("read {region} {offset:#x} {data:x?}");
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        log::trace!("write {region} {offset:#x} {data:x?}");
        self.0.write(region, offset, data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        log::debug!("map {address:#x} {size:#x} {flags:?} {fd:?} {offset:#x}");
        let readable = flags.contains(DmaMapFlags::READ);
        let writable = flags.contains(DmaMapFlags::WRITE);
        let memory = &self.0.host.memory;
        memory.add(address, size, fd, offset, readable, writable)
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        log::debug!("unmap {address:#x} {size:#x} {flags:?}");
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            self.0.host.memory.clear();
            return Ok(());
        }
        self.0.host.memory.remove(address, size)
    }

    fn reset(&mut self) -> io::Result<()> {
        log::debug!("reset");
        self.0.reset();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        log::debug!("irqs {index} {flags:#x} {start} {count} {fds:?}");
        self.0.host.irq.set(index, flags, start, count, fds)
    }
}

/// Removes a socket without a listener. Anything else at the path stays, as an error.
pub fn free_path(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let taken = |what| {
        let text = format!("{}: {what}", path.display());
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    };
    if !meta.file_type().is_socket() {
        return taken("exists, and is no socket");
    }
    if UnixStream::connect(path).is_ok() {
        return taken("another process listens there");
    }
    std::fs::remove_file(path)
}

/// A function's socket, bound. Clients can connect before [`Socket::serve`] takes them.
pub struct Socket {
    server: Server,
    function: Arc<Function>,
}

impl Socket {
    /// Binds the socket.
    pub fn bind(path: &Path, function: Arc<Function>) -> io::Result<Socket> {
        free_path(path)?;
        let server = Server::new(path, true, function.irqs(), function.regions());
        let server = server.map_err(io::Error::other)?;
        Ok(Socket { server, function })
    }

    /// Serves one client until it leaves; then the function is as after power-on, and holds
    /// nothing of the client.
    pub fn serve_one(&self) -> io::Result<()> {
        let function = &self.function;
        // Counted when it leaves: the crate does not say when it comes.
        let result = self.server.run(&mut Backend(function));
        function.restore();
        function.host.irq.clear();
        function.host.memory.clear();
        function.host.count_connection();
        match result {
            Err(error @ vfio_user::Error::SocketAccept(_)) => Err(io::Error::other(error)),
            Err(error) => {
                log::info!("client: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Serves clients one after the other.
    pub fn serve(&self) -> io::Result<()> {
        loop {
            self.serve_one()?;
        }
    }
}
