"""What the tests of keys share: a file of keys with their owner's side of it, and a clock that is moved by hand."""

from gateway.keys import Key, hash_secret, new_secret, read_keys, write_keys


class Keyring:
    """A file of keys, and the secrets that it holds the hashes of."""

    def __init__(self, path):
        self.path = path
        write_keys(path, ())

    def add(self, name, **limits):
        """Make a key as its file has it, and return the secret."""
        secret = new_secret()
        self.write(*read_keys(self.path), Key(name, hash_secret(secret), **limits))
        return secret

    def remove(self, name):
        self.write(*(key for key in read_keys(self.path) if key.name != name))

    def write(self, *keys):
        write_keys(self.path, keys)


class Clock:
    """Nanoseconds, as `time.monotonic_ns` counts them."""

    def __init__(self):
        self.now = 1_000_000_007

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += round(seconds * 1e9)
