// SPDX-License-Identifier: GPL-2.0

//! Sequences that start and stop a function and its contexts (SDXI 1.0, sections 4.1 and 4.1.8).
//!
//! This file only decides. The caller reads STS0 and measures the time.

use super::registers::{
    ControlRequest,
    FunctionState, //
};

/// The time that each step may take, in milliseconds: one second, as in the public drivers.
pub const STEP_MS: u32 = 1000;

/// The next action of a caller that brings a function to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this request to CTL0, then read STS0 again.
    Ask(ControlRequest),
    /// Read STS0 again later.
    Wait,
    /// The function is in the wanted state.
    Done,
    /// The function does not reach the wanted state.
    GiveUp,
}

/// The sequence of requests that stops a function. A step that does not lead to a stop in time is
/// followed by a harder one.
#[derive(Clone, Copy, Debug)]
pub struct StopSequence {
    last: Option<ControlRequest>,
    since_ms: u32,
    hard: bool,
}

impl StopSequence {
    /// Creates a sequence that starts at time 0. A `hard` one abandons what is being executed.
    pub const fn new(hard: bool) -> Self {
        Self {
            last: None,
            since_ms: 0,
            hard,
        }
    }

    /// Returns the next action for a function in this state, `now_ms` milliseconds after the start.
    pub fn next(&mut self, state: FunctionState, now_ms: u32) -> Action {
        let late = now_ms.saturating_sub(self.since_ms) >= STEP_MS;
        let wanted = match (state, self.last) {
            (FunctionState::Stop, _) => return Action::Done,
            (FunctionState::Gone, _) => return Action::GiveUp,
            (
                FunctionState::Error | FunctionState::Undefined,
                None | Some(ControlRequest::StopSoft | ControlRequest::StopHard),
            ) => ControlRequest::Reset,
            (_, None) => self.first(state),
            (_, Some(last)) if late => match last {
                ControlRequest::StopSoft => ControlRequest::StopHard,
                ControlRequest::StopHard => ControlRequest::Reset,
                ControlRequest::Reset | ControlRequest::Active => return Action::GiveUp,
            },
            _ => return Action::Wait,
        };
        self.last = Some(wanted);
        self.since_ms = now_ms;
        Action::Ask(wanted)
    }

    /// Returns the first request, for a function in this state.
    fn first(&self, state: FunctionState) -> ControlRequest {
        match state {
            FunctionState::Init | FunctionState::Active if !self.hard => ControlRequest::StopSoft,
            _ => ControlRequest::StopHard,
        }
    }
}

/// Returns the next action for a function whose activation was requested `waited_ms` milliseconds
/// ago.
pub const fn activating(state: FunctionState, waited_ms: u32) -> Action {
    match state {
        FunctionState::Active => Action::Done,
        FunctionState::Stop | FunctionState::Init if waited_ms < STEP_MS => Action::Wait,
        _ => Action::GiveUp,
    }
}

/// The number of recoveries in a row, without a good copy in between, after which a function is
/// given up: a fault that passes has passed by then, and a fault that stays costs no more than this
/// many resets.
pub const MAX_RECOVERIES: u32 = 8;

/// The decision about a function that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stop the function and activate it again, after a reset if need be.
    Recover,
    /// Leave the function alone from now on.
    GiveUp,
    /// Leave the function alone, as was decided before.
    GivenUp,
}

/// The recoveries of a function that no good copy has followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recoveries {
    /// The function is recovered when it fails.
    Counting {
        /// The number of recoveries.
        strikes: u32,
        /// The number of good copies of the function when the last recovery began.
        good: u64,
    },
    /// The function has been given up.
    GivenUp,
}

impl Recoveries {
    /// The state of a function that has not failed yet, or that was reset by others.
    pub const NONE: Self = Self::Counting {
        strikes: 0,
        good: 0,
    };

