//! How RocksDB is set up, and the check that a directory holds a state of ours in a format that we read.

use std::path::Path;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DataBlockIndexType,
    IteratorMode, LogLevel, Options, WriteOptions,
};

use super::error::StoreError;
use super::key::{Key, KeyKind};

/// Newest format of keys and values that this version reads, and the one that it writes.
pub const FORMAT_VERSION: u32 = 1;

/// First bytes of the format record, so that another database is not taken for ours.
const MAGIC: &[u8; 8] = b"CAIRN-NS";

/// Part of a memtable that its filter takes.
const MEMTABLE_FILTER_RATIO: f64 = 0.02;

/// What a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Memory for blocks, indexes and filters of table files.
    pub cache_bytes: usize,
    /// Memory for changes that are not in table files yet; also bounds what start-up replays.
    pub memtable_bytes: usize,
    /// Table files that are open at once.
    pub open_files_max: i32,
    /// Threads that flush and compact.
    pub background_jobs: i32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            memtable_bytes: 64 << 20,
            open_files_max: 1000,
            background_jobs: 2,
        }
    }
}

impl StoreOptions {
    /// For tests and the simulator, which open many stores in one process.
    pub fn small() -> Self {
        Self {
            cache_bytes: 4 << 20,
            memtable_bytes: 4 << 20,
            open_files_max: 64,
            background_jobs: 1,
        }
    }
}

/// Opens or makes the database and checks its format.
pub(super) fn open(dir: &Path, options: &StoreOptions) -> Result<DB, StoreError> {
    let object = || format!("state in {}", dir.display());
    let settings = database_options(options).map_err(StoreError::rocks("configure", object))?;
    let db = DB::open(&settings, dir).map_err(StoreError::rocks("open", object))?;
    check_format(&db, dir)?;
    Ok(db)
}

fn database_options(options: &StoreOptions) -> Result<Options, rocksdb::Error> {
    // A clean end loses what was not flushed, exactly as a crash does: there is one way to start, and it is the one
    // that tests exercise. The binding has no call for this option, only the string form.
    let mut settings =
        Options::default().get_options_from_string("avoid_flush_during_shutdown=true")?;
    settings.create_if_missing(true);
    settings.set_paranoid_checks(true);
    settings.set_max_open_files(options.open_files_max);
    settings.set_max_background_jobs(options.background_jobs);
    settings.set_bytes_per_sync(1 << 20);
    settings.set_keep_log_file_num(4);
    settings.set_max_log_file_size(4 << 20);
    settings.set_log_level(LogLevel::Warn);

    // Two memtables: one fills while the other is written out.
    settings.set_write_buffer_size(options.memtable_bytes / 2);
    settings.set_max_write_buffer_number(2);
    // Most keys that are looked up are not among the last changes: a filter says so without a walk through them.
    settings.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
    settings.set_memtable_whole_key_filtering(true);
    settings.set_level_compaction_dynamic_level_bytes(true);
    settings.set_target_file_size_base(64 << 20);
    settings.set_compression_type(DBCompressionType::Lz4);
    // Tables used as queues (idle chunks, outcomes, dead maps) leave runs of tombstones that scans would step over.
    settings.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    settings.set_block_based_table_factory(&table_options(options));
    Ok(settings)
}

fn table_options(options: &StoreOptions) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(options.cache_bytes));
    // Indexes and filters live in the cache too: otherwise memory would grow with the number of files.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In small parts: the filter of a large table is larger than a shard of the cache, so that it would be read again,
    // whole, for every key.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    table.set_block_size(8 << 10);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(0.75);
    table
}

/// A new database gets our mark, on disk before anything else is; a database without it is not ours.
fn check_format(db: &DB, dir: &Path) -> Result<(), StoreError> {
    let object = || format!("format of the state in {}", dir.display());
    let key = Key::new(KeyKind::Format).finish();
    let Some(value) = db.get(&key).map_err(StoreError::rocks("read", object))? else {
        if db.iterator(IteratorMode::Start).next().is_some() {
            return Err(StoreError::Foreign {
                path: dir.to_path_buf(),
            });
        }
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut value = MAGIC.to_vec();
        value.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        db.put_opt(&key, &value, &write_options)
            .and_then(|()| db.flush())
            .map_err(StoreError::rocks("write", object))?;
        return Ok(());
    };
    let version = value
        .strip_prefix(MAGIC.as_slice())
        .and_then(|rest| <[u8; 4]>::try_from(rest).ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| StoreError::Foreign {
            path: dir.to_path_buf(),
        })?;
    if version > FORMAT_VERSION {
        return Err(StoreError::NewerFormat {
            path: dir.to_path_buf(),
            found: version,
            supported: FORMAT_VERSION,
        });
    }
    Ok(())
}
