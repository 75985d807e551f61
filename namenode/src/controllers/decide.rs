//! What a chunk needs, from its committed record and what is known of its replicas. Pure.
//!
//! I9 is kept here: only replicas that are alive, in service and verified count towards what the policy asks for before a good
//! one may go. A replica that is known bad may still hold bytes that are bad elsewhere, which nobody knows before they are read. So it
//! stays until there are enough good ones without it, or, where it occupies the only datanode on which a copy could be made,
//! until a good one has been read in full.

use cairn_protocol::ids::{DatanodeId, Incarnation};
use cairn_protocol::messages::admin::DatanodeAdminState;

use super::registry::Standing;
use crate::store::records::{ChunkRecord, ChunkState};

/// A replica of the committed set.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicaView {
    pub datanode: DatanodeId,
    pub incarnation: Incarnation,
    pub standing: Standing,
    /// What its datanode is to be.
    pub admin: DatanodeAdminState,
    /// How many replicas share its rack and its host: the most crowded goes first.
    pub crowding: (usize, usize),
    /// How full its datanode is, in thousandths: of equally crowded ones the fullest loses its replica.
    pub fullness: u64,
    /// Its datanode can be asked for a confirmation now.
    pub askable: bool,
    /// It is known to be gone: nothing can be read from it.
    pub empty: bool,
    /// It failed only because it ends here, too early; that its datanode can be asked goes without saying.
    pub short_length: Option<u64>,
    /// Its datanode can make nothing of its files, and may after its next start.
    pub unreadable: bool,
    /// All its bytes were read and are right, since one of the set is known to have failed.
    pub proven: bool,
}

/// What decides besides the record and its replicas.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circumstances {
    /// Nobody took the chunk for a while.
    pub idle_too_long: bool,
    /// There is no datanode outside the set on which a copy could be made now.
    pub no_target: bool,
}

impl ReplicaView {
    fn is(&self, standing: Standing, admin: DatanodeAdminState) -> bool {
        self.standing == standing && self.admin == admin
    }

    fn is_leaving(&self) -> bool {
        matches!(
            self.admin,
            DatanodeAdminState::Decommissioning | DatanodeAdminState::Decommissioned
        )
    }

    /// Present for the question whether one more copy is needed.
    fn is_present(&self) -> bool {
        match self.standing {
            Standing::Good | Standing::Unconfirmed => !self.is_leaving(),
            // Away on purpose.
            Standing::Away => self.admin == DatanodeAdminState::Maintenance,
            Standing::Failed => false,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Good | Standing::Unconfirmed)
    }
}

/// How a chunk that is not simply sealed and well is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Sealed, enough live replicas, none too many.
    Well,
    /// Open or idle.
    Open,
    /// Sealed without live bytes: waits for its grace to end.
    Dead,
    /// Fewer live replicas than asked for, open or sealed.
    Under,
    /// No live replica.
    Unavailable,
    /// Its end is lost; what is left is live.
    Lossy,
    /// More replicas than asked for.
    Over,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Propose the seal at the epoch of the record.
    Seal,
    /// Ask the datanode to cut, sync and seal, and so to confirm.
    Confirm(DatanodeId, Incarnation),
    /// Propose that it leaves the set.
    Remove(DatanodeId, Incarnation),
    /// Make one more copy; the number of good replicas is its priority.
    Copy(u32),
    /// Have the datanode read all of it.
    Verify(DatanodeId, Incarnation),
    /// Propose that what lies beyond this length is lost: every replica is known, and none has it.
    DeclareLost(u64),
}

/// What a chunk needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub health: Health,
    pub actions: Vec<Action>,
}

/// Decides.
pub(super) fn decide(
    record: &ChunkRecord,
    replicas: &[ReplicaView],
    circumstances: Circumstances,
) -> Decision {
    match record.state() {
        ChunkState::Open => {
            // Without a writer it was a controller's of a leader that is gone.
            let abandoned = record.writer == 0;
            decide_open(record, replicas, abandoned)
        }
        ChunkState::Idle => decide_open(record, replicas, circumstances.idle_too_long),
        ChunkState::Sealed if record.live_bytes == 0 => Decision {
            health: Health::Dead,
            actions: Vec::new(),
        },
        ChunkState::Sealed => decide_sealed(record, replicas, circumstances.no_target),
    }
}

