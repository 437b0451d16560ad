// SPDX-License-Identifier: GPL-2.0

//! How a function is brought to a stop, and to run (SDXI 1.0, sections 4.1 and 4.1.8).
//!
//! Decisions alone: who asks has read STS0 and knows how long it has waited.

use super::registers::{
    ControlRequest,
    FunctionState, //
};

/// How long each step may take, in milliseconds.
pub const STEP_MS: u32 = 1000;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this request, then look again.
    Ask(ControlRequest),
    /// Look again later.
    Wait,
    /// It is as was wanted.
    Done,
    /// It will not be.
    GiveUp,
}

/// A function on its way to a stop. Each step that does not lead there in time is followed by a
/// harder one.
#[derive(Clone, Copy, Debug)]
pub struct StopSequence {
    last: Option<ControlRequest>,
    since_ms: u32,
    hard: bool,
}

impl StopSequence {
    /// From now on; `hard`: what is being executed is of no interest any more.
    pub const fn new(hard: bool) -> Self {
        Self {
            last: None,
            since_ms: 0,
            hard,
        }
    }

    /// What to do in this state, at this time.
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

    fn first(&self, state: FunctionState) -> ControlRequest {
        match state {
            FunctionState::Init | FunctionState::Active if !self.hard => ControlRequest::StopSoft,
            _ => ControlRequest::StopHard,
        }
    }
}

/// What to do after the activation has been asked for.
pub const fn activating(state: FunctionState, waited_ms: u32) -> Action {
    match state {
        FunctionState::Active => Action::Done,
        FunctionState::Stop | FunctionState::Init if waited_ms < STEP_MS => Action::Wait,
        _ => Action::GiveUp,
    }
}

/// A function is given up after this many recoveries in a row without a good copy in between: a
/// fault that passes has passed by then, and one that stays costs no more than this many resets.
pub const MAX_RECOVERIES: u32 = 8;

/// What to do about a function that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stop it and bring it to run again, by a reset if need be.
    Recover,
    /// Leave it alone from now on.
    GiveUp,
    /// Leave it alone, as was decided before.
    GivenUp,
}

/// The recoveries of a function that no good copy has followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recoveries {
    /// It is recovered when it fails.
    Counting {
        /// How many there were.
        strikes: u32,
        /// Good copies of the function when the last one began.
        good: u64,
    },
    /// It has been given up.
    GivenUp,
}

impl Recoveries {
    /// Of a function that has not failed yet, or that somebody else has reset.
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

    /// Does not count the last recovery, as nothing could be tried.
    pub const fn untried(&mut self) {
        if let Self::Counting { strikes, .. } = self {
            *strikes = strikes.saturating_sub(1);
        }
    }

    /// Says whether it has been given up.
    pub const fn is_given_up(&self) -> bool {
        matches!(self, Self::GivenUp)
    }
}

/// How contexts are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartSequence {
    /// CXT_UPD and a SYNC for it come before CXT_START, as the standard has it.
    Updated,
    /// CXT_START alone, for devices that refuse the others.
    Plain,
}

impl StartSequence {
    /// What precedes the start: commands that a device may refuse.
    pub const fn before(self) -> usize {
        match self {
            Self::Updated => 2,
            Self::Plain => 0,
        }
    }

    /// What to try next, after a device has refused a command, the first `good` ones being good. If
    /// the start itself is refused without an update, that was not what was wrong.
    pub const fn refused(self, good: usize) -> Self {
        match self {
            Self::Updated if good < self.before() => Self::Plain,
            _ => Self::Updated,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Updated => "update",
            Self::Plain => "plain",
        }
    }
}

/// What is done about contexts that do not stop softly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopFallback {
    /// A hard stop.
    Hard,
    /// The whole function is stopped, as the device refuses hard stops of contexts.
    Function,
}

impl StopFallback {
    /// For people.
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
        // Somebody else has begun it.
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
    fn nobody_there() {
        goes(
            false,
            &[
                (0, FunctionState::Active, Ask(ControlRequest::StopSoft)),
                (1, FunctionState::Gone, GiveUp),
            ],
        );
    }

    /// Whatever the device says, there is an end.
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
        // Copies that are reported late bring nothing back.
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
