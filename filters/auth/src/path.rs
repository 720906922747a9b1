//! Paths as rules see them. Servers do not agree on what `//`, `/../` and `%2e` mean; so rules judge the form that most
//! of them come to, and what some of them read as another path is refused.

/// Why a path is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous;

/// The path of a request target in its normal form (RFC 3986 section 6.2.2, and `//` as `/`), without query.
///
/// # Errors
///
/// [`Ambiguous`] for what is no path that begins with `/`, for escapes that are none, for `\` and escaped `/`, `\` and
/// control characters, and for `..;`, which servers of Java take for `..`.
pub(crate) fn normal(target: &str) -> Result<String, Ambiguous> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if path.len() != target.len() && target.contains('#') || !path.starts_with('/') {
        return Err(Ambiguous);
    }
    let mut elements: Vec<String> = Vec::new();
    // What ends in one of these is a directory, and a path of a directory ends in `/`.
    let mut directory = false;
    for element in path.split('/').skip(1) {
        let element = unescape(element)?;
        let dots = element.trim_start_matches('.');
        let dotted = element.len() - dots.len();
        if (1..=2).contains(&dotted) && dots.starts_with(';') {
            return Err(Ambiguous);
        }
        directory = matches!(element.as_str(), "" | "." | "..");
        match element.as_str() {
            "" | "." => {}
            ".." => drop(elements.pop()),
            _ => elements.push(element),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for element in &elements {
        normal.push('/');
        normal.push_str(element);
    }
    if directory || normal.is_empty() {
        normal.push('/');
    }
    Ok(normal)
}

/// An element in which what need not be escaped is not, and other escapes are in capital letters.
fn unescape(element: &str) -> Result<String, Ambiguous> {
    let mut normal = String::with_capacity(element.len());
    let mut parts = element.split('%');
    let first = parts.next().unwrap_or_default();
    if element.contains('\\') {
        return Err(Ambiguous);
    }
    normal.push_str(first);
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let digits = digits.ok_or(Ambiguous)?;
        match u8::from_str_radix(digits, 16).map_err(|_| Ambiguous)? {
            b'/' | b'\\' | 0..=0x1f | 0x7f => return Err(Ambiguous),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(char::from(byte)),
            _ => {
                normal.push('%');
                normal.push_str(&digits.to_ascii_uppercase());
            }
        }
        normal.push_str(&part[2..]);
    }
    Ok(normal)
}

/// The target without one parameter of its query, wherever it stands.
pub(crate) fn without_parameter(target: &str, name: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let kept: Vec<&str> = query.split('&').filter(|pair| parameter_name(pair) != name).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

/// The values of a parameter of the query, as they are written.
pub(crate) fn parameters<'a>(target: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(move |pair| parameter_name(pair) == name);
    pairs.map(|pair| pair.split_once('=').map_or("", |(_, value)| value))
}

fn parameter_name(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_paths_have_one_form() {
        for (target, form) in [
            ("/", "/"),
            ("/?x=//..", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61%2d%7e", "/a-~"),
            ("/a%2cb%c3%a9", "/a%2Cb%C3%A9"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/...;/a", "/...;/a"),
            ("/a%25/b", "/a%25/b"),
            ("/é", "/é"),
        ] {
            assert_eq!(normal(target).as_deref(), Ok(form), "{target}");
            assert_eq!(normal(form).as_deref(), Ok(form), "{form}");
        }
    }

    #[test]
    fn paths_that_servers_disagree_on_are_not_judged() {
        for target in [
            "",
            "a",
            "*",
            "http://a/b",
            "?a",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/%é",
            "/a\\b",
            "/a%2fb",
            "/a%2F..",
            "/a%5Cb",
            "/a%00",
            "/a%0ab",
            "/a%7f",
            "/..;/a",
            "/.;x/a",
            "/%2e%2e;/a",
            "/a#b",
            "/a#?b",
        ] {
            assert_eq!(normal(target), Err(Ambiguous), "{target}");
        }
    }

    #[test]
    fn parameters_are_found_and_taken_away() {
        let target = "/a?t=1&b=2&t=3&t&tt=4";
        assert_eq!(parameters(target, "t").collect::<Vec<_>>(), ["1", "3", ""]);
        assert_eq!(parameters("/t=1", "t").count(), 0);
        assert_eq!(without_parameter(target, "t"), "/a?b=2&tt=4");
        assert_eq!(without_parameter("/a?t=1", "t"), "/a");
        assert_eq!(without_parameter("/a", "t"), "/a");
    }
}
