"""The forward process q: levels, schedules, grids, kernels, and the parametrisations of a prediction."""
