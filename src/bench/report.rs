//! One page of HTML of all results in a folder: plots, tables, and what they depend on. It loads nothing from anywhere.

use std::fmt::Write as _;

use super::chart::escape;
use super::document::{Document, Point};
use super::figure::{Better, Figure, readable};
use super::host::Host;
use super::stages::{Quantile, Stage};
use super::{palette, plots, shares};
use crate::wire::Tier;

/// The page.
pub fn page(documents: &[Document]) -> String {
    let mut page = format!("{HEAD}{}{BODY}", palette::night());
    let hosts: Vec<Host> = documents.iter().map(|document| Host { at: 0, ..document.host.clone() }).collect();
    if let [first, others @ ..] = &hosts[..]
        && others.iter().all(|host| host == first)
    {
        // Writing to a string can't fail.
        let _ = write!(page, "<p>{}</p>", escape(&first.headline()));
    }
    if documents.len() > 1 {
        write_contents(&mut page, documents);
    }
    documents.iter().for_each(|document| write_document(&mut page, document));
    page.push_str("</body></html>\n");
    page
}

/// A row for each document: what it is, whether it counts, how noisy the machine was.
fn write_contents(page: &mut String, documents: &[Document]) {
    page.push_str("<table><tr><th>scenario</th><th></th><th>losses</th><th>noise</th><th>warnings</th></tr>");
    for document in documents {
        let (name, about) = (escape(&document.scenario), escape(&document.about));
        let losses = match document.points.iter().map(|point| point.losses.len()).sum::<usize>() {
            0 => "<td class=good>none</td>".to_owned(),
            some => format!("<td class=bad>{some}</td>"),
        };
        let noise = if document.noise.is_loud() { "<td class=bad>loud</td>" } else { "<td class=good>quiet</td>" };
        let warnings = document.warnings.len();
        let _ = writeln!(
            page,
            "<tr><td><a href=\"#{name}\">{name}</a></td><td>{about}</td>{losses}{noise}<td class=n>{warnings}</td></tr>"
        );
    }
    page.push_str("</table>\n");
}

fn write_document(page: &mut String, document: &Document) {
    let name = escape(&document.scenario);
    let _ = writeln!(page, "<h2 id=\"{name}\">{name}</h2><p>{}.</p>", escape(&document.about));
    for warning in &document.warnings {
        let _ = write!(page, "<p class=bad>Warning: {}.</p>", escape(warning));
    }
    if document.scenario != "ceiling" {
        let (class, verdict) = match document.is_lossless() {
            true => ("good", "Nothing was lost, every account balanced."),
            false => ("bad", "Events were lost: this run does not count."),
        };
        let _ = write!(page, "<p class={class}>{verdict}</p>");
    }
    let class = if document.noise.is_loud() { "bad" } else { "fact" };
    let _ = writeln!(page, "<p class={class}>Noise: {}.</p>", escape(&document.noise.to_string()));
    let _ = writeln!(page, "<div class=plots>{}</div>", plots::of_document(document).concat());
    write_shares(page, document);
    document.points.iter().for_each(|point| write_point(page, point));
    write_facts(page, document);
}

/// The engine beside the limits of the machine.
fn write_shares(page: &mut String, document: &Document) {
    let Some((point, shares)) = shares::of_document(document) else { return };
    let _ = write!(
        page,
        "<h3>The engine as a share of the machine's limits ({})</h3><table><tr><th>limit, measured between the repeats</th>\
         <th>here</th><th>of the machine known</th><th>the engine</th><th>share</th></tr>",
        escape(&point.name)
    );
    for share in shares {
        let limit = share.limit;
        let known = limit.share_of_reference().map_or(String::new(), |known| format!("{known:.2}"));
        let (engine, of_it) = share.engine.map_or_else(Default::default, |(pace, share)| (pace, readable(share, "share")));
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{known}</td><td class=n>{}</td><td class=n>{of_it}</td></tr>",
            escape(&limit.name),
            escape(&readable(limit.median(), &limit.unit)),
            escape(&engine)
        );
    }
    page.push_str("</table>\n");
}

fn write_point(page: &mut String, point: &Point) {
    let is_known = point.figures.0.iter().any(|figure| figure.reference.is_some());
    let known_head = if is_known { "<th>known</th><th>share of it</th><th>known how</th>" } else { "" };
    let _ = write!(
        page,
        "<h3>{}</h3><table><tr><th></th><th>median</th><th>least</th><th>most</th>{known_head}</tr>",
        escape(&point.name)
    );
    for figure in &point.figures.0 {
        let values = [figure.median(), figure.least(), figure.most()].map(|value| readable(value, &figure.unit));
        let cells: String = values.iter().map(|value| format!("<td class=n>{}</td>", escape(value))).collect();
        let class = if figure.better == Better::Neither { " class=fact" } else { "" };
        let _ = write!(page, "<tr{class}><td>{}</td>{cells}{}</tr>", escape(&figure.name), known(figure, is_known));
    }
    page.push_str("</table>\n");
    write_stages(page, point);
    if !point.expectations.is_empty() {
        page.push_str("<table><tr><th></th><th>expected</th><th>was</th></tr>");
        for expectation in &point.expectations {
            let (class, word) = if expectation.held { ("good", "held") } else { ("bad", "not held") };
            let (what, figures) = (escape(&expectation.what), escape(&expectation.figures));
            let _ = write!(page, "<tr><td class={class}>{word}</td><td>{what}</td><td>{figures}</td></tr>");
        }
        page.push_str("</table>\n");
    }
    for loss in &point.losses {
        let _ = write!(page, "<p class=bad>Loss: {}.</p>", escape(loss));
    }
}

