"""What the documentation site takes from the code: settings, commands, the Python client and the REST interface."""
