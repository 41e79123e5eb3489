"""Transfer: a ticket's backbone under a new head."""
