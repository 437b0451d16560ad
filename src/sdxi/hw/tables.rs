// SPDX-License-Identifier: GPL-2.0

//! The context tables and the error log of a function.
//!
//! Takes no locks.

use super::{
    memory::{
        CoherentWords,
        PAGE_WORDS, //
    },
    mmio::Bars,
    ring::{
        ContextRing,
        CONTROL, //
    },
};
use ferry_core::sdxi::{
    log,
    registers::{
        err_cfg,
        FunctionLimits,
        Register, //
    },
    table::{
        self,
        L1_ENTRIES,
        L1_WORDS, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        barrier::{
            dma_mb,
            Write, //
        },
        Arc, //
    },
};

/// The context tables of a function, for the first 128 contexts.
pub(crate) struct Tables {
    l2: CoherentWords,
    l1: CoherentWords,
}

/// The highest context number that fits into the one level 1 table.
pub(crate) const MAX_CONTEXT: u16 = L1_ENTRIES as u16 - 1;

impl Tables {
    /// Allocates tables without contexts.
    pub(crate) fn new(bars: &Arc<Bars>) -> Result<Self> {
        let tables = Self {
            l2: CoherentWords::new(bars, PAGE_WORDS)?,
            l1: CoherentWords::new(bars, PAGE_WORDS)?,
        };
        let entry = table::l2(tables.l1.address(0)).ok_or(EIO)?;
        tables.l2.store(0, entry);
        Ok(tables)
    }

    /// Removes all contexts, and writes the address of the tables to the function, which is
    /// stopped.
    #[doc(alias = "MMIO_CXT_L2")]
    pub(crate) fn install(&self) {
        self.l1.clear();
        dma_mb(Write);
        let bars = &self.l2.bars;
        bars.registers
            .write(Register::CxtL2 as usize, self.l2.address(0));
    }

    /// Invalidates the entry of a context.
    #[doc(alias = "CXT_L1_ENT")]
    pub(crate) fn retire(&self, number: u16) {
        let at = usize::from(number) * L1_WORDS;
        self.l1.store(at, 0);
        dma_mb(Write);
        for i in 1..L1_WORDS {
            self.l1.store(at + i, 0);
        }
    }

    /// Writes the entry of a context, and makes it valid.
    ///
    /// # Errors
    ///
    /// `EIO` if an address cannot be encoded.
    #[doc(alias = "CXT_L1_ENT")]
    pub(crate) fn publish(&self, ring: &ContextRing, limits: &FunctionLimits) -> Result {
        let page = &ring.memory.page;
        let entry = table::l1(page.address(CONTROL), ring.memory.akeys.address(0), limits);
        let entry = entry.ok_or(EIO)?;
        let at = usize::from(ring.number) * L1_WORDS;
        for (i, word) in entry.iter().enumerate().skip(1) {
            self.l1.store(at + i, *word);
        }
        // The other words of the entry are visible to the device before its valid bit.
        dma_mb(Write);
        self.l1.store(at, entry[0]);
        Ok(())
    }
}

/// The error log. It has a page more than the register states, as sources disagree about how the
/// size is encoded.
pub(crate) struct ErrorLog(CoherentWords);

impl ErrorLog {
    /// Allocates an empty log.
    pub(crate) fn new(bars: &Arc<Bars>) -> Result<Self> {
        Ok(Self(CoherentWords::new(bars, 2 * PAGE_WORDS)?))
    }

    /// Empties the log, and has the function write to it.
    #[doc(alias = "MMIO_ERR_CFG")]
    pub(crate) fn open(&self) -> Result {
        self.close();
        self.0.clear();
        dma_mb(Write);
        let value = err_cfg(self.0.address(0)).ok_or(EIO)?;
        self.0
            .bars
            .registers
            .write(Register::ErrCfg as usize, value);
        Ok(())
    }

    /// Disables the log.
    pub(crate) fn close(&self) {
        self.0.bars.registers.write(Register::ErrCfg as usize, 0);
    }

    /// Returns the entry at `index`, and clears it.
    pub(crate) fn take(&self, index: u64) -> [u64; log::WORDS] {
        let at = log::slot(index) * log::WORDS;
        let mut words = [0; log::WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.0.load(at + i);
            self.0.store(at + i, 0);
        }
        words
    }
}
