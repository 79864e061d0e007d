"""The bound of examples of different size: sets of points, ragged series, images with holes."""
