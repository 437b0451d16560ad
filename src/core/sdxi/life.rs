// SPDX-License-Identifier: GPL-2.0

//! How a function is brought to a stop, and to run (SDXI 1.0, sections 4.1 and 4.1.8).
//!
//! Decisions alone: who asks has read STS0 and knows how long it has waited.

use super::registers::{
    Request,
    State, //
};

/// How long each step may take, in milliseconds.
pub const STEP_MS: u32 = 1000;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this request, then look again.
    Ask(Request),
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
    last: Option<Request>,
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
                None | Some(Request::StopSoft | Request::StopHard),
            ) => Request::Reset,
            (_, None) => self.first(state),
            (_, Some(last)) if late => match last {
                Request::StopSoft => Request::StopHard,
                Request::StopHard => Request::Reset,
                Request::Reset | Request::Active => return Action::GiveUp,
            },
            _ => return Action::Wait,
        };
        self.last = Some(wanted);
        self.since_ms = now_ms;
        Action::Ask(wanted)
    }

    fn first(&self, state: State) -> Request {
        match state {
            State::Init | State::Active if !self.hard => Request::StopSoft,
            _ => Request::StopHard,
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
                (0, State::Active, Ask(Request::StopSoft)),
                (1, State::StoppingSoft, Wait),
                (2, State::Stop, Done),
            ],
        );
        goes(
            true,
            &[
                (5, State::Init, Ask(Request::StopHard)),
                (6, State::StoppingHard, Wait),
                (7, State::Stop, Done),
            ],
        );
        // Somebody else has begun it.
        goes(false, &[(0, State::StoppingSoft, Ask(Request::StopHard))]);
        goes(false, &[(0, State::StoppingHard, Ask(Request::StopHard))]);
    }

    #[test]
    fn harder_and_harder() {
        goes(
            false,
            &[
                (0, State::Active, Ask(Request::StopSoft)),
                (STEP_MS - 1, State::StoppingSoft, Wait),
                (STEP_MS, State::StoppingSoft, Ask(Request::StopHard)),
                (2 * STEP_MS - 1, State::StoppingHard, Wait),
                (2 * STEP_MS, State::StoppingHard, Ask(Request::Reset)),
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
                (0, State::Error, Ask(Request::Reset)),
                (1, State::Error, Wait),
                (STEP_MS, State::Error, GiveUp),
            ],
        );
        goes(
            false,
            &[
                (0, State::Active, Ask(Request::StopSoft)),
                (3, State::Error, Ask(Request::Reset)),
                (4, State::Stop, Done),
            ],
        );
        goes(true, &[(0, State::Undefined, Ask(Request::Reset))]);
    }

    #[test]
    fn nobody_there() {
        goes(
            false,
            &[
                (0, State::Active, Ask(Request::StopSoft)),
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
}
