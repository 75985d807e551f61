//! Exactly once (I6): the memory of outcomes, and its bounds.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{CloseSession, Done, OperationKind, OutcomeKind};

use super::world::{Row, World, mkdir, user};
use crate::namespace::command::{ClientCommand, CommandKind, ExpireSession, Outcome};
use crate::namespace::retry::OUTCOMES_MAX;
use crate::store::KeyKind;

fn send(world: &mut World, command: &ClientCommand) -> Outcome {
    world.command(CommandKind::Client(command.clone()))
}

fn outcome_rows(world: &World) -> usize {
    let outcomes = |(key, _): &Row| key[0] == KeyKind::Outcome as u8;
    world.dump().iter().filter(|row| outcomes(row)).count()
}

#[test]
fn a_retry_gets_the_first_outcome_and_changes_nothing() {
    let mut world = World::new();
    let command = world.next(&user(1), mkdir("/a", 0o755));
    let first = send(&mut world, &command);
    assert_eq!(first.code, 0);
    world.rmdir(&user(1), "/a").unwrap();
    let before = world.names(&user(0), "/").unwrap();
    // The client still lacks the first answer: what it sends next says so.
    let mut retry = command.clone();
    retry.lowest_unanswered = 1;
    let mut again = world.next(&user(1), mkdir("/b", 0o755));
    again.lowest_unanswered = 2;
    assert_eq!(
        send(&mut world, &retry).code,
        ErrorCode::OutcomeUnknown as u32
    );
    assert_eq!(send(&mut world, &again).code, 0);
    let remembered = send(&mut world, &again);
    assert_eq!(remembered.code, 0);
    assert_eq!(before, Vec::<String>::new());
    assert_eq!(world.names(&user(0), "/").unwrap(), ["b"]);
}

#[test]
fn failures_are_remembered_too() {
    let mut world = World::new();
    let mut failing = world.next(&user(1), mkdir("/a/b", 0o755));
    failing.lowest_unanswered = 1;
    let first = send(&mut world, &failing);
    assert_eq!(
        (first.code, first.message.as_str()),
        (ErrorCode::NotFound as u32, "/a/b")
    );
    let mut parent = world.next(&user(1), mkdir("/a", 0o755));
    parent.lowest_unanswered = 1;
    assert_eq!(send(&mut world, &parent).code, 0);
    assert_eq!(
        send(&mut world, &failing),
        first,
        "the world changed, the answer must not"
    );
}

#[test]
fn answers_out_of_order_and_in_one_batch_are_told_apart() {
    let mut world = World::new();
    let mut commands: Vec<ClientCommand> = (0..5)
        .map(|n| world.next(&user(1), mkdir(&format!("/{n}"), 0o755)))
        .collect();
    for command in &mut commands {
        command.lowest_unanswered = 1;
    }
    commands.reverse();
    let repeated = [commands.clone(), commands].concat();
    let batch = repeated
        .into_iter()
        .map(|command| CommandKind::Client(command).into())
        .collect();
    let outcomes = world.batch(batch);
    assert!(outcomes.iter().all(|outcome| outcome.code == 0));
    assert_eq!(outcomes[..5], outcomes[5..]);
}

#[test]
fn what_was_answered_is_forgotten_a_little_at_a_time() {
    let mut world = World::new();
    for n in 0..300 {
        let mut command = world.next(&user(1), mkdir(&format!("/{n}"), 0o755));
        command.lowest_unanswered = 1;
        assert_eq!(send(&mut world, &command).code, 0);
    }
    assert_eq!(outcome_rows(&world), 300);
    world.mkdir(&user(1), "/next").unwrap();
    assert_eq!(outcome_rows(&world), 300 + 1 - 64);
    for n in 0..5 {
        world.mkdir(&user(1), &format!("/next/{n}")).unwrap();
    }
    assert_eq!(
        outcome_rows(&world),
        1,
        "only the last one may still be asked for"
    );
}

#[test]
fn a_client_that_never_listens_is_refused_and_can_go_on() {
    let mut world = World::new();
    let mut far = world.next(&user(1), mkdir("/far", 0o755));
    far.lowest_unanswered = 1;
    far.sequence = 1 + OUTCOMES_MAX;
    assert_eq!(send(&mut world, &far).code, ErrorCode::Overloaded as u32);
    assert_eq!(outcome_rows(&world), 0, "a refusal is not an answer");
    far.lowest_unanswered = far.sequence;
    assert_eq!(
        send(&mut world, &far).code,
        0,
        "it has skipped numbers, which is its right"
    );
    far.sequence = u64::MAX;
    far.lowest_unanswered = u64::MAX;
    assert_eq!(send(&mut world, &far).code, ErrorCode::AlreadyExists as u32);
}

#[test]
fn an_expired_session_does_nothing_and_remembers_nothing() {
    let mut world = World::new();
    let command = world.next(&user(1), mkdir("/a", 0o755));
    assert_eq!(send(&mut world, &command).code, 0);
    let session = world.session;
    let expired = world.command(CommandKind::ExpireSession(ExpireSession { session }));
    assert_eq!((expired.code, expired.more), (0, false));
    assert_eq!(
        send(&mut world, &command).code,
        ErrorCode::SessionExpired as u32
    );
    assert_eq!(outcome_rows(&world), 0);
    let again = world.command(CommandKind::ExpireSession(ExpireSession { session }));
    assert_eq!(again.code, ErrorCode::SessionExpired as u32);
}

#[test]
fn a_session_with_much_to_forget_ends_in_steps() {
    let mut world = World::new();
    let batch: Vec<_> = (0..3000)
        .map(|n| {
            let mut command = world.next(&user(1), mkdir(&format!("/{n}"), 0o755));
            command.lowest_unanswered = 1;
            CommandKind::Client(command).into()
        })
        .collect();
    world.batch(batch);
    let session = world.session;
    let close = OperationKind::CloseSession(CloseSession {});
    let closed = world.apply(&user(1), close).unwrap();
    assert_eq!(closed, OutcomeKind::Done(Done {}));
    assert_eq!(
        outcome_rows(&world),
        3000 - 64 - 1024,
        "pruned by the last command, and by the end"
    );
    assert_eq!(
        world.mkdir(&user(1), "/late"),
        Err(ErrorCode::SessionExpired)
    );
    let mut steps = 1;
    while world
        .command(CommandKind::ExpireSession(ExpireSession { session }))
        .more
    {
        steps += 1;
    }
    assert_eq!((steps, outcome_rows(&world)), (2, 0));
    let sessions =
        |(key, _): &&Row| key[0] == KeyKind::Session as u8 || key[0] == KeyKind::SessionNonce as u8;
    assert_eq!(world.dump().iter().filter(sessions).count(), 0);
}
