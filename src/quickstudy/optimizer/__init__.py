"""Learning the steps: update rules, learned and used."""