    /// Decides what to do about a function that has failed after `good` good copies in all, and
    /// counts a recovery if that is one.
    pub const fn failed(&mut self, good: u64) -> Verdict {
        let strikes = match *self {
            Self::GivenUp => return Verdict::GivenUp,
            Self::Counting { good: then, .. } if then != good => 0,
            Self::Counting { strikes, .. } => strikes,
        };
        if strikes >= MAX_RECOVERIES {
            *self = Self::GivenUp;
            return Verdict::GiveUp;
        }
        *self = Self::Counting {
            strikes: strikes + 1,
            good,
        };
        Verdict::Recover
    }

    /// Takes back the count of the last recovery, because it could not be tried.
    pub const fn untried(&mut self) {
        if let Self::Counting { strikes, .. } = self {
            *strikes = strikes.saturating_sub(1);
        }
    }

    /// Returns `true` if the function has been given up.
    pub const fn is_given_up(&self) -> bool {
        matches!(self, Self::GivenUp)
    }
}

/// The commands with which contexts are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartSequence {
    /// CXT_UPD and a SYNC for it come before CXT_START_NM, as the standard has it.
    #[doc(alias = "CXT_UPD")]
    Updated,
    /// CXT_START_NM comes alone, for devices that refuse the other two.
    #[doc(alias = "CXT_START_NM")]
    Plain,
}

impl StartSequence {
    /// Returns the number of commands before the start, which a device may refuse.
    pub const fn before(self) -> usize {
        match self {
            Self::Updated => 2,
            Self::Plain => 0,
        }
    }

    /// Returns the sequence to try next, after a device carried out the first `good` commands and
    /// refused the next one. If the start itself is refused without an update, the update was not
    /// the reason, so the next sequence has it again.
    pub const fn refused(self, good: usize) -> Self {
        match self {
            Self::Updated if good < self.before() => Self::Plain,
            _ => Self::Updated,
        }
    }

    /// Returns the name for debugfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Updated => "update",
            Self::Plain => "plain",
        }
    }
}

/// The way in which contexts are stopped that do not stop softly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopFallback {
    /// The context is stopped hard.
    #[doc(alias = "hs")]
    Hard,
    /// The whole function is stopped, because the device refuses hard stops of contexts.
    Function,
}

