"""The predictor port's real side. The only folder that speaks to Triton."""
