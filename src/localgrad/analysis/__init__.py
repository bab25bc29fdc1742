"""What a trained network has learned, unit by unit: similarity, probes, exits, gradients."""
