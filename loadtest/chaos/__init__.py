"""Proofs that a fleet of Tritons behind the gateway keeps its promises while parts of it die, stall, come and go."""
