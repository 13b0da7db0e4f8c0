//! Plots as SVG, to stand in the page itself.

use super::markdown::number;
use super::statistics::Spread;

const WIDTH: f64 = 760.0;
/// Where bars begin; names stand before.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 110.0;
const ROW: f64 = 26.0;

/// A bar for each system, with a line from the first to the third quartile.
pub fn bars(title: &str, unit: &str, rows: &[(&str, Spread)]) -> String {
    let most = rows
        .iter()
        .map(|(_, spread)| spread.high.max(spread.median))
        .fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let height = ROW * (rows.len() as f64 + 1.5);
    let title = if unit.is_empty() {
        title.to_owned()
    } else {
        format!("{title}, {unit}")
    };
    let title = escape(&title);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><text class=\"title\" x=\"0\" y=\"16\">{title}</text>\n"
    );
    for (at, (name, spread)) in rows.iter().enumerate() {
        let y = ROW * (at as f64 + 1.2);
        let class = name.split('-').next().unwrap_or_default();
        let [low, median, high] =
            [spread.low, spread.median, spread.high].map(|value| value.max(0.0) * scale);
        let middle = y + 8.0;
        svg += &format!(
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{median:.1}\" height=\"16\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
            LEFT - 8.0,
            y + 13.0,
            escape(name),
            LEFT + low,
            LEFT + high,
            LEFT + high.max(median) + 6.0,
            y + 13.0,
            number(spread.median)
        );
    }
    svg + "</svg>\n"
}

/// A line over counts that grow by powers of ten.
pub fn growth(title: &str, points: &[(f64, f64)]) -> String {
    const HEIGHT: f64 = 240.0;
    let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return String::new();
    };
    if most <= 0.0 || first.0 >= last.0 {
        return String::new();
    }
    let x = |value: f64| {
        60.0 + (WIDTH - 160.0) * (value / first.0).log10() / (last.0 / first.0).log10()
    };
    let y = |value: f64| HEIGHT - 40.0 - (HEIGHT - 90.0) * value / most;
    let title = escape(title);
    let line: Vec<_> = points
        .iter()
        .map(|(count, value)| format!("{:.1},{:.1}", x(*count), y(*value)))
        .collect();
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><text class=\"title\" x=\"0\" y=\"16\">{title}</text>\
         <line class=\"axis\" x1=\"40\" x2=\"{:.0}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/><polyline points=\"{1}\"/>\n",
        WIDTH - 60.0,
        line.join(" "),
        y(0.0)
    );
    for (count, value) in points {
        let (x, y) = (x(*count), y(*value));
        svg += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>\n",
            y - 10.0,
            number(*value),
            HEIGHT - 18.0,
            number(*count)
        );
    }
    svg + "</svg>\n"
}

/// Text inside of HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let spread = |median| Spread {
            low: median,
            median,
            high: median,
        };
        let svg = bars(
            "t",
            "µs",
            &[("direct", spread(50.0)), ("mqlb-<xdp>", spread(100.0))],
        );
        assert!(
            svg.contains("class=\"direct\" x=\"170\" y=\"31.2\" width=\"240.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("width=\"480.0\"") && svg.contains("mqlb-&lt;xdp&gt;"),
            "{svg}"
        );
        assert_eq!(bars("t", "", &[]), "");
    }

    #[test]
    fn growth_needs_two_counts() {
        assert!(growth("t", &[(1e3, 50.0), (1e6, 70.0)]).contains("polyline"));
        assert_eq!(growth("t", &[(1e3, 50.0)]), "");
    }
}
