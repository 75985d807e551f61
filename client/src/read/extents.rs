//! Where a file's bytes are: one page of extents with locations and tokens, checked once when it arrives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_protocol::messages::common::{Attributes, DatanodeAddress, Extent};
use cairn_protocol::messages::query::{Extents, LocatedExtents};

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::place::Place;

/// Tokens are renewed this long before they expire.
const EXPIRY_MARGIN_MS: u64 = 5_000;

/// Largest file, as off_t has it.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A page of a file's extents.
#[derive(Debug)]
pub(crate) struct ExtentPage {
    /// The file when the page was made.
    pub(crate) attributes: Attributes,
    /// The bytes of the file that the page describes; what is in no extent is a hole.
    pub(crate) range: Range<u64>,
    /// In order of their offset in the file, without overlaps, inside `range`.
    extents: Vec<PageExtent>,
    expires_at_ms: u64,
}

/// An extent with all that is needed to read it.
#[derive(Clone, Debug)]
pub(crate) struct PageExtent {
    pub(crate) extent: Extent,
    pub(crate) token: Bytes,
    /// Believed good ones first.
    pub(crate) replicas: Arc<[DatanodeAddress]>,
}

/// What a file has at some offset.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// Bytes `offset_in_extent..offset_in_extent + length` of an extent.
    Bytes {
        extent: &'a PageExtent,
        offset_in_extent: u64,
        length: u64,
    },
    /// Zeros.
    Hole { length: u64 },
}

impl ExtentPage {
    /// Fetches the page that begins at `offset`.
    pub(crate) async fn fetch(
        fs: &FileSystem,
        place: &Place,
        offset: u64,
    ) -> Result<(Self, Subject)> {
        let (location, subject) = place.resolve()?;
        let length = OFFSET_MAX.saturating_sub(offset);
        let query = Extents {
            location,
            offset,
            length,
            limit: 0,
            without_locations: false,
        };
        let located = fs.located_extents(&subject, query).await?;
        let page = Self::new(offset, located).ok_or_else(|| Error::unexpected(&subject))?;
        Ok((page, subject))
    }

    /// A page that describes nothing of a file whose attributes are known.
    pub(crate) fn unknown(attributes: Attributes) -> Self {
        Self {
            attributes,
            range: 0..0,
            extents: Vec::new(),
            expires_at_ms: 0,
        }
    }

    /// `None` if the reply contradicts itself.
    fn new(offset: u64, located: LocatedExtents) -> Option<Self> {
        let datanodes: BTreeMap<u64, &DatanodeAddress> = located
            .datanodes
            .iter()
            .map(|datanode| (datanode.datanode, datanode))
            .collect();
        let replicas: Vec<Arc<[DatanodeAddress]>> = located
            .chunks
            .iter()
            .map(|chunk| {
                let known = chunk.datanodes.iter().filter_map(|id| datanodes.get(id));
                known.map(|&datanode| datanode.clone()).collect()
            })
            .collect();
        let mut extents: Vec<PageExtent> = Vec::with_capacity(located.extents.len());
        let mut end = 0;
        for located_extent in located.extents {
            let extent = located_extent.extent;
            let extent_end = extent.offset_in_file.checked_add(extent.length)?;
            extent.offset_in_chunk.checked_add(extent.length)?;
            if extent.length == 0 || extent.offset_in_file < end {
                return None;
            }
            end = extent_end;
            extents.push(PageExtent {
                extent,
                token: located_extent.token.into(),
                replicas: replicas.get(located_extent.chunk_index as usize)?.clone(),
            });
        }
        let size = located.attributes.size;
        let range_end = if located.more { end.min(size) } else { size };
        if located.more && range_end <= offset {
            return None;
        }
        Some(Self {
            attributes: located.attributes,
            range: offset..range_end.max(offset),
            extents,
            expires_at_ms: located.expires_at_ms,
        })
    }

