// SPDX-License-Identifier: GPL-2.0

//! Faults that a device shows on command, and when. Pure.

use serde::{Deserialize, Serialize};

/// Operations that an administrative context may not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// The descriptor that says that tables have changed.
    Update,
    /// A synchronising descriptor that waits for that.
    SyncUpdate,
    /// The flag of a stop that makes it a hard one.
    HardStop,
}

/// A fault. (Variants without fields have braces, because serde accepts stray fields otherwise.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// The descriptor fails and nothing of it is done.
    Error {
        /// The device's error code; its usual one for a failed write if there is none.
        #[serde(default)]
        code: Option<u8>,
    },
    /// Only the first `bytes` bytes are copied.
    Partial {
        /// Number of bytes.
        bytes: u64,
        /// The device says that all went well.
        #[serde(default)]
        silent: bool,
    },
    /// The channel stands still before the copy, until it is released (the copy is then made),
    /// or the device is reset.
    Hang {},
    /// The descriptor completes, its interrupt does not come.
    LostInterrupt {},
    /// The descriptor completes, its interrupt comes `ms` later.
    LateInterrupt {
        /// Milliseconds.
        ms: u64,
    },
    /// The descriptor completes after `count` more of channel `behind`.
    Reorder {
        /// The channel that overtakes.
        behind: u16,
        /// By how many descriptors.
        count: u64,
    },
    /// The interrupt of the completion comes again `ms` later.
    Duplicate {
        /// Milliseconds.
        ms: u64,
    },
    /// The source is read at once, and written to the destination `ms` later.
    LateWrite {
        /// Milliseconds.
        ms: u64,
        /// Even if the device is reset meanwhile. No good device does that.
        #[serde(default)]
        through_reset: bool,
    },
    /// The function is gone: registers read as ones, nothing else happens.
    Disappear {},
    /// The descriptor fails as with `error`, and its channel goes on.
    SoftError {
        /// The code, as in `error`.
        #[serde(default)]
        code: Option<u8>,
    },
    /// The descriptor is carried out, and its completion is not reported.
    LostCompletion {},
    /// The descriptor, unless it is fenced, is carried out after `count` later ones, or when a
    /// fence or the end of the queue demands it; the last one put aside then comes first.
    OutOfOrder {
        /// By how many descriptors it is overtaken.
        count: u64,
    },
    /// That the descriptor has been taken is not published until `count` more have been.
    LazyReadIndex {
        /// Number of descriptors.
        count: u64,
    },
    /// The whole function fails when the descriptor comes.
    FunctionError {},
    /// A write to a doorbell has no effect.
    LostDoorbell {},
    /// An activation takes `ms` longer.
    InitDelay {
        /// Milliseconds.
        ms: u64,
    },
    /// An activation ends in the error state.
    InitError {},
    /// A soft stop of the function does not end until it is released.
    StuckStop {
        /// A hard stop neither.
        #[serde(default)]
        hard: bool,
    },
    /// A reset that is asked for in the function's own registers has no effect.
    LostReset {},
    /// A function level reset has no effect but on configuration space.
    LostFlr {},
    /// A descriptor with this in it is not valid.
    Unknown {
        /// The operation.
        what: Encoding,
    },
    /// A synchronising descriptor takes `ms` longer.
    SlowSync {
        /// Milliseconds.
        ms: u64,
    },
    /// An entry of the error log finds it full.
    LogFull {},
    /// An entry of the error log cannot be written.
    LogFailure {},
    /// The interrupt of an entry of the error log does not come.
    LostLogInterrupt {},
}

impl Kind {
    /// Returns `true` if a device with nothing but descriptors and interrupts can show the fault.
    pub fn usual(&self) -> bool {
        use Kind::*;
        match self {
            Error { .. } | Partial { .. } | Hang {} | Disappear {} => true,
            LostInterrupt {} | LateInterrupt { .. } | Duplicate { .. } => true,
            Reorder { .. } | LateWrite { .. } => true,
            // The server's.
            LostFlr {} => true,
            SoftError { .. } | LostCompletion {} | OutOfOrder { .. } | LazyReadIndex { .. } => {
                false
            }
            FunctionError {} | LostDoorbell {} | InitDelay { .. } | InitError {} => false,
            StuckStop { .. } | LostReset {} | SlowSync { .. } | Unknown { .. } => false,
            LogFull {} | LogFailure {} | LostLogInterrupt {} => false,
        }
    }
}

/// A fault, and the descriptors it befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The channel; any if there is none.
    #[serde(default)]
    pub channel: Option<u16>,
    /// The first descriptor it befalls, counted from now among those that it can befall (or the
    /// first doorbell, activation, and so on); 1 is the next.
    #[serde(default = "one")]
    pub nth: u64,
    /// Number of descriptors in a row; 0 for all that follow.
    #[serde(default = "one")]
    pub times: u64,
    /// The fault.
    pub fault: Kind,
}

fn one() -> u64 {
    1
}

/// A fault that waits for its descriptor, or for more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Armed {
    /// Its number, to tell it by.
    pub id: u64,
    /// The fault as it was asked for.
    #[serde(flatten)]
    pub fault: Fault,
    /// Descriptors seen since.
    pub seen: u64,
    /// Number of times that it struck.
    pub fired: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Plan {
    armed: Vec<Armed>,
    ids: u64,
    /// Faults that struck so far, those that are used up included.
    pub fired: u64,
}

/// More at a time is a mistake in a script.
pub const MOST: usize = 1024;