/// Begun while datanodes were away: the missing replicas can be made when it is sealed.
pub(super) fn is_short(record: &ChunkRecord, replicas: usize) -> bool {
    replicas < usize::try_from(record.replication).unwrap_or(usize::MAX)
}

/// An open chunk that loses a replica is sealed at once; so is one with a replica where nothing new belongs.
fn decide_open(record: &ChunkRecord, replicas: &[ReplicaView], seal: bool) -> Decision {
    let broken = replicas
        .iter()
        .any(|replica| !replica.is_live() || replica.admin != DatanodeAdminState::InService);
    let live = replicas.iter().filter(|replica| replica.is_live()).count();
    let health = match live {
        _ if record.length == 0 => Health::Open,
        0 => Health::Unavailable,
        _ if is_short(record, live) => Health::Under,
        _ => Health::Open,
    };
    Decision {
        health,
        actions: if seal || broken {
            vec![Action::Seal]
        } else {
            Vec::new()
        },
    }
}

fn decide_sealed(record: &ChunkRecord, replicas: &[ReplicaView], no_target: bool) -> Decision {
    let count =
        |test: &dyn Fn(&ReplicaView) -> bool| replicas.iter().filter(|view| test(view)).count();
    let wanted = usize::try_from(record.replication).unwrap_or(usize::MAX);
    let live = count(&ReplicaView::is_live);
    let good = count(&|view| view.standing == Standing::Good);
    let counting = count(&|view| view.is(Standing::Good, DatanodeAdminState::InService));
    let present = count(&ReplicaView::is_present);

    let unconfirmed = replicas
        .iter()
        .filter(|view| view.standing == Standing::Unconfirmed && view.askable);
    let mut actions: Vec<Action> = unconfirmed
        .map(|view| Action::Confirm(view.datanode, view.incarnation))
        .collect();
    let enough = counting >= wanted;
    actions.extend(failed_ones(replicas, enough, no_target));
    // A replica that is away, gone or bad in another way may have what the others lack, or come back with it.
    if let Some(held) = longest_of_all_short(replicas) {
        return Decision {
            health: Health::Unavailable,
            actions: vec![Action::DeclareLost(held)],
        };
    }
    // Without a good one, a copy is put together from what the bad ones still have: not where all of them end too early.
    let has_end =
        |view: &ReplicaView| is_salvage(view) && view.askable && view.short_length.is_none();
    let salvage = live == 0 && replicas.iter().any(has_end) && !no_target;
    if (good > 0 && present < wanted) || salvage {
        actions.push(Action::Copy(u32::try_from(counting).unwrap_or(u32::MAX)));
    }
    if let Some(surplus) = surplus(replicas, counting, wanted) {
        actions.push(Action::Remove(surplus.datanode, surplus.incarnation));
    }
    let health = if live == 0 {
        Health::Unavailable
    } else if record.lost_bytes > 0 {
        Health::Lossy
    } else if live < wanted {
        Health::Under
    } else if replicas.len() > wanted {
        Health::Over
    } else {
        Health::Well
    };
    Decision { health, actions }
}

/// The length of the longest replica, if all have failed only because they are too short.
fn longest_of_all_short(replicas: &[ReplicaView]) -> Option<u64> {
    let lengths: Option<Vec<u64>> = replicas.iter().map(|view| view.short_length).collect();
    lengths?.into_iter().max().filter(|&longest| longest > 0)
}

/// Bytes may still be read from it.
pub(super) fn is_salvage(view: &ReplicaView) -> bool {
    view.standing == Standing::Failed && !view.empty && !view.unreadable
}

/// What is to become of replicas that are known bad, while there is a good one.
fn failed_ones(replicas: &[ReplicaView], enough: bool, no_target: bool) -> Vec<Action> {
    let good = || {
        replicas
            .iter()
            .filter(|view| view.standing == Standing::Good)
    };
    if good().next().is_none() {
        return Vec::new();
    }
    let proven = good().any(|view| view.proven);
    let failed = replicas
        .iter()
        .filter(|view| view.standing == Standing::Failed);
    let (may_go, must_stay): (Vec<&ReplicaView>, Vec<&ReplicaView>) =
        failed.partition(|view| view.empty || enough || (no_target && proven));
    let mut actions: Vec<Action> = may_go
        .iter()
        .map(|view| Action::Remove(view.datanode, view.incarnation))
        .collect();
    if !must_stay.is_empty()
        && no_target
        && let Some(view) = good().find(|view| view.askable)
    {
        actions.push(Action::Verify(view.datanode, view.incarnation));
    }
    actions
}

