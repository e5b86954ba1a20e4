//! Tests of the picture: its geometry as it is in the SVG, its words and its dot.

mod cases;
mod dot;
mod drawing;
mod folding;
mod geometry;
mod places;
mod words;
