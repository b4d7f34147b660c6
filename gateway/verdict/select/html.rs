//! HTML pages, read as browsers read them (html5ever), as a document for XPath and CSS selectors.
//!
//! Browsers close whatever is open when a page ends. Here a page that ends too early is no page: half of it must not
//! become a verdict.

use std::cell::{Cell, Ref, RefCell};
use std::fmt::Write as _;

use html5ever::buffer_queue::BufferQueue;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, Tracer, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{Attribute, LocalName, Namespace, QualName, TokenizerResult};
use oxml::{Document, NodeId};

use super::xml::{self, MAX_DEPTH, MAX_NODES, push_escaped};

/// Attributes that an `html` or `body` may have after all its tags.
const MAX_MERGED_ATTRIBUTES: usize = 256;

/// A larger page is not parsed.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Bytes parsed between two looks at what they cost: within one piece, hostile markup may cost its square.
const PIECE: usize = 1024;
/// The most white space and quotes within one tag, each of which may begin an attribute that is compared with all others.
const MAX_SEPARATORS: usize = 8192;
/// Elements that may be left open (HTML 13.1.2.4), the page's own outermost included.
const MAY_STAY_OPEN: [&str; 19] = [
    "html", "head", "body", "p", "li", "dt", "dd", "rp", "rt", "optgroup", "option", "colgroup", "caption", "thead",
    "tbody", "tfoot", "tr", "td", "th",
];
/// Elements that end no word: `b<b>ol</b>d` is one.
const WITHIN_WORDS: [&str; 28] = [
    "a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd",
    "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "u", "wbr",
];

/// Whether a body says of itself that it is an HTML page, whatever its Content-Type says.
pub(super) fn is_page(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        let end = if rest.starts_with("<!--") {
            "-->"
        } else if rest.starts_with("<?") {
            "?>"
        } else {
            break;
        };
        let Some((_, behind)) = rest.split_once(end) else { return false };
        rest = behind.trim_start();
    }
    ["<!doctype html", "<html", "<head", "<body"].iter().any(|begin| {
        let same = rest.get(..begin.len()).is_some_and(|head| head.eq_ignore_ascii_case(begin));
        same && rest
            .get(begin.len()..)
            .is_some_and(|behind| !behind.starts_with(|c: char| c.is_alphanumeric() || c == '-'))
    })
}

/// Parses a page, or a piece of one, within the limits of an XML document. What has no tag is no HTML, and neither is
/// what ends in the middle.
pub(super) fn parse(text: &str) -> Option<Document> {
    if text.len() > MAX_PAGE_BYTES || text.starts_with(['{', '[', '"']) || is_cut_in_a_tag(text) {
        return None;
    }
    let tokenizer = Tokenizer::new(Watch::new(), TokenizerOpts::default());
    let input = BufferQueue::default();
    let (mut rest, mut seen, mut separators) = (text, 0, 0);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(PIECE));
        rest = behind;
        input.push_back(StrTendril::from_slice(piece));
        while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
        if tokenizer.sink.tokens.get() == seen {
            separators += piece.chars().filter(|c| c.is_whitespace() || matches!(c, '"' | '\'' | '/')).count();
        } else {
            separators = 0;
        }
        seen = tokenizer.sink.tokens.get();
        if separators > MAX_SEPARATORS || tokenizer.sink.builder.sink.is_too_large() {
            return None;
        }
    }
    tokenizer.sink.ending.set(true);
    if tokenizer.sink.is_open() {
        return None;
    }
    tokenizer.end();
    let watch = tokenizer.sink;
    if watch.is_cut.get() || !watch.has_tags.get() {
        return None;
    }
    xml::parse(&watch.builder.sink.to_xml()?)
}

fn is_cut_in_a_tag(text: &str) -> bool {
    text.rfind('<') > text.rfind('>')
}

