//! Apply is a pure function of state and log (I7): the same log gives the same bytes, however it is cut.

use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{OperationKind, SetXattr};
use proptest::prelude::{ProptestConfig, prop, proptest};

use super::model::{Step, caller, operation, step, told_later};
use super::world::{Row, World, user};
use crate::namespace::command::{Command, CommandKind, Outcome, RotateKeys, Sweep};

/// A log of many kinds of commands: entries of a few commands each.
fn log(steps: &[(cairn_protocol::messages::common::Caller, Step)]) -> Vec<Vec<Command>> {
    let mut sender = World::unfounded();
    sender.session = 1;
    let mut commands: Vec<Command> = Vec::new();
    for (at, (who, step)) in steps.iter().enumerate() {
        if !matches!(step, Step::Stat(..)) {
            let kind = match at % 2 {
                0 => operation(step),
                _ => told_later(step),
            };
            commands.push(CommandKind::Client(sender.next(who, kind)).into());
        }
    }
    let xattr = SetXattr {
        location: Location::path("/"),
        name: b"user.x".to_vec(),
        value: b"y".to_vec(),
        ..SetXattr::default()
    };
    commands
        .push(CommandKind::Client(sender.next(&user(0), OperationKind::SetXattr(xattr))).into());
    commands.push(
        CommandKind::RotateKeys(RotateKeys {
            secret: vec![3; 32],
            current_id: 1,
        })
        .into(),
    );
    commands.push(CommandKind::Sweep(Sweep { limit: 10 }).into());
    commands.chunks(3).map(<[Command]>::to_vec).collect()
}

fn replay(log: &[Vec<Command>]) -> (Vec<Vec<Outcome>>, Vec<Row>) {
    let mut world = World::new();
    let mut outcomes = Vec::new();
    for entry in log {
        world.now_ns += 1;
        outcomes.push(world.batch(entry.clone()));
    }
    (outcomes, world.dump())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_same_log_gives_the_same_bytes(
        steps in prop::collection::vec((caller(), step()), 1..60),
    ) {
        let log = log(&steps);
        let (first, second) = (replay(&log), replay(&log));
        assert_eq!(first.0, second.0);
        assert!(first.1 == second.1, "the states differ");
        assert!(first.1.len() > 5);
    }
}
