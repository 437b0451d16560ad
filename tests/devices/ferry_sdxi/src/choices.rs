// SPDX-License-Identifier: GPL-2.0

//! Decisions where the datasheet leaves a choice.
//!
//! The SNIA text itself was not at hand; the datasheet collects what drivers and postings say of
//! it. Numbers in brackets are its sections, `[10 #n]` a line of its table of unknowns.
//!
//! Registers:
//!
//! * What is not listed reads as 0 and ignores writes, GRP_ENUM and the mailbox too [2.1, 10 #1
//!   #2]. Registers take 8 bytes, or 4 by halves; CTL0 acts when its low half is written [2]. A
//!   doorbell reads as 0 [10 #28] and acts when its low half is written.
//! * Reset, by FLR or power, zeroes all; GSRV_RESET and a stop leave registers alone [3.4].
//! * GSRV_RESET in INIT, ACTIVE or STOPG abandons everything and ends in STOP before the write
//!   returns; in STOP it is ignored [3.1]. STOP_HD in INIT is as in ACTIVE.
//! * A CTL2 beyond CAP1, a PASID, an L2 pointer that is not aligned: the activation ends in ERROR
//!   [3.3]; the log says step 1 for CTL2, step 2 for the others.
//! * With logging off there is no attempt, and ERR_STS stays as it is [2.12].
//! * One vector 0 message for an event, even if both enables are set [10 #32].
//!
//! Contexts:
//!
//! * L2, L1 and CXT_CTL are read at the activation (context 0) or CXT_START, and again after a
//!   CXT_UPD; what was found wrong is not remembered. AKeys are read for each descriptor [5.4].
//! * A doorbell is a kick, whatever its value [6.3]. It is ignored where the context does not run,
//!   the state in CXT_STS included [6.3], and while the function is not ACTIVE [10 #29]; one above
//!   CTL2.max_cxt is a bad request [2.4]. Write_Index is read at a kick and at no other time.
//! * The lesser of CAP1's, CTL2's and the L1 entry's max_buffer counts, and the groups that CTL2
//!   and the L1 entry both allow [2.4, 5.3]. An AKey table larger than CTL2 allows is an L1 error.
//! * CXT_START finds the indices in memory [10 #15]. On a context that runs it does nothing
//!   [10 #16]; on one that is stopping it fails, as on one with bad tables: a log entry of that
//!   context, er in the CSB, and context 0 goes on [10 #18]. CXT_STOP of one that is stopped, or
//!   that failed, does nothing [10 #16], and what a soft stop finds unexecuted stays [10 #24].
//! * CXT_START and CXT_STOP must be fenced [5.4]; SYNC need not be [9].
//! * A range that is empty or beyond CTL2.max_cxt, and vf, are descriptor errors of context 0
//!   [10 #17], which stop it; so are admin operations elsewhere [10 #19].
//! * FN_UPD, AKEY_UPD and RKEY_UPD succeed [10 #12]; ADM_INTR is as INTR [10 #13]. CXT_UPD drops
//!   what is known of its range, whichever of its 3 flags is set [10 #14].
//! * A hard stop that includes context 0 stops it softly: it could not say that it is done.
//!
//! Descriptors:
//!
//! * read_index moves when a descriptor is begun; lenient: when it and all before it have
//!   completed. After an error it is the failing one's index [7.3, 10 #9].
//! * Strict: attributes must be 0 [10 #5], source, destination and CSB must not overlap [5.3,
//!   10 #23]. Lenient: attributes are ignored, and a copy is as memmove().
//! * ch, rb, and all that is reserved must be 0 [10 #6]; se is a fence, too [5.7].
//! * WRT_IMM has its AKey at 12, and 0 at 14 [10 #21]. REPCOPY's size is that of the destination;
//!   it and both addresses are multiples of 4 KiB [10 #22].
//! * There are no atomics [10 #20], PASIDs, RKeys or other functions: an AKey that names one is
//!   bad. Steering and processing hints are ignored.
//! * Interrupt 0 is the log's, and no AKey's [1.3].
//! * A message is sent before its own descriptor's CSB is written, and after those before a fence.
//!
//! Errors:
//!
//! * Order: log entry, er, signal, read_index, CXT_STS.state, which is ERR_FN [7.3, 10 #8 #10].
//!   What the context has taken besides is abandoned.
//! * A CSB that is out of line fails before the descriptor is carried out, one that cannot be
//!   written after it.
//! * A data buffer that is not mapped is a failed translation, one that may not be accessed a
//!   failed access [7.3]. Structures say failed access for both.

/// Returns the largest buffer of an encoded max_buffer, in bytes [2.7, 9].
pub fn buffer_bytes(encoded: u64) -> u64 {
    1 << (21 + (encoded & 0xf))
}

/// Returns the number of entries of the error log for an encoded ERR_CFG.sz [2.13, 9].
pub fn log_entries(encoded: u64) -> u64 {
    64 * encoded.max(1)
}

/// Returns the number of entries of an AKey table of an encoded size [4.3].
pub fn akey_entries(encoded: u64) -> u64 {
    256 << (encoded & 0xf)
}

/// Returns the bit of an optional group in CAP1, CTL2 and the L1 entry [2.7, 10 #26].
pub fn group_bit(group: u16) -> u32 {
    1u32.checked_shl(group.into()).unwrap_or(0)
}

/// Returns the signal of a CSB after a completion: csr chooses the simple mode, whatever csa says,
/// and the signal never goes below 0 [6.4, 10 #7].
pub fn signal(csr: bool, signal: u64) -> u64 {
    match csr {
        true => 0,
        false => signal.saturating_sub(1),
    }
}

/// log2 of the largest ring's descriptors in units of 1024: 65536 of them [11].
pub const RING: u64 = 6;
/// Encoded largest buffer: 4 GiB [11].
pub const BUFFER: u64 = 11;
/// Encoded largest AKey table: 65536 entries [11].
pub const AKEYS: u64 = 8;
