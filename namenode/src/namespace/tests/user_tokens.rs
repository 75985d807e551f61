//! Tokens of users: what is kept of them, and when they are forgotten.

use cairn_protocol::ErrorCode;

use super::world::{World, user};
use crate::namespace::GENERATIONS_MAX;
use crate::namespace::command::{ChangeUserToken, CommandKind, IssueUserToken, Outcome};
use crate::namespace::internal::issue_user_token::TOKENS_OF_USER_MAX;
use crate::namespace::invariants;
use crate::store::records::UserTokenRecord;
use crate::store::{Read, user_token};

const HOUR_MS: u64 = 3_600_000;

fn issue(world: &mut World, secret: u8, lifetime_ms: u64, renewable_ms: u64) -> Outcome {
    beget(world, 0, 1000, secret, lifetime_ms, renewable_ms)
}

fn beget(
    world: &mut World,
    parent: u64,
    uid: u32,
    secret: u8,
    lifetime_ms: u64,
    renewable_ms: u64,
) -> Outcome {
    world.command(CommandKind::IssueUserToken(IssueUserToken {
        user: "ada".to_owned(),
        bearer: user(uid),
        acts_for_others: false,
        lifetime_ms,
        renewable_ms,
        until_ms: u64::MAX,
        secret: vec![secret; 32],
        parent,
    }))
}

fn change(world: &mut World, id: u64, lifetime_ms: u64) -> Outcome {
    world.command(CommandKind::ChangeUserToken(ChangeUserToken {
        id,
        lifetime_ms,
    }))
}

fn record(world: &World, id: u64) -> Option<UserTokenRecord> {
    user_token::get(&world.store.snapshot(), id).unwrap()
}

