//! A picture as it is drawn: what is read from its SVG, and faults in it.

use super::geometry::{Bounds, Element, Point, contains, elements, points, segments_meet};

/// Advance of a character in DejaVu Sans Mono, the widest of the usual monospaced fonts, in em.
const ADVANCE: f64 = 0.602;

/// The places that a picture has.
pub struct Drawing {
    pub lines: Vec<Vec<Point>>,
    pub labels: Vec<Bounds>,
    pub outlines: Vec<Vec<Point>>,
    heads: Vec<Vec<Point>>,
    /// Each text with its bounds, and the text that it is.
    texts: Vec<(Bounds, String)>,
    view: Bounds,
}

impl Drawing {
    pub fn read(svg: &str) -> Self {
        let elements = elements(svg);
        let (width, height) = (elements[0].number("width"), elements[0].number("height"));
        assert_eq!(elements[0].get("viewBox"), format!("0 0 {width} {height}"));
        let all = |class: &str| {
            let of_class = elements.iter().filter(|element| element.has_class(class));
            of_class.map(|element| points(element.get("d"))).collect::<Vec<_>>()
        };
        let is_label = |element: &&Element<'_>| element.has_class("wg-label-box");
        let texts = elements.iter().filter(|element| element.name == "text");
        Self {
            lines: all("wg-line"),
            labels: elements.iter().filter(is_label).map(rectangle).collect(),
            outlines: all("wg-outline"),
            heads: all("wg-head"),
            texts: texts.map(|text| (text_bounds(text), text.text.to_owned())).collect(),
            view: Bounds(0.0, 0.0, width, height),
        }
    }

    /// Returns the number of pairs of arrows whose lines meet.
    pub fn crossings(&self) -> usize {
        let bounds: Vec<_> = self.lines.iter().map(|line| Bounds::of(line).shrunk(-1.0)).collect();
        let mut count = 0;
        for (index, line) in self.lines.iter().enumerate() {
            for other in 0..index {
                let near = bounds[index].overlaps(bounds[other]);
                count += usize::from(near && lines_meet(line, &self.lines[other]));
            }
        }
        count
    }

    /// Returns everything that overlaps or is cut, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let boxes: Vec<_> = self.outlines.iter().map(|outline| Bounds::of(outline)).collect();
        let solid: Vec<_> = boxes.iter().chain(&self.labels).copied().collect();
        for (index, &one) in solid.iter().enumerate() {
            for &other in &solid[..index] {
                if one.overlaps(other) {
                    faults.push(format!("{one:?} is on {other:?}"));
                }
            }
        }
        for (index, line) in self.lines.iter().enumerate() {
            for &seen in &boxes {
                // A line ends at the outlines of its boxes.
                if seen.shrunk(1.0).is_met_by(line) {
                    faults.push(format!("line {index} passes {seen:?}"));
                }
            }
            let others = self.labels.iter().enumerate().filter(|(label, _)| *label != index);
            for (_, &label) in others {
                if label.is_met_by(line) {
                    faults.push(format!("line {index} passes the label {label:?}"));
                }
            }
        }
        for (bounds, text) in &self.texts {
            if !self.has_room(*bounds) {
                faults.push(format!("{text:?} at {bounds:?} is not in its box"));
            }
        }
        let inside = solid.iter().copied();
        let paths = self.lines.iter().chain(&self.heads).map(|path| Bounds::of(path));
        let cut = inside.chain(paths).filter(|bounds| !bounds.is_inside(self.view.shrunk(2.0)));
        faults.extend(cut.map(|bounds| format!("{bounds:?} is cut")));
        faults
    }

    /// Returns true for a text that is inside of a box or a label with all its corners.
    fn has_room(&self, text: Bounds) -> bool {
        let is_in =
            |outline: &Vec<Point>| text.corners().into_iter().all(|it| contains(outline, it));
        self.outlines.iter().any(is_in) || self.labels.iter().any(|&label| text.is_inside(label))
    }
}

fn lines_meet(one: &[Point], other: &[Point]) -> bool {
    one.windows(2).any(|a| other.windows(2).any(|b| segments_meet((a[0], a[1]), (b[0], b[1]))))
}

fn rectangle(element: &Element<'_>) -> Bounds {
    let [x, y, width, height] = ["x", "y", "width", "height"].map(|name| element.number(name));
    Bounds(x, y, x + width, y + height)
}

/// Returns the bounds of a text, which is centred at its place on its baseline.
fn text_bounds(text: &Element<'_>) -> Bounds {
    let size = if text.has_class("wg-name") { 13.0 } else { 11.0 };
    let (x, y) = (text.number("x"), text.number("y"));
    let characters = text.text.replace("&#60;", "<").replace("&#62;", ">").replace("&#38;", "&");
    let characters = characters.replace("&#34;", "\"").replace("&#39;", "'").chars().count();
    let natural = characters as f64 * size * ADVANCE;
    let width = text.find("textLength").map_or(natural, |length| length.parse().unwrap());
    Bounds(x - width / 2.0, y - size * 0.76, x + width / 2.0, y + size * 0.24)
}
