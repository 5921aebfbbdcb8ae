"""Several gateway processes behind one port: the workers, and the supervisor that keeps them and speaks for them."""
