//! What a frame asks for. Numbers are part of the wire format: added, never reused.

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        /// The method number in a frame's preamble.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Method {
            $($(#[$doc])* $name = $number,)*
        }

        impl Method {
            /// The method with this number, if there is one.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its name, for logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

methods! {
    /// First frame of a connection, each way.
    Hello = 1;

    // Client to namenode.
    /// Cluster id, settings, members, leader. Any member answers.
    ClusterInfo = 10;
    /// Registers a session.
    OpenSession = 11;
    /// Keeps a session alive.
    KeepAlive = 12;
    /// One mutation of a session.
    Mutate = 13;
    /// One read.
    Query = 14;
    /// Makes a file's bytes durable on every replica.
    Sync = 15;
    /// Reports replicas that failed a client.
    ReportReplicas = 16;
    /// Waits for changes of what the client caches.
    Changes = 17;
    /// Waits until a lock could be granted.
    WaitLock = 18;

    // Datanode to namenode.
    /// First contact of a datanode's life.
    RegisterDatanode = 30;
    /// Sign of life with space, load and what changed.
    Heartbeat = 31;
    /// One page of all replicas that a datanode holds.
    ReplicaReport = 32;

    // Namenode to datanode.
    /// Seal, delete, copy, sync or verify replicas.
    Instruct = 40;

    // Client or datanode to datanode.
    /// Opens an append stream through a pipeline (stream connection).
    OpenWrite = 50;
    /// Data down a pipeline (stream connection).
    Packet = 51;
    /// Acknowledgement up a pipeline (stream connection).
    PacketAck = 52;
    /// Reads a range of a replica.
    ReadReplica = 53;
    /// Tells a reader on the same machine which file a replica's bytes are in, and their checksums.
    LocateReplica = 54;

    // Operator to namenode.
    /// Adds a namenode to the group (learner first, then voter).
    AddNamenode = 70;
    /// Removes a namenode from the group.
    RemoveNamenode = 71;
    /// Hands leadership over.
    TransferLeadership = 72;
    /// Decommission, maintenance, in service, forget.
    SetDatanodeState = 73;
    /// The whole cluster at a glance.
    Status = 74;
    /// One page of consistency checks.
    Fsck = 75;
    /// Counters and gauges of this process as Prometheus text.
    Metrics = 76;
    /// Founds a cluster with the namenode that is asked and those that its settings name.
    FoundCluster = 77;
    /// A token for a user.
    IssueToken = 80;
    /// One page of tokens.
    ListTokens = 81;
    /// Revokes or renews a token.
    ChangeToken = 82;
    /// As whom the cluster sees the caller.
    WhoAmI = 83;

    // Namenode to namenode.
    /// Identity of a member before the group exists.
    Greet = 90;
    /// openraft append entries (postcard body).
    RaftAppend = 91;
    /// openraft vote.
    RaftVote = 92;
    /// One piece of a snapshot.
    RaftSnapshot = 93;
    /// openraft transfer leader.
    RaftTransfer = 94;
    /// A follower asks the leader for a read index.
    ReadIndex = 95;
}

impl From<Method> for u16 {
    fn from(method: Method) -> u16 {
        method as u16
    }
}
