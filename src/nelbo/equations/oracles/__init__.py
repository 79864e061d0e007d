"""Independent closed forms that the checks compare the library with: numpy alone, nothing of nelbo's own formulas."""
