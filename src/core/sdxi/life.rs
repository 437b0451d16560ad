// SPDX-License-Identifier: GPL-2.0

//! How a function is brought to a stop, and to run (SDXI 1.0, sections 4.1 and 4.1.8).
//!
//! Decisions alone: who asks has read STS0 and knows how long it has waited.

use super::registers::{
    ControlRequest,
    State, //
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
pub struct Stopping {
    last: Option<ControlRequest>,
    since_ms: u32,
    hard: bool,
}

impl Stopping {
    /// From now on; `hard`: what is being executed is of no interest any more.
    pub const fn new(hard: bool) -> Self {
        Self {
            last: None,
            since_ms: 0,
            hard,
        }
    }

    /// What to do in this state, at this time.
    pub fn next(&mut self, state: State, now_ms: u32) -> Action {
        let late = now_ms.saturating_sub(self.since_ms) >= STEP_MS;
        let wanted = match (state, self.last) {
            (State::Stop, _) => return Action::Done,
            (State::Gone, _) => return Action::GiveUp,
            (
                State::Error | State::Undefined,
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

    fn first(&self, state: State) -> ControlRequest {
        match state {
            State::Init | State::Active if !self.hard => ControlRequest::StopSoft,
            _ => ControlRequest::StopHard,
        }
    }
}

/// What to do after the activation has been asked for.
pub const fn activating(state: State, waited_ms: u32) -> Action {
    match state {
        State::Active => Action::Done,
        State::Stop | State::Init if waited_ms < STEP_MS => Action::Wait,
        _ => Action::GiveUp,
    }
}

/// A function is given up after this many recoveries in a row without a good copy in between: a
/// fault that passes has passed by then, and one that stays costs no more than this many resets.
pub const MOST_RECOVERIES: u32 = 8;

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
    Going {
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
    pub const NONE: Self = Self::Going {
        strikes: 0,
        good: 0,
    };

    /// Decides what to do about a function that has failed after `good` good copies in all, and
    /// counts a recovery if that is one.
    pub const fn failed(&mut self, good: u64) -> Verdict {
        let strikes = match *self {
            Self::GivenUp => return Verdict::GivenUp,
            Self::Going { good: then, .. } if then != good => 0,
            Self::Going { strikes, .. } => strikes,
        };
        if strikes >= MOST_RECOVERIES {
            *self = Self::GivenUp;
            return Verdict::GiveUp;
        }
        *self = Self::Going {
            strikes: strikes + 1,
            good,
        };
        Verdict::Recover
    }

    /// Does not count the last recovery, as nothing could be tried.
    pub const fn untried(&mut self) {
        if let Self::Going { strikes, .. } = self {
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
pub enum Starting {
    /// CXT_UPD and a SYNC for it come before CXT_START, as the standard has it.
    Updated,
    /// CXT_START alone, for devices that refuse the others.
    Plain,
}

impl Starting {
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
pub enum Stopper {
    /// A hard stop.
    Hard,
    /// The whole function is stopped, as the device refuses hard stops of contexts.
    Function,
}

impl Stopper {
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

    fn goes(hard: bool, steps: &[(u32, State, Action)]) {
        let mut stopping = Stopping::new(hard);
        for (now, state, action) in steps {
            assert_eq!(stopping.next(*state, *now), *action);
        }
    }

    #[test]
    fn stops() {
        goes(false, &[(0, State::Stop, Done)]);
        goes(
            false,
            &[
                (0, State::Active, Ask(ControlRequest::StopSoft)),
                (1, State::StoppingSoft, Wait),
                (2, State::Stop, Done),
            ],
        );
        goes(
            true,
            &[
                (5, State::Init, Ask(ControlRequest::StopHard)),
                (6, State::StoppingHard, Wait),
                (7, State::Stop, Done),
            ],
        );
        // Somebody else has begun it.
        goes(
            false,
            &[(0, State::StoppingSoft, Ask(ControlRequest::StopHard))],
        );
        goes(
            false,
            &[(0, State::StoppingHard, Ask(ControlRequest::StopHard))],
        );
    }

    #[test]
    fn harder_and_harder() {
        goes(
            false,
            &[
                (0, State::Active, Ask(ControlRequest::StopSoft)),
                (STEP_MS - 1, State::StoppingSoft, Wait),
                (STEP_MS, State::StoppingSoft, Ask(ControlRequest::StopHard)),
                (2 * STEP_MS - 1, State::StoppingHard, Wait),
                (2 * STEP_MS, State::StoppingHard, Ask(ControlRequest::Reset)),
                (3 * STEP_MS - 1, State::StoppingHard, Wait),
                (3 * STEP_MS, State::StoppingHard, GiveUp),
            ],
        );
    }

    #[test]
    fn errors_are_reset() {
        goes(
            false,
            &[
                (0, State::Error, Ask(ControlRequest::Reset)),
                (1, State::Error, Wait),
                (STEP_MS, State::Error, GiveUp),
            ],
        );
        goes(
            false,
            &[
                (0, State::Active, Ask(ControlRequest::StopSoft)),
                (3, State::Error, Ask(ControlRequest::Reset)),
                (4, State::Stop, Done),
            ],
        );
        goes(true, &[(0, State::Undefined, Ask(ControlRequest::Reset))]);
    }

    #[test]
    fn nobody_there() {
        goes(
            false,
            &[
                (0, State::Active, Ask(ControlRequest::StopSoft)),
                (1, State::Gone, GiveUp),
            ],
        );
    }

    /// Whatever the device says, there is an end.
    #[test]
    fn bounded() {
        let states = [
            State::Init,
            State::Active,
            State::StoppingSoft,
            State::StoppingHard,
            State::Error,
            State::Undefined,
        ];
        for first in states {
            for then in states {
                let mut stopping = Stopping::new(false);
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
        assert_eq!(activating(State::Stop, 0), Wait);
        assert_eq!(activating(State::Init, STEP_MS - 1), Wait);
        assert_eq!(activating(State::Init, STEP_MS), GiveUp);
        assert_eq!(activating(State::Active, STEP_MS + 5), Done);
        assert_eq!(activating(State::Error, 0), GiveUp);
        assert_eq!(activating(State::Gone, 0), GiveUp);
        assert_eq!(activating(State::StoppingHard, 0), GiveUp);
    }

    #[test]
    fn recoveries_end() {
        let mut r = Recoveries::NONE;
        for _ in 0..MOST_RECOVERIES {
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
        for good in 0..3 * u64::from(MOST_RECOVERIES) {
            assert_eq!(r.failed(good / 2), Verdict::Recover);
        }
        for _ in 0..3 * MOST_RECOVERIES {
            assert_eq!(r.failed(1000), Verdict::Recover);
            r.untried();
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(Starting::Updated.refused(0), Starting::Plain);
        assert_eq!(Starting::Updated.refused(1), Starting::Plain);
        assert_eq!(Starting::Updated.refused(2), Starting::Updated);
        assert_eq!(Starting::Plain.refused(0), Starting::Updated);
    }
}
