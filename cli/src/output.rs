//! What people read: names with everything unprintable escaped, sizes, times, modes, tables.

use std::fmt::Write as _;
use std::io::{self, Write};

use cairn_protocol::messages::common::{Attributes, InodeKind};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

/// A name or path as text: what is not UTF-8, control characters and backslashes are escaped.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            // A backslash, too, or a new line could not be told from the two characters that stand for it.
            if char.is_control() || char == '\\' {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `1 file`, `2 files`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Adds a name to a JSON object. A name that is not UTF-8 also gets its bytes in hexadecimal, so that nothing is lost.
pub(crate) fn json_name(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            object.insert(key.to_owned(), json!(text));
        }
        Err(_) => {
            object.insert(key.to_owned(), json!(escape(bytes)));
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{key}_hex"), json!(hex));
        }
    }
}

/// Attributes as a JSON object under a name.
pub(crate) fn json_attributes(
    key: &str,
    name: &[u8],
    attributes: &Attributes,
) -> Map<String, Value> {
    let mut object = Map::new();
    json_name(&mut object, key, name);
    object.insert("type".to_owned(), json!(kind_name(kind(attributes))));
    object.insert("inode".to_owned(), json!(attributes.inode));
    object.insert("mode".to_owned(), json!(format!("{:04o}", attributes.mode)));
    object.insert("acl".to_owned(), json!(attributes.has_acl));
    object.insert("uid".to_owned(), json!(attributes.uid));
    object.insert("gid".to_owned(), json!(attributes.gid));
    object.insert("nlink".to_owned(), json!(attributes.nlink));
    object.insert("size".to_owned(), json!(attributes.size));
    object.insert("allocated".to_owned(), json!(attributes.allocated));
    object.insert("replication".to_owned(), json!(attributes.replication));
    object.insert("mtime_ns".to_owned(), json!(attributes.mtime_ns));
    object.insert("atime_ns".to_owned(), json!(attributes.atime_ns));
    object.insert("ctime_ns".to_owned(), json!(attributes.ctime_ns));
    object.insert("btime_ns".to_owned(), json!(attributes.btime_ns));
    if kind(attributes) == InodeKind::Symlink {
        json_name(&mut object, "target", &attributes.symlink_target);
    }
    object
}

/// One JSON value, readable, with a new line.
pub(crate) fn print_json(out: &mut impl Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// A JSON array that is written element by element.
#[derive(Debug, Default)]
pub(crate) struct JsonArray {
    started: bool,
}

impl JsonArray {
    /// Adds one element.
    pub(crate) fn element(&mut self, out: &mut impl Write, value: &Value) -> io::Result<()> {
        out.write_all(if std::mem::replace(&mut self.started, true) {
            b",\n"
        } else {
            b"[\n"
        })?;
        serde_json::to_writer(&mut *out, value).map_err(io::Error::from)
    }

    /// Closes it.
    pub(crate) fn end(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(if self.started { b"\n]\n" } else { b"[]\n" })
    }
}

/// What an inode is; a kind from the future shows as unspecified.
pub(crate) fn kind(attributes: &Attributes) -> InodeKind {
    InodeKind::try_from(attributes.kind).unwrap_or(InodeKind::Unspecified)
}

/// Whether it is a directory.
pub(crate) fn is_directory(attributes: &Attributes) -> bool {
    kind(attributes) == InodeKind::Directory
}

/// As `stat` words it.
pub(crate) fn kind_name(kind: InodeKind) -> &'static str {
    match kind {
        InodeKind::Unspecified => "unknown",
        InodeKind::File => "regular file",
        InodeKind::Directory => "directory",
        InodeKind::Symlink => "symbolic link",
        InodeKind::Fifo => "fifo",
        InodeKind::Socket => "socket",
        InodeKind::CharDevice => "character special file",
        InodeKind::BlockDevice => "block special file",
    }
}

/// `drwxr-xr-x`.
pub(crate) fn mode_string(kind: InodeKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        InodeKind::Unspecified => '?',
        InodeKind::File => '-',
        InodeKind::Directory => 'd',
        InodeKind::Symlink => 'l',
        InodeKind::Fifo => 'p',
        InodeKind::Socket => 's',
        InodeKind::CharDevice => 'c',
        InodeKind::BlockDevice => 'b',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// A size as `ls -h` shows it: rounded up, one digit after the point below ten.
pub(crate) fn human_size(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    let units = ["K", "M", "G", "T", "P", "E"];
    let mut index = 0;
    let mut unit = 1024_u128;
    let bytes = u128::from(bytes);
    loop {
        let tenths = (bytes * 10).div_ceil(unit);
        if tenths < 100 {
            return format!("{}.{}{}", tenths / 10, tenths % 10, units[index]);
        }
        let whole = bytes.div_ceil(unit);
        if whole < 1024 || index + 1 == units.len() {
            return format!("{whole}{}", units[index]);
        }
        unit *= 1024;
        index += 1;
    }
}

/// A size as asked for: exact, or for people.
pub(crate) fn size(bytes: u64, human: bool) -> String {
    if human {
        human_size(bytes)
    } else {
        bytes.to_string()
    }
}

/// A size with its unit, for sentences.
pub(crate) fn size_with_unit(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} B")
    } else {
        human_size(bytes).replace(char::is_alphabetic, "") + unit(bytes)
    }
}

