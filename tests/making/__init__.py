"""What several tests share: small data, networks, and programs to run."""
