//! The status page: one HTML document, nothing loaded from anywhere, light or dark as the browser likes.

use std::fmt::Write;

use cairn_client::Error;
use cairn_client::{Safety, verdict};
use cairn_protocol::messages::admin::{DatanodeStatus, NamenodeStatus, StatusReply};

use crate::status::{datanode_state, hex};

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta http-equiv=\"refresh\" content=\"5\">\
<title>Cairn</title><style>\
:root{color-scheme:light dark;--good:#1a7f37;--warning:#9a6700;--bad:#cf222e;--line:#8884}\
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
.verdict{padding:.75rem 1rem;margin:1rem 0;border-left:.4rem solid;border-radius:.25rem;background:#8881}\
.good{border-color:var(--good)}.warning{border-color:var(--warning)}.bad{border-color:var(--bad)}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line)}\
.n{text-align:right;font-variant-numeric:tabular-nums}.dead{color:var(--bad);font-weight:600}\
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:1rem;margin:1rem 0}\
dt{opacity:.7}dd{margin:0;font-size:1.2rem;font-variant-numeric:tabular-nums}footer{opacity:.7;margin-top:2rem}\
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--warning:#d29922;--bad:#f85149}}\
</style></head><body><h1>Cairn</h1>";

/// The whole document.
pub(crate) fn render(status: Result<&StatusReply, &Error>) -> String {
    let mut page = HEAD.to_owned();
    match status {
        Ok(status) => body(&mut page, status),
        Err(error) => {
            let text = escape(&error.to_string());
            push(
                &mut page,
                format_args!("<p class=\"verdict bad\">The cluster does not answer: {text}</p>"),
            );
        }
    }
    page.push_str("</body></html>\n");
    page
}

/// Writing to a string cannot fail.
fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}

fn body(page: &mut String, status: &StatusReply) {
    let verdict = verdict(status);
    let class = match verdict.safety {
        Safety::Safe => "good",
        Safety::Warned => "warning",
        Safety::Bad => "bad",
    };
    push(
        page,
        format_args!("<p class=\"verdict {class}\">{}</p>", escape(&verdict.text)),
    );
    let counts = &status.counts;
    page.push_str("<dl>");
    for (name, value) in [
        ("Files", counts.files.to_string()),
        ("Directories", counts.directories.to_string()),
        ("Data", size(counts.live_bytes)),
        ("Chunks", counts.chunks.to_string()),
        ("Clients", status.session_count.to_string()),
        ("Copies running", counts.copies_running.to_string()),
    ] {
        push(
            page,
            format_args!("<div><dt>{name}</dt><dd>{value}</dd></div>"),
        );
    }
    page.push_str(
        "</dl><h2>Namenodes</h2><table><tr><th>Address<th>Role<th class=n>Entry<th>Id</tr>",
    );
    status
        .namenodes
        .iter()
        .for_each(|namenode| namenode_row(page, namenode));
    page.push_str(
        "</table><h2>Datanodes</h2><table><tr><th>Address<th>Rack<th>State<th class=n>Replicas<th class=n>Used\
         <th class=n>Available<th class=n>Id</tr>",
    );
    status
        .datanodes
        .iter()
        .for_each(|datanode| datanode_row(page, datanode));
    push(
        page,
        format_args!(
            "</table><footer>cluster {}, version {}, term {}, entry {} · <a href=\"/api/v1/status\">JSON</a> · \
             <a href=\"/metrics\">metrics</a></footer>",
            hex(&status.cluster_id),
            escape(&status.version),
            status.term,
            status.applied_index
        ),
    );
}

fn namenode_row(page: &mut String, namenode: &NamenodeStatus) {
    let (address, role) = (escape(&namenode.address), escape(&namenode.role));
    let silent = if namenode.reachable {
        ""
    } else {
        " <span class=dead>does not answer</span>"
    };
    let (index, id) = (namenode.matched_index, namenode.namenode);
    push(
        page,
        format_args!("<tr><td>{address}<td>{role}{silent}<td class=n>{index}<td>{id}</tr>"),
    );
}

fn datanode_row(page: &mut String, datanode: &DatanodeStatus) {
    let (mut used, mut available) = (0_u64, 0_u64);
    for volume in &datanode.volumes {
        used = used.saturating_add(volume.used_bytes);
        available = available.saturating_add(if volume.failed {
            0
        } else {
            volume.available_bytes
        });
    }
    let class = if datanode.alive { "" } else { "dead" };
    push(
        page,
        format_args!(
            "<tr><td>{}<td>{}<td class=\"{class}\">{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}</tr>",
            escape(&datanode.address.address),
            escape(&datanode.address.rack),
            datanode_state(datanode),
            datanode.replica_count,
            size(used),
            size(available),
            datanode.address.datanode
        ),
    );
    for volume in datanode.volumes.iter().filter(|volume| volume.failed) {
        let (path, reason) = (escape(&volume.path), escape(&volume.reason));
        push(
            page,
            format_args!("<tr><td colspan=7 class=dead>volume {path} is withdrawn: {reason}</tr>"),
        );
    }
}

fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1024.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Text as HTML text: addresses and reasons come from other machines.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::{DatanodeStatus, StatusReply};

    use super::{render, size};
    use crate::status::as_json;

    #[test]
    fn what_others_say_cannot_become_markup() {
        let mut status = StatusReply::default();
        let mut datanode = DatanodeStatus {
            alive: true,
            ..DatanodeStatus::default()
        };
        datanode.address.address = "<script>\"".to_owned();
        status.datanodes.push(datanode);
        let page = render(Ok(&status));
        assert!(
            page.contains("&lt;script&gt;&quot;") && !page.contains("<script"),
            "{page}"
        );
        assert!(
            page.contains("All data is safe") && page.contains("in service"),
            "{page}"
        );
        assert_eq!(as_json(&status)["safe"], true);
        status.counts.chunks_unavailable = 1;
        assert!(render(Ok(&status)).contains("verdict bad"));
        assert_eq!(as_json(&status)["safe"], false);
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(
            (size(17), size(1536), size(u64::MAX)),
            ("17 B".into(), "1.5 KiB".into(), "16384.0 PiB".into())
        );
    }
}