    /// True while its tokens are good.
    pub(crate) fn is_fresh(&self, now_ms: u64) -> bool {
        self.extents.is_empty() || now_ms.saturating_add(EXPIRY_MARGIN_MS) < self.expires_at_ms
    }

    /// What is at `offset`, which lies in the page's range: at most `length` bytes of one kind.
    pub(crate) fn piece(&self, offset: u64, length: u64) -> Piece<'_> {
        let length = length.min(self.range.end.saturating_sub(offset));
        let next = self
            .extents
            .partition_point(|page| end(&page.extent) <= offset);
        match self.extents.get(next) {
            Some(extent) if extent.extent.offset_in_file <= offset => Piece::Bytes {
                extent,
                offset_in_extent: offset - extent.extent.offset_in_file,
                length: length.min(end(&extent.extent) - offset),
            },
            Some(extent) => Piece::Hole {
                length: length.min(extent.extent.offset_in_file - offset),
            },
            None => Piece::Hole { length },
        }
    }
}

fn end(extent: &Extent) -> u64 {
    extent.offset_in_file + extent.length
}

#[cfg(test)]
mod tests {
    use super::{ExtentPage, Piece};
    use cairn_protocol::messages::common::{Attributes, Extent};
    use cairn_protocol::messages::query::{ChunkLocation, LocatedExtent, LocatedExtents};

    fn located(extents: &[(u64, u64)], size: u64, more: bool) -> LocatedExtents {
        let extent = |&(offset_in_file, length): &(u64, u64)| LocatedExtent {
            extent: Extent {
                offset_in_file,
                length,
                chunk: 1,
                ..Extent::default()
            },
            ..LocatedExtent::default()
        };
        LocatedExtents {
            attributes: Attributes {
                size,
                ..Attributes::default()
            },
            extents: extents.iter().map(extent).collect(),
            chunks: vec![ChunkLocation {
                chunk: 1,
                ..ChunkLocation::default()
            }],
            more,
            ..LocatedExtents::default()
        }
    }

    fn describe(page: &ExtentPage, offset: u64, length: u64) -> (char, u64) {
        match page.piece(offset, length) {
            Piece::Bytes { length, .. } => ('b', length),
            Piece::Hole { length } => ('0', length),
        }
    }

    #[test]
    fn gaps_are_holes() {
        let page = ExtentPage::new(0, located(&[(10, 10), (30, 10)], 50, false)).unwrap();
        for (offset, expected) in [
            (0, ('0', 10)),
            (10, ('b', 10)),
            (15, ('b', 5)),
            (20, ('0', 10)),
            (39, ('b', 1)),
            (40, ('0', 10)),
            (50, ('0', 0)),
        ] {
            assert_eq!(describe(&page, offset, 100), expected, "at {offset}");
        }
        assert_eq!(describe(&page, 12, 3), ('b', 3));
    }

    #[test]
    fn a_page_ends_with_its_last_extent_if_there_are_more() {
        let page = ExtentPage::new(5, located(&[(10, 10)], 50, true)).unwrap();
        assert_eq!(page.range, 5..20);
        let page = ExtentPage::new(60, located(&[], 50, false)).unwrap();
        assert_eq!(page.range, 60..60);
    }

    #[test]
    fn replies_that_contradict_themselves_are_refused() {
        assert!(ExtentPage::new(0, located(&[(10, 10), (15, 10)], 50, false)).is_none());
        assert!(ExtentPage::new(0, located(&[(10, 0)], 50, false)).is_none());
        assert!(ExtentPage::new(0, located(&[(u64::MAX, 2)], 50, false)).is_none());
        assert!(ExtentPage::new(30, located(&[(10, 10)], 50, true)).is_none());
        let mut bad_index = located(&[(10, 10)], 50, false);
        bad_index.chunks.clear();
        assert!(ExtentPage::new(0, bad_index).is_none());
    }
}
