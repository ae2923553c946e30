//! Formats numbers for readers: three significant digits.

/// Formats a figure with about three significant digits.
pub(crate) fn short(figure: f64) -> String {
    let decimals = match figure.abs() {
        size if size >= 99.95 => return grouped(figure.round() as i64),
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{figure:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Formats an integer with commas for thousands.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_significant_digits() {
        let cases = [(12_088.4, "12,088"), (99.96, "100"), (63.04, "63"), (15.38, "15.4"), (0.0234, "0.023")];
        for (figure, text) in
            cases.into_iter().chain([(1.0, "1"), (0.9996, "1"), (-1_234_567.0, "-1,234,567"), (0.0, "0")])
        {
            assert_eq!(short(figure), text);
        }
    }
}
