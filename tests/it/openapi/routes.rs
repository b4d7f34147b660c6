//! The routes that the source of `gateway/api.rs` declares, read from its text.

use std::collections::BTreeSet;

/// Method (in lower case) and path of every route in `router`.
pub fn declared(source: &str) -> BTreeSet<(String, String)> {
    let router = source.find("pub fn router(").expect("gateway/api.rs declares its routes in `router`");
    let mut rest = within(&source[router..], '{', '}');
    for other in [".nest(", ".merge(", ".route_service(", ".nest_service("] {
        assert!(!rest.contains(other), "this test does not know what {other}…) adds to the routes");
    }
    let mut routes = BTreeSet::new();
    while let Some(at) = rest.find("for kind in [") {
        read(&rest[..at], None, &mut routes);
        let repeated = within(&rest[at..], '{', '}');
        for kind in within(&rest[at..], '[', ']').split(',').map(|kind| kind.trim().trim_matches('"')) {
            if !kind.is_empty() {
                read(repeated, Some(kind), &mut routes);
            }
        }
        rest = &rest[at + rest[at..].find(repeated).unwrap() + repeated.len()..];
    }
    read(rest, None, &mut routes);
    routes
}

/// The routes of a stretch of source, in which `{kind}` stands for `kind`.
fn read(source: &str, kind: Option<&str>, routes: &mut BTreeSet<(String, String)>) {
    for call in source.split(".route").skip(1) {
        let call = within(call, '(', ')');
        let (before, rest) = call.split_once('"').expect("a route's path stands in quotes");
        let (path, handlers) = rest.split_once('"').unwrap();
        let path = match (before.contains("format!"), kind) {
            (true, Some(kind)) => path.replace("{kind}", kind).replace("{{", "{").replace("}}", "}"),
            (true, None) => panic!("{path} is made in no loop that this test knows"),
            (false, _) => path.to_owned(),
        };
        let mut methods: Vec<&str> = handlers.split('(').map(last_word).collect();
        methods.retain(|word| ["get", "post", "put", "patch", "delete"].contains(word));
        assert!(!methods.is_empty(), "{path} has no method that this test knows");
        routes.extend(methods.into_iter().map(|method| (method.to_owned(), path.clone())));
    }
}

/// What stands within the first pair of brackets.
fn within(text: &str, open: char, close: char) -> &str {
    let start = text.find(open).unwrap() + open.len_utf8();
    let mut depth = 1;
    for (at, c) in text[start..].char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return &text[start..start + at];
        }
    }
    panic!("a {open} is never closed")
}

fn last_word(text: &str) -> &str {
    text.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[test]
fn routes_are_read_with_their_loops_and_every_method() {
    let source = r#"
        pub fn router(api: Arc<Api>) -> Router {
            let mut router = Router::new()
                .route("/a/{id}", get(staff::get).delete(staff::delete));
            for kind in ["x", "y"] {
                router = router.route(&format!("/v1/{kind}/{{id}}"), post(one));
            }
            router.route("/b", get(b)).fallback(async || "nothing (here)")
        }
    "#;
    let found = declared(source);
    let found: Vec<String> = found.iter().map(|(method, path)| format!("{method} {path}")).collect();
    assert_eq!(found, ["delete /a/{id}", "get /a/{id}", "get /b", "post /v1/x/{id}", "post /v1/y/{id}"]);
}
