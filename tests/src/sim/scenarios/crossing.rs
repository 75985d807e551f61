//! Many streams at once, through the same datanodes in different orders, with memory for few of them: nothing may deadlock.

use anyhow::ensure;

use super::super::cluster::Options;
use super::stage::Stage;
use crate::harness::content;

const STREAMS: u64 = 6;
const BYTES: usize = (2 << 20) + 4_321;

pub(super) fn options() -> Options {
    Options {
        datanodes: 3,
        write_memory: 24 << 20,
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
    for stream in 0..STREAMS {
        stage.expect(
            &format!("/c0/stream-{stream}"),
            &content(stream, BYTES),
            false,
        );
    }
    stage.finish()
}
