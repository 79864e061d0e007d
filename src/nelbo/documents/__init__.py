"""Results as documents: JSON and back, tables in HTML, matplotlib axes and data frames; one source for all of them."""
