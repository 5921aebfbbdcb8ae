"""`python -m loadtest.soak`: whether the gateway's memory stays where it is under load that does not end."""
