//! The client of Cairn: [`FileSystem`], the only implementation of client semantics. The command line, the mount and the
//! HTTP gateway translate names, errors and flags, and stand on this.
//!
//! | module | what |
//! |---|---|
//! | `file_system` | connects, owns what operations share |
//! | `operations`, `queries`, `admin`, `sync` | one method per operation of the namenode |
//! | `read`, `write` | data |
//! | `acl` | access control lists |
//! | `locks` | advisory locks |
//! | `open_file` | a file open for reads and writes at any offset |
//! | `watch` | what others change |
//! | `session` | why a change happens exactly once |
//! | `namenode`, `retry` | finds the leader; the one place that repeats requests |
//! | `datanodes` | connections to datanodes |
//! | `verdict` | whether all data is safe, in one sentence |
//! | `place`, `error`, `config` | names, failures, settings |
//!
//! Memory is bounded whatever a file's size. Nothing panics on what the network says. Futures say in their documentation
//! whether they may be dropped half-way.

mod acl;
mod admin;
mod config;
mod datanodes;
mod delegations;
mod error;
mod file_system;
mod locks;
mod namenode;
mod open_file;
mod operations;
mod place;
mod queries;
mod read;
mod retry;
mod session;
mod sync;
mod tokens;
mod verdict;
mod watch;
mod write;

pub use acl::{AccessListKind, AccessLists};
pub use admin::{belong_to_no_cluster, found_cluster};
pub use config::{ClusterConfig, Timeouts};
pub use error::{Error, Result, Subject};
pub use file_system::{FileSystem, MemoryUse};
pub use locks::LockRequest;
pub use namenode::Waiting;
pub use open_file::{Custodian, InCustody, OpenFile};
pub use operations::AttributeChange;
pub use place::{Place, normalise};
pub use queries::Directory;
pub use read::checksum::FileChecksum;
pub use read::reader::{READ_AT_BYTES_MAX, Reader};
pub use read::sequential::ReadStream;
pub use tokens::{TokenName, TokenWish};
pub use verdict::{Safety, Verdict, has_quorum, verdict};
pub use watch::{Watch, WatchEvent, WatchOptions, WatchScope};
pub use write::whole::{RECORD_BYTES_MAX, WriteOptions};
pub use write::writer::Writer;