fn check(world: &World) {
    let problems = invariants::check_all(&world.store.snapshot()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn the_first_one_brings_the_key_and_later_ones_keep_it() {
    let mut world = World::new();
    let first = issue(&mut world, 1, HOUR_MS, 0).id;
    let second = issue(&mut world, 2, HOUR_MS, 0).id;
    assert_eq!((first, second), (1, 2));
    let cluster = world.store.snapshot().cluster_record().unwrap();
    assert_eq!(cluster.user_token_secret, [1; 32]);
    assert_eq!(cluster.user_token_count, 2);
    let kept = record(&world, first).unwrap();
    assert_eq!(kept.bearer, user(1000));
    assert_eq!(kept.expires_at_ms, kept.issued_at_ms + HOUR_MS);
    assert_eq!(kept.renewable_until_ms, kept.expires_at_ms);
}

#[test]
fn a_renewal_goes_as_far_as_was_agreed_and_takes_nothing_away() {
    let mut world = World::new();
    let id = issue(&mut world, 1, HOUR_MS, 3 * HOUR_MS).id;
    let end = record(&world, id).unwrap().renewable_until_ms;
    assert_eq!(change(&mut world, id, 100 * HOUR_MS).code, 0);
    assert_eq!(record(&world, id).unwrap().expires_at_ms, end);
    assert_eq!(change(&mut world, id, 1).code, 0);
    assert_eq!(record(&world, id).unwrap().expires_at_ms, end);
}

#[test]
fn what_was_revoked_stays_so() {
    let mut world = World::new();
    let id = issue(&mut world, 1, HOUR_MS, HOUR_MS).id;
    assert_eq!(change(&mut world, id, 0).code, 0);
    assert!(record(&world, id).unwrap().revoked);
    let refused = change(&mut world, id, HOUR_MS);
    assert_eq!(refused.code, ErrorCode::NotPermitted as u32);
    assert!(record(&world, id).unwrap().revoked);
    let unknown = change(&mut world, 77, 0);
    assert_eq!(unknown.code, ErrorCode::NotFound as u32);
    check(&world);
}

#[test]
fn those_that_are_over_make_room() {
    let mut world = World::new();
    for _ in 0..40 {
        issue(&mut world, 1, 1, 1);
    }
    let lasting = issue(&mut world, 1, HOUR_MS, HOUR_MS).id;
    world.now_ns += 10_000_000;
    for _ in 0..4 {
        issue(&mut world, 1, HOUR_MS, HOUR_MS);
    }
    for id in 1..lasting {
        assert_eq!(record(&world, id), None, "{id}");
    }
    assert!(record(&world, lasting).is_some());
    check(&world);
    let cluster = world.store.snapshot().cluster_record().unwrap();
    assert_eq!(cluster.user_token_count, 5);
}

#[test]
fn one_user_has_so_many_tokens_and_takes_nobody_elses_place() {
    let mut world = World::new();
    let first = issue(&mut world, 1, HOUR_MS, 100 * HOUR_MS).id;
    for _ in 1..TOKENS_OF_USER_MAX {
        assert_eq!(issue(&mut world, 1, HOUR_MS, 100 * HOUR_MS).code, 0);
    }
    let refused = issue(&mut world, 1, HOUR_MS, 100 * HOUR_MS);
    assert_eq!(refused.code, ErrorCode::Overloaded as u32);
    assert_eq!(beget(&mut world, 0, 1001, 1, HOUR_MS, HOUR_MS).code, 0);
    // What was revoked makes room, after a while.
    assert_eq!(change(&mut world, first, 0).code, 0);
    assert_eq!(
        issue(&mut world, 1, HOUR_MS, HOUR_MS).code,
        ErrorCode::Overloaded as u32
    );
    world.now_ns += HOUR_MS * 1_000_000;
    assert_eq!(issue(&mut world, 1, HOUR_MS, HOUR_MS).code, 0);
    assert_eq!(record(&world, first), None);
    for _ in 0..TOKENS_OF_USER_MAX + 1 {
        assert_eq!(beget(&mut world, 0, 0, 1, HOUR_MS, HOUR_MS).code, 0);
    }
}

#[test]
fn what_is_over_is_removed_also_while_there_is_no_room() {
    let mut world = World::new();
    // Those behind the first few that are looked at are over.
    for index in 0..TOKENS_OF_USER_MAX {
        let renewable_ms = if index < 100 { 100 * HOUR_MS } else { HOUR_MS };
        issue(&mut world, 1, HOUR_MS, renewable_ms);
    }
    world.now_ns += 2 * HOUR_MS * 1_000_000;
    let refusals = (0..40)
        .take_while(|_| issue(&mut world, 1, HOUR_MS, HOUR_MS).code != 0)
        .count();
    assert!((1..40).contains(&refusals), "{refusals}");
}

#[test]
fn a_token_ends_with_the_one_it_was_issued_with_and_generations_are_few() {
    let mut world = World::new();
    let mut last = issue(&mut world, 1, HOUR_MS, 3 * HOUR_MS).id;
    let end = record(&world, last).unwrap().renewable_until_ms;
    for _ in 1..GENERATIONS_MAX {
        let next = beget(&mut world, last, 1000, 1, 100 * HOUR_MS, 100 * HOUR_MS);
        assert_eq!(next.code, 0, "{}", next.message);
        let kept = record(&world, next.id).unwrap();
        assert_eq!((kept.parent, kept.renewable_until_ms), (last, end));
        last = next.id;
    }
    let refused = beget(&mut world, last, 1000, 1, HOUR_MS, 0);
    assert_eq!(refused.code, ErrorCode::NotPermitted as u32);
    change(&mut world, 1, 0);
    let refused = beget(&mut world, 2, 1000, 1, HOUR_MS, 0);
    assert_eq!(
        refused.code,
        ErrorCode::NotPermitted as u32,
        "its parent is revoked"
    );
    let unknown = beget(&mut world, 77, 1000, 1, HOUR_MS, 0);
    assert_eq!(unknown.code, ErrorCode::NotPermitted as u32);
}
