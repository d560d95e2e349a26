//! Markdown documents, as far as tests need them: blocks, tables, code spans, links and anchors.
//! Pages of the book are read with their includes, as mdBook does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::repository;

/// One document.
#[derive(Debug)]
pub struct Page {
    /// Its file, relative to the root of the repository.
    pub path: PathBuf,
    lines: Vec<String>,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The word after the fence.
    pub language: String,
    /// Line of the fence, from 1; in a page of the book, counted with the includes.
    pub line: usize,
    /// The text between the fences.
    pub text: String,
}

/// A table.
#[derive(Debug)]
pub struct Table {
    /// The heading above it.
    pub heading: String,
    /// Its first row.
    pub header: Vec<String>,
    /// The other rows.
    pub rows: Vec<Vec<String>>,
}

impl Page {
    /// The document in a file.
    /// # Panics
    /// If it cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Page {
        let path = path.as_ref().to_owned();
        let lines = repository::text(&path).lines().map(str::to_owned).collect();
        Page { path, lines }
    }

    /// A page of the book, with its includes.
    ///
    /// # Errors
    /// An include without a target.
    pub fn of_book(path: impl AsRef<Path>) -> Result<Page, String> {
        let mut page = Page::read(path);
        let mut lines = Vec::new();
        for line in &page.lines {
            let Some((_, what)) = line.split_once("{{#include ") else {
                lines.push(line.clone());
                continue;
            };
            let what = what.split("}}").next().unwrap_or_default();
            let included = included(&page.path, what)
                .ok_or_else(|| format!("{}: includes {what}, which is not there", page.path.display()))?;
            lines.extend(included);
        }
        page.lines = lines;
        Ok(page)
    }

    /// README.md and all pages of the book, with their includes.
    ///
    /// # Panics
    /// If an include has no target.
    pub fn all_of_book() -> Vec<Page> {
        let mut paths = repository::files_with(&["md"]);
        paths.retain(|path| path.starts_with("docs/src"));
        let pages = paths.iter().map(|path| Page::of_book(path).unwrap_or_else(|fault| panic!("{fault}")));
        std::iter::once(Page::read("README.md")).chain(pages).collect()
    }

    /// File and line, for messages.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// Its fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(Block, usize)> = None;
        for (at, line) in self.lines.iter().enumerate() {
            let fence = line.trim_start();
            let indent = line.len() - fence.len();
            match &mut open {
                None => {
                    if let Some(language) = fence.strip_prefix("```") {
                        let language = language.trim().to_owned();
                        open = Some((Block { language, line: at + 1, text: String::new() }, indent));
                    }
                }
                Some(_) if fence.trim_end() == "```" => blocks.extend(open.take().map(|(block, _)| block)),
                Some((block, indent)) => {
                    block.text.push_str(line.get(*indent..).unwrap_or(fence));
                    block.text.push('\n');
                }
            }
        }
        blocks
    }

    /// Its lines outside of fenced blocks; those inside are empty.
    fn prose(&self) -> Vec<&str> {
        let mut inside = false;
        let prose = self.lines.iter().map(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            if inside || fence { "" } else { line.as_str() }
        });
        prose.collect()
    }

    /// Code spans outside of blocks, each with its line.
    pub fn spans(&self) -> Vec<(usize, String)> {
        let text = self.prose().join("\n");
        let spans = spans_of(&text).into_iter().map(|(from, to)| {
            let span = text[from..to].trim_matches('`').split_whitespace().collect::<Vec<_>>().join(" ");
            (line_of(&text, from), span.replace("\\|", "|"))
        });
        spans.collect()
    }

    /// All tables.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let mut heading = String::new();
        let mut inside = false;
        for line in self.prose() {
            if let Some(text) = heading_of(line) {
                text.clone_into(&mut heading);
            }
            if !line.starts_with('|') {
                inside = false;
                continue;
            }
            let cells = cells(line);
            if !inside {
                tables.push(Table { heading: heading.clone(), header: cells, rows: Vec::new() });
            } else if !cells.iter().all(|cell| cell.starts_with("---"))
                && let Some(table) = tables.last_mut()
            {
                table.rows.push(cells);
            }
            inside = true;
        }
        tables
    }

    /// The anchors of its headings, and its HTML anchors.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for line in self.prose() {
            if let Some(heading) = heading_of(line) {
                let slug = slug(heading);
                let count = seen.entry(slug.clone()).or_default();
                anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            let ids = line.split("id=\"").skip(1).filter_map(|rest| rest.split('"').next());
            anchors.extend(ids.map(str::to_owned));
        }
        anchors
    }

    /// The targets of its links, each with its line; an error for a reference that is not defined.
    pub fn links(&self) -> Vec<(usize, Result<String, String>)> {
        let mut text = self.prose().join("\n").into_bytes();
        for (from, to) in spans_of(&String::from_utf8_lossy(&text)) {
            text[from..to].fill(b'x');
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        // The first of two definitions counts: a page of the book has its own before those of its
        // includes.
        let mut defined = BTreeMap::new();
        for (name, target) in text.lines().filter_map(definition) {
            defined.entry(name).or_insert(target);
        }
        let mut links = Vec::new();
        for (at, _) in text.match_indices(']') {
            let behind = &text[at + 1..];
            let target = if let Some(rest) = behind.strip_prefix('(') {
                rest.split([')', ' ']).next().map(|target| Ok(target.to_owned()))
            } else if let Some(rest) = behind.strip_prefix('[') {
                let name = rest.split(']').next().unwrap_or_default();
                (!name.is_empty()).then(|| lookup(&defined, name))
            } else {
                // `[name]` alone is a link if the name is defined, and text otherwise.
                let name = text[..at].rsplit('[').next().unwrap_or_default();
                (!behind.starts_with(':')).then(|| lookup(&defined, name)).filter(Result::is_ok)
            };
            links.extend(target.map(|target| (line_of(&text, at), target)));
        }
        links
    }
}