/// The text of what was selected as a person sees it: on one line, without scripts and styles.
pub(super) fn text_of(document: &Document, id: NodeId) -> String {
    let name = |id: NodeId| document.element_name(id).map_or("", |name| name.local.as_str());
    // A script is selected for the data in it, and white space in a <pre> or a <textarea> is meant.
    if matches!(name(id), "script" | "style" | "pre" | "textarea") {
        return document.text(id).trim().to_owned();
    }
    let mut text = String::new();
    let mut open = vec![(id, false)];
    while let Some((at, done)) = open.pop() {
        let element = name(at);
        if element.is_empty() {
            if let Some(content) = document.text_content(at) {
                text.push_str(content);
            }
            open.extend(document.children(at).iter().rev().map(|child| (*child, false)));
            continue;
        }
        if !WITHIN_WORDS.contains(&element) {
            text.push(' ');
        }
        if !done && !matches!(element, "script" | "style") {
            open.push((at, true));
            open.extend(document.children(at).iter().rev().map(|child| (*child, false)));
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Looks at the tokens on their way to the tree.
struct Watch {
    builder: TreeBuilder<usize, Page>,
    tokens: Cell<usize>,
    has_tags: Cell<bool>,
    /// The page has an `<html>` or a `<body>`, which promises its end, and whether that came.
    is_begun: Cell<bool>,
    is_ended: Cell<bool>,
    /// No more text comes.
    ending: Cell<bool>,
    is_cut: Cell<bool>,
}

impl Watch {
    fn new() -> Self {
        Self {
            // Without scripts, what stands in a <noscript> is part of the page.
            builder: TreeBuilder::new(
                Page::new(),
                TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() },
            ),
            tokens: Cell::new(0),
            has_tags: Cell::new(false),
            is_begun: Cell::new(false),
            is_ended: Cell::new(false),
            ending: Cell::new(false),
            is_cut: Cell::new(false),
        }
    }

    /// Whether something is open that a whole page closes.
    fn is_open(&self) -> bool {
        struct Open<'p>(&'p Page, Cell<bool>);
        impl Tracer for Open<'_> {
            type Handle = usize;

            fn trace_handle(&self, node: &usize) {
                let nodes = self.0.nodes.borrow();
                let is_open = |node: &Node| {
                    matches!(node.kind, Kind::Element(_)) && !MAY_STAY_OPEN.contains(&node.name.local.as_ref())
                };
                if nodes.get(*node).is_some_and(is_open) {
                    self.1.set(true);
                }
            }
        }
        if self.is_ended.get() {
            return false;
        }
        let open = Open(&self.builder.sink, Cell::new(false));
        self.builder.trace_handles(&open);
        self.is_begun.get() || open.1.get()
    }
}

impl TokenSink for Watch {
    type Handle = usize;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<usize> {
        match &token {
            // The tokenizer has nothing to complain of at the end but that it came within a tag or a comment.
            Token::ParseError(_) => self.is_cut.set(self.is_cut.get() || self.ending.get()),
            Token::TagToken(tag) => {
                self.tokens.set(self.tokens.get() + 1);
                self.has_tags.set(true);
                if matches!(tag.name.as_ref(), "html" | "body") {
                    let seen = if tag.kind == TagKind::StartTag { &self.is_begun } else { &self.is_ended };
                    seen.set(true);
                }
            }
            // Only a comment that nobody closed is still to come when the text is at its end.
            Token::CommentToken(_) if self.ending.get() => self.is_cut.set(true),
            _ => self.tokens.set(self.tokens.get() + 1),
        }
        self.builder.process_token(token, line)
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// The tree as html5ever builds it. Handles are places in `nodes`, so that nothing recurses when it is dropped.
struct Page {
    nodes: RefCell<Vec<Node>>,
    too_deep: Cell<bool>,
}

struct Node {
    parent: Option<usize>,
    depth: usize,
    children: Vec<usize>,
    /// Empty for all but elements.
    name: QualName,
    kind: Kind,
}

enum Kind {
    /// The document, comments, and what else is not kept.
    Other,
    Element(Vec<Attribute>),
    Text(StrTendril),
}

impl Page {
    fn new() -> Self {
        let page = Self { nodes: RefCell::default(), too_deep: Cell::new(false) };
        page.add(Kind::Other);
        page
    }

    fn is_too_large(&self) -> bool {
        self.too_deep.get() || self.nodes.borrow().len() > MAX_NODES
    }

    fn add(&self, kind: Kind) -> usize {
        self.add_named(QualName::new(None, Namespace::default(), LocalName::default()), kind)
    }

    fn add_named(&self, name: QualName, kind: Kind) -> usize {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { parent: None, depth: 0, children: Vec::new(), name, kind });
        nodes.len() - 1
    }

    /// Puts a node, or a text, at a place among the children of another.
    fn put(&self, parent: usize, place: usize, child: NodeOrText<usize>) {
        let child = match child {
            NodeOrText::AppendNode(child) => child,
            NodeOrText::AppendText(text) => {
                let mut nodes = self.nodes.borrow_mut();
                let before = place.checked_sub(1).and_then(|at| nodes.get(parent)?.children.get(at).copied());
                if let Some(Node { kind: Kind::Text(so_far), .. }) = before.and_then(|id| nodes.get_mut(id)) {
                    so_far.push_tendril(&text);
                    return;
                }
                drop(nodes);
                self.add(Kind::Text(text))
            }
        };
        self.remove_from_parent(&child);
        let mut nodes = self.nodes.borrow_mut();
        let depth = nodes.get(parent).map_or(0, |parent| parent.depth) + 1;
        if depth > MAX_DEPTH {
            self.too_deep.set(true);
        }
        if let Some(node) = nodes.get_mut(child) {
            (node.parent, node.depth) = (Some(parent), depth);
        }
        if let Some(parent) = nodes.get_mut(parent) {
            let place = place.min(parent.children.len());
            parent.children.insert(place, child);
        }
    }

    fn len_of(&self, parent: usize) -> usize {
        self.nodes.borrow().get(parent).map_or(0, |node| node.children.len())
    }

    /// The parent of a node, and the node's place there.
    fn place_of(&self, node: usize) -> Option<(usize, usize)> {
        let nodes = self.nodes.borrow();
        let parent = nodes.get(node)?.parent?;
        let place = nodes.get(parent)?.children.iter().rposition(|child| *child == node)?;
        Some((parent, place))
    }

    /// The tree as XML, which the XML parser reads within its own limits. Prefixes go, as rules know none.
    fn to_xml(&self) -> Option<String> {
        let nodes = self.nodes.borrow();
        let mut out = String::new();
        let mut open = vec![(0, false)];
        while let Some((at, done)) = open.pop() {
            let node = nodes.get(at)?;
            let name = without_prefix(&node.name.local).unwrap_or("unknown");
            match &node.kind {
                Kind::Text(text) => push_escaped(&mut out, text),
                Kind::Element(_) if done => write!(out, "</{name}>").ok()?,
                Kind::Element(attributes) => {
                    write!(out, "<{name}").ok()?;
                    let mut written: Vec<&str> = Vec::new();
                    for attribute in attributes {
                        let name = without_prefix(&attribute.name.local);
                        // A name that XML does not know is one that no selector can name.
                        let Some(name) = name.filter(|name| *name != "xmlns" && !written.contains(name)) else {
                            continue;
                        };
                        written.push(name);
                        write!(out, " {name}=\"").ok()?;
                        push_escaped(&mut out, &attribute.value);
                        out.push('"');
                    }
                    out.push('>');
                    open.push((at, true));
                }
                Kind::Other => {}
            }
            if !done {
                open.extend(node.children.iter().rev().map(|child| (*child, false)));
            }
            if out.len() > super::MAX_DOCUMENT_BYTES {
                return None;
            }
        }
        Some(out)
    }
}

/// `o:p` → `p`, if that is a name.
fn without_prefix(name: &str) -> Option<&str> {
    let local = name.rsplit(':').next()?;
    let begins = local.starts_with(|c: char| c.is_alphabetic() || c == '_');
    (begins && local.chars().all(xml::is_name_char)).then_some(local)
}

impl TreeSink for Page {
    type Handle = usize;
    type Output = Self;
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) -> Self {
        self
    }

