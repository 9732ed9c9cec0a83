//! Every state of one end with every state of the other.

use super::*;

const STATES: [Option<State>; 7] = [
    None,
    Some(State::Initialising),
    Some(State::InitWait),
    Some(State::Initialised),
    Some(State::Connected),
    Some(State::Closing),
    Some(State::Closed),
];

fn at(phase: Phase) -> Handshake {
    Handshake {
        phase,
        ..Handshake::new()
    }
}

/// What a back end in this state is answered, while nothing else is wrong.
fn step(phase: Phase, own: Option<State>, back: Option<State>) -> Step {
    at(phase).observe(&Seen {
        own,
        back,
        online: true,
        same: true,
        idle: false,
        broken: false,
    })
}

#[test]
fn numbers() {
    for number in 0..20 {
        let state = State::from_number(number);
        assert_eq!(state.is_some(), (1..=6).contains(&number));
        assert!(state.is_none_or(|state| u64::from(state.number()) == number));
    }
    assert_eq!(State::from_number(u64::MAX), None);
}

#[test]
fn down() {
    use State::{Closed, Closing, Connected, InitWait, Initialised, Initialising};
    for own in STATES.into_iter().flatten() {
        for (back, expected) in [
            (None, Step::Nothing),
            (Some(Initialising), Step::Nothing),
            (Some(InitWait), Step::Offer),
            (Some(Initialised), Step::Offer),
        ] {
            assert_eq!(step(Phase::Down, Some(own), back), expected);
        }
        // A back end that is connected to a predecessor has to be told that it is over, once.
        for back in [Connected, Closing] {
            let expected = if own == Closed {
                Step::Nothing
            } else {
                Step::Write(Closed)
            };
            assert_eq!(step(Phase::Down, Some(own), Some(back)), expected);
        }
        let expected = if own == Initialising {
            Step::Nothing
        } else {
            Step::Write(Initialising)
        };
        assert_eq!(step(Phase::Down, Some(own), Some(Closed)), expected);
    }
    for back in STATES {
        assert_eq!(step(Phase::Down, None, back), Step::Nothing, "no device");
    }
    let offline = Seen {
        own: Some(Closed),
        back: Some(Closed),
        online: false,
        same: false,
        idle: true,
        broken: false,
    };
    assert_eq!(at(Phase::Down).observe(&offline), Step::Nothing);
}

/// A device that was made anew, or whose back end is another one, is let go, whatever its state.
#[test]
fn another_device() {
    for (phase, own, step_then) in [
        (Phase::Offered, State::Initialised, Step::Lose),
        (Phase::Up, State::Connected, Step::Lose),
        (Phase::Draining, State::Closing, Step::Lose),
        (Phase::Closing, State::Closed, Step::Revoke),
    ] {
        for other in STATES {
            for back in STATES {
                if other != Some(own) {
                    assert_eq!(step(phase, other, back), step_then);
                }
                let seen = Seen {
                    own: Some(own),
                    back,
                    online: true,
                    same: false,
                    idle: true,
                    broken: true,
                };
                assert_eq!(at(phase).observe(&seen), step_then);
            }
        }
        assert_eq!(step(phase, Some(own), None), step_then, "no back end");
    }
}

#[test]
fn connected_or_about_to() {
    use State::{Closed, Closing, Connected, InitWait, Initialised, Initialising};
    let lost = Step::Close { in_order: false };
    for (back, offered, up, draining, closing) in [
        (Initialising, Step::Nothing, lost, lost, Step::Revoke),
        (InitWait, Step::Nothing, lost, lost, Step::Revoke),
        (Initialised, Step::Nothing, lost, lost, Step::Nothing),
        (Connected, Step::Open, Step::Reread, lost, Step::Nothing),
        (
            Closing,
            Step::Close { in_order: true },
            Step::Drain,
            Step::Nothing,
            Step::Nothing,
        ),
        (
            Closed,
            Step::Close { in_order: true },
            lost,
            lost,
            Step::Revoke,
        ),
    ] {
        let back = Some(back);
        assert_eq!(step(Phase::Offered, Some(Initialised), back), offered);
        assert_eq!(step(Phase::Up, Some(Connected), back), up);
        assert_eq!(step(Phase::Draining, Some(Closing), back), draining);
        assert_eq!(step(Phase::Closing, Some(Closed), back), closing);
    }
}

#[test]
fn what_the_disk_says() {
    for (phase, own) in [
        (Phase::Up, State::Connected),
        (Phase::Draining, State::Closing),
    ] {
        let mut seen = Seen {
            own: Some(own),
            back: Some(State::Closing),
            online: true,
            same: true,
            idle: true,
            broken: true,
        };
        let lost = Step::Close { in_order: false };
        assert_eq!(at(phase).observe(&seen), lost, "broken");
        seen.broken = false;
        let expected = match phase {
            Phase::Up => Step::Drain,
            _ => Step::Close { in_order: true },
        };
        assert_eq!(at(phase).observe(&seen), expected);
    }
}

/// A back end that never gets anywhere is not tried for ever.
#[test]
fn row37_attempts_are_bounded() {
    let mut handshake = Handshake::new();
    for _ in 0..MAX_ATTEMPTS {
        assert!(!handshake.has_given_up());
        handshake.enter(Phase::Offered);
        handshake.enter(Phase::Closing);
        handshake.enter(Phase::Down);
    }
    assert!(handshake.has_given_up());
    for own in STATES {
        for back in STATES {
            let seen = Seen {
                own,
                back,
                online: true,
                same: true,
                idle: true,
                broken: false,
            };
            assert_eq!(handshake.observe(&seen), Step::Nothing);
        }
    }
    handshake.forgive();
    assert!(!handshake.has_given_up());
}

/// A front end that calls itself connected once its rings are published: both words are the same, and so is all else.
#[test]
fn offered_as_connected() {
    let mut handshake = Handshake::offering_as(State::Connected);
    assert_eq!(handshake.offered_as(), State::Connected);
    let seen = |own, back| Seen {
        own: Some(own),
        back: Some(back),
        online: true,
        same: true,
        idle: true,
        broken: false,
    };
    let begun = seen(State::Initialising, State::InitWait);
    assert_eq!(handshake.observe(&begun), Step::Offer);
    handshake.enter(Phase::Offered);
    for (back, expected) in [
        (State::InitWait, Step::Nothing),
        (State::Connected, Step::Open),
        (State::Closing, Step::Close { in_order: true }),
        (State::Closed, Step::Close { in_order: true }),
    ] {
        let seen = seen(State::Connected, back);
        assert_eq!(handshake.observe(&seen), expected);
        assert_eq!(handshake.retreat(&seen), Step::Close { in_order: true });
    }
    // Not what the other kind of front end is then.
    let other = seen(State::Initialised, State::Connected);
    assert_eq!(handshake.observe(&other), Step::Lose);
    assert_eq!(handshake.retreat(&other), Step::Lose);
    handshake.enter(Phase::Up);
    let both = seen(State::Connected, State::Connected);
    assert_eq!(handshake.observe(&both), Step::Reread);
}