fn lookup(defined: &BTreeMap<String, &str>, name: &str) -> Result<String, String> {
    let name = name.to_lowercase();
    defined.get(&name).map(|target| (*target).to_owned()).ok_or(name)
}

/// `[name]: target`.
fn definition(line: &str) -> Option<(String, &str)> {
    let (name, target) = line.strip_prefix('[')?.split_once("]: ")?;
    Some((name.to_lowercase(), target.trim()))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Code spans of a text, with their backticks. A span ends with its paragraph.
fn spans_of(text: &str) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find('`').map(|found| at + found) {
        let ticks = text[start..].bytes().take_while(|byte| *byte == b'`').count();
        let fence = "`".repeat(ticks);
        let inside = &text[start + ticks..];
        let paragraph = inside.find("\n\n").unwrap_or(inside.len());
        at = start + ticks;
        if let Some(length) = inside[..paragraph].find(&fence) {
            at += length + ticks;
            spans.push((start, at));
        }
    }
    spans
}

fn heading_of(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len()).then(|| text.strip_prefix(' ')).flatten()
}

/// The anchor of a heading, as GitHub and mdBook make it.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    // Only the text of a link counts.
    while let Some((before, behind)) = rest.split_once("](") {
        text.push_str(before);
        rest = behind.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let letters = text.trim().chars().filter_map(|each| match each {
        ' ' => Some('-'),
        '-' | '_' => Some(each),
        _ if each.is_alphanumeric() => Some(each),
        _ => None,
    });
    letters.flat_map(char::to_lowercase).collect()
}

/// The cells of a row.
fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').replace("\\|", "\u{1}");
    let inner = inner.strip_suffix('|').unwrap_or(&inner);
    inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// The names in backticks of a cell.
pub fn names_in(cell: &str) -> Vec<String> {
    spans_of(cell).into_iter().map(|(from, to)| cell[from..to].trim_matches('`').to_owned()).collect()
}

/// The lines of `{{#include WHAT}}`: a file, or an anchor or some lines of it.
fn included(page: &Path, what: &str) -> Option<Vec<String>> {
    let mut parts = what.trim().split(':');
    let file = resolved(page, parts.next()?)?;
    let text = std::fs::read_to_string(repository::root().join(file)).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let Some(from) = parts.next() else { return Some(without_anchors(&lines)) };
    if let Ok(first) = from.parse::<usize>() {
        let last = parts.next().and_then(|last| last.parse().ok()).unwrap_or(lines.len());
        return lines.get(first.checked_sub(1)?..last).map(owned);
    }
    let begin = lines.iter().position(|line| is_anchor(line, "ANCHOR: ", from))?;
    let end = lines.iter().position(|line| is_anchor(line, "ANCHOR_END: ", from))?;
    lines.get(begin + 1..=end).map(without_anchors)
}

fn is_anchor(line: &str, word: &str, name: &str) -> bool {
    line.split_once(word).is_some_and(|(_, rest)| rest.split([' ', '-']).next() == Some(name))
}

fn without_anchors(lines: &[&str]) -> Vec<String> {
    let text = lines.iter().map(|line| line.split("<!-- ANCHOR").next().unwrap_or_default().to_owned());
    text.collect()
}

/// The file that `target` means in a page, relative to the root; `None` outside of the repository.
pub fn resolved(page: &Path, target: &str) -> Option<PathBuf> {
    let mut path = page.parent()?.to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => path = path.parent()?.to_owned(),
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}
