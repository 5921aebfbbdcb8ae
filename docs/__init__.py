"""The documentation: pages, and in `generate` what makes a site of them."""
