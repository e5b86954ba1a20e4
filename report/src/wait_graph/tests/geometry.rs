//! Geometry of an SVG, read from its text without the code that wrote it.

/// A point: its distance from the left and from the top, in pixels.
pub type Point = (f64, f64);

/// An element of an SVG: its name, its attributes and the text behind its tag.
#[derive(Debug)]
pub struct Element<'a> {
    pub name: &'a str,
    pub attributes: Vec<(&'a str, &'a str)>,
    pub text: &'a str,
}

impl<'a> Element<'a> {
    pub fn get(&self, name: &str) -> &'a str {
        self.find(name).unwrap_or_else(|| panic!("{} without {name}", self.name))
    }

    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    pub fn number(&self, name: &str) -> f64 {
        self.get(name).parse().unwrap()
    }

    pub fn has_class(&self, class: &str) -> bool {
        self.find("class").is_some_and(|classes| classes.split(' ').any(|other| other == class))
    }
}

/// Returns the elements of an SVG, in their order.
///
/// # Panics
/// The SVG is not well-formed.
pub fn elements(svg: &str) -> Vec<Element<'_>> {
    let mut open = Vec::new();
    let mut elements: Vec<Element<'_>> = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("tag ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "nested");
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = Vec::new();
        while let Some((key, value)) = rest.trim_start().split_once("=\"") {
            let (value, after) = value.split_once('"').expect("value ends");
            attributes.push((key, value));
            rest = after;
        }
        assert_eq!(rest.trim(), "", "attributes of {name}");
        if !is_empty {
            open.push(name);
        }
        elements.push(Element { name, attributes, text });
    }
    assert!(open.is_empty(), "all elements are closed");
    elements
}

/// Returns the points of path data; a curve has 24.
pub fn points(data: &str) -> Vec<Point> {
    let spaced: String = data
        .chars()
        .flat_map(|c| if c.is_ascii_alphabetic() { vec![' ', c, ' '] } else { vec![c] })
        .collect();
    let mut points: Vec<Point> = Vec::new();
    let mut command = "";
    let mut numbers: Vec<f64> = Vec::new();
    for token in spaced.split_whitespace().chain(["end"]) {
        if let Ok(number) = token.parse() {
            numbers.push(number);
            continue;
        }
        let pairs: Vec<Point> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        match command {
            "C" => {
                for curve in pairs.chunks_exact(3) {
                    let start = *points.last().unwrap();
                    points.extend((1..=24).map(|step| cubic(start, curve, f64::from(step) / 24.0)));
                }
            }
            "M" | "L" => points.extend(pairs),
            "" | "Z" => assert!(pairs.is_empty()),
            other => panic!("unknown command {other}"),
        }
        (command, numbers) = (token, Vec::new());
    }
    points
}

fn cubic(start: Point, curve: &[Point], t: f64) -> Point {
    let weights =
        [(1.0 - t).powi(3), 3.0 * t * (1.0 - t).powi(2), 3.0 * t * t * (1.0 - t), t.powi(3)];
    let all = [start, curve[0], curve[1], curve[2]];
    let sum = |axis: fn(&Point) -> f64| all.iter().zip(weights).map(|(p, w)| axis(p) * w).sum();
    (sum(|p| p.0), sum(|p| p.1))
}

/// Returns true if two segments meet.
pub fn segments_meet((a, b): (Point, Point), (c, d): (Point, Point)) -> bool {
    let side = |p: Point, q: Point, r: Point| (q.0 - p.0) * (r.1 - p.1) - (q.1 - p.1) * (r.0 - p.0);
    let apart = |one: f64, two: f64, three: f64, four: f64| {
        one.max(two) < three.min(four) || three.max(four) < one.min(two)
    };
    if apart(a.0, b.0, c.0, d.0) || apart(a.1, b.1, c.1, d.1) {
        return false;
    }
    side(a, b, c) * side(a, b, d) <= 0.0 && side(c, d, a) * side(c, d, b) <= 0.0
}

/// A box around points: left, top, right and bottom.
#[derive(Debug, Clone, Copy)]
pub struct Bounds(pub f64, pub f64, pub f64, pub f64);

impl Bounds {
    pub fn of(points: &[Point]) -> Self {
        let empty = Self(f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY);
        points
            .iter()
            .fold(empty, |Self(l, t, r, b), &(x, y)| Self(l.min(x), t.min(y), r.max(x), b.max(y)))
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.0 < other.2 && other.0 < self.2 && self.1 < other.3 && other.1 < self.3
    }

    pub fn shrunk(self, by: f64) -> Self {
        Self(self.0 + by, self.1 + by, self.2 - by, self.3 - by)
    }

    pub fn is_inside(self, outer: Self) -> bool {
        self.0 >= outer.0 && self.1 >= outer.1 && self.2 <= outer.2 && self.3 <= outer.3
    }

    pub fn corners(self) -> [Point; 4] {
        let Self(left, top, right, bottom) = self;
        [(left, top), (right, top), (right, bottom), (left, bottom)]
    }

    /// Returns true if a line passes through.
    pub fn is_met_by(self, line: &[Point]) -> bool {
        let inside = |&(x, y): &Point| x > self.0 && x < self.2 && y > self.1 && y < self.3;
        let corners = self.corners();
        let edges = (0..4).map(|index| (corners[index], corners[(index + 1) % 4]));
        line.iter().any(inside)
            || line
                .windows(2)
                .any(|pair| edges.clone().any(|edge| segments_meet((pair[0], pair[1]), edge)))
    }
}

/// Returns true for a point inside of a polygon.
pub fn contains(polygon: &[Point], (x, y): Point) -> bool {
    let mut is_inside = false;
    for index in 0..polygon.len() {
        let (a, b) = (polygon[index], polygon[(index + 1) % polygon.len()]);
        if (a.1 > y) != (b.1 > y) && x < (b.0 - a.0) * (y - a.1) / (b.1 - a.1) + a.0 {
            is_inside = !is_inside;
        }
    }
    is_inside
}
