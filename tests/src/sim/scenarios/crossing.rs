//! Many streams at once, through the same datanodes in different orders, with memory for few of them: nothing may deadlock.

use anyhow::ensure;

use super::super::options::Options;
use super::stage::Stage;
use crate::harness::content;

const STREAMS: u64 = 6;
const BYTES: usize = (6 << 20) + 4_321;
/// The smallest that there is: several fit into a chunk, so that they fill.
const WINDOW: usize = 1 << 20;
/// Streams for which a datanode has memory at once.
const TOGETHER: u64 = 3;

pub(super) fn options() -> Options {
    Options {
        datanodes: 3,
        chunk_size: 4 << 20,
        write_window: WINDOW,
        write_memory: TOGETHER * WINDOW as u64,
        ..Options::plain()
    }
}

pub(super) fn pipelines_that_cross(stage: &mut Stage) -> anyhow::Result<()> {
    for stream in 0..STREAMS {
        stage.begin(move |fs| async move {
            let path = format!("/c0/stream-{stream}");
            let bytes = content(stream, BYTES);
            let mut writer = fs.create_writer(path.as_str(), Default::default())?;
            writer.write_bytes(bytes.clone()).await?;
            writer.close().await?;
            ensure!(
                fs.read_file(path.as_str()).await? == bytes,
                "{path} differs"
            );
            Ok(())
        });
    }
    stage.end()?;
    let full = stage.counted("dfs_datanode_full_windows_total");
    ensure!(full > STREAMS, "windows were full {full} times");
    let refused = stage.counted("dfs_datanode_stream_errors_total{code=\"Overloaded\"}");
    ensure!(refused > 0, "there was memory for all");
    for stream in 0..STREAMS {
        stage.expect(
            &format!("/c0/stream-{stream}"),
            &content(stream, BYTES),
            false,
        );
    }
    stage.finish()
}
