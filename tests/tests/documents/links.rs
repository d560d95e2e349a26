//! Links, includes and the table of contents.

use std::collections::BTreeSet;
use std::path::Path;

use grapnel_tests::markdown::{Page, resolved};
use grapnel_tests::repository::{assert_none, files_with, root};

/// Chapters of the API documentation, whose links rustdoc resolves; the book includes them, with
/// links of its own.
const GUIDE: &str = "plugin-abi/src/guide";

/// What is wrong with a link of a page.
fn fault_of(page: &Page, link: &Result<String, String>) -> Option<String> {
    let target = match link {
        Ok(target) => target.as_str(),
        Err(name) => return Some(format!("[{name}] is not defined")),
    };
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() { Some(page.path.clone()) } else { resolved(&page.path, file) };
    let Some(path) = path.filter(|path| root().join(path).exists()) else {
        return Some(format!("{target} leads nowhere"));
    };
    let anchor = anchor?;
    let other = if path == page.path { page.anchors() } else { read(&path).ok()?.anchors() };
    (!other.contains(anchor)).then(|| format!("{target}: that page has no such heading"))
}

/// A document as its readers see it.
fn read(path: &Path) -> Result<Page, String> {
    if path.starts_with("docs/src") { Page::of_book(path) } else { Ok(Page::read(path)) }
}

#[test]
fn every_link_and_include_has_a_target() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for path in files_with(&["md"]) {
        let page = match read(&path) {
            Ok(page) => page,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        if path.starts_with(GUIDE) {
            continue;
        }
        for (line, link) in page.links() {
            seen += 1;
            faults.extend(fault_of(&page, &link).map(|fault| format!("{}: {fault}", page.at(line))));
        }
    }
    assert!(seen > 200, "{seen} links are not all of them");
    assert_none("links that lead nowhere", &faults);
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let summary = Page::read("docs/src/SUMMARY.md");
    let links = summary.links().into_iter().filter_map(|(_, link)| resolved(&summary.path, &link.ok()?));
    let listed: BTreeSet<_> = links.collect();
    let mut pages: BTreeSet<_> =
        files_with(&["md"]).into_iter().filter(|path| path.starts_with("docs/src")).collect();
    pages.remove(&summary.path);
    assert_eq!(listed, pages, "left: what the summary lists; right: the pages that there are");
}