fn unit(bytes: u64) -> &'static str {
    match human_size(bytes).chars().last() {
        Some('K') => " KiB",
        Some('M') => " MiB",
        Some('G') => " GiB",
        Some('T') => " TiB",
        Some('P') => " PiB",
        _ => " EiB",
    }
}

/// A time in this machine's zone, to the minute.
pub(crate) fn time_to_minute(ns: u64) -> String {
    format_time(ns, &TimeZone::system(), "%Y-%m-%d %H:%M")
}

/// A time in this machine's zone, with everything known.
pub(crate) fn time_in_full(ns: u64) -> String {
    format_time(ns, &TimeZone::system(), "%Y-%m-%d %H:%M:%S.%9f %z")
}

fn format_time(ns: u64, zone: &TimeZone, format: &str) -> String {
    match Timestamp::from_nanosecond(ns.into()) {
        Ok(timestamp) => timestamp
            .to_zoned(zone.clone())
            .strftime(format)
            .to_string(),
        // Beyond the year 9999: the number says it best.
        Err(_) => format!("@{}", ns / 1_000_000_000),
    }
}

/// How long something was, in the two largest units.
pub(crate) fn duration_short(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 60 => format!("{seconds} s"),
        () if minutes < 60 => format!("{minutes} min {} s", seconds % 60),
        () if hours < 24 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

/// Which side of its column a cell is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows in columns that are as wide as they need to be. Holds all rows: for what fits a screen or a directory's page.
#[derive(Debug)]
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(align: &[Align]) -> Self {
        Self {
            align: align.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the rows; two spaces between columns unless `gap` says otherwise, nothing at the ends of lines.
    pub(crate) fn print(&self, out: &mut impl Write, gap: &str) -> io::Result<()> {
        let mut widths = vec![0; self.align.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                if index > 0 {
                    line.push_str(gap);
                }
                let width = widths.get(index).copied().unwrap_or(0);
                let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
                match self.align.get(index) {
                    Some(Align::Right) => line.extend([fill.as_str(), cell]),
                    _ => line.extend([cell, fill.as_str()]),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::InodeKind;
    use jiff::tz::TimeZone;
    use serde_json::Map;

    use super::{
        Align, Table, duration_short, escape, format_time, human_size, json_name, mode_string,
        size_with_unit,
    };

    #[test]
    fn what_cannot_be_printed_is_escaped() {
        assert_eq!(escape(b"/a b/\xc3\xa4"), "/a b/\u{e4}");
        assert_eq!(escape(b"x\xff\n\x1b[31m"), "x\\xff\\n\\u{1b}[31m");
        let mut object = Map::new();
        json_name(&mut object, "name", b"a\xfe");
        assert_eq!(object["name"], "a\\xfe");
        assert_eq!(object["name_hex"], "61fe");
    }

    #[test]
    fn sizes_are_rounded_up_as_ls_does_it() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10 * 1024, "10K"),
            (10 * 1024 + 1, "11K"),
            (1024 * 1024 - 1, "1.0M"),
            (128 << 20, "128M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human_size(bytes), text, "{bytes}");
        }
        assert_eq!(size_with_unit(17), "17 B");
        assert_eq!(size_with_unit(3 << 29), "1.5 GiB");
    }

    #[test]
    fn modes_read_as_ls_shows_them() {
        assert_eq!(mode_string(InodeKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_string(InodeKind::File, 0o4644), "-rwSr--r--");
        assert_eq!(mode_string(InodeKind::File, 0o2755), "-rwxr-sr-x");
        assert_eq!(mode_string(InodeKind::Symlink, 0o777), "lrwxrwxrwx");
    }

    #[test]
    fn times_are_shown_in_a_zone() {
        let format = "%Y-%m-%d %H:%M:%S.%9f %z";
        let text = format_time(1_767_225_600_000_000_001, &TimeZone::UTC, format);
        assert_eq!(text, "2026-01-01 00:00:00.000000001 +0000");
        assert!(format_time(u64::MAX, &TimeZone::UTC, format).starts_with("2554-"));
        assert_eq!(duration_short(59), "59 s");
        assert_eq!(duration_short(3_700), "1 h 1 min");
        assert_eq!(duration_short(90_000), "1 d 1 h");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
        table.row(["a".to_owned(), "1".to_owned(), "x".to_owned()]);
        table.row(["long".to_owned(), "100".to_owned(), String::new()]);
        let mut out = Vec::new();
        table.print(&mut out, "  ").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a       1  x\nlong  100\n");
    }
}