/// One replica that the policy does not need, if there is one (I9). One at a time: the next look sees what is left.
fn surplus(replicas: &[ReplicaView], counting: usize, wanted: usize) -> Option<&ReplicaView> {
    if wanted == 0 || counting < wanted {
        return None;
    }
    let useless = replicas.iter().find(|view| {
        let dead = view.standing == Standing::Away && view.admin != DatanodeAdminState::Maintenance;
        dead || (view.standing == Standing::Good && view.is_leaving())
    });
    if useless.is_some() || counting == wanted {
        return useless;
    }
    replicas
        .iter()
        .filter(|view| view.is(Standing::Good, DatanodeAdminState::InService))
        .max_by_key(|view| (view.crowding, view.fullness, view.incarnation))
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::{DatanodeId, Incarnation};
    use cairn_protocol::messages::admin::DatanodeAdminState as Admin;
    use proptest::prelude::{Just, Strategy, prop, prop_oneof, proptest};

    use super::{Action, Circumstances, Health, ReplicaView, Standing, decide};
    use crate::store::records::{ChunkRecord, ChunkState};

    fn view(id: u64, standing: Standing) -> ReplicaView {
        ReplicaView {
            datanode: DatanodeId(id),
            incarnation: Incarnation(id * 10),
            standing,
            admin: Admin::InService,
            crowding: (1, 1),
            fullness: 0,
            askable: true,
            empty: false,
            short_length: None,
            unreadable: false,
            proven: false,
        }
    }

    fn record(state: ChunkState) -> ChunkRecord {
        ChunkRecord {
            state: state.into(),
            epoch: 1,
            length: 100,
            live_bytes: 50,
            replication: 3,
            writer: 9,
            ..ChunkRecord::default()
        }
    }

    fn actions(state: ChunkState, replicas: &[ReplicaView]) -> Vec<Action> {
        decide(&record(state), replicas, Circumstances::default()).actions
    }

    fn remove(id: u64) -> Action {
        Action::Remove(DatanodeId(id), Incarnation(id * 10))
    }

    #[test]
    fn an_open_chunk_that_lost_a_replica_is_sealed() {
        let good = [
            view(1, Standing::Unconfirmed),
            view(2, Standing::Unconfirmed),
        ];
        assert_eq!(actions(ChunkState::Open, &good), []);
        for standing in [Standing::Away, Standing::Failed] {
            let broken = [view(1, Standing::Unconfirmed), view(2, standing)];
            assert_eq!(actions(ChunkState::Open, &broken), [Action::Seal]);
            assert_eq!(actions(ChunkState::Idle, &broken), [Action::Seal]);
        }
        let mut leaving = good;
        leaving[0].admin = Admin::Decommissioning;
        assert_eq!(actions(ChunkState::Open, &leaving), [Action::Seal]);
        let too_long = Circumstances {
            idle_too_long: true,
            ..Circumstances::default()
        };
        let idle = decide(&record(ChunkState::Idle), &good, too_long);
        assert_eq!(idle.actions, [Action::Seal]);
        let mut abandoned = record(ChunkState::Open);
        abandoned.writer = 0;
        assert_eq!(
            decide(&abandoned, &good, Circumstances::default()).actions,
            [Action::Seal]
        );
    }

    #[test]
    fn an_open_chunk_that_began_with_too_few_replicas_counts_as_under_replicated() {
        let views = [1, 2, 3].map(|id| view(id, Standing::Unconfirmed));
        for state in [ChunkState::Open, ChunkState::Idle] {
            let health = |record: &ChunkRecord, count: usize| {
                decide(record, &views[..count], Circumstances::default()).health
            };
            assert_eq!(health(&record(state), 3), Health::Open);
            assert_eq!(health(&record(state), 2), Health::Under);
            assert_eq!(health(&record(state), 0), Health::Unavailable);
            let mut empty = record(state);
            empty.length = 0;
            assert_eq!(health(&empty, 2), Health::Open);
        }
    }

    #[test]
    fn replicas_that_have_not_confirmed_are_asked_and_not_copied_yet() {
        let mut replicas = [1, 2, 3].map(|id| view(id, Standing::Unconfirmed));
        replicas[2].askable = false;
        let asked = [
            Action::Confirm(DatanodeId(1), Incarnation(10)),
            Action::Confirm(DatanodeId(2), Incarnation(20)),
        ];
        assert_eq!(actions(ChunkState::Sealed, &replicas), asked);
    }

    #[test]
    fn a_lost_replica_is_copied_from_a_good_one() {
        let replicas = [
            view(1, Standing::Good),
            view(2, Standing::Away),
            view(3, Standing::Good),
        ];
        assert_eq!(actions(ChunkState::Sealed, &replicas), [Action::Copy(2)]);
        let none = [view(1, Standing::Away), view(2, Standing::Away)];
        let decision = decide(&record(ChunkState::Sealed), &none, Circumstances::default());
        assert_eq!(decision.actions, [], "nowhere to copy from");
        assert_eq!(decision.health, Health::Unavailable);
        let mut away = replicas;
        away[1].admin = Admin::Maintenance;
        assert_eq!(actions(ChunkState::Sealed, &away), [], "it comes back");
    }

    fn without_target(replicas: &[ReplicaView]) -> Vec<Action> {
        let nowhere = Circumstances {
            no_target: true,
            ..Circumstances::default()
        };
        decide(&record(ChunkState::Sealed), replicas, nowhere).actions
    }

    #[test]
    fn a_failed_replica_stays_until_there_are_enough_without_it() {
        let mut replicas = [1, 2, 3, 4].map(|id| view(id, Standing::Good));
        replicas[0].standing = Standing::Failed;
        assert_eq!(
            actions(ChunkState::Sealed, &replicas[..3]),
            [Action::Copy(2)]
        );
        assert_eq!(actions(ChunkState::Sealed, &replicas), [remove(1)]);
        replicas[0].empty = true;
        assert_eq!(
            actions(ChunkState::Sealed, &replicas[..3]),
            [remove(1), Action::Copy(2)],
            "nothing is lost with one that is gone"
        );
        let replicas = [view(1, Standing::Failed), view(2, Standing::Away)];
        assert_eq!(without_target(&replicas), []);
    }

    #[test]
    fn where_no_copy_can_be_made_a_failed_replica_goes_once_a_good_one_was_read() {
        let mut replicas = [1, 2, 3].map(|id| view(id, Standing::Good));
        replicas[0].standing = Standing::Failed;
        let verify = Action::Verify(DatanodeId(2), Incarnation(20));
        assert_eq!(without_target(&replicas), [verify, Action::Copy(2)]);
        replicas[2].proven = true;
        assert_eq!(without_target(&replicas), [remove(1), Action::Copy(2)]);
    }

    #[test]
    fn without_a_good_replica_a_copy_is_made_of_what_the_bad_ones_have() {
        let mut replicas = [1, 2].map(|id| view(id, Standing::Failed));
        assert_eq!(actions(ChunkState::Sealed, &replicas), [Action::Copy(0)]);
        assert_eq!(without_target(&replicas), []);
        replicas[0].empty = true;
        replicas[1].empty = true;
        assert_eq!(actions(ChunkState::Sealed, &replicas), []);
    }

    #[test]
    fn no_copy_is_tried_where_no_replica_can_have_the_end() {
        let mut replicas = [1, 2, 3].map(|id| view(id, Standing::Failed));
        replicas[0].empty = true;
        (replicas[1].short_length, replicas[2].unreadable) = (Some(40), true);
        let decision = decide(
            &record(ChunkState::Sealed),
            &replicas,
            Circumstances::default(),
        );
        assert_eq!(decision.actions, [], "and nothing is taken for lost");
        assert_eq!(decision.health, Health::Unavailable);
        replicas[2].unreadable = false;
        assert_eq!(actions(ChunkState::Sealed, &replicas), [Action::Copy(0)]);
        replicas[2].askable = false;
        assert_eq!(
            actions(ChunkState::Sealed, &replicas),
            [],
            "it cannot be read"
        );
    }

    #[test]
    fn the_end_is_lost_only_when_every_replica_is_known_to_lack_it() {
        let mut replicas = [1, 2, 3].map(|id| view(id, Standing::Failed));
        for (replica, length) in replicas.iter_mut().zip([40, 70, 0]) {
            replica.short_length = Some(length);
        }
        let lost = [Action::DeclareLost(70)];
        assert_eq!(actions(ChunkState::Sealed, &replicas), lost);
        for standing in [Standing::Away, Standing::Unconfirmed, Standing::Failed] {
            let mut other = replicas;
            (other[1].standing, other[1].short_length) = (standing, None);
            let decided = actions(ChunkState::Sealed, &other);
            assert!(
                !decided
                    .iter()
                    .any(|action| matches!(action, Action::DeclareLost(_)))
            );
        }
        for replica in &mut replicas {
            replica.short_length = Some(0);
        }
        assert_ne!(
            actions(ChunkState::Sealed, &replicas),
            [Action::DeclareLost(0)]
        );
    }

    #[test]
    fn a_decommissioning_datanode_is_a_source_until_the_others_are_enough() {
        let mut replicas = [1, 2, 3].map(|id| view(id, Standing::Good)).to_vec();
        replicas[0].admin = Admin::Decommissioning;
        assert_eq!(actions(ChunkState::Sealed, &replicas), [Action::Copy(2)]);
        replicas.push(view(4, Standing::Unconfirmed));
        let confirm = Action::Confirm(DatanodeId(4), Incarnation(40));
        assert_eq!(actions(ChunkState::Sealed, &replicas), [confirm]);
        replicas[3].standing = Standing::Good;
        assert_eq!(actions(ChunkState::Sealed, &replicas), [remove(1)]);
    }

    #[test]
    fn the_surplus_replica_in_the_most_crowded_place_goes() {
        let mut replicas = [1, 2, 3, 4].map(|id| view(id, Standing::Good));
        replicas[1].crowding = (2, 1);
        assert_eq!(actions(ChunkState::Sealed, &replicas), [remove(2)]);
    }

    #[test]
    fn dead_chunks_are_left_to_reclaim() {
        let mut dead = record(ChunkState::Sealed);
        dead.live_bytes = 0;
        let decision = decide(
            &dead,
            &[view(1, Standing::Failed)],
            Circumstances::default(),
        );
        assert_eq!((decision.health, decision.actions), (Health::Dead, vec![]));
    }

    fn any_view() -> impl Strategy<Value = (Standing, Admin)> {
        let standing = prop_oneof![
            Just(Standing::Good),
            Just(Standing::Unconfirmed),
            Just(Standing::Away),
            Just(Standing::Failed),
        ];
        let admin = prop_oneof![
            3 => Just(Admin::InService),
            1 => Just(Admin::Decommissioning),
            1 => Just(Admin::Maintenance),
        ];
        (standing, admin)
    }

    proptest! {
        /// I9, whatever is known of the replicas.
        #[test]
        fn what_is_removed_never_leaves_fewer_verified_replicas_than_asked(
            views in prop::collection::vec(any_view(), 0..8),
            replication in 1u32..5,
            no_target in prop::bool::ANY,
            proven in prop::bool::ANY,
        ) {
            let replicas: Vec<ReplicaView> = views
                .iter()
                .zip(1..)
                .map(|((standing, admin), id)| ReplicaView { admin: *admin, proven, ..view(id, *standing) })
                .collect();
            let record = ChunkRecord { replication, ..record(ChunkState::Sealed) };
            let circumstances = Circumstances { no_target, ..Circumstances::default() };
            let removed: Vec<u64> = decide(&record, &replicas, circumstances)
                .actions
                .iter()
                .filter_map(|action| match action {
                    Action::Remove(datanode, _) => Some(datanode.0),
                    _ => None,
                })
                .collect();
            let left: Vec<&ReplicaView> = replicas
                .iter()
                .filter(|replica| !removed.contains(&replica.datanode.0))
                .collect();
            let counting = left
                .iter()
                .filter(|replica| replica.is(Standing::Good, Admin::InService))
                .count();
            let lost_one = replicas
                .iter()
                .any(|replica| removed.contains(&replica.datanode.0) && replica.standing != Standing::Failed);
            assert!(!lost_one || counting >= replication as usize);
            assert!(removed.is_empty() || counting >= replication as usize || (no_target && proven));
            assert!(removed.is_empty() || left.iter().any(|replica| replica.standing == Standing::Good));
        }
    }
}