impl StopFallback {
    /// Returns the name for debugfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Function => "function",
        }
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_sdxi_life))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use Action::{
        Ask,
        Done,
        GiveUp,
        Wait, //
    };

    fn goes(hard: bool, steps: &[(u32, FunctionState, Action)]) {
        let mut stopping = StopSequence::new(hard);
        for (now, state, action) in steps {
            assert_eq!(stopping.next(*state, *now), *action);
        }
    }

    #[test]
    fn stops() {
        goes(false, &[(0, FunctionState::Stop, Done)]);
        goes(
            false,
            &[
                (0, FunctionState::Active, Ask(ControlRequest::StopSoft)),
                (1, FunctionState::StoppingSoft, Wait),
                (2, FunctionState::Stop, Done),
            ],
        );
        goes(
            true,
            &[
                (5, FunctionState::Init, Ask(ControlRequest::StopHard)),
                (6, FunctionState::StoppingHard, Wait),
                (7, FunctionState::Stop, Done),
            ],
        );
        // The stop was begun by others.
        goes(
            false,
            &[(
                0,
                FunctionState::StoppingSoft,
                Ask(ControlRequest::StopHard),
            )],
        );
        goes(
            false,
            &[(
                0,
                FunctionState::StoppingHard,
                Ask(ControlRequest::StopHard),
            )],
        );
    }

    #[test]
    fn harder_and_harder() {
        goes(
            false,
            &[
                (0, FunctionState::Active, Ask(ControlRequest::StopSoft)),
                (STEP_MS - 1, FunctionState::StoppingSoft, Wait),
                (
                    STEP_MS,
                    FunctionState::StoppingSoft,
                    Ask(ControlRequest::StopHard),
                ),
                (2 * STEP_MS - 1, FunctionState::StoppingHard, Wait),
                (
                    2 * STEP_MS,
                    FunctionState::StoppingHard,
                    Ask(ControlRequest::Reset),
                ),
                (3 * STEP_MS - 1, FunctionState::StoppingHard, Wait),
                (3 * STEP_MS, FunctionState::StoppingHard, GiveUp),
            ],
        );
    }

    #[test]
    fn errors_are_reset() {
        goes(
            false,
            &[
                (0, FunctionState::Error, Ask(ControlRequest::Reset)),
                (1, FunctionState::Error, Wait),
                (STEP_MS, FunctionState::Error, GiveUp),
            ],
        );
        goes(
            false,
            &[
                (0, FunctionState::Active, Ask(ControlRequest::StopSoft)),
                (3, FunctionState::Error, Ask(ControlRequest::Reset)),
                (4, FunctionState::Stop, Done),
            ],
        );
        goes(
            true,
            &[(0, FunctionState::Undefined, Ask(ControlRequest::Reset))],
        );
    }

    #[test]
    fn a_function_that_has_left() {
        goes(
            false,
            &[
                (0, FunctionState::Active, Ask(ControlRequest::StopSoft)),
                (1, FunctionState::Gone, GiveUp),
            ],
        );
    }

    /// Checks that the sequence ends, whatever the device reports.
    #[test]
    fn bounded() {
        let states = [
            FunctionState::Init,
            FunctionState::Active,
            FunctionState::StoppingSoft,
            FunctionState::StoppingHard,
            FunctionState::Error,
            FunctionState::Undefined,
        ];
        for first in states {
            for then in states {
                let mut stopping = StopSequence::new(false);
                let mut now = 0;
                loop {
                    let state = if now % 7 < 3 { first } else { then };
                    if stopping.next(state, now) == GiveUp {
                        break;
                    }
                    now += 1;
                    assert!(now <= 4 * STEP_MS);
                }
            }
        }
    }

    #[test]
    fn activation() {
        assert_eq!(activating(FunctionState::Stop, 0), Wait);
        assert_eq!(activating(FunctionState::Init, STEP_MS - 1), Wait);
        assert_eq!(activating(FunctionState::Init, STEP_MS), GiveUp);
        assert_eq!(activating(FunctionState::Active, STEP_MS + 5), Done);
        assert_eq!(activating(FunctionState::Error, 0), GiveUp);
        assert_eq!(activating(FunctionState::Gone, 0), GiveUp);
        assert_eq!(activating(FunctionState::StoppingHard, 0), GiveUp);
    }

    #[test]
    fn recoveries_end() {
        let mut r = Recoveries::NONE;
        for _ in 0..MAX_RECOVERIES {
            assert_eq!(r.failed(0), Verdict::Recover);
            assert!(!r.is_given_up());
        }
        assert_eq!(r.failed(0), Verdict::GiveUp);
        assert!(r.is_given_up());
        // Copies that are reported late do not bring the function back.
        assert_eq!(r.failed(1), Verdict::GivenUp);
        r.untried();
        assert!(r.is_given_up());
        r = Recoveries::NONE;
        assert_eq!(r.failed(1), Verdict::Recover);
    }

    #[test]
    fn good_copies_and_what_was_not_tried_count() {
        let mut r = Recoveries::NONE;
        for good in 0..3 * u64::from(MAX_RECOVERIES) {
            assert_eq!(r.failed(good / 2), Verdict::Recover);
        }
        for _ in 0..3 * MAX_RECOVERIES {
            assert_eq!(r.failed(1000), Verdict::Recover);
            r.untried();
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(StartSequence::Updated.refused(0), StartSequence::Plain);
        assert_eq!(StartSequence::Updated.refused(1), StartSequence::Plain);
        assert_eq!(StartSequence::Updated.refused(2), StartSequence::Updated);
        assert_eq!(StartSequence::Plain.refused(0), StartSequence::Updated);
    }
}
