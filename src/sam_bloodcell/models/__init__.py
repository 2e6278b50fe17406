"""The networks and losses: torch only."""