/// Reason for which a fault is rejected.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// No such channel.
    #[error("this device has channels 0 to {}", .0.saturating_sub(1))]
    Channel(u16),
    /// Descriptors are counted from 1.
    #[error("nth counts from 1")]
    Nth,
    /// A channel cannot wait for itself.
    #[error("a channel cannot come behind itself: give channel, and another one as behind")]
    Reorder,
    /// Too many.
    #[error("{MOST} faults wait already")]
    Full,
    /// The device does not have this fault.
    #[error("this device does not have that fault")]
    Kind,
}

impl Plan {
    /// Takes a fault for a device of `channels` channels.
    pub fn arm(&mut self, fault: Fault, channels: u16) -> Result<u64, Refused> {
        let mut named = fault.channel;
        if let Kind::Reorder { behind, .. } = fault.fault {
            if fault.channel.is_none() || fault.channel == Some(behind) {
                return Err(Refused::Reorder);
            }
            named = named.max(Some(behind));
        }
        if named.is_some_and(|c| c >= channels) {
            return Err(Refused::Channel(channels));
        }
        if fault.nth == 0 {
            return Err(Refused::Nth);
        }
        if self.armed.len() >= MOST {
            return Err(Refused::Full);
        }
        self.ids += 1;
        self.armed.push(Armed {
            id: self.ids,
            fault,
            seen: 0,
            fired: 0,
        });
        Ok(self.ids)
    }

    /// Returns the armed faults.
    pub fn armed(&self) -> &[Armed] {
        &self.armed
    }

    /// Forgets what waits; how many that was.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.armed).len()
    }

    /// Returns the faults that befall a descriptor of `channel`, which is about to be carried out,
    /// or another event that faults can befall. `meets` returns `true` if a fault can befall it.
    pub fn strike(&mut self, channel: u16, meets: impl Fn(&Kind) -> bool) -> Vec<Kind> {
        let mut struck = Vec::new();
        for armed in &mut self.armed {
            let elsewhere = armed.fault.channel.is_some_and(|c| c != channel);
            if elsewhere || !meets(&armed.fault.fault) {
                continue;
            }
            armed.seen = armed.seen.saturating_add(1);
            if armed.seen >= armed.fault.nth {
                armed.fired += 1;
                struck.push(armed.fault.fault);
            }
        }
        self.armed
            .retain(|a| a.fault.times == 0 || a.fired < a.fault.times);
        self.fired += struck.len() as u64;
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(channel: Option<u16>, nth: u64, times: u64) -> Fault {
        Fault {
            channel,
            nth,
            times,
            fault: Kind::Hang {},
        }
    }

    #[test]
    fn nth_and_times() {
        let mut plan = Plan::default();
        plan.arm(fault(Some(1), 2, 2), 2).unwrap();
        let struck: Vec<usize> = (0..5).map(|_| plan.strike(1, |_| true).len()).collect();
        assert_eq!(struck, [0, 1, 1, 0, 0]);
        assert!(plan.armed().is_empty());
        assert_eq!(plan.fired, 2);
    }

    #[test]
    fn channels_count_on_their_own() {
        let mut plan = Plan::default();
        plan.arm(fault(Some(1), 2, 1), 2).unwrap();
        plan.arm(fault(None, 3, 0), 2).unwrap();
        let mut strike = |channel| plan.strike(channel, |_| true).len();
        assert_eq!([strike(0), strike(1), strike(1)], [0, 0, 2]);
        assert_eq!(strike(0), 1, "for ever");
        assert_eq!(plan.clear(), 1);
        assert!(plan.strike(0, |_| true).is_empty());
    }

    #[test]
    fn only_what_a_fault_can_befall_counts() {
        let mut plan = Plan::default();
        plan.arm(fault(None, 2, 1), 1).unwrap();
        let mut strike = |hang| plan.strike(0, |k| (*k == Kind::Hang {}) == hang).len();
        assert_eq!(
            [strike(true), strike(false), strike(false), strike(true)],
            [0, 0, 0, 1]
        );
    }

    #[test]
    fn refused() {
        let mut plan = Plan::default();
        assert_eq!(plan.arm(fault(Some(2), 1, 1), 2), Err(Refused::Channel(2)));
        assert_eq!(plan.arm(fault(None, 0, 1), 2), Err(Refused::Nth));
        let reorder = |channel, behind| Fault {
            fault: Kind::Reorder { behind, count: 1 },
            ..fault(channel, 1, 1)
        };
        assert_eq!(plan.arm(reorder(None, 1), 2), Err(Refused::Reorder));
        assert_eq!(plan.arm(reorder(Some(1), 1), 2), Err(Refused::Reorder));
        assert_eq!(plan.arm(reorder(Some(1), 2), 2), Err(Refused::Channel(2)));
        assert!(plan.arm(reorder(Some(1), 0), 2).is_ok());
        for _ in 1..MOST {
            plan.arm(fault(None, 1, 0), 1).unwrap();
        }
        assert_eq!(plan.arm(fault(None, 1, 0), 1), Err(Refused::Full));
    }

    #[test]
    fn json() {
        let text = r#"{"channel":3,"nth":7,"fault":{"kind":"partial","bytes":100}}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        let partial = Kind::Partial {
            bytes: 100,
            silent: false,
        };
        assert_eq!((fault.nth, fault.times, fault.fault), (7, 1, partial));
        for bad in [
            r#"{"fault":{"kind":"nonsense"}}"#,
            r#"{"fault":{"kind":"hang","more":1}}"#,
            r#"{"nth":-1,"fault":{"kind":"hang"}}"#,
            r#"{"nht":1,"fault":{"kind":"hang"}}"#,
        ] {
            assert!(serde_json::from_str::<Fault>(bad).is_err(), "{bad}");
        }
    }
}
