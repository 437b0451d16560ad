// SPDX-License-Identifier: GPL-2.0

//! The kernel and its initramfs, at the end of the program's own file.
//!
//! The file is: the program, the kernel, the initramfs, the lengths of these two (64 bits, little
//! endian), and [`MAGIC`]. Loaders do not look behind the program.

use crate::error::{in_file, Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"ferry-native 1\n\0";
const TRAILER: usize = MAGIC.len() + 16;

fn own_file() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Returns the program, the kernel and the initramfs in the bytes of a file.
fn split(file: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (rest, trailer) = file.split_at(file.len().checked_sub(TRAILER)?);
    let length = |at: usize| {
        let bytes = trailer.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    if !trailer.ends_with(MAGIC) {
        return None;
    }
    let (rest, initramfs) = rest.split_at(rest.len().checked_sub(length(8)?)?);
    let (program, kernel) = rest.split_at(rest.len().checked_sub(length(0)?)?);
    Some((program, kernel, initramfs))
}

fn join(program: &[u8], kernel: &[u8], initramfs: &[u8]) -> Vec<u8> {
    let mut file = [program, kernel, initramfs].concat();
    for part in [kernel, initramfs] {
        file.extend((part.len() as u64).to_le_bytes());
    }
    file.extend(MAGIC);
    file
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(path)
        .map_err(in_file(path))?;
    file.write_all(bytes).map_err(in_file(path))
}

/// Writes this program with a kernel and an initramfs.
pub fn make(kernel: &Path, initramfs: &Path, out: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).map_err(in_file(path));
    let own = read(&own_file())?;
    let program = split(&own).map_or(&own[..], |(program, ..)| program);
    // A file that runs cannot be written to.
    let new = out.with_extension("new");
    write(&new, &join(program, &read(kernel)?, &read(initramfs)?))?;
    fs::rename(&new, out).map_err(in_file(out))
}

/// Puts the kernel and the initramfs of this program into a directory.
pub fn unpack(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let own = fs::read(own_file()).map_err(in_file(own_file()))?;
    let (_, kernel, initramfs) = split(&own).ok_or_else(|| {
        Error::Unusable(
            "there is no kernel in this file: make bench-native makes one that has it".into(),
        )
    })?;
    let paths = (dir.join("linux"), dir.join("initramfs"));
    write(&paths.0, kernel)?;
    write(&paths.1, initramfs)?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_can_be_split() {
        let file = join(b"program", b"kernel", b"");
        assert_eq!(
            split(&file),
            Some((&b"program"[..], &b"kernel"[..], &b""[..]))
        );
    }

    #[test]
    fn what_was_not_joined_is_refused() {
        assert_eq!(split(b""), None);
        assert_eq!(split(&[0; 100]), None);
        let mut file = join(b"program", b"kernel", b"initramfs");
        assert_eq!(
            split(&file[1..]).map(|(program, ..)| program),
            Some(&b"rogram"[..])
        );
        let at = file.len() - TRAILER;
        file[at + 7] = 0xff;
        assert_eq!(split(&file), None, "a kernel longer than the file");
    }
}
