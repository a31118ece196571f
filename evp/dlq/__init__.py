"""Dead letters: looked at, grouped, delivered once more, given up."""
