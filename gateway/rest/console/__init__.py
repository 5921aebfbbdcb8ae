"""The console: one page at `/` with its files, the live feed behind it, and the stream of frames for its camera."""