    fn parse_error(&self, _: std::borrow::Cow<'static, str>) {}

    fn get_document(&self) -> usize {
        0
    }

    fn elem_name<'a>(&'a self, target: &'a usize) -> Ref<'a, QualName> {
        // Handles are given out by `add` alone, and nothing is ever taken away from `nodes`; the first is always there.
        Ref::map(self.nodes.borrow(), |nodes| &nodes[(*target).min(nodes.len() - 1)].name)
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> usize {
        self.add_named(name, Kind::Element(attributes))
    }

    fn create_comment(&self, _: StrTendril) -> usize {
        self.add(Kind::Other)
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> usize {
        self.add(Kind::Other)
    }

    fn append(&self, parent: &usize, child: NodeOrText<usize>) {
        self.put(*parent, self.len_of(*parent), child);
    }

    fn append_based_on_parent_node(&self, element: &usize, previous: &usize, child: NodeOrText<usize>) {
        if self.place_of(*element).is_some() {
            self.append_before_sibling(element, child);
        } else {
            self.append(previous, child);
        }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    /// What stands in a `<template>` is not shown: it hangs nowhere.
    fn get_template_contents(&self, _: &usize) -> usize {
        self.add(Kind::Other)
    }

    fn same_node(&self, one: &usize, other: &usize) -> bool {
        one == other
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &usize, new: NodeOrText<usize>) {
        if let NodeOrText::AppendNode(node) = &new {
            self.remove_from_parent(node);
        }
        if let Some((parent, place)) = self.place_of(*sibling) {
            self.put(parent, place, new);
        }
    }

    fn add_attrs_if_missing(&self, target: &usize, more: Vec<Attribute>) {
        if let Some(Node { kind: Kind::Element(attributes), .. }) = self.nodes.borrow_mut().get_mut(*target) {
            for attribute in more {
                // Each is compared with all: a page may repeat `<html …>` as often as it likes.
                if attributes.len() >= MAX_MERGED_ATTRIBUTES {
                    self.too_deep.set(true);
                    return;
                }
                if attributes.iter().all(|known| known.name != attribute.name) {
                    attributes.push(attribute);
                }
            }
        }
    }

    fn remove_from_parent(&self, target: &usize) {
        let Some((parent, place)) = self.place_of(*target) else { return };
        let mut nodes = self.nodes.borrow_mut();
        if let Some(parent) = nodes.get_mut(parent) {
            parent.children.remove(place);
        }
        if let Some(node) = nodes.get_mut(*target) {
            node.parent = None;
        }
    }

    fn reparent_children(&self, node: &usize, new_parent: &usize) {
        let children = self.nodes.borrow_mut().get_mut(*node).map(|node| std::mem::take(&mut node.children));
        for child in children.unwrap_or_default() {
            if let Some(child) = self.nodes.borrow_mut().get_mut(child) {
                child.parent = None;
            }
            self.append(new_parent, NodeOrText::AppendNode(child));
        }
    }
}