/// The stages as figures: pictures have one scale, on which the short ones are not to be seen.
fn write_stages(page: &mut String, point: &Point) {
    if point.stages.is_empty() {
        return;
    }
    let heads: String = Stage::ALL.iter().map(|stage| format!("<th>{}</th>", stage.work())).collect();
    let _ = write!(page, "<table><tr><th>what each stage took</th>{heads}</tr>");
    let rows = Tier::ALL.into_iter().flat_map(|tier| [(tier, "p50", Quantile::P50), (tier, "p99", Quantile::P99)]);
    for (tier, name, quantile) in rows {
        let spans = point.stages.spans(tier.name(), &Stage::ALL, quantile);
        let cell = |(stage, took): (&Stage, f64)| match point.stages.end(tier.name(), *stage, quantile) {
            Some(_) => format!("<td class=n>{}</td>", escape(&readable(took, "ns"))),
            None => "<td></td>".to_owned(),
        };
        if point.stages.end(tier.name(), Stage::Handled, quantile).is_some() {
            let cells: String = Stage::ALL.iter().zip(spans).map(cell).collect();
            let _ = write!(page, "<tr><td>{} {name}</td>{cells}</tr>", tier.name());
        }
    }
    page.push_str("</table>\n");
}

fn known(figure: &Figure, is_known: bool) -> String {
    match (&figure.reference, figure.share_of_reference()) {
        (Some(reference), Some(share)) => format!(
            "<td class=n>{}</td><td class=n>{share:.2}</td><td>{}</td>",
            escape(&readable(reference.value, &figure.unit)),
            escape(&reference.source)
        ),
        _ if is_known => "<td></td><td></td><td></td>".to_owned(),
        _ => String::new(),
    }
}

/// Host and settings.
fn write_facts(page: &mut String, document: &Document) {
    page.push_str("<details><summary>Host and settings</summary><table>");
    let settings = document.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in document.host.rows().into_iter().chain(settings) {
        let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(&value));
    }
    page.push_str("</table></details>\n");
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">
<title>eventstream bench</title><style>
:root{color-scheme:light dark}
body{font:15px/1.5 sans-serif;max-width:1560px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;margin:.5em 0 1em;display:block;overflow-x:auto}
td,th{padding:.2em .8em;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}
th{font-weight:600;color:#555}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.fact,.fact td{color:#666}
.good{color:#007a3d}.bad{color:#b00020;font-weight:bold}
.plots{display:flex;flex-wrap:wrap;align-items:flex-start;gap:.5em 1.5em}svg{max-width:100%;height:auto}
h2{border-top:2px solid #ccc;padding-top:1em;margin-top:2em}summary{cursor:pointer;color:#555}
@media (prefers-color-scheme:dark){body{color:#ececec;background:#16181b}td,th{border-color:#33373c}th,summary{color:#b4b8bd}
.fact,.fact td{color:#9aa0a6}.good{color:#5fd08f}.bad{color:#ff7b8a}h2{border-color:#444a50}a{color:#7cc0ff}}
";

const BODY: &str = "</style></head><body><h1>eventstream bench</h1>\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;
    use crate::bench::timeline::Expectation;
    use crate::bench::{looks, shares, stages, threads};

    /// A document that has something of everything.
    fn full() -> Document {
        let mut full = shares::tests::beside_limits();
        full.axis = None;
        full.points.truncate(2);
        for point in &mut full.points {
            point.timeline = Some(looks::tests::timeline());
            point.stages = stages::tests::stages();
            point.threads = threads::tests::threads();
        }
        full
    }

    #[test]
    fn a_page_loads_nothing_and_shows_every_figure() {
        let page = page(&[document(&[1e6, 2e6]), Document { scenario: "other".into(), axis: None, ..document(&[1e6, 2e6]) }]);
        for part in ["stored, all", "8 connections", "p99", "Throughput by repeat", "Nothing was lost", "href=\"#other\""] {
            assert!(page.contains(part), "{part}");
        }
        let loads = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!loads.contains("http") && !loads.contains("src=") && !loads.contains("@import"), "nothing is fetched");
    }

    #[test]
    fn every_kind_of_result_has_its_picture() {
        let page = page(&[full()]);
        for part in [
            "Throughput over time",
            "Losses over time",
            ">DEGRADED</title>",
            "Latency by percentile",
            "goes until it is handled",
            "goes until it is durable",
            "threads took of a core",
            "as a share of the machine",
            "Noise: ",
            "<td>realtime p50</td><td></td><td class=n>300.0 ns</td><td></td><td class=n>600.0 ns</td>",
        ] {
            assert!(page.contains(part), "{part}");
        }
        // Each picture is closed, and none is drawn from what is no number.
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(!page.contains("NaN") && !page.contains("\"inf"), "{page}");
    }

    #[test]
    fn a_lossy_run_says_that_it_does_not_count() {
        let mut document = document(&[1e6]);
        document.points[0].losses.push("repeat 1: <3 events>".into());
        let expectation = Expectation { what: "flat".into(), held: false, figures: "1.3 < 1.2".into() };
        document.points[0].expectations.push(expectation);
        let page = page(&[document]);
        assert!(page.contains("does not count") && page.contains("Loss: repeat 1: &lt;3 events&gt;."));
        assert!(page.contains("<td class=bad>not held</td><td>flat</td><td>1.3 &lt; 1.2</td>"));
    }
}
